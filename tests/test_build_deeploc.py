"""Published layouts -> Parquet, splits by homology partition, exclusions, and what stops a build."""

import csv
import gzip
import hashlib

import numpy as np
import pytest
from datasets import Dataset, get_dataset_config_names, load_dataset

from protloc.profiles import read_pssm
from protloc.taxonomy import COMPARTMENTS
from tests.helpers import deeploc2_csv, signals_csv, write_pssm

HPA_COLUMNS = [name for name in COMPARTMENTS if name not in ("Extracellular", "Plastid")]


@pytest.fixture
def build(run_script, tmp_path):
    """Build into `tmp_path / "out"`."""
    return lambda *arguments: run_script("datasets_scripts.build_deeploc", *arguments, "--out", tmp_path / "out")


def assert_refused(result, message, tmp_path):
    code, _, err = result
    assert code == 2, err
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.fixture
def sources(tmp_path):
    """One file of each published layout."""
    deeploc2_csv(tmp_path / "deeploc2.csv")
    with gzip.open(tmp_path / "hpa.csv.gz", "wt", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sid", "fasta", *HPA_COLUMNS])
        writer.writerow(["ENSP1", "MKTWWWW", 1.0, 1.0, *[0.0] * 6])
        writer.writerow(["ENSP2", "MKTYYYY", *[0.0] * 7, 1.0])
    (tmp_path / "deeploc1.fasta").write_text(
        ">A1 Cell.membrane-M test\nMAAA\n>A2 Cytoplasm-Nucleus-U\nMCCC\n>A3 Nucleus \nMDDD\n"
        ">A4 Lysosome/Vacuole-S\nMEEE\n>A5 Cytoplasm-S test\nMFFF\n"
    )
    names = {"--deeploc2": "deeploc2.csv", "--hpa": "hpa.csv.gz", "--deeploc1": "deeploc1.fasta"}
    return [argument for option, name in names.items() for argument in (option, tmp_path / name)]


def test_build(build, sources, tmp_path):
    assert build(*sources)[0] == 0
    out = str(tmp_path / "out")
    assert get_dataset_config_names(out) == ["deeploc2", "hpa", "deeploc1", "deeploc1_single"]

    deeploc2 = load_dataset(out, "deeploc2")
    assert {split: set(rows["partition"]) for split, rows in deeploc2.items()} == {
        "train": {0, 1, 2},
        "validation": {3},
    }
    assert (len(deeploc2["train"]), len(deeploc2["validation"])) == (60, 20)
    first = deeploc2["train"][0]
    assert (first["id"], first["labels"], first["membrane"]) == ("P00000", [0, 1], 1)
    assert deeploc2["train"].features["labels"].feature.names == COMPARTMENTS
    assert deeploc2["train"].features["kingdom"].int2str(first["kingdom"]) == "Metazoa"

    hpa = load_dataset(out, "hpa", split="test")
    assert hpa["labels"] == [[0, 1], [9]] and hpa["membrane"] == [-1, -1]

    deeploc1 = load_dataset(out, "deeploc1")
    assert {s: dict(zip(r["id"], r["labels"], strict=True)) for s, r in deeploc1.items()} == {
        "train": {"A2": [0, 1], "A3": [1], "A4": [7]},
        "test": {"A1": [3], "A5": [0]},
    }
    assert deeploc1["train"]["membrane"] == [-1, -1, 0] and deeploc1["test"]["membrane"] == [1, 0]
    assert load_dataset(out, "deeploc1_single", split="train")["id"] == ["A3", "A4"]

    card = (tmp_path / "out" / "README.md").read_text()
    assert "size_categories:\n- n<1K\n" in card and load_dataset(out).keys() == {"train", "validation"}  # the default
    assert "| proteins | 60 | 20 |" in card and "| homology partitions | 0, 1, 2 | 3 |" in card
    streamed = load_dataset(out, "deeploc2", split="train", streaming=True)
    assert next(iter(streamed)) == first


def test_exclusions_by_accession_and_by_sequence(build, sources, tmp_path):
    rows = list(csv.DictReader(open(tmp_path / "deeploc2.csv")))
    digest = hashlib.sha1(rows[30]["Sequence"].encode()).hexdigest()
    rest = "0" * 40
    lines = [f"P00001,{rest},a", f"other,{digest.upper()},b", f"ENSP1,{rest},c"]
    (tmp_path / "never.csv").write_text("\n".join(["accession,sequence_sha1,reason", *lines]))
    assert build(*sources, "--exclude", tmp_path / "never.csv")[0] == 0
    deeploc2 = load_dataset(str(tmp_path / "out"), "deeploc2")
    kept = {*deeploc2["train"]["id"], *deeploc2["validation"]["id"]}
    assert {row["ACC"] for row in rows} - kept == {"P00001", "P00030"}
    assert len(load_dataset(str(tmp_path / "out"), "hpa", split="test")) == 2  # test sets stay whole
    assert "| excluded | 1 | 1 |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"accession,sequence_sha1\nP00001,%s\nP00002,1ee21b" % (b"0" * 40), "line 3: 'P00002' with '1ee21b' is no"),
        (b"accession,sequence_sha1\nP00001,\n", "line 2: 'P00001' with '' is no accession with 40 digits"),
        (b"accession,sequence_sha1\nP00001\n", "line 2: the row has 1 cell where the header has 2"),
        (b"accession,sequence_sha1\n,%s\n" % (b"0" * 40), "line 2: '' with '000"),
        (
            gzip.compress(b"accession,sequence_sha1\n" * 500)[:40],
            "never.csv: the compressed file is cut off or damaged",
        ),
        (b"\x1f\x8b\x08\0damaged", "never.csv: the compressed file is cut off or damaged"),
    ],
)
def test_a_damaged_list_of_exclusions_guards_nothing(build, sources, tmp_path, content, message):
    (tmp_path / "never.csv").write_bytes(content)
    assert_refused(build(*sources, "--exclude", tmp_path / "never.csv"), message, tmp_path)


