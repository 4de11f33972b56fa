"""Variants: their short form, the command's table, and what it refuses."""

import csv
import gzip
import subprocess
import sys

import pytest

from protloc.commands.variants import read_file
from protloc.loading import DEFAULT_MODEL, load_config
from protloc.prediction import predict
from protloc.variants import change, columns, compare, read_variants, scan
from tests.helpers import ROOT
from training.common.cards import INSULIN


@pytest.mark.parametrize(
    ("variant", "changed"),
    [
        ("M1V", f"V{INSULIN[1:]}"),
        ("p.Ala2Arg", f"MR{INSULIN[2:]}"),
        ("p.(L3del)", f"MA{INSULIN[3:]}"),
        ("W4*", "MAL"),
        ("Met5Ter", "MALW"),
        ("M1V+L3P", f"VAP{INSULIN[3:]}"),
    ],
)
def test_variants_in_short_form(variant, changed):
    assert change(INSULIN, variant) == changed


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        ("R175H", "R175H: the protein has 110 residues"),
        ("R4H", "R4H: residue 4 is W, not R"),
        ("W4Z", "W4Z: Z is no amino acid"),
        ("W4W", "W4W changes nothing"),
        ("W4L+W4R", "residue 4 is changed twice"),
        ("M1*", "nothing of the protein is left"),
        ("c.12A>G", "is no variant: write R175H"),
    ],
)
def test_what_is_no_variant_of_the_protein(variant, said):
    with pytest.raises(ValueError) as error:
        change(INSULIN, variant)
    assert said in str(error.value)


def test_tables_of_variants(tmp_path):
    path = tmp_path / "v.csv"
    path.write_bytes("Protein_ID;Variant\r\na;L8V\r\n".encode("utf-8-sig"))
    assert list(read_file(path, ["a", "b"])) == [("a", "L8V")]
    packed = tmp_path / "v.csv.gz"
    packed.write_bytes(gzip.compress(b"protein_id,variant\na,L8V\n"))
    assert list(read_file(packed, ["a"])) == [("a", "L8V")]
    for text, said in [("protein_id,variant\n", "holds no"), ("", "holds no"), ("protein_id,x\na,L8V\n", "no column"),
                       ("protein_id,variant\na,\n", "line 2: the variant is empty")]:  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=said):
            list(read_file(path, ["a"]))


def test_a_window_and_a_list():
    assert len(scan(INSULIN, 1, 3)) == 57 and scan(INSULIN, 2, 2)[0] == "A2C"
    with pytest.raises(ValueError, match="a window from 100 to 111 is not inside of a protein of 110"):
        scan(INSULIN, 100, 111)
    assert read_variants("R175H, G12D;\nR175H") == ["R175H", "G12D"]


def test_differences_are_those_of_two_predictions():
    mutant = change(INSULIN, "L13R+L14R")
    reference, row = compare("ins", INSULIN, [("L13R+L14R", mutant)])
    (alone,) = predict([("x", mutant)])
    assert row["Extracellular"] == pytest.approx(alone["Extracellular"], abs=0.01)
    assert row["delta_Extracellular"] == pytest.approx(row["Extracellular"] - reference["Extracellular"], abs=1e-5)
    assert reference["variant"] == "" and reference["delta_Extracellular"] == 0 and row["variant"] == "L13R+L14R"
    assert reference["warning"] == row["warning"] == ""
    _, lost, kept = compare("ins", INSULIN, [(name, change(INSULIN, name)) for name in ("M1V", "A2del")])
    assert lost["warning"].startswith("the start codon is lost") and kept["warning"] == ""


@pytest.mark.slow
def test_the_command(tmp_path):
    (tmp_path / "p.fasta").write_text(f">ins\n{INSULIN}\n")
    (tmp_path / "v.txt").write_text("L13R\nW4*\n")
    command = [sys.executable, "-m", "protloc", "variants", tmp_path / "p.fasta"]
    options = {"capture_output": True, "text": True, "cwd": ROOT}
    done = subprocess.run([*command, tmp_path / "v.txt", "--scan", "1-1", "-o", tmp_path / "t.csv"], **options)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "t.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["variant"] for row in rows[:3]] == ["", "L13R", "W4*"] and len(rows) == 3 + 19
    assert rows[2]["length"] == "3" and "under 10 residues" in rows[2]["warning"]
    assert [*rows[0]] == columns(load_config(DEFAULT_MODEL))
    (tmp_path / "t.tsv").write_text("protein_id\tvariant\nins\tR13L\n")
    done = subprocess.run([*command, tmp_path / "t.tsv", "-o", tmp_path / "no.csv"], **options)
    assert done.returncode == 2 and not (tmp_path / "no.csv").exists()
    assert done.stderr.splitlines()[-1] == "protloc: ins: R13L: residue 13 is L, not R"
    (tmp_path / "r.csv").write_text('"protein_id","variant"\n"ins","L13R"\n')  # as R writes tables
    done = subprocess.run([*command, tmp_path / "r.csv", "-o", tmp_path / "." / "r.csv"], **options)
    assert done.returncode == 2 and "is an input" in done.stderr
    done = subprocess.run([*command, tmp_path / "r.csv", "-o", tmp_path / "r.tsv"], **options)
    assert done.returncode == 0 and len((tmp_path / "r.tsv").read_text().splitlines()) == 3
