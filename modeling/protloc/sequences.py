"""Protein sequences from FASTA, CSV and TSV: plain, gzipped or on standard input."""

import csv
import gzip
import io
import itertools
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from .models.protein_sequence import InvalidResidueError, clean_sequence, split_windows

ID_COLUMNS = ["id", "protein_id", "accession", "acc", "entry", "sid", "name"]
SEQUENCE_COLUMNS = ["sequence", "seq", "fasta"]

__all__ = [
    "SequenceError",
    "clean_sequence",
    "open_text",
    "read_fasta",
    "read_lines",
    "read_sequences",
    "split_windows",
]

Source = str | Path | IO
Record = tuple[int, str, list[tuple[int, str]]]  # line of the header, header, numbered lines of the sequence


class SequenceError(ValueError):
    """
    What is wrong with an input, and where; its text is one line.

    Attributes:
        file (`str`), record (`str`), line (`int`), reason (`str`): `record` is empty and `line` 0 where the whole file
        is at fault.
    """

    def __init__(self, file: str, reason: str, record: str = "", line: int = 0):
        self.file, self.reason, self.record, self.line = file, reason, record, line
        place = [file] + ([f"record {record!r}"] if record else []) + ([f"line {line}"] if line else [])
        super().__init__(f"{', '.join(place)}: {reason}")

    def __reduce__(self):  # to other processes
        return SequenceError, (self.file, self.reason, self.record, self.line)


def open_text(source: Source) -> IO[str]:
    """
    Open a text file, gzipped or not (told by its first bytes, not its name); `-` is standard input.

    Undecodable bytes are kept as surrogates, so that `read_fasta` can read a Latin-1 header.

    Raises:
        SequenceError: If there is no such file.
    """
    handle: Any = source
    if isinstance(source, io.TextIOBase):
        return handle
    if str(source) == "-":
        handle = sys.stdin.buffer
    elif isinstance(source, (str, Path)):
        try:
            handle = open(source, "rb")
        except OSError as error:
            raise SequenceError(str(source), error.strerror or str(error)) from None
    buffered = handle if isinstance(handle, io.BufferedReader) else io.BufferedReader(handle)
    compressed = buffered.peek(2)[:2] == b"\x1f\x8b"
    binary: Any = gzip.GzipFile(fileobj=buffered) if compressed else buffered
    return io.TextIOWrapper(binary, encoding="utf-8-sig", errors="surrogateescape")


def source_name(source: Source) -> str:
    """What error messages call a source."""
    if isinstance(source, (str, Path)):
        return "standard input" if str(source) == "-" else str(source)
    return str(getattr(source, "name", "input"))


def read_lines(handle: IO[str], name: str) -> Iterator[tuple[int, str]]:
    """
    Numbered lines without line ends; bytes that are no UTF-8 are read as Latin-1.

    Raises:
        SequenceError: If a gzip file is cut off or damaged.
    """
    number = 0
    try:
        for number, line in enumerate(handle, start=1):
            line = line.rstrip("\r\n")
            if not line.isascii():
                try:
                    line.encode()
                except UnicodeEncodeError:
                    line = line.encode("utf-8", "surrogateescape").decode("latin-1")
            yield number, line
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise SequenceError(name, f"the gzip file is cut off or damaged after line {number}") from None


def fasta_records(lines: Iterable[tuple[int, str]]) -> Iterator[Record]:
    """Records from numbered lines of FASTA."""
    start = 0
    header: str | None = None
    body: list[tuple[int, str]] = []
    for number, line in lines:
        if line.startswith(">"):
            if header is not None:
                yield start, header, body
            start, header, body = number, line[1:].strip(), []
        elif line.strip():
            body.append((number, line))
    if header is not None:
        yield start, header, body


def _table_records(lines: Iterator[tuple[int, str]], name: str) -> Iterator[Record]:
    """Records from CSV or TSV with a header row; the id stands for the header."""
    first, header = next(lines)
    delimiter = "\t" if "\t" in header else ","
    columns = [column.strip().lower() for column in next(csv.reader([header], delimiter=delimiter))]
    id_column = next((columns.index(c) for c in ID_COLUMNS if c in columns), None)
    sequence_column = next((columns.index(c) for c in SEQUENCE_COLUMNS if c in columns), None)
    if id_column is None or sequence_column is None:
        raise SequenceError(
            name,
            "no FASTA ('>' at the start of a line), and no table with a column for the id "
            f"({', '.join(ID_COLUMNS)}) and one for the sequence ({', '.join(SEQUENCE_COLUMNS)})",
            line=first,
        )
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((line for _, line in lines), delimiter=delimiter)
    for row in reader:
        if row:
            row += [""] * (len(columns) - len(row))
            line = first + reader.line_num
            yield line, row[id_column].strip(), [(line, row[sequence_column])]


