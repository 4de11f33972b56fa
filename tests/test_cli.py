"""`protloc predict` as people run it: outputs, errors, kills and resumes."""

import csv
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import pipeline

import protloc_entry
from protloc.files import lock
from protloc.loading import load_model
from protloc.models.configuration_deeploc import COMPARTMENTS, SORTING_SIGNALS, SORTING_TREE
from protloc.prediction import model_digest, predict
from protloc.results import partial_path, record_digest, run_path, write_rows
from protloc.sequences import read_fasta
from tests.helpers import ROOT, tiny_deeploc, write_pssm

HEADER = ["protein_id", "length", "truncated", "localizations", "membrane", "membrane_probability", *COMPARTMENTS]
HEADER += ["warning"]
FASTA = "".join(f">p{i}\n{('MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ' * 9)[: 10 + i * 7]}\n" for i in range(30))
COMMAND = [str(Path(sys.executable).with_name("protloc"))]


@pytest.fixture
def run(monkeypatch, capsys, tiny_model_dir):
    """Run the command in this process: exit code, standard output, standard error."""

    def run(*arguments, model=tiny_model_dir):
        monkeypatch.setattr(sys, "argv", ["protloc", "predict", *map(str, arguments), "--model", str(model)])
        with pytest.raises(SystemExit) as stop:
            protloc_entry.main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def read_csv(text):
    return list(csv.DictReader(text.splitlines()))


def test_standard_output(run, fasta):
    code, out, err = run(fasta)
    assert (code, err) == (0, "")
    rows = read_csv(out)
    assert list(rows[0]) == HEADER
    assert [row["protein_id"] for row in rows] == [f"p{i}" for i in range(30)]
    assert [int(row["length"]) for row in rows] == [10 + i * 7 for i in range(30)]
    assert [row["truncated"] == "True" for row in rows] == [10 + i * 7 > 60 for i in range(30)]
    for row in rows:
        assert set(row["localizations"].split("|")) <= set(COMPARTMENTS)
        assert row["membrane"] in ("membrane", "soluble")
        assert all(0 <= float(row[name]) <= 1 for name in [*COMPARTMENTS, "membrane_probability"])


def test_formats_agree(run, fasta, tmp_path):
    outputs = {}
    for suffix in ("csv", "jsonl", "parquet"):
        out = tmp_path / f"out.{suffix}"
        assert run(fasta, "-o", out) == (0, "", "")
        outputs[suffix] = out
    tables = {
        "csv": read_csv(outputs["csv"].read_text()),
        "jsonl": [json.loads(line) for line in outputs["jsonl"].read_text().splitlines()],
        "parquet": pq.read_table(outputs["parquet"]).to_pylist(),
    }
    assert tables["jsonl"] == tables["parquet"]
    assert [{k: str(v) for k, v in row.items()} for row in tables["jsonl"]] == tables["csv"]
    assert list(tables["parquet"][0]) == HEADER
    names = [*outputs, *(f"{suffix}.run.json" for suffix in outputs)]
    assert {path.name for path in tmp_path.iterdir()} == {"proteins.fasta", *(f"out.{name}" for name in names)}