def test_a_folder_built_anew_is_read_anew(build, sources, tmp_path):
    """datasets caches a local folder by name and metadata; the card's digest must tell the builds apart."""
    for partition in (0, 1):
        assert build(*sources[:2], "--train", partition, "--validation", 3)[0] == 0
        assert set(load_dataset(str(tmp_path / "out"), "deeploc2", split="train")["partition"]) == {partition}


def test_a_rebuild_that_stops_leaves_the_last_build(build, sources, tmp_path, monkeypatch):
    """A rebuild stopped after its first file must not leave proteins of one split in the other."""
    assert build(*sources)[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    write, written = Dataset.to_parquet, []

    def stop(table, path):
        if written:
            raise OSError(28, "No space left on device")
        written.append(write(table, path))

    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "to_parquet", stop)
        code, _, err = build(*sources[:2], "--train", 0, 1, 3, "--validation", 2)
    assert code == 2 and err.splitlines()[-1] == "build_deeploc: [Errno 28] No space left on device" and written
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}

    assert build(*sources[:2])[0] == 0  # what is not built anew is gone
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "deeploc2"}
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, _, err = build(*sources)
    assert code == 2 and "notes.txt, which no build made: choose another folder" in err


def test_other_partitions(build, sources, tmp_path):
    chosen = ["--train", 0, "--validation", 1, "--test", 2, 3]
    assert build(*sources[:2], *chosen)[0] == 0
    sizes = {split: len(rows) for split, rows in load_dataset(str(tmp_path / "out"), "deeploc2").items()}
    assert sizes == {"train": 20, "validation": 20, "test": 40}


