"""Published tables of proteins, and lists of those that are never to be learnt from."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from .sequences import read_sequences
from .text_files import open_text, read_lines, split_header, table_rows


def read_csv(path: Path, required: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """
    Rows of a published CSV or TSV, each with its place for error messages.

    Raises:
        ValueError: Naming a missing column, or a row that has other columns than the header.
    """
    lines = read_lines(open_text(path), str(path))
    start, header = next(lines, (0, ""))
    delimiter = "\t" if "\t" in header else ","
    columns = split_header(header, delimiter)
    missing = [column for column in required if column not in columns]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}; columns are {', '.join(columns)}")
    for line, cells, problem in table_rows(lines, delimiter, columns, start, str(path)):
        if problem:
            raise ValueError(f"{path}, line {line}: {problem}")
        yield f"{path}, line {line}", dict(zip(columns, cells, strict=True))


def read_exclusions(paths: list[Path]) -> tuple[set[str], set[str]]:
    """Ids and SHA-1 sums of sequences never to train on, from tables with columns accession and sequence_sha1 or from
    proteins themselves (FASTA, or a table with sequences, such as a test set)."""
    ids, sums = set(), set()
    for path in paths:
        with open_text(path) as handle:
            header = handle.readline()
        if "sequence_sha1" in header:
            pairs = ((row["accession"], row["sequence_sha1"]) for _, row in read_csv(path, ["accession"]))
        else:
            pairs = ((protein_id, sha1(sequence)) for protein_id, sequence in read_sequences([path]))
        for protein_id, digest in pairs:
            ids.add(protein_id)
            sums.add(digest)
    return ids, sums


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
