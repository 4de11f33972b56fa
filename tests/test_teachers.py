"""What a model learns from another's answers: proteins without labels, tables of answers, and their mix with labels."""

import random
import shutil

import pytest
import torch
from datasets import load_dataset

from training.deeploc.data import load_unlabelled, read_teacher, teach


def random_protein(seed: int, length: int = 120) -> str:
    return "M" + "".join(random.Random(seed).choices("ACDEFGHIKLMNPQRSTVWY", k=length - 1))


@pytest.mark.skipif(shutil.which("mmseqs") is None, reason="MMseqs2 is not installed")
def test_proteins_without_labels(run_script, tiny_dataset, tmp_path):
    proteins = {f"P{seed}": random_protein(seed) for seed in range(6)}
    proteins["long"] = random_protein(9, 700)
    proteins["near"] = proteins["P0"][:60] + random_protein(10, 10) + proteins["P0"][60:]  # of one that is held out
    proteins["again"] = proteins["P5"]
    path, held_out = tmp_path / "a.csv", tmp_path / "held_out.fasta"
    path.write_text("id,sequence\n" + "".join(f"{name},{text}\n" for name, text in proteins.items()))
    held_out.write_text(f">P0\n{proteins['P0']}\n")
    labelled = load_dataset(str(tiny_dataset), "deeploc2", split="train")
    (tmp_path / "b.fasta").write_text(f">P1\n{random_protein(11)}\n>mine\n{labelled[0]['sequence']}\n")
    options = [path, tmp_path / "b.fasta", "--exclude", held_out, "--shortest", 10, "--out", tmp_path / "data"]
    code, _, errors = run_script("datasets_scripts.build_unlabelled", *options)
    assert code == 0 and "Of 10 sequences 1 are held out elsewhere" in errors, errors
    found = load_dataset(str(tmp_path / "data"), split="train")
    # Neither the long one, the held-out one nor its like is there; proteins of two tables may have one name.
    names = sorted(name.split("-")[0] for name in found["id"])
    assert names == ["P1", "P1", "P2", "P3", "P4", "P5", "mine"] and len(set(found["id"])) == 7

    rows = load_unlabelled(str(tmp_path / "data"), labelled)
    assert "mine" not in rows["id"] and rows.features["labels"] == labelled.features["labels"]
    assert rows[0]["labels"] == [] and rows[0]["membrane"] == -1


def test_answers_are_read_by_protein(tmp_path):
    (tmp_path / "a.csv").write_text("protein_id,membrane_probability,x,y,z\nP1,0.5,0.1,other,0.9\nP2,0.25,0,other,1\n")
    (tmp_path / "b.tsv").write_text("protein_id\tx\tz\tmembrane_probability\nP3\t1\t0.5\t0\n")
    paths = [str(tmp_path / name) for name in ("a.csv", "b.tsv")]
    found = read_teacher(paths, ["P3", "P1"], ["x", "z"])
    torch.testing.assert_close(found, torch.tensor([[1, 0.5, 0], [0.1, 0.9, 0.5]]))
    with pytest.raises(ValueError, match="no row for 1 proteins, such as 'P4'"):
        read_teacher(paths, ["P1", "P4"], ["x", "z"])
    with pytest.raises(ValueError, match=r"a\.csv, line 2: 'P1' was answered before"):
        read_teacher([paths[0], paths[0]], ["P1"], ["x"])
    for value in ("nan", "1.5", "", "high"):
        (tmp_path / "c.csv").write_text(f"protein_id,membrane_probability,x\nP1,0.5,0.5\nP2,0.5,{value}\n")
        with pytest.raises(ValueError, match=r"c\.csv, line 3.*'P2'"):
            read_teacher([str(tmp_path / "c.csv")], ["P1"], ["x"])


def test_answers_are_mixed_with_labels():
    batch = {"labels": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "membrane_targets": torch.tensor([1, -1])}
    teach(batch, torch.tensor([[0.6, 0.2, 0.8], [0.3, 0.4, 0.5]]), 0.25)
    torch.testing.assert_close(batch["labels"], torch.tensor([[0.9, 0.05], [0.3, 0.4]]))
    torch.testing.assert_close(batch["membrane_targets"], torch.tensor([0.95, 0.5]))
