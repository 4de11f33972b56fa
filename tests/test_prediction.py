"""Prediction from Python: windows, heads, attention, ensembles, profiles, and memory that runs out."""

import resource
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from protloc.ensemble import DeepLocEnsemble
from protloc.loading import load_ensemble
from protloc.models.convert_unirep import build_tokenizer
from protloc.models.protein_sequence import tokenize
from protloc.prediction import predict
from protloc.taxonomy import COMPARTMENTS, SORTING_SIGNALS, SORTING_TREE
from tests.helpers import ROOT, tiny_deeploc, write_pssm

LONG = "MKTAYIAKQRQISFVKSHFSRQ" * 6


def test_windows_average_over_the_whole_protein(tokenizer):
    model = tiny_deeploc(length_policy="window")
    (row,) = predict([("a", LONG)], model, tokenizer, attention=True)
    assert row["length"] == 132 and not row["truncated"]
    with torch.no_grad():
        windows = [LONG[start : start + 60] for start in (0, 24, 48, 72)]
        logits = torch.stack([model(tokenizer(w, return_tensors="pt")["input_ids"]).logits[0] for w in windows])
    expected = logits.mean(dim=0).sigmoid().tolist()
    assert [row[name] for name in COMPARTMENTS] == pytest.approx(expected, abs=1e-5)
    assert row["attention"].shape == (132,) and row["attention"].sum() == pytest.approx(1)
    assert (row["attention"] > 0).all()


def test_end_reads_the_first_residues(tokenizer):
    whole, cut = predict([("a", LONG[:60]), ("b", LONG)], tiny_deeploc(length_policy="end"), tokenizer, attention=True)
    assert cut["truncated"] and not whole["truncated"]
    assert [whole[name] for name in COMPARTMENTS] == pytest.approx([cut[name] for name in COMPARTMENTS], abs=1e-5)
    assert not cut["attention"][60:].any()


def test_signals_and_tree(tokenizer):
    model = tiny_deeploc(signals=True, tree=True)
    with torch.no_grad():
        model.signal_head.bias[:] = torch.tensor([5.0, -5, -5, 6, -5, -5, -5, -5, -5])
    (row,) = predict([("a", "MKTAYIAK")], model, tokenizer, signals=True, tree=True)
    assert row["signals"] == "CH|SP"
    assert all(0 < row[f"signal_{name}"] < 1 for name in SORTING_SIGNALS)
    assert all(0 < row[f"tree_{name}"] < 1 for name in SORTING_TREE)


def test_profiles(tmp_path):
    model = tiny_deeploc(input_features="profile")
    for name, sequence in (("a", "MKWVT"), ("b", LONG)):
        write_pssm(tmp_path / f"{name}.pssm", sequence)
    together = list(predict([("a", "MKWVT"), ("b", LONG)], model, profiles=tmp_path, attention=True))
    (alone,) = predict([("a", "MKWVT")], model, profiles=tmp_path)
    assert [together[0][name] for name in COMPARTMENTS] == pytest.approx([alone[name] for name in COMPARTMENTS])
    assert together[1]["truncated"] and together[1]["attention"].sum() == pytest.approx(1)


def members():
    torch.manual_seed(1)
    other = tiny_deeploc(thresholds=[0.9] * 10, membrane_threshold=0.9)
    for weight in other.parameters():
        weight.data.mul_(1.5)
    return tiny_deeploc(), other


def test_an_ensemble_is_the_mean(tokenizer):
    ensemble = DeepLocEnsemble(members()).eval()
    assert ensemble.config.thresholds == pytest.approx([0.7] * 10)
    inputs = tokenizer(["MKTAYIAK", "MK"], padding=True, return_tensors="pt")
    inputs = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    with torch.no_grad():
        mean = torch.stack([member(**inputs).logits for member in members()]).mean(dim=0)
        outputs = ensemble(**inputs)
    torch.testing.assert_close(outputs.logits, mean)
    called = mean.sigmoid() >= 0.7
    assert outputs.localizations.equal(called | (mean == mean.max(dim=1, keepdim=True).values))
    (row,) = predict([("a", "MKTAYIAK")], ensemble, tokenizer, attention=True)
    assert [row[name] for name in COMPARTMENTS] == pytest.approx(mean[0].sigmoid().tolist(), abs=1e-5)
    assert row["attention"].sum() == pytest.approx(1)


