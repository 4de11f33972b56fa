"""`protloc predict-shards`: every protein once and in order, however its processes fare."""

import csv
import dataclasses
import gzip
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from protloc.files import lock
from protloc.loading import load_model
from protloc.prediction import columns, predict
from protloc.shards import Job, Worker, cut, lock_path, part_path, run
from tests.helpers import run_protloc

GENERATOR = random.Random(0)
PROTEINS = [
    (f"P{i:05}", "".join(GENERATOR.choices("ACDEFGHIKLMNPQRSTVWY", k=GENERATOR.randint(5, 90)))) for i in range(25)
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Several make so small a model slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fasta(path, proteins=PROTEINS):
    lines = [f">{name} of no known function\n{sequence[:40]}\n{sequence[40:]}\n" for name, sequence in proteins]
    path.write_text("".join(lines))
    return path


def parquet(path, proteins=PROTEINS, **options):
    names, sequences = zip(*proteins, strict=True)
    pq.write_table(pa.table({"Taxon": [1] * len(names), "Sequence": sequences, "Entry": names}), path, **options)
    return path


def made_job(model, tmp_path, *inputs, **options) -> Job:
    paths = tuple(str(path) for path in inputs)
    return Job(paths, tmp_path / "out", str(model), **{"shard_size": 10, "dtype": "float32", **options})


def test_a_shard_that_is_there_is_not_predicted_again(tiny_model_dir, tmp_path):
    """Ray gives it out again where a worker was lost before it had said what became of it."""
    path = parquet(tmp_path / "p.parquet", [("short", "MKV"), ("bad", "MK1"), ("long", "MKTAYIAKQRQISFVK")])
    worker = Worker(made_job(tiny_model_dir, tmp_path, path, skip_errors=True))
    worker.begin()
    (shard,) = worker.shards()
    first = worker.predict(shard)
    written = part_path(worker.job.out, 0).stat().st_mtime_ns
    again = worker.predict(shard)
    assert (again.proteins, again.skipped, str(again.warned)) == (
        2,
        1,
        "1 record(s) may be no protein: short (under 10 residues)",
    )
    assert (first.proteins, first.skipped, str(first.warned)) == (again.proteins, again.skipped, str(again.warned))
    assert part_path(worker.job.out, 0).stat().st_mtime_ns == written


def parts(folder) -> list:
    return sorted(folder.glob("part-*.parquet"))


def check(folder, model, proteins):
    """The shards one after another are what one process predicts of it all."""
    rows = [row for path in parts(folder) for row in pq.read_table(path).to_pylist()]
    expected = list(predict(proteins, *load_model(model, dtype="float32")))
    assert [row["protein_id"] for row in rows] == [name for name, _ in proteins]
    for row, known in zip(rows, expected, strict=True):  # other proteins beside it in a batch round otherwise
        assert row == pytest.approx(known, abs=2e-6) and list(row) == list(known)
    assert not list(folder.glob("*.partial"))


@pytest.mark.parametrize("kind", ["fasta", "gzip", "parquet"])
def test_inputs(tiny_model_dir, tmp_path, kind):
    path = parquet(tmp_path / "p", row_group_size=7) if kind == "parquet" else fasta(tmp_path / "p")
    if kind == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    job = made_job(tiny_model_dir, tmp_path, path)
    assert run(job) == (3, 25)
    assert [pq.read_metadata(part).num_rows for part in parts(job.out)] == [10, 10, 5]
    check(job.out, tiny_model_dir, PROTEINS)


def test_several_inputs_and_more_columns(tiny_model_dir, tmp_path):
    table = tmp_path / "p.csv"
    with open(table, "w", newline="") as file:
        csv.writer(file).writerows([("id", "sequence"), *PROTEINS[12:]])
    job = made_job(tiny_model_dir, tmp_path, fasta(tmp_path / "p.fasta", PROTEINS[:12]), table)
    assert run(job) == (4, 25)
    check(job.out, tiny_model_dir, PROTEINS)


def test_only_what_is_missing(tiny_model_dir, tmp_path):
    job = made_job(tiny_model_dir, tmp_path, fasta(tmp_path / "p.fasta"))
    run(job)
    before = [path.stat().st_mtime_ns for path in parts(job.out)]
    part_path(job.out, 1).unlink()
    (job.out / "part-00001.parquet.0f.partial").write_bytes(b"cut off")  # of a process that was killed
    assert run(job) == (1, 10)
    check(job.out, tiny_model_dir, PROTEINS)
    after = [path.stat().st_mtime_ns for path in parts(job.out)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_processes_share_the_work(tiny_model_dir, tmp_path, monkeypatch):
    job = made_job(tiny_model_dir, tmp_path, fasta(tmp_path / "p.fasta"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(job) == (2, 15)
    monkeypatch.setenv("RANK", "1")
    assert run(job) == (1, 10)
    check(job.out, tiny_model_dir, PROTEINS)


def test_other_settings(tiny_model_dir, tmp_path):
    job = made_job(tiny_model_dir, tmp_path, fasta(tmp_path / "p.fasta"))
    run(job)
    for change in ({"shard_size": 5}, {"length_policy": "window"}, {"inputs": (str(fasta(tmp_path / "q.fasta")),)}):
        with pytest.raises(ValueError, match=f"was begun with {next(iter(change))} .*, or choose another folder$"):
            run(dataclasses.replace(job, **change))
    model, tokenizer = load_model(tiny_model_dir)
    model.config.thresholds = [0.3] * 10
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    other = Worker(dataclasses.replace(job, model=str(tmp_path / "model")))
    assert other._settings()["model_digest"] != Worker(job)._settings()["model_digest"]
    (job.out / "run.json").unlink()
    with pytest.raises(ValueError, match="holds predictions but no run"):
        run(job)


def test_bad_records(tiny_model_dir, tmp_path):
    path = fasta(tmp_path / "p.fasta", PROTEINS[:11])
    with open(path, "a") as file:
        file.write(">bad\nMKT\nMK1\n>P00010\nMKT\n")
    job = made_job(tiny_model_dir, tmp_path, path)
    with pytest.raises(ValueError, match=r"p.fasta, record 'bad', line 36: '1' at position 6 .*; --on-error skip"):
        run(job)
    assert run(dataclasses.replace(job, skip_errors=True)) == (1, 1)
    check(job.out, tiny_model_dir, PROTEINS[:11])
    with open(job.out / "errors-00001.csv") as file:
        found = [(row["record"], row["line"]) for row in csv.DictReader(file)]
    assert found == [("bad", "36"), ("P00010", "37")]


def test_columns_of_other_kinds(tiny_model_dir, tmp_path):
    names, sequences = zip(*PROTEINS, strict=True)
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"id": [name.encode() for name in names], "sequence": sequences}), path)
    job = made_job(tiny_model_dir, tmp_path, path)
    assert run(job) == (3, 25)
    check(job.out, tiny_model_dir, PROTEINS)
    pq.write_table(pa.table({"id": names, "sequence": [list(sequence) for sequence in sequences]}), path)
    with pytest.raises(ValueError, match=r"p.parquet: the column 'sequence' holds list"):
        run(made_job(tiny_model_dir, tmp_path / "lists", path))


def test_rows_of_other_columns_in_a_table(tiny_model_dir, tmp_path):
    (tmp_path / "p.csv").write_text("id,name,sequence\na,x,MKTAYIAKQR\nb,x, y,MKTAYIAKQR\nc,x,NA\nd,x,GGG\n")
    command = ("predict-shards", tmp_path / "p.csv", "-o", tmp_path / "out", "--model", tiny_model_dir)
    code, _, err = run_protloc(*command)
    assert code == 2 and "p.csv, line 3: the row has 4 cells where the header has 3; --on-error skip" in err
    code, _, err = run_protloc(*command, "--on-error", "skip")
    assert code == 0 and "1 shards predicted, 2 proteins" in err
    assert [row["line"] for row in csv.DictReader(open(tmp_path / "out" / "errors-00000.csv"))] == ["3", "4"]
    rows = pq.read_table(part_path(tmp_path / "out", 0)).to_pylist()
    assert [(row["protein_id"], row["warning"]) for row in rows] == [("a", ""), ("d", "under 10 residues")]


def test_skipped_and_doubtful_records_are_counted(tiny_model_dir, tmp_path, caplog):
    path = fasta(tmp_path / "p.fasta", [("a", "MKT"), ("b", "M1"), ("c", "ATGATGATGATG")])
    assert run(made_job(tiny_model_dir, tmp_path, path, shard_size=1, skip_errors=True)) == (3, 2)
    assert "skipped 1 bad record(s), listed in" in caplog.text
    assert "2 record(s) may be no protein: a (under 10 residues), c (looks like nucleotides)" in caplog.text


def test_two_jobs_never_share_a_folder(tiny_model_dir, tmp_path):
    job = made_job(tiny_model_dir, tmp_path, fasta(tmp_path / "p.fasta"))
    job.out.mkdir()
    held = r"out is being written by process \d+ on"
    with lock(lock_path(job.out), job.out), pytest.raises(ValueError, match=held):
        run(job)
    assert not parts(job.out)
    assert run(job) == (3, 25)
    assert not list(job.out.glob(".lock*"))


def test_a_shard_of_bad_records_only(tiny_model_dir, tmp_path):
    job = made_job(
        tiny_model_dir, tmp_path, parquet(tmp_path / "p.parquet", [("a", ""), (None, "MKT")]), skip_errors=True
    )
    assert run(job) == (1, 0)
    arguments = ("-o", tmp_path / "other", "--model", tiny_model_dir, "--on-error", "skip")
    assert run_protloc("predict-shards", *job.inputs, *arguments)[0] == 3
    assert pq.read_table(part_path(job.out, 0)).column_names == columns(Worker(job).model.config)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.fasta", None, "none.fasta: no such file"),
        ("empty.fasta", b"\n", "empty.fasta: the file holds no sequences"),
        ("text", b"hello\n", "text, line 1: no FASTA"),
        ("p.parquet", b"PAR1", "p.parquet: the Parquet file is damaged"),
        ("p.fasta.gz", gzip.compress(b">a\nMKT\n" * 99)[:-9], "cut off or damaged"),
    ],
)
def test_bad_inputs(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, _, err = run_protloc("predict-shards", tmp_path / name, "-o", tmp_path / "out")
    assert code == 2 and message in err and err.count("\n") == 1
    assert not parts(tmp_path / "out")


def test_bad_columns_and_too_many_shards(tmp_path):
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="no column for the id"):
        cut([str(tmp_path / "p.parquet")], 10, tmp_path)
    (tmp_path / "p.fasta").write_text(">a\nM\n" * 100_001)
    with pytest.raises(ValueError, match="100001 shards are more than 100000: raise --shard-size"):
        cut([str(tmp_path / "p.fasta")], 1, tmp_path)


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = run_protloc("predict-shards", fasta(tmp_path / "p.fasta"), "-o", tmp_path / "out", "--ray")
    assert code == 2 and err == "protloc: Ray is not installed: pip install 'protloc[scale]'\n"


