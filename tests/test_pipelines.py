"""The two pipelines that a DeepLoc model works in, with and without protloc's code installed."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import pipeline

from protloc import ASSETS, ProteinLocalizationPipeline
from protloc.models.configuration_deeploc import COMPARTMENTS, SORTING_SIGNALS, SORTING_TREE
from tests.helpers import assert_alike, run_without_protloc, tiny_deeploc

SEQUENCES = ["MKTAYIAKQRQISFVKSHFSRQ", "MSKGEELFTG", "M" * 40 + "W" * 60]


@pytest.fixture
def locate(tokenizer):
    return pipeline("protein-localization", model=tiny_deeploc(dropout=0.9).train(), tokenizer=tokenizer)


def test_result(locate):
    assert isinstance(locate, ProteinLocalizationPipeline)
    result = locate("mktayiakqr*")
    assert set(result) == {"localizations", "scores", "membrane", "attention"}
    assert list(result["scores"]) == COMPARTMENTS
    assert result["localizations"] == sorted(result["localizations"], key=lambda name: -result["scores"][name])
    assert 0 < result["membrane"] < 1
    assert len(result["attention"]) == 10 and sum(result["attention"]) == pytest.approx(1)
    json.dumps(result)


def test_a_model_in_training_mode_is_switched(locate):
    assert locate(SEQUENCES[0]) == locate(SEQUENCES[0])


def test_attention_spans_the_whole_protein(locate):
    attention = locate(SEQUENCES[2])["attention"]
    assert len(attention) == 100
    assert [value > 0 for value in attention] == [True] * 30 + [False] * 40 + [True] * 30
    assert locate(SEQUENCES[2], return_attention=False)["attention"] is None


def test_batches_give_the_same(locate):
    alone = [locate(sequence) for sequence in SEQUENCES]
    for together, single in zip(locate(SEQUENCES, batch_size=3), alone, strict=True):
        assert together["localizations"] == single["localizations"]
        assert together["scores"] == pytest.approx(single["scores"], abs=1e-5)
        assert together["attention"] == pytest.approx(single["attention"], abs=1e-5)


def test_windows_signals_and_tree_in_batches(tokenizer):
    model = tiny_deeploc(length_policy="window", signals=True, tree=True)
    locate = pipeline("protein-localization", model=model, tokenizer=tokenizer)
    alone = [locate(sequence) for sequence in SEQUENCES]
    assert list(alone[0]["signals"]) == list(SORTING_SIGNALS) and list(alone[0]["tree"]) == list(SORTING_TREE)
    assert all(value > 0 for value in alone[2]["attention"]) and sum(alone[2]["attention"]) == pytest.approx(1)
    for together, single in zip(locate(SEQUENCES, batch_size=2), alone, strict=True):
        for name in ("scores", "signals", "tree", "attention"):
            assert together[name] == pytest.approx(single[name], abs=1e-5)


def test_profiles(tokenizer):
    locate = pipeline("protein-localization", model=tiny_deeploc(input_features="profile"), tokenizer=tokenizer)
    protein = {"sequence": "MKW", "profile": [[0.1] * 20] * 3}
    long = {"sequence": "M" * 100, "profile": [[i / 100] * 20 for i in range(100)]}
    alone = locate(protein)
    assert len(alone["attention"]) == 3
    together = locate([protein, long], batch_size=2)
    assert together[0]["scores"] == pytest.approx(alone["scores"], abs=1e-5)
    assert together[1]["attention"][40] == 0
    with pytest.raises(ValueError, match="this model takes a profile: its input_features are 'profile'"):
        locate("MKW")
    with pytest.raises(ValueError, match="a profile has rows of 20 finite numbers"):
        locate({"sequence": "MKW", "profile": [[float("nan")] * 20] * 3})
    with pytest.raises(ValueError, match="the profile has 3 rows for 4 residues"):
        locate({**protein, "sequence": "MKWV"})


def test_bad_sequence(locate):
    with pytest.raises(ValueError, match="'1' at position 3"):
        locate("MK1")


class BiopythonSeq:
    """What `Bio.Seq.Seq` has beside its letters: it gives bytes."""

    def __init__(self, text):
        self.text = text

    def __bytes__(self):
        return self.text.encode()


class BiopythonRecord:
    """What `Bio.SeqRecord.SeqRecord` has: an id and a sequence."""

    def __init__(self, text):
        self.id, self.seq = "P1", BiopythonSeq(text)


def test_sequences_as_programs_hold_them(locate):
    expected = [locate(sequence) for sequence in SEQUENCES]
    for several in (
        tuple(SEQUENCES),
        np.array(SEQUENCES),
        pd.Series(SEQUENCES, index=[7, 8, 9]),
        Dataset.from_dict({"sequence": SEQUENCES})["sequence"],
        [sequence.encode() for sequence in SEQUENCES],
        [BiopythonRecord(sequence) for sequence in SEQUENCES],
        ({"sequence": sequence} for sequence in SEQUENCES),
    ):
        assert list(locate(several)) == expected
    for one in (BiopythonSeq(SEQUENCES[0]), BiopythonRecord(SEQUENCES[0]), {"sequence": SEQUENCES[0]}):
        assert locate(one) == expected[0]
    assert locate([]) == []


@pytest.mark.parametrize(
    ("item", "named"),
    [
        (None, "None is no sequence"),
        ([SEQUENCES[0], None], "None is no sequence"),
        (pd.Series([SEQUENCES[0], float("nan")], dtype=object), "nan is no sequence"),
        (pd.DataFrame({"sequence": SEQUENCES}), "is no sequence and no list of sequences"),
        (np.array([SEQUENCES]), "is no sequence and no list of sequences"),
        ({"id": "P1"}, "{'id': 'P1'} has no 'sequence'"),
        (7, "7 is no sequence"),
        ("proteins.fasta", "'proteins.fasta' is a file name"),
        (Path("proteins.fasta"), "'proteins.fasta' is a file name"),
        (["MKTAYIAKQR", "Sequence unavailable"], "'Sequence unavailable' stands for a missing sequence"),
        ("hypothetical protein", "'hypothetical protein' reads as words"),
    ],
)
def test_what_is_no_sequence_is_named(locate, item, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        list(locate(item))


def test_default_model_is_the_shipped_one():
    locate = pipeline("protein-localization")
    assert locate.model.name_or_path == str(ASSETS / "deeploc")
    assert locate.model.dtype == torch.float32


def test_stock_text_classification(tiny_model_dir, locate):
    classify = pipeline("text-classification", model=str(tiny_model_dir), top_k=None)
    scores = {entry["label"]: entry["score"] for entry in classify("MKTAYIAKQR")[0]}
    assert scores == pytest.approx(pipeline_scores(tiny_model_dir), abs=1e-6)


def pipeline_scores(folder):
    return pipeline("protein-localization", model=str(folder), trust_remote_code=True)("MKTAYIAKQR")["scores"]


def test_saved_folder_names_no_path(tiny_model_dir):
    assert str(ASSETS.parent) not in (tiny_model_dir / "config.json").read_text()


REMOTE_SCRIPT = """
import importlib.util, json, sys
assert importlib.util.find_spec("protloc") is None
from transformers import pipeline
folder = sys.argv[1]
locate = pipeline("protein-localization", model=folder, trust_remote_code=True)
classify = pipeline("text-classification", model=folder, trust_remote_code=True, top_k=None)
print(json.dumps([locate("MKTAYIAKQR"), {entry["label"]: entry["score"] for entry in classify("MKTAYIAKQR")[0]}]))
"""


@pytest.mark.parametrize("saved_by", ["pipeline", "model"])
def test_without_protloc(tiny_model_dir, tmp_path, locate, saved_by):
    """`model.save_pretrained` is how `Trainer` saves."""
    folder = tiny_model_dir
    if saved_by == "model":
        folder, model = tmp_path / "saved", tiny_deeploc()
        model.save_pretrained(folder)
        locate.tokenizer.save_pretrained(folder)
        assert not hasattr(model.config, "custom_pipelines")
    remote, classified = json.loads(run_without_protloc(REMOTE_SCRIPT, folder, cache=tmp_path).splitlines()[-1])
    local = pipeline("protein-localization", model=tiny_deeploc(), tokenizer=locate.tokenizer)("MKTAYIAKQR")
    assert_alike(remote, local)
    assert classified == pytest.approx(local["scores"], abs=1e-6)


def test_texts_that_may_be_no_proteins_are_warned_of_once(locate):
    genes = ["ACGTRYKMSWBDHVNACGT", "MKTAYIAKQRQISFVK", "ATGGCCCTGTGGATGCGCC", "MKV", "MYOGLOBINLIKE"]
    said = "4 record(s) may be no protein: 'ACGTRYKMSWBDHVNACGT' (looks like nucleotides), "
    for texts in (genes, (text for text in genes), [{"sequence": text} for text in genes]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert len(list(locate(texts))) == 5
        (warning,) = [one for one in caught if "may be no protein" in str(one.message)]
        assert str(warning.message).startswith(said) and str(warning.message).endswith("and 1 more")
    for one in (genes[0], {"sequence": genes[0]}):
        with pytest.warns(UserWarning, match=r"1 record\(s\) may be no protein: 'ACGT"):
            locate(one)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        locate(genes[1])
