"""`protloc embed`: the residue embeddings of a sequence encoder, computed once."""

import argparse
import sys
from functools import partial

import pyarrow.parquet as pq
from tqdm import tqdm

from ..embedding import embed
from ..loading import DEFAULT_MODEL
from ..sequences import read_sequences
from . import progress_bars


def run(args: argparse.Namespace) -> None:
    show_bars = progress_bars()
    sequences: list[str] = []
    for source in args.inputs:
        if source.endswith(".parquet"):
            column = pq.read_table(source, columns=["sequence"])["sequence"].to_pylist()
            sequences += [sequence for sequence in column if sequence]  # cells of unknown proteins have none
        else:
            sequences += [sequence for _, sequence in read_sequences([source])]
    count = embed(
        sequences,
        args.output,
        str(args.model or DEFAULT_MODEL),
        args.device,
        args.dtype,
        args.max_tokens_per_batch,
        args.shard_size * 1_000_000,
        partial(tqdm, unit=" proteins", disable=not show_bars),
        args.compile,
        mean=args.mean,
        project=args.project,
        max_length=args.max_length,
        length_policy=args.length_policy,
    )
    print(f"{args.output}: {count} sequences added", file=sys.stderr)


def after_interrupt(args: argparse.Namespace) -> str:
    return f"; start again to resume {args.output}"
