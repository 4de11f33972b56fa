"""Predictions -> a table that is complete or absent; resuming of unfinished tables, and checks of complete ones."""

import csv
import gzip
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

from .files import atomic_path, disk_errors, file_digest, same_settings
from .models.protein_sequence import clean_sequence
from .prediction import CHUNK, Row
from .profiles import protein_profile
from .taxonomy import SEQUENCE_ONTOLOGY, SORTING_SIGNALS


def partial_path(out: Path) -> Path:
    """Where the rows of an unfinished run lie."""
    return out.with_name(out.name + ".partial")


def run_path(out: Path) -> Path:
    """Where it stands what made a complete table: the settings, and digests of the records and of the table."""
    return out.with_name(out.name + ".run.json")


def record_digest(protein_id: str, text: str, profiles: Path | None = None) -> str:
    """Tells records of other ids, sequences or profiles apart."""
    digest = hashlib.sha1(f"{protein_id}\n{text}".encode())
    if profiles:
        digest.update(protein_profile(profiles, protein_id, clean_sequence(text)).tobytes())
    return digest.hexdigest()


def resume(
    records: Iterator[tuple[str, str]], out: Path, settings: dict[str, Any], profiles: Path | None = None
) -> tuple[int, Iterator[tuple[str, str]]]:
    """
    Compare an unfinished run with the run that resumes it.

    Blocks of rows that were predicted together are kept, so that the other records are batched as in one run.

    Args:
        records: Pairs of id and sequence.
        out (`Path`): The table.
        settings (`dict`): Settings of this run.
        profiles (`Path`, *optional*): As for `predict`.

    Returns:
        `tuple`: The number of finished rows, and the remaining records.

    Raises:
        ValueError: In one sentence, if the unfinished run had other settings or records, or its file is damaged.
    """
    path = partial_path(out)
    start_anew = "or delete that file to start anew"
    count = position = kept = 0
    block: list[tuple[str, str]] = []
    with open(path, "r+b") as file:
        for number, line in enumerate(file):
            if not line.endswith(b"\n"):
                break  # a row that was cut off
            try:
                content = dict(json.loads(line))
                done = (content["row"]["protein_id"], content["digest"]) if number else ("", "")
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{path} is damaged in line {number + 1}: delete it to start anew") from None
            position += len(line)
            if number == 0:
                same_settings(content, settings, path, f"give the settings of the unfinished run, {start_anew}")
            else:
                record = next(records, ("", ""))
                if record[0] != done[0]:
                    raise ValueError(
                        f"{path} has {done[0]!r} in row {number} where the input has {record[0]!r}: give the inputs of "
                        f"the unfinished run, {start_anew}"
                    )
                if record_digest(record[0], record[1], profiles) != done[1]:
                    raise ValueError(
                        f"{path} holds {done[0]!r} predicted from another sequence or profile than the input's: give "
                        f"the inputs of the unfinished run, {start_anew}"
                    )
                block.append(record)
            if number % CHUNK == 0:
                count, kept, block = number, position, []
        file.truncate(kept)
    return count, itertools.chain(block, records)


