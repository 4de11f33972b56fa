"""Protein sequences from FASTA, CSV, TSV and Parquet, compressed or not, or on standard input."""

import io
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .models.protein_sequence import InvalidResidueError, Warned, clean_sequence, sequence_warning, split_windows
from .text_files import (
    SequenceError,
    Source,
    as_text,
    open_binary,
    open_text,
    read_lines,
    source_name,
    split_header,
    table_rows,
)

ID_COLUMNS = ["id", "protein_id", "accession", "acc", "entry", "sid", "name"]
SEQUENCE_COLUMNS = ["sequence", "seq", "fasta"]

__all__ = [
    "SequenceError",
    "Warned",
    "clean_sequence",
    "open_text",
    "read_fasta",
    "read_lines",
    "read_sequences",
    "sequence_warning",
    "split_windows",
]


class Record(NamedTuple):
    """A protein as it stands in a file, not checked yet."""

    line: int  # of the header, or the row
    name: str  # the id, or a whole header
    body: list[tuple[int, str]]  # numbered lines of the sequence
    problem: str = ""  # why it can't be read
    unit: str = "line"  # what `line` counts


def fasta_records(lines: Iterable[tuple[int, str]]) -> Iterator[Record]:
    """Records from numbered lines of FASTA, with whole headers."""
    start = 0
    header: str | None = None
    body: list[tuple[int, str]] = []
    for number, line in lines:
        if line.startswith(">"):
            if header is not None:
                yield Record(start, header, body)
            start, header, body = number, line[1:].strip(), []
        elif line.strip():
            body.append((number, line))
    if header is not None:
        yield Record(start, header, body)


def with_ids(records: Iterable[Record]) -> Iterator[Record]:
    """FASTA records with ids, the headers' first words, in place of headers."""
    for record in records:
        name = record.name.split()[0] if record.name else ""
        problem = ""
        if re.match(r"(P1|F1|DL|DC|RL|RC|N1|N3|XX);", name):
            problem = "this is NBRF/PIR, whose second line is a title: convert the file to FASTA"
        yield record._replace(name=name, problem=problem)


def find_columns(names: list[str], wanted: Iterable[list[str]]) -> list[int] | None:
    """Where the wanted columns are, each by its names; `ValueError` if one is there twice."""
    lower = [name.strip().lower() for name in names]
    found = []
    for known in wanted:
        name = next((one for one in known if one in lower), None)
        if name is None:
            return None
        if lower.count(name) > 1:
            raise ValueError(f"the column {name!r} is there {lower.count(name)} times: leave one")
        found.append(lower.index(name))
    return found


def _table_header(line: str) -> tuple[str, list[str], list[int]] | None:
    """Delimiter, columns, and where the id and the sequence are, if a line is the header of a table."""
    for delimiter in "\t,;":
        columns = split_header(line.lstrip("# "), delimiter)
        found = find_columns(columns, [ID_COLUMNS, SEQUENCE_COLUMNS])
        if found:
            return delimiter, columns, found
    return None


def open_parquet(source: Any, name: str, needs_id: bool = True) -> tuple[Any, list[str]]:
    """
    A `pyarrow.parquet.ParquetFile`, and the names of its columns of ids, if one is needed, and of sequences.

    Raises:
        SequenceError: If it is damaged, or lacks a column, or one is there twice or holds no text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [ID_COLUMNS] * needs_id + [SEQUENCE_COLUMNS]
    try:
        file = pq.ParquetFile(source)
    except (pa.ArrowException, OSError) as error:
        raise SequenceError(name, f"the Parquet file is damaged ({str(error).splitlines()[0]})") from None
    try:
        found = find_columns(file.schema_arrow.names, wanted)
    except ValueError as error:
        raise SequenceError(name, str(error)) from None
    if found is None:
        ids = f"the id ({', '.join(ID_COLUMNS)}) and one for " if needs_id else ""
        raise SequenceError(name, f"no column for {ids}the sequence ({', '.join(SEQUENCE_COLUMNS)})")
    columns = [file.schema_arrow.names[place] for place in found]
    for column in columns:
        kind = file.schema_arrow.field(column).type
        inner = kind.value_type if pa.types.is_dictionary(kind) else kind
        text = str(inner).removeprefix("large_").removesuffix("_view") in ("string", "binary", "null")
        if not text and not (column != columns[-1] and pa.types.is_integer(inner)):
            raise SequenceError(name, f"the column {column!r} holds {kind}, not text")
    return file, columns


def parquet_records(
    source: Any, name: str, needs_id: bool = True, start: int = 0, stop: int | None = None
) -> Iterator[Record]:
    """
    The records of rows `start` to `stop` of a Parquet file. Memory holds a row group.

    Raises:
        SequenceError: As `open_parquet`, and for damage further in the file and text that is no UTF-8.
    """
    import pyarrow as pa

    file, names = open_parquet(source, name, needs_id)
    stop = file.metadata.num_rows if stop is None else stop
    first = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        begin, end = max(start - first, 0), min(stop - first, rows)
        if begin < end:
            try:
                table = file.read_row_group(group, columns=names).slice(begin, end - begin)
            except (pa.ArrowException, OSError) as error:
                raise SequenceError(name, f"the Parquet file is damaged ({str(error).splitlines()[0]})") from None
            columns = [table[column] for column in names]
            for place in range(len(table)):
                row = first + begin + place + 1
                cells = [_cell(column, place, label, row, name) for column, label in zip(columns, names, strict=True)]
                yield Record(row, cells[0].strip() if needs_id else "", [(row, cells[-1])], unit="row")
        first += rows


def _cell(column: Any, place: int, label: str, row: int, name: str) -> str:
    try:
        value = column[place].as_py()
        return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)
    except UnicodeDecodeError:
        raise SequenceError(name, f"the column {label!r} holds bytes that are no UTF-8", line=row, unit="row") from None


def _clean_body(body: list[tuple[int, str]]) -> str:
    """Join and clean a record's lines; `InvalidResidueError` carries the number of the line at fault."""
    try:
        return clean_sequence("\n".join(text for _, text in body))
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
    raw: bool = False,
) -> Iterator[tuple[str, str]]:
    """
    Read proteins from FASTA, CSV, TSV or Parquet files; the format is detected from the content.

    Ids are the first word of a FASTA header, or the table's id column. Sequences are cleaned (`clean_sequence`).
    Memory is bounded, except for the set of ids.

    Args:
        sources: Paths (`-` for standard input) or open handles, text or binary.
        on_error: Called with the error of each bad record, which is then skipped. By default the first error is raised.
            The error of a file that can't be read further is always raised.
        max_length: Refuse longer sequences.
        raw: Return sequences as they are, without white space, for `sequence_warning`; they are checked all the same.

    Yields:
        `tuple[str, str]`: Id and sequence.

    Raises:
        SequenceError: With file, record and line, for a missing, damaged or empty file, a file that is neither FASTA
            nor a table, a record without id or residues, a row with other columns than the header, text that is not a
            sequence, and an id that is duplicated or has control characters.
    """
    seen: set[str] = set()
    for source in sources:
        name = source_name(source)
        records = read_records(source)
        first = next(records, None)
        if first is None:
            raise SequenceError(name, "the file holds no sequences")
        yield from check_records(itertools.chain([first], records), name, seen, on_error, max_length, raw)