def test_members_must_agree(tmp_path, tokenizer):
    with pytest.raises(ValueError, match="members of an ensemble must agree: max_length is 60 and 50"):
        DeepLocEnsemble([tiny_deeploc(), tiny_deeploc(max_length=50)])
    with pytest.raises(ValueError, match="cannot load the model 'nowhere'"):
        load_ensemble(["nowhere"])


class Limited(torch.nn.Module):
    """A model on a device with little memory: torch's error for batches over a number of tokens."""

    def __init__(self, model, tokens):
        super().__init__()
        self.model, self.tokens = model, tokens
        self.config, self.device = model.config, model.device
        self.prepare_sequence, self.merge_windows = model.prepare_sequence, model.merge_windows
        self.probabilities, self.decide = model.probabilities, model.decide
        self.batches = []

    def forward(self, **inputs):
        if inputs["input_ids"].numel() > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self.batches.append(len(inputs["input_ids"]))
        return self.model(**inputs)


def test_memory_running_out_halves_the_batches(tokenizer, caplog):
    records = [(f"p{i}", LONG[: 10 + i]) for i in range(30)]
    model = tiny_deeploc()
    expected = list(predict(records, model, tokenizer))
    limited = Limited(model, 300)
    rows = list(predict(records, limited, tokenizer))
    assert [row["protein_id"] for row in rows] == [row["protein_id"] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert [row[name] for name in COMPARTMENTS] == pytest.approx([other[name] for name in COMPARTMENTS], abs=1e-5)
    assert len(limited.batches) > 3
    assert "memory ran out: continuing with --max-tokens-per-batch" in caplog.text
    with pytest.raises(ValueError, match="memory does not suffice for 'p29' "):
        list(predict(records, Limited(model, 20), tokenizer))


OUT_OF_MEMORY_SCRIPT = """
import resource, sys
from tests.helpers import tiny_deeploc
from protloc.loading import load_model
from protloc.prediction import predict
model = tiny_deeploc(max_length=20_000, lstm_size=64, second_conv_channels=128)
tokenizer = load_model()[1]
records = [(f"p{i}", "M" * 1000) for i in range(400)]
list(predict(records[:4], model, tokenizer))  # what every run needs, before memory is limited
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 600_000_000, resource.RLIM_INFINITY))
print(len(list(predict(records, model, tokenizer, 400_000))))
"""


@pytest.mark.slow
def test_real_memory_running_out():
    """On a CPU whose address space is limited, where torch raises a plain RuntimeError."""
    assert hasattr(resource, "RLIMIT_AS")
    command = [sys.executable, "-c", OUT_OF_MEMORY_SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["400"]
    assert "memory ran out: continuing with --max-tokens-per-batch" in result.stderr


def test_attention_is_that_of_the_pipeline(tokenizer):
    from transformers import pipeline

    model = tiny_deeploc()
    (row,) = predict([("a", LONG)], model, tokenizer, attention=True)
    locate = pipeline("protein-localization", model=model, tokenizer=tokenizer)
    np.testing.assert_allclose(row["attention"], locate(LONG)["attention"], atol=1e-6)


@pytest.mark.parametrize("name", ["esm", "protbert", "unirep"])
def test_tokens_are_the_tokenizers(tiny_backbones, name):
    tokenizer = build_tokenizer() if name == "unirep" else AutoTokenizer.from_pretrained(tiny_backbones[name])
    texts = [" ".join(text) if name == "protbert" else text for text in ("ACDEFGHIKLMNPQRSTVWYUOBZX", "M", "MKT")]
    expected, found = tokenizer(texts, padding=True, return_tensors="pt"), tokenize(texts, tokenizer)
    assert list(found) == ["input_ids", "attention_mask"]
    assert all(torch.equal(found[name], expected[name]) for name in found)
