"""Text files as people have them: compressed or not, in UTF-8, UTF-16 or Latin-1; lines, and rows of tables."""

import bz2
import csv
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

Source = str | Path | IO

csv.field_size_limit(2**31 - 1)  # the most that Windows takes

_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_REFUSED = {
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: unpack it first",
    b"7z\xbc\xaf": "is a 7z archive: unpack it first",
    b"Rar!": "is a rar archive: unpack it first",
    b"\xd0\xcf\x11\xe0": "is an Office document, such as an Excel workbook: save it as CSV or plain text",
    b"%PDF": "is a PDF: save it as plain text",
    b"{\\rtf": "is rich text: save it as plain text",
}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, OSError)  # bz2 and gzip raise bare OSErrors


class SequenceError(ValueError):
    """
    What is wrong with an input, and where; its text is one line.

    Attributes:
        file (`str`), record (`str`), line (`int`), reason (`str`): `record` is empty and `line` 0 where the whole file
            is at fault. Control characters of a record's id are escaped.
        unit (`str`): What `line` counts: `"line"`, or `"row"` of a Parquet file.
    """

    def __init__(self, file: str, reason: str, record: str = "", line: int = 0, unit: str = "line"):
        self.file, self.reason, self.line, self.unit = file, reason, line, unit
        self.record = record if record.isprintable() else repr(record)[1:-1]
        place = [file] + ([f"record '{self.record}'"] if record else []) + ([f"{unit} {line}"] if line else [])
        super().__init__(f"{', '.join(place)}: {reason}")

    def __reduce__(self):  # to other processes
        return SequenceError, (self.file, self.reason, self.record, self.line, self.unit)


def source_name(source: Source) -> str:
    """What error messages call a source."""
    if isinstance(source, (str, Path)):
        return "standard input" if str(source) == "-" else str(source)
    return str(getattr(source, "name", "input"))


def open_binary(source: Source) -> io.BufferedReader:
    """
    Open a file, unpacked: gzip, bzip2, xz and zip archives of one file are told by their first bytes, not their name.

    Args:
        source: Path, `-` for standard input, or an open binary handle.

    Raises:
        SequenceError: If there is no such file, or its kind can't be read as text.
    """
    name, handle = source_name(source), source
    if str(source) == "-":
        if sys.stdin is None:
            raise SequenceError(name, "it is closed")
        handle = sys.stdin.buffer
    elif isinstance(source, (str, Path)):
        try:
            handle = open(source, "rb")
        except OSError as error:
            raise SequenceError(str(source), error.strerror or str(error)) from None
    raw: Any = handle
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(raw)
    head = buffered.peek(6)
    try:
        for magic, unpack in _PACKED.items():
            if head.startswith(magic):
                buffered = io.BufferedReader(unpack(buffered))
        if head.startswith(b"PK\x03\x04"):
            buffered = _only_file(buffered, name)
        head = buffered.peek(512)
    except _DAMAGED as error:
        raise _damage(error, name, 0) from None
    for magic, text in _REFUSED.items():
        if head.startswith(magic):
            raise SequenceError(name, f"the file {text}")
    if head[257:262] == b"ustar":
        raise SequenceError(name, "the file is a tar archive: unpack it first")
    return buffered


def _only_file(buffered: io.BufferedReader, name: str) -> io.BufferedReader:
    """The file in a zip archive of one."""
    archive = zipfile.ZipFile(buffered if buffered.seekable() else io.BytesIO(buffered.read()))
    members = [one for one in archive.infolist() if not one.is_dir() and not one.filename.startswith("__MACOSX/")]
    if "xl/workbook.xml" in archive.namelist():
        raise SequenceError(name, "the file is an Excel workbook: save it as CSV")
    if len(members) != 1:
        raise SequenceError(name, f"the file is a zip archive of {len(members)} files: unpack it first")
    if members[0].flag_bits & 1:
        raise SequenceError(name, "the file is an encrypted zip archive: unpack it first")
    try:
        inside: Any = archive.open(members[0])
    except NotImplementedError as error:
        raise SequenceError(name, f"the zip archive can't be read ({error}): unpack it first") from None
    return io.BufferedReader(inside)


