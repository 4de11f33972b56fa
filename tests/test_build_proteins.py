"""The sequences that deepGPS learns labels from, built from made-up tables in the published layouts."""

import csv
import hashlib

import pytest
from datasets import load_dataset

from protloc.taxonomy import COMPARTMENTS, IMAGE_CLASS_OF, IMAGE_CLASSES, OPENCELL_CATEGORIES, image_class
from tests.helpers import deeploc2_csv


def write(path, columns, rows):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


@pytest.fixture
def tables(tmp_path):
    deeploc2 = deeploc2_csv(tmp_path / "deeploc2.csv")
    proteins = list(csv.DictReader(deeploc2.open()))
    genes = {"A": "cytoplasmic", "B": "nucleoplasm", "C": "vesicles", "D": "cytoskeleton"}
    sequences = {gene: "MKT" + gene * 5 for gene in genes}
    sequences["C"] = proteins[3]["Sequence"]  # an OpenCell test protein that is in DeepLoc too
    human = [(protein["ACC"], protein["Sequence"]) for protein in proteins[::2]]
    split = [("A", "train"), ("B", "test"), ("C", "test"), ("D", "train")]
    annotations = [(f"ENSG{g}", g, name, 3) for g, name in genes.items()]
    return {
        "--deeploc2": deeploc2,
        "--human": write(tmp_path / "human.csv", ["uniprot", "sequence"], human),
        "--annotations": write(
            tmp_path / "annotations.csv", ["ensg_id", "target_name", "annotation_name", "annotation_grade"], annotations
        ),
        "--sequences": write(tmp_path / "targets.csv", ["target_name", "sequence"], sequences.items()),
        "--split-file": write(tmp_path / "split.csv", ["target_name", "split"], split),
    }


def test_build(run_script, tables, tmp_path):
    proteins = list(csv.DictReader(tables["--deeploc2"].open()))
    banned = next(p for p in proteins if p["Cytoplasm"] == "1.0" and sum(float(p[c]) for c in COMPARTMENTS) == 1)
    digest = hashlib.sha1(banned["Sequence"].encode()).hexdigest()
    exclude = write(tmp_path / "never.csv", ["accession", "sequence_sha1"], [("X", digest)])
    options = [part for pair in tables.items() for part in pair]
    code, out, err = run_script(
        "datasets_scripts.build_proteins", *options, "--exclude", exclude, "--out", tmp_path / "out"
    )
    assert code == 0, err
    built = load_dataset(str(tmp_path / "out"))
    assert list(built) == ["train", "validation", "test"]
    assert f"{len(built['train'])} train" in out
    by_split = {split: {row["sequence"]: row for row in built[split]} for split in built}
    assert {row["source_labels"] for row in by_split["test"].values()} == {"nucleoplasm", "vesicles"}
    assert not set(by_split["train"]) & (set(by_split["validation"]) | set(by_split["test"]))
    assert proteins[3]["Sequence"] not in by_split["train"]
    assert not any(banned["Sequence"] in rows for rows in by_split.values())
    partition = {p["Sequence"]: p["Partition"] for p in proteins}
    assert {partition[sequence] for sequence in by_split["validation"]} == {"3"}
    assert "3" not in {partition.get(sequence) for sequence in by_split["train"]}
    names = built["train"].features["label"].names
    for row in by_split["train"].values():
        assert names[row["label"]] == image_class(row["source_labels"].split("|"))
    first = by_split["train"]["MKTAAAAA"]
    assert first["source"] == "OpenCell" and first["human"]
    assert {row["human"] for row in by_split["train"].values()} == {True, False}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| cytoplasm |" in card and "1 from OpenCell" in card


def test_nothing_left(run_script, tables, tmp_path):
    split = write(tmp_path / "split2.csv", ["target_name", "split"], [("A", "train")])
    options = [part for pair in {**tables, "--split-file": split}.items() for part in pair]
    code, _, err = run_script("datasets_scripts.build_proteins", *options, "--out", tmp_path / "out")
    assert code == 2 and "build_proteins: no protein is left to test" in err
    assert not (tmp_path / "out").exists()


def test_classes():
    assert set(IMAGE_CLASS_OF.values()) == set(IMAGE_CLASSES)
    assert image_class(["nucleolus_gc", "nucleolus_fc_dfc"]) == "nucleoli"
    assert image_class(["Nucleus", "Cytoplasm"]) is None and image_class(["centrosome"]) is None
    assert set(OPENCELL_CATEGORIES) - set(IMAGE_CLASS_OF) == {
        "centrosome", "nuclear_membrane", "cytoskeleton", "big_aggregates", "focal_adhesions", "cell_contact"
    }  # fmt: skip
