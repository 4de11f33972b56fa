"""`protloc predict-shards`: predict millions of proteins into numbered Parquet files, with several processes."""

import argparse
import logging
import os
import sys

from .. import shards, shards_ray
from ..loading import DEFAULT_MODEL
from . import progress_bars


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(format="protloc: %(message)s")
    show_bars = progress_bars()
    job = shards.Job(
        inputs=tuple(os.path.abspath(source) for source in args.inputs),
        out=args.output.absolute(),
        model=str(args.model or DEFAULT_MODEL),
        skip_errors=args.on_error == "skip",
        shard_size=args.shard_size,
        device=args.device,
        dtype=args.dtype,
        length_policy=args.length_policy,
        signals=args.signals,
        tree=args.tree,
        ids=args.ids,
        max_tokens_per_batch=args.max_tokens_per_batch,
    )
    if args.ray:
        done, proteins = shards_ray.run(job, args.workers, show_bars)
    else:
        done, proteins = shards.run(job, show_bars)
    print(f"protloc: {args.output}: {done} shards predicted, {proteins} proteins", file=sys.stderr)
    return 3 if done and not proteins else 0  # all records were skipped


def after_interrupt(args: argparse.Namespace) -> str:
    return f"; start again to resume {args.output}"