def check_records(
    records: Iterable[Record],
    name: str,
    seen: set[str],
    on_error: Callable[[SequenceError], None] | None = None,
    max_length: int | None = None,
    raw: bool = False,
) -> Iterator[tuple[str, str]]:
    """
    Ids and clean sequences of the good records of the file `name`, whose ids are added to `seen`.

    The other arguments, and what is raised, are as for `read_sequences`.
    """
    for line, record, body, problem, unit in records:
        try:
            if problem:
                raise SequenceError(name, problem, record, line, unit)
            if not record:
                raise SequenceError(name, "the record has no id", line=line, unit=unit)
            if not record.isprintable() and any(map(_is_control, record)):
                raise SequenceError(name, "the id has a line break or control character", record, line, unit)
            if record in seen:
                raise SequenceError(name, "this id was used before; ids must be unique", record, line, unit)
            try:
                sequence = _clean_body(body)
                if max_length is not None:
                    split_windows(len(sequence), max_length, "error")
            except ValueError as error:
                raise SequenceError(name, str(error), record, getattr(error, "line", line), unit) from None
        except SequenceError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        seen.add(record)
        yield record, "".join("".join(text for _, text in body).split()) if raw else sequence


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def read_records(source: Source, full_header: bool = False) -> Iterator[Record]:
    """
    The records of a source, unchecked.

    Args:
        source: Path, `-` for standard input, or an open handle.
        full_header (`bool`): For FASTA, return whole headers instead of ids.

    Raises:
        SequenceError: If the source can't be read further.
    """
    name = source_name(source)
    if isinstance(source, io.TextIOBase):
        handle: Any = source
    else:
        buffered = open_binary(source)
        if buffered.peek(4)[:4] == b"PAR1":
            is_path = isinstance(source, (str, Path)) and str(source) != "-"
            yield from parquet_records(source if is_path else io.BytesIO(buffered.read()), name)
            return
        handle = as_text(buffered)
    lines = read_lines(handle, name)
    for number, line in lines:
        if "\0" in line:
            raise SequenceError(name, "the file is no text: save it in UTF-8, or UTF-16 with a byte order mark")
        if line.startswith(">"):
            records = fasta_records(itertools.chain([(number, line)], lines))
            yield from records if full_header else with_ids(records)
            return
        if line.strip():
            try:
                header = _table_header(line)
            except ValueError as error:
                raise SequenceError(name, str(error), line=number) from None
            if header:
                yield from _table_records(lines, number, *header, name)
                return
            if not line.startswith((";", "#")) and not line.lower().startswith("sep="):  # comments; Excel writes sep=;
                raise SequenceError(
                    name,
                    "no FASTA ('>' at the start of a line), and no table with a column for the id "
                    f"({', '.join(ID_COLUMNS)}) and one for the sequence ({', '.join(SEQUENCE_COLUMNS)}); the file "
                    f"begins with {line.strip()[:60]!r}",
                    line=number,
                )


def _table_records(
    lines: Iterator[tuple[int, str]], first: int, delimiter: str, columns: list[str], places: list[int], name: str
) -> Iterator[Record]:
    id_column, sequence_column = places
    for line, cells, problem in table_rows(lines, delimiter, columns, first, name):
        if problem:
            yield Record(line, "", [], problem)
        else:
            yield Record(line, cells[id_column].strip(), [(line, cells[sequence_column])])


def read_fasta(path_or_handle: Source, full_header: bool = False) -> Iterator[tuple[str, str]]:
    """
    Read one FASTA file (or a table; see [`read_sequences`], which also gives the errors).

    Args:
        path_or_handle: Path, `-` for standard input, or an open handle.
        full_header (`bool`): Return whole header lines instead of ids (which may then repeat).

    Yields:
        `tuple[str, str]`: Id (or header) and sequence.
    """
    if not full_header:
        yield from read_sequences([path_or_handle])
        return
    name = source_name(path_or_handle)
    for line, header, body, problem, unit in read_records(path_or_handle, full_header):
        try:
            if problem:
                raise ValueError(problem)
            yield header, _clean_body(body)
        except ValueError as error:
            raise SequenceError(name, str(error), header, getattr(error, "line", line), unit) from None