def test_attention_signals_and_tree(run, tmp_path, tokenizer):
    folder = tmp_path / "model"
    model = tiny_deeploc(signals=True, tree=True)
    pipeline("protein-localization", model=model, tokenizer=tokenizer).save_pretrained(folder)
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">sp|P1|A/B\nMKTAYIAK\n>SP_P1_A_B\nMKT\n>..\n" + "M" * 70 + "\n")
    options = ["--signals", "--tree", "--attention", tmp_path / "attention", "-o", tmp_path / "out.csv"]
    code, _, err = run(fasta, *options, model=folder)
    assert code == 0 and err.startswith(
        "protloc: warning: 2 record(s) may be no protein: sp|P1|A/B (under 10 residues)"
    )
    rows = read_csv((tmp_path / "out.csv").read_text())
    assert [row["warning"] for row in rows] == ["under 10 residues"] * 2 + [""]
    new = ["signals", *(f"signal_{name}" for name in SORTING_SIGNALS), *(f"tree_{name}" for name in SORTING_TREE)]
    assert list(rows[0]) == [*HEADER[:-1], *new, "warning"]
    files = sorted(path.name for path in (tmp_path / "attention").iterdir())
    assert len(files) == 6 and files[:2] == ["-" + files[0][1:9] + ".csv", "-" + files[0][1:9] + ".png"]
    assert "SP_P1_A_B.csv" in files
    (table,) = (tmp_path / "attention").glob("sp_P1_A_B-*.csv")
    weights = read_csv(table.read_text())
    assert "".join(row["residue"] for row in weights) == "MKTAYIAK"
    assert sum(float(row["attention"]) for row in weights) == pytest.approx(1, abs=1e-4)
    assert table.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_the_terminal_gets_utf8_whatever_its_encoding(tiny_model_dir, tmp_path):
    """As on Windows, whose pipes have a code page."""
    (tmp_path / "in.fasta").write_text(">β-actin\nMKTAYIAKQRQISFVK\n", encoding="utf-8")
    command = [*COMMAND, "predict", tmp_path / "in.fasta", "--model", tiny_model_dir]
    shown = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    assert shown.returncode == 0 and shown.stdout.decode("utf-8").splitlines()[1].startswith("β-actin,16,")


@pytest.mark.parametrize("option", ["--signals", "--tree"])
def test_heads_that_a_model_lacks(run, fasta, option):
    code, out, err = run(fasta, option)
    assert (code, out) == (2, "") and f"{option} needs a model trained with model.{option[2:]}=true" in err
    assert err.count("\n") == 1


def test_ensemble(run, fasta, tmp_path, tiny_model_dir, monkeypatch, capsys):
    _, single, _ = run(fasta)
    monkeypatch.setattr(sys, "argv", ["protloc", "predict", str(fasta), "--ensemble", *[str(tiny_model_dir)] * 2])
    with pytest.raises(SystemExit) as stop:
        protloc_entry.main()
    assert stop.value.code == 0 and capsys.readouterr().out == single


def test_profiles(run, tmp_path, tokenizer, tiny_model_dir):
    folder = tmp_path / "model"
    model = tiny_deeploc(input_features="profile")
    pipeline("protein-localization", model=model, tokenizer=tokenizer).save_pretrained(folder)
    fasta = tmp_path / "in.fasta"
    fasta.write_text(">a\nMKTAYIAKQR\n")
    needs = f"protloc: {folder} reads profiles: name the folder of <id>.pssm files with --profiles\n"
    assert run(fasta, model=folder) == (2, "", needs)
    missing = f"protloc: {tmp_path / 'a.pssm'}: No such file or directory\n"
    assert run(fasta, "--profiles", tmp_path, model=folder) == (2, "", missing)
    write_pssm(tmp_path / "a.pssm", "MKTAYIAKQR")
    code, out, err = run(fasta, "--profiles", tmp_path, model=folder)
    assert (code, err, len(read_csv(out))) == (0, "", 1)
    fasta.write_text(">a\nMKTAYIAKQR\n>b\nMKT\n")
    table = tmp_path / "out.csv"
    code, _, err = run(fasta, "--profiles", tmp_path, "--on-error", "skip", "-o", table, model=folder)
    assert code == 0 and "skipped 1 bad record(s)" in err
    assert [row["protein_id"] for row in read_csv(table.read_text())] == ["a"]
    assert f"{tmp_path / 'b.pssm'},b," in (tmp_path / "out.csv.errors.csv").read_text()
    code, _, err = run(fasta, "--profiles", tmp_path)
    assert code == 2 and err == f"protloc: {tiny_model_dir} does not read profiles: leave --profiles out\n"


@pytest.mark.parametrize(("policy", "truncated"), [("middle", "True"), ("end", "True"), ("window", "False")])
def test_length_policies(run, tmp_path, policy, truncated):
    fasta = tmp_path / "in.fasta"
    fasta.write_text(f">a\n{'MKTAYIAK' * 20}\n")
    code, out, _ = run(fasta, "--length-policy", policy)
    (row,) = read_csv(out)
    assert (code, row["length"], row["truncated"]) == (0, "160", truncated)