def _damage(error: Exception, name: str, line: int) -> Exception:
    if isinstance(error, OSError) and error.errno:
        return SequenceError(name, error.strerror or str(error))
    return SequenceError(name, f"the compressed file is cut off or damaged after line {line}")


def as_text(buffered: io.BufferedReader) -> IO[str]:
    """UTF-16 with a byte order mark, or UTF-8 whose undecodable bytes are kept as surrogates for `read_lines`."""
    if buffered.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return io.TextIOWrapper(buffered, encoding="utf-16", errors="replace")
    return io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="surrogateescape")


def open_text(source: Source) -> IO[str]:
    """
    Open a text file as `open_binary` does, and decode it as `as_text` does; a text handle is itself.

    Raises:
        SequenceError: As `open_binary`.
    """
    return source if isinstance(source, io.TextIOBase) else as_text(open_binary(source))  # type: ignore[return-value]


def read_lines(handle: IO[str], name: str) -> Iterator[tuple[int, str]]:
    """
    Numbered lines without line ends; bytes that are no UTF-8 are read as Latin-1.

    Raises:
        SequenceError: If a compressed file is cut off or damaged.
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
    except _DAMAGED as error:
        raise _damage(error, name, number) from None


def split_header(header: str, delimiter: str) -> list[str]:
    """The names in the first line of a table; empty ones at its end are none."""
    cells = _split_tabs(header) if delimiter == "\t" else next(csv.reader([header], delimiter=delimiter))
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return names


def table_rows(
    lines: Iterator[tuple[int, str]], delimiter: str, header: list[str], start: int, name: str
) -> Iterator[tuple[int, list[str], str]]:
    """
    The rows below the header of a table.

    Of tab-separated values each line is a row. Elsewhere a quoted cell may go over several lines. Empty cells beyond
    the header and rows without any text don't count.

    Args:
        lines: Numbered lines, as `read_lines` gives them.
        delimiter (`str`): `"\\t"`, `","` or `";"`.
        header (`list[str]`): Names of the columns.
        start (`int`): Line of the header.
        name (`str`): The file, for messages.

    Yields:
        `tuple[int, list[str], str]`: Line, cells, and what is wrong with the row, if anything.

    Raises:
        SequenceError: Where quotes don't match, so that rows may have been taken for part of a cell.
    """
    if delimiter == "\t":
        rows: Iterator[tuple[int, list[str]]] = ((number, _split_tabs(line)) for number, line in lines)
    else:
        rows = _csv_rows(lines, delimiter, len(header), start, name)
    names = [column.lower() for column in header]
    for line, cells in rows:
        while len(cells) > len(header) and not cells[-1].strip():
            cells.pop()
        if not any(cell.strip() for cell in cells):
            continue
        problem = ""
        if len(cells) != len(header):
            problem = f"the row has {len(cells)} cell{'s' * (len(cells) != 1)} where the header has {len(header)}"
        elif [cell.strip().lower() for cell in cells] == names:
            problem = "the row is the header again"
        yield line, cells, problem


def _split_tabs(line: str) -> list[str]:
    """Quotes around a cell go; others are part of the text."""
    cells = line.split("\t")
    if '"' in line:
        cells = [
            cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' else cell for cell in cells
        ]
    return cells


def _csv_rows(
    lines: Iterator[tuple[int, str]], delimiter: str, width: int, start: int, name: str
) -> Iterator[tuple[int, list[str]]]:
    number = start

    def text() -> Iterator[str]:
        nonlocal number
        for count, line in lines:
            number = count
            yield line + "\n"

    reader = csv.reader(text(), delimiter=delimiter, strict=True)
    while True:
        line = number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise SequenceError(name, f"a quote in the row is wrong ({error})", line=line) from None
        if number > line and _swallowed(cells, delimiter, width):
            reason = f"a quoted cell continues to line {number} and may hold other rows: is a quote missing?"
            raise SequenceError(name, reason, line=line)
        yield line, cells


def _swallowed(cells: list[str], delimiter: str, width: int) -> bool:
    """Whether a cell of several lines looks like the end of a row, other rows, and the beginning of a row."""
    if len(cells) != width:
        return True
    for place, cell in enumerate(cells):
        first, *rest = cell.split("\n")
        if rest and first.count(delimiter) >= width - 1 - place and rest[-1].count(delimiter) >= place:
            return True
    return False
