"""
Inputs of any size, cut into numbered shards; the predictions of each shard are one Parquet file, whole or absent.

What `protloc predict-shards` leaves in its folder:

    index.json            where each shard lies in the input
    run.json              what was asked for, written once the index is there; a run of other settings is refused
    part-00000.parquet    the rows of shard 0, in the order of the input
    errors-00000.csv      its bad records, if it has some and they are skipped
    input-0.parquet       a copy of the first input, where that can't be read from the middle (compressed, or CSV, TSV)
    .lock                 held by the process at work; those of the other ranks are .lock-1 and so on

Processes share nothing but this folder, so they may be anywhere that sees it.
"""

import csv
import io
import itertools
import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from .files import atomic_path, disk_errors, lock, same_settings
from .loading import load_model
from .prediction import Row, check_heads, columns, model_digest, predict, table_rows
from .sequences import (
    Record,
    SequenceError,
    Warned,
    check_records,
    fasta_records,
    open_parquet,
    open_text,
    parquet_records,
    read_lines,
    read_records,
    with_ids,
)

logger = logging.getLogger(__name__)

RUN, INDEX = "run.json", "index.json"
_MOST_SHARDS = 100_000  # five digits: the order of the names is that of the shards
_TEXT = {"protein_id", "localizations", "go", "uniprot_sl", "membrane", "signals", "segments", "warning"}
_WAY_OUT = "make room and start again: what is missing is predicted"


@dataclass(frozen=True)
class Shard:
    """Proteins `number * size` and following of the inputs, if these are one file."""

    number: int
    name: str  # the input
    path: str  # where its records are read: itself, or its copy
    start: int  # of a FASTA file in bytes, of a Parquet file in rows
    stop: int
    line: int  # of a FASTA file: its line at `start`


@dataclass(frozen=True)
class Job:
    """What `protloc predict-shards` is asked for; paths are absolute, since processes elsewhere read them."""

    inputs: tuple[str, ...]
    out: Path
    model: str
    shard_size: int = 10_000
    skip_errors: bool = False
    device: str = "auto"
    dtype: str = "auto"
    length_policy: str | None = None
    signals: bool = False
    tree: bool = False
    ids: bool = False
    max_tokens_per_batch: int = 16_384


class Done(NamedTuple):
    """What became of the records of a shard, or of several."""

    proteins: int
    skipped: int
    warned: Warned

    def together(self, other: "Done") -> "Done":
        return Done(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))  # type: ignore[operator]


def count(rows: list[dict[str, Any]], skipped: int) -> Done:
    """What became of a shard with these rows."""
    warned = Warned()
    for row in rows:
        warned.add(row["protein_id"], row["warning"])
    return Done(len(rows), skipped, warned)