def _clean_body(body: list[tuple[int, str]]) -> str:
    """Join and clean a record's lines; `InvalidResidueError` carries the number of the line at fault."""
    try:
        return clean_sequence("".join(text for _, text in body))
    except InvalidResidueError as error:
        end = 0
        for number, text in body:
            end += len("".join(text.split()))
            if error.position <= end:
                error.line = number
                break
        raise


def read_sequences(
    sources: Iterable[Source],
    on_error: Callable[[SequenceError], None] | None = None,
    max_length: int | None = None,
) -> Iterator[tuple[str, str]]:
    """
    Read proteins from FASTA, CSV or TSV files, told apart by their content.

    Ids are the first word of a FASTA header, or the table's id column. Sequences are cleaned (`clean_sequence`).
    Memory is bounded but for the set of ids seen.

    Args:
        sources: Paths (`-` for standard input) or open handles, text or binary.
        on_error: Called with each bad record, which is then left out. By default the first one is raised. A file that
            can't be read on is always raised.
        max_length: Refuse longer sequences.

    Yields:
        `tuple[str, str]`: Id and sequence.

    Raises:
        SequenceError: Naming file, record and line, for a missing, damaged or empty file, one that is no FASTA or
            table, a record without id or residues, a character that is no residue, and an id seen before.
    """
    seen: set[str] = set()
    for source in sources:
        name = source_name(source)
        found, is_fasta = read_records(source)
        first = next(found, None)
        if first is None:
            raise SequenceError(name, "the file holds no sequences")
        records: Iterator[Record] = itertools.chain([first], found)
        if is_fasta:
            records = with_ids(records)
        yield from check_records(records, name, seen, on_error, max_length)


def with_ids(records: Iterable[Record]) -> Iterator[Record]:
    """FASTA records with ids, the headers' first words, in place of headers."""
    for line, header, body in records:
        yield line, header.split()[0] if header else "", body


def check_records(
    records: Iterable[Record],
    name: str,
    seen: set[str],
    on_error: Callable[[SequenceError], None] | None = None,
    max_length: int | None = None,
) -> Iterator[tuple[str, str]]:
    """
    Ids and clean sequences of the good records of the file `name`, whose ids are added to `seen`.

    The other arguments, and what is raised, are as for `read_sequences`.
    """
    for line, record, body in records:
        try:
            if not record:
                raise SequenceError(name, "the record has no id", line=line)
            if record in seen:
                raise SequenceError(name, "this id was used before; ids must be unique", record, line)
            try:
                sequence = _clean_body(body)
                if max_length is not None:
                    split_windows(len(sequence), max_length, "error")
            except ValueError as error:
                raise SequenceError(name, str(error), record, getattr(error, "line", line)) from None
        except SequenceError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        seen.add(record)
        yield record, sequence


def read_records(source: Source) -> tuple[Iterator[Record], bool]:
    """Records of a source, and whether it is FASTA."""
    name = source_name(source)
    lines = read_lines(open_text(source), name)
    for number, line in lines:
        if line.strip():
            rest = itertools.chain([(number, line)], lines)
            is_fasta = line.startswith(">")
            return (fasta_records(rest) if is_fasta else _table_records(rest, name)), is_fasta
    return iter(()), False


def read_fasta(path_or_handle: Source, full_header: bool = False) -> Iterator[tuple[str, str]]:
    """
    Read one FASTA file (or CSV / TSV; see [`read_sequences`], which also gives the errors).

    Args:
        path_or_handle: Path, `-` for standard input, or an open handle.
        full_header (`bool`): Give whole header lines in place of ids (which then may repeat).

    Yields:
        `tuple[str, str]`: Id (or header) and sequence.
    """
    if not full_header:
        yield from read_sequences([path_or_handle])
        return
    name = source_name(path_or_handle)
    for line, header, body in read_records(path_or_handle)[0]:
        try:
            yield header, _clean_body(body)
        except ValueError as error:
            raise SequenceError(name, str(error), header, line) from None
