"""Where sorting signals begin and end: segments, their tables and GFF3, their data set, training and scores."""

import json
import random
import re
import shutil

import pytest
import torch
from datasets import load_dataset
from huggingface_hub.errors import StrictDataclassClassValidationError

from protloc import DeepLocConfig, DeepLocForSequenceClassification
from protloc.models.losses_deeploc import residue_signal_loss
from protloc.models.segments_deeploc import find_segments
from protloc.prediction import predict
from tests.helpers import deeploc2_csv, signals_csv, tiny_deeploc
from training.deeploc.initial import load_initial
from training.deeploc.residues import possible_signals
from training.deeploc.segments import annotated_segments, segment_scores

needs_mmseqs = pytest.mark.skipif(shutil.which("mmseqs") is None, reason="MMseqs2 is not installed")


def residues(text: str) -> torch.Tensor:
    """Probabilities 0.91 of the signal whose digit each residue has, 0.01 of any other."""
    rows = torch.full((len(text), 10), 0.01)
    for row, digit in zip(rows, text, strict=True):
        row[int(digit)] = 0.91
    return rows


def finding_deeploc(**fields) -> DeepLocForSequenceClassification:
    """A tiny model whose head calls every residue but the first twelve transmembrane."""
    model = tiny_deeploc(signals=True, residue_signals=True, residue_head_size=4, **fields)
    with torch.no_grad():
        for weight in model.residue_head.parameters():
            weight.zero_()
        model.residue_head.signals.bias[2] = 3.0
    return model


def test_segments_are_runs_that_are_long_enough():
    found = find_segments(residues("0" * 3 + "1" * 12 + "2" * 9 + "0" * 5 + "8" * 3))
    assert [(part["type"], part["start"], part["end"]) for part in found] == [("SP", 4, 15), ("PTS", 30, 32)]
    assert found[0]["probability"] == pytest.approx(0.91)
    assert find_segments(torch.zeros(0, 10)) == []


def test_loss_leaves_open_what_a_source_does_not_tell():
    possible = torch.tensor([possible_signals("10-", "12"), [0, 0, 0]])
    logits = torch.randn(2, 3, 10, generator=torch.Generator().manual_seed(0))
    p = logits[0].softmax(dim=-1)
    expected = -(p[0, 1].log() + (1 - p[1, 1] - p[1, 2]).log()) / 3  # the third residue may be anything
    assert residue_signal_loss(logits, possible).item() == pytest.approx(expected.item(), rel=1e-5)


def test_rows_tables_and_gff3(run_script, tmp_path, tokenizer):
    model = finding_deeploc(max_length=40)
    rows = list(predict([("a b", "MKTAYIAK" * 4), ("long", "MKTAYIAK" * 10)], model, tokenizer, signals=True))
    whole = {"type": "TM", "start": 1, "end": 32}
    assert [{name: part[name] for name in whole} for part in rows[0]["segments"]] == [whole]
    # The middle of the second was not read: there is no signal there.
    assert [(part["start"], part["end"]) for part in rows[1]["segments"]] == [(1, 20), (61, 80)]
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "in.fasta").write_text(">P1 x\n" + "MKTAYIAK" * 4 + "\n>P2;%\n" + "MKTAYIAK" * 10 + "\n")
    out, gff3 = tmp_path / "out.csv", tmp_path / "out.gff3"
    options = ["--model", tmp_path / "model", "--signals", "--ids", "-o", out, "--gff3", gff3]
    command = "protloc", "predict", tmp_path / "in.fasta"
    code, _, errors = run_script(*command, *options)
    assert code == 0, errors
    lines = gff3.read_text().splitlines()
    assert lines[:2] == ["##gff-version 3", "##sequence-region P1 1 32"]
    fields = lines[2].split("\t")
    assert fields[:5] == ["P1", "protloc", "transmembrane_polypeptide_region", "1", "32"]
    assert lines[3] == "##sequence-region P2%3B%25 1 80" and len(lines) == 6
    header, first, _ = out.read_text().splitlines()
    assert "go,uniprot_sl,membrane" in header and re.search(r"GO:\d{7}", first) and "TM:1-32:" in first
    code, _, _ = run_script(*command, *options[:-2], "--gff3", tmp_path / "again.gff3", "--resume")
    assert code == 0 and (tmp_path / "again.gff3").read_text() == gff3.read_text()
    code, _, errors = run_script(*command, "--gff3", gff3)
    assert code == 2 and "--gff3 needs --signals" in errors
    kept = out.read_text()
    # Nothing that is there is written over, by whatever name.
    (tmp_path / "sub").mkdir()
    (tmp_path / "in.fasta").rename(tmp_path / "in.gff")
    again = "protloc", "predict", tmp_path / "in.gff", *options[:-1]
    for name, said in [
        (out, "must end in .gff3"),
        (tmp_path / "none" / "x.gff3", "there is no folder"),
        (tmp_path / "sub" / ".." / "in.gff", "is an input"),
    ]:
        code, _, errors = run_script(*again, name, "--resume")
        assert code == 2 and said in errors
    assert out.read_text() == kept and (tmp_path / "in.gff").read_text().startswith(">P1")
    (tmp_path / "in.gff").rename(tmp_path / "in.fasta")
    tiny_deeploc(signals=True).save_pretrained(tmp_path / "none")
    tokenizer.save_pretrained(tmp_path / "none")
    options[1] = tmp_path / "none"
    code, _, errors = run_script(*command, *options[:4], "-o", tmp_path / "x.csv", "--gff3", gff3)
    assert code == 2 and "does not" in errors and not (tmp_path / "x.csv").exists()