MANY = [(f"{name}-{i}", sequence) for i in range(40) for name, sequence in PROTEINS]
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def start(command, path, tmp_path, model, *options) -> subprocess.Popen:
    arguments = [str(path), "-o", str(tmp_path / "out"), "--model", str(model), "--shard-size", "5"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen([*command, "-m", "protloc", "predict-shards", *arguments, "--dtype", "float32", *options],
                            env=env, stderr=subprocess.PIPE, text=True)  # fmt: skip


def kill_a_worker(process: subprocess.Popen, folder, is_worker) -> dict:
    """SIGKILL to a worker in the midst of its shards; the parts that were there, with their times."""
    until = time.monotonic() + 120
    while len(parts(folder)) < 10:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if is_worker(child)]
    min(workers, key=lambda child: child.create_time()).send_signal(signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in parts(folder)}
    assert len(before) < 200
    return before


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [0, 1])
def test_accelerate_loses_a_process(tiny_model_dir, tmp_path, restarts):
    """The launcher ends the others; it starts all anew if told to, else we do."""
    path = fasta(tmp_path / "p.fasta", MANY)
    command = [*LAUNCH, "--max_restarts", str(restarts)]
    process = start(command, path, tmp_path, tiny_model_dir)
    before = kill_a_worker(process, tmp_path / "out", lambda child: "predict-shards" in child.cmdline())
    _, err = process.communicate(timeout=120)
    assert (process.returncode == 0) == (restarts == 1), err
    if restarts == 0:
        assert len(parts(tmp_path / "out")) < 200
        process = start(command, path, tmp_path, tiny_model_dir)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    check(tmp_path / "out", tiny_model_dir, MANY)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


@pytest.mark.slow
def test_ray_loses_a_worker(tiny_model_dir, tmp_path):
    path = parquet(tmp_path / "p.parquet", MANY)
    process = start([sys.executable], path, tmp_path, tiny_model_dir, "--ray", "--workers", "2")
    before = kill_a_worker(process, tmp_path / "out", lambda child: "MapWorker" in "".join(child.cmdline()))
    _, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert "200 shards predicted" in err
    check(tmp_path / "out", tiny_model_dir, MANY)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
