"""Published tables of proteins, and lists of those that are never to be learnt from."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from .sequences import read_sequences
from .text_files import open_text, read_lines, split_header, table_rows

SHA1 = re.compile("[0-9a-f]{40}")


def read_csv(path: Path, required: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """
    Rows of a CSV (with `,` or `;`) or TSV, each with its place for error messages.

    Raises:
        ValueError: Naming a missing column, or a row that has other columns than the header.
    """
    lines = read_lines(open_text(path), str(path))
    start, header = next(lines, (0, ""))
    delimiter = "\t" if "\t" in header else ";" if header.count(";") > header.count(",") else ","
    columns = split_header(header, delimiter)
    missing = [column for column in required if column not in columns]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}; columns are {', '.join(columns)}")
    for line, cells, problem in table_rows(lines, delimiter, columns, start, str(path)):
        if problem:
            raise ValueError(f"{path}, line {line}: {problem}")
        yield f"{path}, line {line}", dict(zip(columns, cells, strict=True))


def read_exclusions(paths: list[Path]) -> tuple[set[str], set[str]]:
    """
    Ids and SHA-1 sums of sequences never to train on.

    Args:
        paths: Tables with columns accession and sequence_sha1, or proteins themselves (FASTA, or a table with
            sequences, such as a test set).

    Raises:
        ValueError: For a list that is damaged: a digest cut short, or a missing accession, would guard nothing.
    """
    ids, sums = set(), set()
    for path in paths:
        _, header = next(read_lines(open_text(path), str(path)), (0, ""))
        if "sequence_sha1" in header:
            for place, row in read_csv(path, ["accession", "sequence_sha1"]):
                digest = row["sequence_sha1"].lower()
                if not SHA1.fullmatch(digest) or not row["accession"]:
                    raise ValueError(
                        f"{place}: {row['accession'][:40]!r} with {digest[:40]!r} is no accession with 40 digits of "
                        "a SHA-1 sum: take a whole copy of the list"
                    )
                ids.add(row["accession"])
                sums.add(digest)
        else:
            for protein_id, sequence in read_sequences([path]):
                ids.add(protein_id)
                sums.add(sha1(sequence))
    return ids, sums


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