def test_a_sequence_in_two_splits_stops_the_build(build, sources, tmp_path):
    rows = list(csv.DictReader(open(tmp_path / "deeploc2.csv")))
    with open(tmp_path / "deeploc2.csv", "a") as file:
        file.write(f"COPY,Fungi,3,0.0,{','.join(['1.0'] * 10)},{rows[0]['Sequence']}\n")
    result = build(*sources)
    assert_refused(result, "the sequence of COPY in deeploc2/validation is also P00000 in deeploc2/train", tmp_path)

    (tmp_path / "never.fasta").write_text(f">COPY\n{rows[0]['Sequence']}\n")
    assert build(*sources, "--exclude", tmp_path / "never.fasta")[0] == 0
    assert "P00000" not in load_dataset(str(tmp_path / "out"), "deeploc2", split="train")["id"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--deeploc2", "deeploc2.csv", "--train", 7], "no partition 7, asked for by --train"),
        (["--deeploc2", "deeploc2.csv", "--train", 3], "partition 3 is asked for by two splits"),
        (["--deeploc2", "hpa.csv.gz"], "no column 'ACC'"),
        (["--hpa", "none.csv"], "No such file"),
        (["--deeploc1", "bad.fasta"], "A1: unknown location 'Moon'"),
        (["--deeploc1", "short.fasta"], "'A1' is no header of the form"),
        (["--deeploc2", "sequence.csv"], "sequence.csv, line 2: '7' at position 2"),
        (["--deeploc2", "kingdom.csv"], "kingdom.csv, line 2: kingdom 'Mars' is none of"),
        (["--hpa", "cut.csv.gz"], "the compressed file is cut off or damaged"),
        ([], "give at least one of"),
        (["--hpa", "hpa.csv.gz", "--push-to-hub", "a/b"], "run `hf auth login`"),
    ],
)
def test_refuses(build, sources, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.fasta").write_text(">A1 Moon-S\nMKT\n")
    (tmp_path / "short.fasta").write_text(">A1\nMKT\n")
    header = ",".join(["ACC", "Kingdom", "Partition", "Membrane", *COMPARTMENTS, "Sequence"]) + "\n"
    (tmp_path / "sequence.csv").write_text(header + "P1,Fungi,0,0.0," + "1.0," * 10 + "M7T\n")
    (tmp_path / "kingdom.csv").write_text(header + "P1,Mars,0,0.0," + "1.0," * 10 + "MKT\n")
    (tmp_path / "cut.csv.gz").write_bytes((tmp_path / "hpa.csv.gz").read_bytes()[:-12])
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert_refused(build(*arguments), message, tmp_path)


def test_the_published_files(build, data_dir, tmp_path):
    deeploc = data_dir / "deeploc"
    code, _, err = build(
        *("--deeploc2", deeploc / "Swissprot_Train_Validation_dataset.partitions0-3.csv.gz"),
        *("--hpa", deeploc / "hpa_testset.csv.gz"),
        *("--deeploc1", deeploc / "deeploc1_train.fasta.gz", deeploc / "deeploc1_test.fasta.gz"),
        *("--exclude", data_dir / "never_train.csv.gz"),
    )
    assert code == 0, err
    out = str(tmp_path / "out")
    deeploc2 = load_dataset(out, "deeploc2")
    assert len(deeploc2["train"]) + len(deeploc2["validation"]) == 22_841 - 157
    hpa = load_dataset(out, "hpa", split="test")
    assert len(hpa) == 1717 and sum(map(len, hpa["labels"])) == 2110
    assert len(load_dataset(out, "deeploc1", split="test")) == 2773
    assert load_dataset(out, "deeploc1_single", split="test").num_rows == 2773


def test_signals_and_profiles(run_script, tmp_path):
    source = deeploc2_csv(tmp_path / "deeploc2.csv", proteins=40)
    signals = signals_csv(tmp_path / "signals.csv", source)
    proteins = list(csv.DictReader(source.open()))
    for protein in proteins:
        write_pssm(tmp_path / f"{protein['ACC']}.pssm", protein["Sequence"])
    options = ["--deeploc2", source, "--signals", signals, "--profiles", tmp_path, "--out", tmp_path / "data"]
    assert run_script("datasets_scripts.build_deeploc", *options)[0] == 0
    built = load_dataset(str(tmp_path / "data"), "deeploc2", split="train")
    assert [bool(digits) for digits in built["signals"]] == [i % 2 == 0 for i in range(30)]
    assert built[0]["signals"].startswith("11111000") and len(built[0]["signals"]) == len(built[0]["sequence"])
    np.testing.assert_allclose(built[3]["profile"], read_pssm(tmp_path / f"{built[3]['id']}.pssm")[1], rtol=1e-6)
    card = (tmp_path / "data" / "README.md").read_text()
    assert "| sorting signals annotated | 15 | 5 |" in card and "| `profile` | list of lists |" in card

    (tmp_path / "P00007.pssm").unlink()
    code, _, err = run_script("datasets_scripts.build_deeploc", *options)
    assert code == 2 and err.endswith("P00007.pssm: No such file or directory\n")
    signals.write_text(signals.read_text().replace(",11111", ",1111", 1))
    code, _, err = run_script("datasets_scripts.build_deeploc", *options)
    assert code == 2 and "line 2: the annotation of P00000 is not one digit for each residue" in err


def test_deeploc1_takes_the_partitions_of_deeploc2(run_script, tmp_path):
    source = deeploc2_csv(tmp_path / "deeploc2.csv", proteins=40)
    known = list(csv.DictReader(source.open()))[25]
    fasta = f">A1 Nucleus-S\n{known['Sequence']}\n>A2 Nucleus-S\nMKWWW\n>A3 Nucleus-S test\nMW\n"
    (tmp_path / "deeploc1.fasta").write_text(fasta)
    options = ["--deeploc2", source, "--deeploc1", tmp_path / "deeploc1.fasta", "--out", tmp_path / "data"]
    assert run_script("datasets_scripts.build_deeploc", *options)[0] == 0
    built = load_dataset(str(tmp_path / "data"), "deeploc1_single", split="train")
    assert built["partition"] == [int(known["Partition"]), -1]
