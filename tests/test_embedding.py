"""`protloc embed`: states of a sequence encoder on disk."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from conftest import tiny_deepgps
from protloc.embedding import INDEX, SequenceStates, embed, sequence_key, weights_digest
from protloc.models.sequence_states_deepgps import encode_sequence, load_backbone

SEQUENCES = ["MKTAYIAKQR", "MK", "MKVLAAGIVGLLLALSAQA", "MK"]


@pytest.mark.parametrize("name", ["esm", "protbert"])
def test_states_are_the_encoders(tiny_backbones, tmp_path, name):
    assert embed(SEQUENCES, tmp_path, str(tiny_backbones[name]), dtype="float32") == 3
    states = SequenceStates(tmp_path)
    backbone, _ = load_backbone(str(tiny_backbones[name]))
    assert states.size == 16 and states.weights == weights_digest(backbone)
    tokenizer = AutoTokenizer.from_pretrained(tiny_backbones[name])
    for sequence in SEQUENCES:
        tokens = tokenizer(" ".join(sequence) if name == "protbert" else sequence, return_tensors="pt")
        expected = backbone.eval()(**tokens).last_hidden_state[0, 1:-1]
        assert states[sequence].dtype == torch.bfloat16
        torch.testing.assert_close(states[sequence].float(), expected, rtol=0.01, atol=0.01)


def test_a_long_sequence_is_read_in_windows(tiny_backbones, tmp_path):
    model = tiny_deepgps()
    sequence = "MKTAYIAKQR" * 150
    embed([sequence], tmp_path, str(tiny_backbones["esm"]), dtype="float32")
    backbone, _ = load_backbone(str(tiny_backbones["esm"]))
    tokens = AutoTokenizer.from_pretrained(tiny_backbones["esm"])(sequence, return_tensors="pt")
    with torch.no_grad():
        expected = encode_sequence(backbone.eval(), model.config, tokens["input_ids"], tokens["attention_mask"])
    found = SequenceStates(tmp_path)[sequence].float()
    torch.testing.assert_close(found, expected[0, 1:-1], rtol=0.01, atol=0.01)


def test_shards_and_resuming(tiny_backbones, tmp_path):
    model = str(tiny_backbones["esm"])
    embed(SEQUENCES[:2], tmp_path, model, dtype="float32")
    (tmp_path / "states-00001.safetensors.partial").write_bytes(b"cut off")  # of a killed run
    assert embed([*SEQUENCES, "MAAAA", "mkt-aaaa*"], tmp_path, model, dtype="float32", shard_bytes=300) == 3
    index = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    files = sorted(set(index.values()))
    assert files == [f"states-{i:05d}.safetensors" for i in range(4)]
    assert all(sequence_key(sequence) in load_file(tmp_path / index[sequence_key(sequence)]) for sequence in SEQUENCES)
    assert "MKTAAAA" in SequenceStates(tmp_path) and "MQQQ" not in SequenceStates(tmp_path)
    assert embed(SEQUENCES, tmp_path, model, dtype="float32") == 0


def test_bad_input(tiny_backbones, tmp_path):
    with pytest.raises(ValueError, match="make it with protloc embed"):
        SequenceStates(tmp_path)
    embed(["MK"], tmp_path / "states", str(tiny_backbones["esm"]))
    with pytest.raises(ValueError, match="has no states of MKV"):
        SequenceStates(tmp_path / "states")["MKV"]
    with pytest.raises(ValueError, match="choose another folder"):
        embed(["MK"], tmp_path / "states", str(tiny_backbones["protbert"]))
    with pytest.raises(ValueError, match="cannot use the device 'cuda'"):
        embed(["MK"], tmp_path / "other", str(tiny_backbones["esm"]), device="cuda")
    with pytest.raises(ValueError, match="cannot load the model '/nowhere'"):
        embed(["MK"], tmp_path / "other", "/nowhere")
    shutil.rmtree(tmp_path / "states")
