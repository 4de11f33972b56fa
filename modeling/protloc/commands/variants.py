"""`protloc variants`: the effect of variants on a prediction, one row per variant."""

import argparse
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from ..files import atomic_path, check_other
from ..loading import DEFAULT_MODEL, load_model
from ..packed_weights import pack_unirep
from ..prediction import Row
from ..results import write_csv, write_table
from ..sequences import read_sequences
from ..tables import read_csv
from ..text_files import open_text
from ..variants import change, columns, compare, read_variants, scan
from . import progress_bars


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(format="protloc: %(message)s")
    progress_bars()
    if args.output:
        check_other(args.output, filter(None, [args.fasta, args.variants]))
    proteins = dict(read_sequences([args.fasta]))
    asked: dict[str, list[str]] = {name: [] for name in proteins}
    if args.variants:
        for name, variant in read_file(args.variants, list(proteins)):
            asked[name].append(variant)
    if args.scan:
        for name, sequence in proteins.items():
            asked[name] += scan(sequence, *args.scan)
    # All is checked before anything is predicted.
    changed = {
        name: [(variant, changed_or_named(name, proteins[name], variant)) for variant in dict.fromkeys(variants)]
        for name, variants in asked.items()
        if variants
    }
    # In bfloat16 small differences would be rounded away.
    model, tokenizer = load_model(args.model or DEFAULT_MODEL, args.device, "float32")
    pack_unirep(model, rows=32)
    names = columns(model.config)

    def rows() -> Iterator[Row]:
        for name, variants in changed.items():
            for row in compare(name, proteins[name], variants, model, tokenizer):
                yield {column: row[column] for column in names}

    if args.output:
        with atomic_path(args.output) as partial:
            write_table(rows(), partial, args.output.name, names)
    else:
        write_csv(rows(), sys.stdout, names, flush=True)
    return 0


def after_interrupt(args: argparse.Namespace) -> str:
    return ""


def changed_or_named(name: str, sequence: str, variant: str) -> str:
    try:
        return change(sequence, variant)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def read_file(path: Path, names: list[str]) -> Iterator[tuple[str, str]]:
    """
    Ids and variants: a table with the columns `protein_id` and `variant`, or a list of variants of the one protein.

    Raises:
        ValueError: For a variant of a protein that the FASTA file lacks, an empty file, a list for several proteins.
    """
    with open_text(path) as file:
        text = file.read()
    variants = read_variants(text)
    if "protein_id" in text.partition("\n")[0].lower():
        variants = []
        for place, row in read_csv(path, []):
            cells = {column.lower(): cell for column, cell in row.items()}
            if "variant" not in cells:
                raise ValueError(f"{path}: no column 'variant'; columns are {', '.join(row)}")
            if cells["protein_id"] not in names:
                raise ValueError(f"{place}: the sequences have no protein {cells['protein_id']!r}")
            if not cells["variant"]:
                raise ValueError(f"{place}: the variant is empty")
            variants.append(cells["variant"])
            yield cells["protein_id"], cells["variant"]
    elif len(names) != 1:
        raise ValueError(
            f"{path} is a list of variants, and there are {len(names)} proteins: give a table with the columns "
            "protein_id and variant"
        )
    else:
        for variant in variants:
            yield names[0], variant
    if not variants:
        raise ValueError(f"{path} holds no variants")