def write_rows(rows: Iterable[Row], digests: Iterator[str], out: Path, settings: dict[str, Any]) -> None:
    """
    Write predictions to a table, which appears only when it is complete.

    Until then, rows are appended to `OUT.partial`, from which an interrupted run resumes: the first line holds the
    settings, every other line a row and the digest of its record. `OUT.run.json` holds the data for `check_complete`.

    Args:
        rows: From `predict`.
        digests: Digest of each row's record (`record_digest`).
        out (`Path`): Ends in `.csv`, `.tsv` or `.jsonl`, or these and `.gz`, or in `.parquet`.
        settings (`dict`): With `columns`, for CSV and TSV.

    Raises:
        ValueError: In one sentence, if the disk is full.
    """
    partial = partial_path(out)
    with disk_errors(partial, "make room, then resume with --resume"), open(partial, "a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps(settings) + "\n")
        for row in rows:
            file.write(json.dumps({"digest": next(digests), "row": row}) + "\n")
    with disk_errors(out, "make room, then resume with --resume"), open(partial, encoding="utf-8") as file:
        next(file)
        records = hashlib.sha256()

        def finished() -> Iterator[Row]:
            for line in file:
                content = json.loads(line)
                records.update(content["digest"].encode())
                yield content["row"]

        with atomic_path(out) as complete, atomic_path(run_path(out)) as run:
            write_table(finished(), complete, out.name, settings["columns"])
            made = {"settings": settings, "records": records.hexdigest(), "table": file_digest(complete)}
            run.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    partial.unlink()


def read_table(path: Path) -> Iterator[Row]:
    """Rows of a table that `write_rows` has completed; for CSV and TSV all values are text."""
    if path.name.endswith(".parquet"):
        import pyarrow.parquet as pq

        for batch in pq.ParquetFile(path).iter_batches():
            yield from batch.to_pylist()
        return
    opener: Any = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8", newline="") as text:
        if ".jsonl" in path.name[-9:]:
            yield from map(json.loads, text)
        else:
            yield from csv.DictReader(text, delimiter="\t" if ".tsv" in path.name[-7:] else ",")


def check_complete(out: Path, records: Iterator[tuple[str, str]], settings: dict[str, Any]) -> None:
    """
    Compare a complete table with the current run.

    Args:
        out (`Path`): The table.
        records: Pairs of id and digest (`record_digest`).
        settings (`dict`): Settings of this run.

    Raises:
        ValueError: In one sentence, if `OUT.run.json` is missing, or if the table was changed since, or was predicted
            by another model, with other settings, or from other proteins or sequences.
    """
    other = "write to another file, or delete it to predict anew"
    try:
        made = json.loads(run_path(out).read_text(encoding="utf-8"))
        begun, table, predicted = dict(made["settings"]), made["table"], made["records"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{out} is complete, and no {run_path(out).name} beside it says what made it: {other}"
        ) from None
    if table != file_digest(out):
        raise ValueError(f"{out} is complete and was changed since: {other}")
    same_settings(begun, settings, out, other)
    digests = hashlib.sha256()
    for number, row in enumerate(read_table(out), start=1):
        asked, digest = next(records, (None, ""))
        if asked != row["protein_id"]:
            held = row["protein_id"]
            raise ValueError(f"{out} is complete and has {held!r} in row {number}, the input {asked!r}: {other}")
        digests.update(digest.encode())
    if (left := next(records, None)) is not None:
        raise ValueError(f"{out} is complete and lacks {left[0]!r} of the input: {other}")
    if predicted != digests.hexdigest():
        raise ValueError(
            f"{out} is complete and was predicted from other sequences or profiles than the input's: {other}"
        )


def write_table(rows: Iterator[Row], path: Path, name: str, names: list[str]) -> None:
    """Write rows to `path` in the format that the ending of `name` stands for."""
    if name.endswith(".parquet"):
        write_parquet(rows, path)
        return
    with open(path, "wb") as file:
        # Without name and time, so that equal tables are equal files.
        binary: Any = gzip.GzipFile("", "wb", fileobj=file, mtime=0) if name.endswith(".gz") else file
        with io.TextIOWrapper(binary, encoding="utf-8", newline="") as text:
            if ".jsonl" in name[-9:]:
                text.writelines(json.dumps(row) + "\n" for row in rows)
            else:
                write_csv(rows, text, names, "\t" if ".tsv" in name[-7:] else ",")


def write_csv(rows: Iterable[Row], file: IO[str], names: list[str], delimiter: str = ",", flush: bool = False) -> None:
    """Write rows as CSV to an open text file; with `flush`, each as it comes, for a reader at a pipe's end."""
    writer = csv.DictWriter(file, names, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row)
        if flush:
            file.flush()


def write_gff3(rows: Iterable[Row], path: Path) -> None:
    """
    Write the segments of a table's rows as GFF3 (Sequence Ontology, version 3 of the format), completely or not at all.

    Args:
        rows: From `read_table`, with `segments` as text.
        path (`Path`)
    """
    with (
        disk_errors(path, "make room and start again"),
        atomic_path(path) as partial,
        open(partial, "w", encoding="utf-8", newline="\n") as file,
    ):
        file.write("##gff-version 3\n")
        for row in rows:
            # Identifiers as the format wants them: no spaces and no control characters
            name = quote(row["protein_id"], safe=".:^*$@!+_?-|")
            file.write(f"##sequence-region {name} 1 {row['length']}\n")
            for part in filter(None, row["segments"].split("|")):
                kind, place, probability = part.split(":")
                start, end = place.split("-")
                note = f"Note={SORTING_SIGNALS[kind]}"
                fields = [name, "protloc", SEQUENCE_ONTOLOGY[kind], start, end, probability, ".", ".", note]
                file.write("\t".join(fields) + "\n")


def write_parquet(rows: Iterator[Row], path: Path) -> None:
    """Write rows as Parquet in row groups of bounded size."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = pa.Table.from_pylist(list(itertools.islice(rows, 65_536)))
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        while group := list(itertools.islice(rows, 65_536)):
            writer.write_table(pa.Table.from_pylist(group, schema=first.schema))