class Worker:
    """
    A model, and what it does for a job.

    Args:
        job (`Job`)

    Raises:
        ValueError: In one sentence, if an input, the model or the device is not there, or the model can't do the job.
    """

    def __init__(self, job: Job):
        self.job = job
        for name in job.inputs:
            if not Path(name).is_file():
                raise SequenceError(name, "no such file (pipes and standard input can't be read from the middle)")
        self.model, self.tokenizer = load_model(job.model, job.device, job.dtype, job.length_policy)
        config = self.model.config
        check_heads(job.model, config, job.signals, job.tree, job.ids)
        if config.input_features == "profile":
            raise ValueError(f"{job.model} reads profiles: only protloc predict has --profiles")
        self.columns = columns(config, job.signals, job.tree, job.ids)

    def begin(self) -> None:
        """
        Cut the input, unless this job was begun before. One process does this; it needs the only one to.

        Raises:
            ValueError, OSError: If the input can't be read, or the folder can't be written or holds other things.
        """
        out = self.job.out
        out.mkdir(parents=True, exist_ok=True)
        if (out / RUN).exists():
            return
        if next(out.glob("part-*.parquet"), None):
            raise ValueError(f"{out} holds predictions but no {RUN}, so of what is unknown: choose another folder")
        shards = [asdict(shard) for shard in cut(self.job.inputs, self.job.shard_size, out)]
        for name, content in ((INDEX, shards), (RUN, self._settings())):
            with disk_errors(out / name, _WAY_OUT), atomic_path(out / name) as partial:
                partial.write_text(json.dumps(content), encoding="utf-8")

    def shards(self) -> list[Shard]:
        """
        The shards of a job that was begun.

        Raises:
            ValueError: If it was begun with other settings.
        """
        begun = json.loads((self.job.out / RUN).read_text(encoding="utf-8"))
        way_out = "give the settings of that run, or choose another folder"
        same_settings(begun, self._settings(), self.job.out, way_out)
        return [Shard(**fields) for fields in json.loads((self.job.out / INDEX).read_text(encoding="utf-8"))]

    def predict(self, shard: Shard) -> Done:
        """
        Write the predictions of a shard; of one that is there already, only say what became of it.

        Raises:
            ValueError: For a bad record, unless they are skipped; if memory does not suffice for a protein.
        """
        part, listed = part_path(self.job.out, shard.number), self.job.out / f"errors-{shard.number:05}.csv"
        if part.exists():  # Ray gives out again what a lost worker had done without having said so
            skipped = sum(1 for _ in csv.DictReader(listed.open(encoding="utf-8"))) if listed.exists() else 0
            return count(pq.read_table(part, columns=["protein_id", "warning"]).to_pylist(), skipped)
        config, errors = self.model.config, []

        def on_error(error: SequenceError) -> None:
            if not self.job.skip_errors:
                raise ValueError(f"{error}; --on-error skip leaves bad records out and lists them")
            errors.append(error)

        longest = config.max_length if config.length_policy == "error" else None
        records = check_records(read_shard(shard), shard.name, set(), on_error, longest, raw=True)
        options = self.model, self.tokenizer, self.job.max_tokens_per_batch
        rows = list(table_rows(predict(records, *options, signals=self.job.signals, tree=self.job.tree), self.job.ids))
        if errors:
            with disk_errors(listed, _WAY_OUT), open(listed, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(["file", "record", "line", "reason"])
                writer.writerows([error.file, error.record, error.line, error.reason] for error in errors)
        write_part(rows, self.columns, part)
        return count(rows, len(errors))

    def _settings(self) -> dict[str, Any]:
        inputs = [(path, Path(path).stat()) for path in self.job.inputs]
        return {
            "inputs": [[path, stat.st_size, stat.st_mtime_ns] for path, stat in inputs],
            "shard_size": self.job.shard_size,
            "model": self.job.model,
            "dtype": str(self.model.dtype),
            "length_policy": self.model.config.length_policy,
            "columns": self.columns,
            "model_digest": model_digest(self.model),
        }


def run(job: Job, show_bars: bool = False) -> tuple[int, int]:
    """
    Predict what is missing of this process's shards.

    Of N processes that `accelerate launch` or `torchrun` starts, process r has each shard whose number is r modulo N.

    Returns:
        `tuple[int, int]`: How many shards this process has predicted, and how many proteins.

    Raises:
        ValueError, OSError: In one sentence; see `Worker`.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if job.device in ("auto", "cuda") and torch.cuda.is_available():  # several processes may share a GPU
        number = int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count()
        job = replace(job, device=f"cuda:{number}")
    worker = Worker(job)
    job.out.mkdir(parents=True, exist_ok=True)
    with lock(lock_path(job.out, rank), job.out):
        if rank == 0:
            worker.begin()
        while not (job.out / RUN).exists():  # should the first process fail, the launcher ends the others
            time.sleep(0.2)
        mine = [shard for shard in worker.shards() if shard.number % processes == rank]
        missing = [shard for shard in mine if not part_path(job.out, shard.number).exists()]
        bar = tqdm(missing, initial=len(mine) - len(missing), total=len(mine), unit=" shards", disable=not show_bars)
        done = Done(0, 0, Warned())
        for shard in bar:
            done = done.together(worker.predict(shard))
    report(done, job.out)
    return len(missing), done.proteins


def report(done: Done, out: Path) -> None:
    """Say how many records were skipped and which may be no proteins."""
    if done.skipped:
        logger.warning("skipped %d bad record(s), listed in %s", done.skipped, out / "errors-*.csv")
    if done.warned.count:
        logger.warning("warning: %s; see the column warning", done.warned)


def lock_path(out: Path, rank: int = 0) -> Path:
    return out / (f".lock-{rank}" if rank else ".lock")


def part_path(out: Path, number: int) -> Path:
    return out / f"part-{number:05}.parquet"


def write_part(rows: list[Row], names: list[str], path: Path) -> None:
    """Write the rows of a shard, to a temporary file first, which only this process knows: another may be at it too."""
    for left in path.parent.glob(path.name + ".*.partial"):  # of a process that was killed
        left.unlink(missing_ok=True)
    types = {name: pa.string() for name in _TEXT} | {"length": pa.int64(), "truncated": pa.bool_()}
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in names])
    with disk_errors(path, _WAY_OUT), atomic_path(path) as partial, open(partial, "wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
        file.flush()
        os.fsync(file.fileno())  # else a machine that goes down may leave the name without the content


def cut(inputs: Iterable[str], size: int, out: Path) -> list[Shard]:
    """
    Shards of at most `size` proteins. An input begins with a new shard.

    Args:
        inputs: Paths of FASTA or Parquet files, or of compressed FASTA, CSV or TSV, which are copied to `out` first.
        size (`int`): Proteins of a shard.
        out (`Path`): An existing folder.

    Raises:
        SequenceError: If there is no such file, it holds no proteins, or is neither FASTA nor a table.
        ValueError: If there are too many shards.
    """
    shards: list[Shard] = []
    for i, name in enumerate(inputs):
        path, kind = name, _kind(name)
        if kind == "other":
            path = str(out / f"input-{i}.parquet")
            _copy(name, Path(path))
        places = _fasta_places(path, size) if kind == "fasta" else _parquet_places(path, size)
        before = len(shards)
        for (start, line), (stop, _) in itertools.pairwise(places):
            shards.append(Shard(len(shards), name, path, start, stop, line))
        if len(shards) == before:
            raise SequenceError(name, "the file holds no sequences")
    if len(shards) > _MOST_SHARDS:
        raise ValueError(f"{len(shards)} shards are more than {_MOST_SHARDS}: raise --shard-size")
    return shards


def _kind(name: str) -> str:
    """What can be read from the middle, `"fasta"` and `"parquet"`, and what not, `"other"`."""
    with open(name, "rb") as file:
        if file.read(4) == b"PAR1":
            return "parquet"
        file.seek(0)
        first = next((line for line in file if line.strip()), b"")
    return "fasta" if first.startswith(b">") else "other"


def _fasta_places(path: str, size: int) -> Iterator[tuple[int, int]]:
    """Byte and line of every `size`-th record, and the end."""
    records = offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if line.startswith(b">"):
                if records % size == 0:
                    yield offset, number
                records += 1
            offset += len(line)
    yield offset, 0


def _parquet_places(path: str, size: int) -> Iterator[tuple[int, int]]:
    """Every `size`-th row, and the number of rows."""
    rows = open_parquet(path, path)[0].metadata.num_rows
    for row in range(0, rows, size):
        yield row, 0
    yield rows, 0


def _copy(name: str, path: Path) -> None:
    """Copy what has to be read from its beginning to Parquet, with each record's line and what is wrong with it."""
    records = read_records(name)
    names = ["id", "sequence", "line", "problem"]
    schema = pa.schema([(column, pa.int64() if column == "line" else pa.string()) for column in names])
    with disk_errors(path, _WAY_OUT), atomic_path(path) as partial, pq.ParquetWriter(partial, schema) as writer:
        while group := list(itertools.islice(records, 10_000)):
            rows = [(one.name, "\n".join(text for _, text in one.body), one.line, one.problem) for one in group]
            writer.write_table(pa.table(list(zip(*rows, strict=True)), schema=schema))


def read_shard(shard: Shard) -> Iterator[Record]:
    """The records of a shard, unchecked. Memory holds a shard of FASTA, or a row group of Parquet."""
    if _kind(shard.path) == "fasta":
        with open(shard.path, "rb") as file:
            file.seek(shard.start)
            content = io.BytesIO(file.read(shard.stop - shard.start))
        lines = read_lines(open_text(content), shard.name)
        yield from with_ids(fasta_records((shard.line - 1 + number, line) for number, line in lines))
    elif shard.path == shard.name:
        yield from parquet_records(shard.path, shard.name, start=shard.start, stop=shard.stop)
    else:
        copied = pq.ParquetFile(shard.path)
        first = 0
        for group in range(copied.num_row_groups):
            stop = first + copied.metadata.row_group(group).num_rows
            if first < shard.stop and stop > shard.start:
                part = slice(max(shard.start - first, 0), shard.stop - first)
                for row in copied.read_row_group(group).to_pylist()[part]:
                    yield Record(row["line"], row["id"], [(row["line"], row["sequence"])], row["problem"])
            first = stop