def test_an_encoder_that_trains_loses_the_head_over_its_states(tmp_path):
    finding_deeploc().save_pretrained(tmp_path)
    assert not load_initial(str(tmp_path), {}).config.residue_signals
    labels = {"num_labels": 2, "id2label": {0: "a", 1: "b"}, "ignore_mismatched_sizes": True}
    other = DeepLocForSequenceClassification.from_pretrained(tmp_path, **labels)
    assert not other.config.residue_signals and not hasattr(other, "residue_head")


def test_segments_do_not_depend_on_the_batch(tokenizer):
    model = tiny_deeploc(signals=True, residue_signals=True)
    records = [("a", "MKTAYIAKQR" * 5), ("b", "MALWMRLLPL" * 2), ("c", "MSEPAGDVRQ" * 9)]
    alone = [next(predict([record], model, tokenizer, signals=True)) for record in records]
    together = list(predict(records, model, tokenizer, signals=True))
    for one, other in zip(alone, together, strict=True):
        assert one["membrane_probability"] == pytest.approx(other["membrane_probability"], abs=1e-5)
        assert [p["start"] for p in one["segments"]] == [p["start"] for p in other["segments"]]


def test_what_has_no_token_ids_finds_no_segments():
    with pytest.raises(StrictDataclassClassValidationError, match="residue_signals needs a model of token ids"):
        DeepLocConfig(residue_signals=True, input_features="profile")


def test_scores_count_what_overlaps_by_half():
    row = {"signals": "0" + "1" * 20 + "0" * 10 + "2" * 20 + "-" * 9, "annotated": "12"}
    assert annotated_segments(row["signals"])[1] == {"type": "TM", "start": 32, "end": 51}

    def part(kind: str, start: int, end: int) -> dict:
        return {"type": kind, "start": start, "end": end}

    found = [part("SP", 1, 25), part("TM", 45, 51), part("TM", 55, 60), part("MT", 1, 20)]
    scores = segment_scores([row], [found])
    assert scores["SP"] == {"f1": 1, "precision": 1, "recall": 1, "end_within_3": 0, "support": 1}
    assert scores["TM"]["f1"] == 0 and "MT" not in scores


def topology(path, count, start):
    """Proteins of three lines: a signal peptide and a helix in every second."""
    lines = []
    for i in range(start, start + count):
        core = "".join(random.Random(i).choices("ACDEFGHIKLMNPQRSTVWY", k=60))
        classes = "S" * 15 + "1" * 15 + "H" * 20 + "U" * 10 if i % 2 else "1" * 60
        lines += [f">T{i}|EUKARYA", core, classes]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
@needs_mmseqs
def test_build_train_and_measure(run_script, tmp_path, tokenizer):
    deeploc2 = deeploc2_csv(tmp_path / "deeploc2.csv")
    signals = signals_csv(tmp_path / "signals.csv", deeploc2)
    tiny_deeploc(signals=True).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    held_out = tmp_path / "held_out.fasta"
    files = [topology(tmp_path / "cv_00.fasta", 12, 0), topology(tmp_path / "cv_01.fasta", 6, 12)]
    held_out.write_text(">T1\n" + files[0].read_text().splitlines()[4] + "\n")
    options = ["--topology", *files, "--signals", signals, "--deeploc2", deeploc2, "--exclude", held_out]
    code, _, errors = run_script("datasets_scripts.build_residues", *options, "--out", tmp_path / "data")
    assert code == 0, errors
    test = load_dataset(str(tmp_path / "data"), split="test")
    assert len(test) == 6 and set(test["signals"][1]) == {"1", "0", "2", "-"}
    train = load_dataset(str(tmp_path / "data"), split="train")
    assert "T1" not in train["id"] and {"topology", "signals", "compartments"} == set(train["source"])

    settings = [
        f"initial_weights={tmp_path / 'start'}",
        f"dataset={tmp_path / 'data'}",
        f"output_dir={tmp_path / 'run'}",
    ]
    options = ["training/configs/residues.yaml", *settings, "epochs=2"]
    code, _, errors = run_script("training.deeploc.residues", *options, "model.residue_head_size=4")
    assert code == 0, errors
    out = tmp_path / "scores.json"
    measured = ["--model", tmp_path / "run", "--dataset", tmp_path / "data", "--out", out]
    code, _, errors = run_script("training.deeploc.segments", *measured)
    assert code == 0, errors
    assert json.loads(out.read_text())["test"]["topology"]["SP"]["support"] == 3
