"""The shipped `tokenizer.json`: the ids of `EsmTokenizer`, and folders that have one still load."""

import json
import random

import pytest
from transformers import AutoTokenizer, EsmTokenizer

from protloc import ASSETS
from protloc.loading import load_model
from protloc.models.residue_features import VOCABULARY
from protloc.prediction import predict
from tests.helpers import tiny_deeploc
from training.common.tokenizer import build_tokenizer

TEXTS = ["", "MKV", "M K V", "mkv", "MKJJV", "M<mask>K", "<cls>MK<eos>", "MK\tV\n", "MK-.V", "<null_1>M", "M*K", "é"]


@pytest.fixture(scope="module")
def esm(tmp_path_factory):
    """As of ESM-2, and of folders of earlier versions."""
    path = tmp_path_factory.mktemp("esm") / "vocab.txt"
    path.write_text("\n".join(VOCABULARY))
    return EsmTokenizer(str(path))


def test_ids_are_those_of_esm(tokenizer, esm):
    generator = random.Random(0)
    letters = "ACDEFGHIKLMNPQRSTVWYXBUZO.-jJa*1 <>"
    texts = TEXTS + ["".join(generator.choices(letters, k=generator.randint(1, 60))) for _ in range(500)]
    for text in texts:
        assert tokenizer(text)["input_ids"] == esm(text)["input_ids"], text
    batch, expected = (one(["MK", "MKVV"], padding=True) for one in (tokenizer, esm))
    assert batch["input_ids"] == expected["input_ids"] and batch["attention_mask"] == expected["attention_mask"]
    assert tokenizer("MK", "VV")["input_ids"] == esm("MK", "VV")["input_ids"]
    assert tokenizer.get_vocab() == esm.get_vocab() and tokenizer.mask_token_id == esm.mask_token_id
    assert tokenizer.decode(tokenizer("MKV")["input_ids"], skip_special_tokens=True) == "MKV"


@pytest.mark.parametrize("family", ["deeploc", "deepgps"])
def test_the_shipped_files_are_what_is_built(family):
    shipped = AutoTokenizer.from_pretrained(ASSETS / family, trust_remote_code=False)
    assert json.loads(shipped.backend_tokenizer.to_str()) == json.loads(build_tokenizer().backend_tokenizer.to_str())
    assert not (ASSETS / family / "vocab.txt").exists()


def test_a_folder_with_the_tokenizer_of_esm_predicts_the_same(esm, tokenizer, tmp_path):
    answers = []
    for name, own in (("old", esm), ("new", tokenizer)):
        tiny_deeploc().save_pretrained(tmp_path / name)
        own.save_pretrained(tmp_path / name)
        model, loaded = load_model(tmp_path / name, dtype="float32")
        assert type(loaded) is type(own)
        answers.append(list(predict([("a", "MKTAYIAKJQR"), ("b", "MKV")], model, loaded)))
    assert answers[0] == answers[1]
