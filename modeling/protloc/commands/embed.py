"""`protloc embed`: the residue embeddings of a sequence encoder, computed once."""

import argparse
import logging
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..embedding import embed
from ..loading import DEFAULT_MODEL
from ..sequences import Warned, check_records, parquet_records, read_sequences, sequence_warning
from . import progress_bars


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(format="protloc: %(message)s")
    show_bars = progress_bars()
    sequences: list[str] = []
    warned = Warned()
    for source in args.inputs:
        for name, sequence in read(source):
            sequences.append(sequence)
            warned.add(name, sequence_warning(sequence))
    if warned.count:
        print(f"protloc: warning: {warned}", file=sys.stderr)
    if not sequences:
        print("protloc: no sequence is left to embed", file=sys.stderr)
        return 3
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
        **{name: getattr(args, name) for name in ("mean", "project", "max_length", "length_policy")},
    )
    print(f"{args.output}: {count} sequences added", file=sys.stderr)
    return 0


def read(source: str) -> Iterator[tuple[str, str]]:
    """Names and texts of sequences; a Parquet file needs no ids, and its cells of unknown proteins are left out."""
    kind = b""
    if Path(source).is_file():  # else a pipe, which is read once
        with open(source, "rb") as file:
            kind = file.read(4)
    if kind != b"PAR1":
        yield from read_sequences([source], raw=True)
        return
    records = parquet_records(source, source, needs_id=False)
    named = (record._replace(name=f"row {record.line}") for record in records if record.body[0][1].strip())
    yield from check_records(named, source, set(), raw=True)


def after_interrupt(args: argparse.Namespace) -> str:
    return f"; start again to resume {args.output}"
