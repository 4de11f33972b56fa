"""Published tables in, a Hub repository out: what the build scripts share."""

import argparse
import csv
import hashlib
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from httpx2 import HTTPError

from protloc import hub
from protloc.sequences import open_text, read_lines, read_sequences


def read_csv(path: Path, required: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a published CSV or TSV, each with its place for error messages; `ValueError` names a missing column."""
    csv.field_size_limit(sys.maxsize)
    lines = (line for _, line in read_lines(open_text(path), str(path)))
    header = next(lines, "")
    delimiter = "\t" if "\t" in header else ","
    reader = csv.DictReader(itertools.chain([header], lines), restval="", delimiter=delimiter)
    missing = [column for column in required if column not in (reader.fieldnames or [])]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}; columns are {', '.join(reader.fieldnames or [])}")
    for row in reader:
        yield f"{path}, line {reader.line_num}", row


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


def positive(text: str) -> float:
    """For argparse: a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def share(text: str) -> float:
    """For argparse: above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="publish the folder as this data set repository")
    parser.add_argument("--private", action="store_true", help="make a new repository private")


def check_push(parser: argparse.ArgumentParser, repo_id: str | None) -> None:
    """Before anything is built: could it be pushed?"""
    if repo_id:
        try:
            hub.check_repo_id(repo_id)
            hub.check_login()
        except ValueError as error:
            parser.error(f"--push-to-hub {repo_id}: {error}")


def push(parser: argparse.ArgumentParser, folder: Path, repo_id: str | None, private: bool) -> None:
    """Publish a data set that has been built, where asked to."""
    if repo_id:
        try:
            print(hub.push("dataset", folder, repo_id, private), file=sys.stderr)
        except (ValueError, OSError, HTTPError) as error:
            again = f"`protloc push dataset {folder} {repo_id}` tries again"
            parser.exit(2, f"{Path(parser.prog).stem}: {hub.refusal(error)}; {again}\n")