def test_small_batches_give_the_same(run, fasta):
    whole, small = read_csv(run(fasta)[1]), read_csv(run(fasta, "--max-tokens-per-batch", "1")[1])
    for a, b in zip(whole, small, strict=True):
        assert [float(a[name]) for name in COMPARTMENTS] == pytest.approx([float(b[n]) for n in COMPARTMENTS], abs=1e-5)


def test_several_files(run, fasta, tmp_path):
    (tmp_path / "more.csv").write_text("id,sequence\nq,MKT\n")
    assert [row["protein_id"] for row in read_csv(run(tmp_path / "more.csv", fasta)[1])][:2] == ["q", "p0"]


def test_titin_goes_through(run, tmp_path):
    (tmp_path / "titin.fasta").write_text(">TITIN\n" + "MKTAYIAKQR" * 3435)
    code, out, _ = run(tmp_path / "titin.fasta")
    assert code == 0
    assert (read_csv(out)[0]["length"], read_csv(out)[0]["truncated"]) == ("34350", "True")


BAD = {
    "missing": (None, "No such file"),
    "empty": ("", "the file holds no sequences"),
    "no FASTA": ("hello\n", "no FASTA"),
    "empty record": (">a\nMKT\n>b\n", "record 'b', line 3: the sequence is empty"),
    "digits": (">a\nMKT\nM7\n", "record 'a', line 3: '7'"),
    "repeated id": (">a\nMKT\n>a\nMKT\n", "record 'a', line 3: this id was used before"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_line_and_no_file(run, tmp_path, content, message):
    path = tmp_path / "in.fasta"
    if content is not None:
        path.write_text(content)
    code, out, err = run(path, "-o", tmp_path / "out.csv")
    assert (code, out) == (2, "")
    assert err.startswith(f"protloc: {path}") and message in err and err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_skip_lists_bad_records_and_predicts_the_rest(run, tmp_path):
    path, out = tmp_path / "in.fasta", tmp_path / "out.csv"
    path.write_text(">a\nMKT\n>b\nM7\n>a\nMK\n>c\nGGG\n")
    code, _, err = run(path, "-o", out, "--on-error", "skip")
    assert code == 0 and "skipped 2 bad record(s)" in err
    assert [row["protein_id"] for row in read_csv(out.read_text())] == ["a", "c"]
    errors = read_csv((tmp_path / "out.csv.errors.csv").read_text())
    assert [(row["record"], row["line"]) for row in errors] == [("b", "4"), ("a", "5")]
    assert errors[0]["file"] == str(path) and "'7' at position 2" in errors[0]["reason"]


def test_skip_without_an_output_file_reports_on_standard_error(run, tmp_path):
    (tmp_path / "in.fasta").write_text(">a\nMKT\n>b\nM7\n")
    code, out, err = run(tmp_path / "in.fasta", "--on-error", "skip")
    assert code == 0 and len(read_csv(out)) == 1
    lines = err.splitlines()
    assert lines[0].startswith("protloc: skipped: ") and lines[1] == "protloc: skipped 1 bad record(s)"


def test_a_list_of_errors_does_not_outlive_them(run, fasta, tmp_path):
    (tmp_path / "out.csv.errors.csv").write_text("of an earlier run")
    assert run(fasta, "-o", tmp_path / "out.csv", "--on-error", "skip")[0] == 0
    assert not (tmp_path / "out.csv.errors.csv").exists()


def test_a_pipe_is_read_once(run, fasta, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = subprocess.Popen(["cp", fasta, tmp_path / "pipe"])
    code, out, err = run(tmp_path / "pipe")
    writer.wait()
    assert (code, err) == (0, "") and len(read_csv(out)) == 30


def test_an_input_is_not_overwritten(run, tmp_path):
    path = tmp_path / "in.csv"
    path.write_text("id,sequence\na,MKT\n")
    code, _, err = run(path, "-o", path)
    assert code == 2 and "is an input" in err and path.read_text().endswith("a,MKT\n")


def test_a_damaged_model(run, fasta, tmp_path, tiny_model_dir):
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    code, _, err = run(fasta, model=tmp_path / "model")
    assert code == 2 and "cannot load the model" in err and err.count("\n") == 1
    config = tmp_path / "model" / "config.json"
    config.write_text(config.read_text().replace('"lstm_size": 8', '"lstm_size": "wide"'))
    code, _, err = run(fasta, model=tmp_path / "model")
    assert code == 2 and "cannot load the model" in err and err.count("\n") == 1


def test_bfloat16_agrees_with_float32(run, fasta):
    tables = [read_csv(run(fasta, "--dtype", dtype)[1]) for dtype in ("float32", "bfloat16")]
    for exact, rounded in zip(*tables, strict=True):
        for name in [*COMPARTMENTS, "membrane_probability"]:
            assert float(rounded[name]) == pytest.approx(float(exact[name]), abs=0.02)


def test_nothing_left_after_skipping(run, tmp_path):
    (tmp_path / "in.fasta").write_text(">b\nM7\n")
    code, _, err = run(tmp_path / "in.fasta", "-o", tmp_path / "out.csv", "--on-error", "skip")
    assert code == 3 and "no sequence is left to predict" in err
    assert not (tmp_path / "out.csv").exists()


def test_length_policy_error(run, fasta, tmp_path):
    code, _, err = run(fasta, "--length-policy", "error", "-o", tmp_path / "out.csv")
    assert code == 2 and "record 'p8', line 17: 66 residues are more than the model's 60" in err
    code, _, _ = run(fasta, "--length-policy", "error", "-o", tmp_path / "out.csv", "--on-error", "skip")
    assert code == 0 and len(read_csv((tmp_path / "out.csv").read_text())) == 8


def test_bad_model_and_device(run, fasta, tmp_path):
    for model in (tmp_path / "none", "nobody/nothing"):
        code, _, err = run(fasta, model=model)
        assert code == 2 and f"cannot load the model '{model}'" in err and err.count("\n") == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    code, _, err = run(fasta, model=tmp_path / "other")
    assert code == 2 and "is a bert model" in err
    code, _, err = run(fasta, "--device", "cuda:9")
    assert code == 2 and "cannot use the device 'cuda:9'" in err and err.count("\n") == 1
    code, _, err = run(fasta, "--device", "toaster")
    assert code == 2 and "toaster" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in.fasta", "-o", "out.xlsx"], "must end in .csv, .tsv, .jsonl, .csv.gz"),
        (["in.fasta", "-o", "nowhere/out.csv"], "there is no folder 'nowhere'"),
        (["in.fasta", "-o", "folder.csv"], "'folder.csv' is a folder"),
        (["in.fasta", "--resume"], "--resume needs -o OUT"),
        (["in.fasta", "--max-tokens-per-batch", "0"], "'0' is not a positive number"),
        (["in.fasta", "--dtype", "int8"], "invalid choice"),
        ([], "required"),
    ],
)
def test_usage_errors(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    code, _, err = run(*arguments)
    assert code == 2 and message in err


def read_ids(path):
    if path.suffix == ".parquet":
        return pq.read_table(path)["protein_id"].to_pylist()
    if path.suffix == ".csv":
        return [row["protein_id"] for row in read_csv(path.read_text())]
    return [json.loads(line)["protein_id"] for line in path.read_text().splitlines()]


@pytest.fixture
def begin(tiny_model_dir, fasta):
    """Leave a run unfinished after some rows."""

    def begin(out, count):
        model, tokenizer = load_model(tiny_model_dir)
        settings = {"model": str(tiny_model_dir), "dtype": str(model.dtype), "length_policy": "middle"}
        settings |= {"model_digest": model_digest(model), "attention": None, "columns": HEADER}
        records = list(read_fasta(fasta))

        def rows():
            yield from list(predict(records, model, tokenizer))[:count]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_rows(rows(), (record_digest(*record) for record in records), out, settings)
        return partial_path(out).read_text()

    return begin


@pytest.mark.parametrize("suffix", ["csv", "tsv.gz", "jsonl", "parquet"])
def test_resume_after_a_row_was_cut_off(run, fasta, tmp_path, begin, suffix):
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"out.{suffix}"
    run(fasta, "-o", whole)
    text = begin(out, 8)[:-40]  # seven rows and a piece of the eighth
    partial_path(out).write_text(text)

    code, _, err = run(fasta, "-o", out)
    assert code == 2 and "is an unfinished run: add --resume" in err
    assert partial_path(out).read_text() == text
    assert run(fasta, "-o", out, "--resume") == (0, "", "")
    assert out.read_bytes() == whole.read_bytes()
    runs = {f"{path.name}.run.json" for path in (out, whole)}
    assert {path.name for path in tmp_path.iterdir()} == {out.name, "proteins.fasta", whole.name, *runs}
    code, _, err = run(fasta, "-o", out, "--resume")
    assert code == 0 and "nothing to resume" in err
    fasta.write_text(fasta.read_text().replace(">p3\n", ">other\n"))
    code, _, err = run(fasta, "-o", out, "--resume")
    assert code == 2 and "has 'p3' in row 4, the input 'other'" in err
    fasta.write_text(fasta.read_text().replace(">other\n", ">p3\n") + ">more\nMKTAYIAKQRQISF\n")
    code, _, err = run(fasta, "-o", out, "--resume")
    assert code == 2 and "lacks 'more' of the input" in err
    assert out.read_bytes() == whole.read_bytes()


def test_a_complete_table_says_what_made_it(run, fasta, tmp_path, tiny_model_dir):
    """`--resume` after the end: nothing to do for the same run, and never silently another's table."""
    out, model = tmp_path / "out.csv", tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    assert run(fasta, "-o", out, model=model)[0] == 0

    def refused(name=fasta, *more):
        before = out.read_bytes()
        code, _, err = run(name, "-o", out, "--resume", *more, model=model)
        assert out.read_bytes() == before and code == 2 and err.count("\n") == 1
        return err

    code, _, err = run(fasta, "-o", out, "--resume", model=model)
    assert (code, err) == (0, f"protloc: {out} is complete, nothing to resume\n")
    corrected = tmp_path / "corrected.fasta"
    corrected.write_text(FASTA.replace("MKTAYIAKQR", "MKTAYIAKQK", 1))
    assert "was predicted from other sequences or profiles" in refused(corrected)
    assert "was begun with length_policy 'middle', not 'end'" in refused(fasta, "--length-policy", "end")
    config = model / "config.json"
    was = config.read_text()
    config.write_text(json.dumps(json.loads(was) | {"membrane_threshold": 0.25}))  # a retrained model
    assert "was begun with model_digest" in refused()
    config.write_text(was)
    text = out.read_text()
    out.write_text(text.replace("soluble", "membrane", 1))
    assert "was changed since" in refused()
    out.write_bytes(b"\x1f\x8b" + text.encode()[:500])
    assert "was changed since" in refused()
    out.write_text(text)
    for left in ("{}", "[]", None):
        if left:
            run_path(out).write_text(left)
        else:
            run_path(out).unlink()
        assert "no out.csv.run.json beside it says what made it: write to another file, or delete it" in refused()


def test_resume_before_the_first_row_was_whole(run, fasta, tmp_path):
    out = tmp_path / "out.csv"
    partial_path(out).write_text('{"model": ')
    assert run(fasta, "-o", out, "--resume")[0] == 0
    assert read_ids(out) == [f"p{i}" for i in range(30)]


def test_resume_with_another_input_model_or_setting_is_refused(run, fasta, tmp_path, begin):
    out = tmp_path / "out.csv"
    text = begin(out, 8)
    fasta.with_name("corrected.fasta").write_text(FASTA.replace("MKTAYIAKQR", "MKTAYIAKQK", 1))
    fasta.with_name("renamed.fasta").write_text(FASTA.replace(">p3", ">q3"))
    for name, options, message in (
        ("corrected.fasta", [], "holds 'p0' predicted from another sequence"),
        ("renamed.fasta", [], "has 'p3' in row 4 where the input has 'q3'"),
        (
            fasta,
            ["--length-policy", "error", "--on-error", "skip"],
            "was begun with length_policy 'middle', not 'error'",
        ),
        (
            fasta,
            ["--attention", tmp_path / "attention"],
            f"was begun with attention None, not '{tmp_path / 'attention'}'",
        ),
    ):
        code, _, err = run(tmp_path / name, "-o", out, "--resume", *options)
        assert code == 2 and message in err and "or delete that file to start anew" in err
    before, line = text.split("\n", 1)
    partial_path(out).write_text(before.replace(json.loads(before)["model_digest"], "0" * 16) + "\n" + line)
    code, _, err = run(fasta, "-o", out, "--resume")
    assert code == 2 and "was begun with model_digest '0000000000000000', not" in err
    assert not out.exists() and not (tmp_path / "out.csv.lock").exists()


@pytest.mark.parametrize("damage", ["\0\0\0", "{}", "3", '{"model": "other"}'])
def test_a_damaged_partial_file(run, fasta, tmp_path, begin, damage):
    out = tmp_path / "out.csv"
    lines = begin(out, 8).splitlines()
    lines[3] = damage
    partial_path(out).write_text("\n".join(lines) + "\n")
    code, _, err = run(fasta, "-o", out, "--resume")
    assert (code, err) == (2, f"protloc: {partial_path(out)} is damaged in line 4: delete it to start anew\n")


def test_two_processes_never_share_an_output(run, fasta, tmp_path):
    out = tmp_path / "out.csv"
    with lock(tmp_path / "out.csv.lock", out):
        for options in ([], ["--resume"]):
            code, _, err = run(fasta, "-o", out, *options)
            holder = f"process {os.getpid()} on {platform.node()}"
            assert code == 2 and err.startswith(f"protloc: {out} is being written by {holder}: wait")
    assert run(fasta, "-o", out) == (0, "", "")


def test_a_full_disk(run, fasta, tmp_path):
    out, before = tmp_path / "out.csv", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        code, _, err = run(fasta, "-o", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2 and err == f"protloc: {partial_path(out)}: File too large: make room, then resume with --resume\n"
    assert run(fasta, "-o", out, "--resume") == (0, "", "")
    assert read_ids(out) == [f"p{i}" for i in range(30)]


def many_proteins(path, count=20_000):
    path.write_text("".join(f">p{i}\n{'MKTAYIAKQR' * (1 + i % 6)}\n" for i in range(count)))
    return path


@pytest.mark.slow
def test_killed_and_resumed_loses_and_doubles_nothing(tiny_model_dir, tmp_path):
    count = 2500
    fasta, out = many_proteins(tmp_path / "many.fasta", count), tmp_path / "out.csv"
    command = [*COMMAND, "predict", str(fasta), "-o", str(out), "--model", str(tiny_model_dir)]
    process = subprocess.Popen(command)
    while not (partial_path(out).exists() and partial_path(out).stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert len(partial_path(out).read_text().splitlines()) < count
    subprocess.run([*command, "--resume"], check=True)
    assert read_ids(out) == [f"p{i}" for i in range(count)]
    subprocess.run([*command[:3], "-o", tmp_path / "fresh.csv", *command[5:]], check=True)
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_an_interrupt_while_modules_load(fasta, tiny_model_dir, tmp_path):
    command = [*COMMAND, "predict", fasta, "-o", tmp_path / "out.csv", "--model", tiny_model_dir]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "libtorch_cpu" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "protloc: stopped\n") and process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["proteins.fasta"]


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("SIGINT", 130, "stopped"),
        pytest.param("SIGTERM", 143, "stopped by SIGTERM", marks=pytest.mark.slow),
        ("SIGHUP", 129, "stopped by SIGHUP"),
    ],
)
def test_a_signal_leaves_what_is_resumed_and_nothing_else(tiny_model_dir, tmp_path, name, code, said):
    fasta, out, temporary = many_proteins(tmp_path / "many.fasta"), tmp_path / "out.csv", tmp_path / "temporary"
    temporary.mkdir()
    command = [*COMMAND, "predict", "-", "-o", str(out), "--model", str(tiny_model_dir)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(command, stdin=fasta.open(), stderr=subprocess.PIPE, text=True, env=environment)
    while not (partial_path(out).exists() and partial_path(out).stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    assert list(temporary.glob("tmp*"))  # the copy of standard input
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, f"protloc: {said}; --resume resumes {out}\n")
    assert not list(temporary.glob("tmp*"))
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv.partial"]


def test_closed_streams(fasta, tiny_model_dir, tmp_path):
    for closed, inputs, expected in (
        ("<&-", "-", "protloc: standard input is closed: name a file\n"),
        (">&-", str(fasta), "protloc: standard output is closed: name a file with -o OUT\n"),
    ):
        command = f"{COMMAND[0]} predict {inputs} --model {tiny_model_dir} {closed}"
        result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert (result.returncode, result.stderr) == (2, expected)
    out = tmp_path / "out.csv"
    command = f"{COMMAND[0]} predict {fasta} -o {out} --model {tiny_model_dir} <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command]).returncode == 0
    assert read_ids(out) == [f"p{i}" for i in range(30)]


def test_attention_without_figures(run, fasta, tmp_path):
    assert run(fasta, "--attention", tmp_path / "attention", "--no-figures")[0] == 0
    assert {path.suffix for path in (tmp_path / "attention").iterdir()} == {".csv"}


def test_parquet_and_tables_of_excel(run, tmp_path):
    sequences = ["MKTAYIAKQR", "MKTAYIAKQRQISFVK"]
    pq.write_table(pa.table({"Entry": [b"a", b"b"], "Sequence": sequences}), tmp_path / "in.parquet")
    (tmp_path / "in.csv").write_bytes("id;sequence\r\na;MKTAYIAKQR\r\nb;MKTAYIAKQRQISFVK\r\n".encode("utf-16"))
    outputs = [run(tmp_path / name)[:2] for name in ("in.parquet", "in.csv")]
    assert outputs[0] == outputs[1] and [row["protein_id"] for row in read_csv(outputs[0][1])] == ["a", "b"]
    pq.write_table(pa.table({"id": ["a"], "sequence": [["M"]]}), tmp_path / "in.parquet")
    message = f"protloc: {tmp_path / 'in.parquet'}: the column 'sequence' holds list<element: string>, not text\n"
    assert run(tmp_path / "in.parquet") == (2, "", message)


def test_standard_input_and_a_closed_pipe(tiny_model_dir):
    command = [*COMMAND, "predict", "-", "--model", str(tiny_model_dir)]
    result = subprocess.run(command, input=FASTA, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(read_csv(result.stdout)) == 30
    result = subprocess.run(command, input=">a\nM7\n", capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "protloc: standard input, record 'a', line 2: '7' at position 2 is not an amino-acid code\n"
    many = "".join(f">p{i}\nMKTAYIAKQR\n" for i in range(1500))  # more than a pipe holds
    pipe = f"{' '.join(command)} | head -1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", pipe], input=many, capture_output=True, text=True)
    assert (result.returncode, result.stdout.count("\n"), result.stderr) == (0, 1, "")


def test_help_and_usage_errors_import_nothing_heavy():
    script = """
import sys, protloc_entry
sys.argv = ["protloc", *sys.argv[1:]]
try:
    protloc_entry.main()
finally:
    assert not {"torch", "transformers", "numpy", "protloc"} & set(sys.modules)
"""
    for arguments, code in (["--help"], 0), (["predict", "--help"], 0), (["predict"], 2), (["--version"], 0):
        result = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert result.returncode == code, result.stderr
        assert "Traceback" not in result.stderr


def test_predicting_imports_only_what_it_needs(fasta, tiny_model_dir):
    """What pictures, tables, training and evaluation need is not loaded for sequences."""
    script = """
import sys, protloc_entry
sys.argv = ["protloc", *sys.argv[1:]]
try:
    protloc_entry.main()
finally:
    heavy = {"datasets", "diffusers", "gemmi", "matplotlib", "pandas", "pyarrow", "ray", "skimage", "sklearn"}
    assert not heavy & set(sys.modules), heavy & set(sys.modules)
    assert not {"protloc.plots", "protloc.hub", "protloc.drawing", "protloc.shards"} & set(sys.modules)
"""
    command = [sys.executable, "-c", script, "predict", fasta, "--model", tiny_model_dir]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "") and len(read_csv(result.stdout)) == 30


def test_python_dash_m():
    result = subprocess.run([sys.executable, "-m", "protloc", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and result.stdout.startswith("protloc ")
