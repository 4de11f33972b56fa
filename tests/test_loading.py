"""Models that others made: no code of theirs runs, and what is damaged is said in one sentence."""

import ast
import io
import json
import shutil
import socket
import sys
import time

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from protloc import ASSETS, DeepGPSConfig, DeepLocConfig, UniRepConfig, drawing, loading
from protloc.embedding import Encoder
from protloc.loading import load_config, load_model
from protloc.prediction import predict
from tests.helpers import ROOT, run_protloc, tiny_deepgps, tiny_deeploc


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    """A copy, to damage."""
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def change(folder, name="config.json", **changes):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))


@pytest.mark.parametrize("part", ["config", "tokenizer"])
@pytest.mark.parametrize("command", ["predict", "embed", "draw", "push"])
def test_code_of_a_model_is_never_run(folder, tmp_path, monkeypatch, part, command):
    """transformers asks on standard input whether to run it, and `yes |` answers."""
    code = f"from pathlib import Path\nPath({str(tmp_path / 'executed')!r}).touch()\nclass C: pass\n"
    (folder / "payload.py").write_text(code)
    kinds = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoProcessor", "AutoImageProcessor")
    if part == "config":
        change(folder, model_type="unheard-of", auto_map={kind: "payload.C" for kind in kinds})
    else:
        tokenizer = {"tokenizer_class": "C", "auto_map": {"AutoTokenizer": ["payload.C", "payload.C"]}}
        change(folder, "tokenizer_config.json", **tokenizer)
        (folder / "processor_config.json").write_text('{"auto_map": {"AutoProcessor": "payload.C"}}')
    (tmp_path / "a.fasta").write_text(">a\nMKTAYIAKQRQISFVK\n")
    arguments = {
        "predict": ["predict", tmp_path / "a.fasta", "--model", folder],
        "embed": ["embed", tmp_path / "a.fasta", "--model", folder, "-o", tmp_path / "out"],
        "draw": ["predict", tmp_path / "a.fasta", "--nucleus", "default", "--image-model", folder],
        "push": ["push", "model", folder, "owner/model", "--dry-run"],
    }
    if command == "draw":
        arguments[command] += ["-o", tmp_path / "out.csv"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    exit_code, out, err = run_protloc(*arguments[command])
    assert not (tmp_path / "executed").exists() and "[y/N]" not in out + err
    assert sys.stdin.tell() == 0
    if part == "config":
        assert exit_code == 2 and err.startswith("protloc: ") and len(err.splitlines()) == 1, err


def test_every_loader_says_that_it_runs_no_code():
    places = []
    for path in [path for top in ("modeling", "training", "spaces") for path in (ROOT / top).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            auto = isinstance(node.func.value, ast.Name) and node.func.value.id.lower().startswith("auto")
            if auto and node.func.attr in ("from_pretrained", "from_config"):
                places.append((path.name, node.lineno, {word.arg for word in node.keywords}))
    assert len(places) > 15
    assert not [place for place in places if "trust_remote_code" not in place[2]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", "3"),
        ("config.json", "{}"),
        ("config.json", '{"model_type": "deeploc", "lstm_size": 1e999}'),
        ("config.json", '{"model_type": "deeploc", "lstm_size": "8"}'),
        ("config.json", '{"model_type": "deeploc", "id2label": 3}'),
        ("config.json", '{"model_type": "deeploc", "id2label": {"x": "y"}}'),
        ("config.json", '{"model_type": "deeploc", "backbone_config": {"model_type": 3}}'),
        ("config.json", '{"model_type": ["deeploc"]}'),
        ("config.json", '{"model_type": "deeploc", "auto_map": 4}'),
        ("config.json", '{"model_type": "deeploc", "decoder_steps": 1000000000}'),
        ("config.json", "[" * 100_000),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", '{"tokenizer_class": 3}'),
        ("tokenizer_config.json", '{"tokenizer_class": "EsmTokenizer", "pad_token": {"a": 1}}'),
        ("tokenizer.json", ""),
        ("tokenizer.json", "{}"),
        ("model.safetensors", ""),
        ("model.safetensors", "\0" * 100),
    ],
)
def test_damaged_folders(folder, name, content):
    (folder / name).write_text(content)
    for load in (load_model, Encoder):
        with pytest.raises(ValueError) as refused:
            load(str(folder))
        said = str(refused.value)
        assert said.startswith(f"cannot load the model {str(folder)!r}: ") and len(said.splitlines()) == 1, said


@pytest.mark.parametrize("name", ["./missing", "../x", "/nowhere", "~/model", "C:\\model", "a/b/c", "model.", "a--b"])
def test_what_is_neither_a_folder_nor_a_name_is_refused_at_once(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody answers
    for load in (load_model, Encoder, drawing.load_model):
        with pytest.raises(
            ValueError, match=r"^cannot load the model '.*': there is no such folder, and it is no name"
        ):
            load(name)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(loading, "HUB_SECONDS", 0.2)
        start = time.monotonic()
        with pytest.raises(
            ValueError, match=r"^cannot load the model 'nope': there is no such folder, and the Hub can't"
        ):
            load_model("nope")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")  # closed now
    with pytest.raises(ValueError, match=r"the Hub can't be asked for a model of this name \(.+\)$"):
        Encoder("owner/nope")
    assert time.monotonic() - start < 5


def test_weights_that_are_not_finite(folder, tmp_path):
    weights = load_file(folder / "model.safetensors")
    weights["deeploc.convolutions.second.bias"][3] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for load in (load_model, Encoder):
        with pytest.raises(
            ValueError, match=r"convolutions.second.bias hold NaN or infinite numbers: load a whole copy of it$"
        ):
            load(str(folder))

    drawer = shutil.copytree(ASSETS / "deepgps", tmp_path / "deepgps")
    weights = load_file(drawer / "model.safetensors")
    weights[min(weights)].view(-1)[0] = float("inf")
    save_file(weights, drawer / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="hold NaN or infinite numbers"):
        drawing.load_model(drawer)


def test_answers_that_are_not_finite(tokenizer):
    model = tiny_deeploc()
    model.get_parameter("classifier.bias").data[0] = float("inf")
    with pytest.raises(ValueError, match="the model answers with NaN or infinite numbers"):
        list(predict([("a", "MKTAYIAK")], model, tokenizer))
    drawer = tiny_deepgps()
    drawer.get_parameter("classifier.0.bias").data[0] = float("nan")
    with pytest.raises(ValueError, match="the model answers with NaN or infinite numbers"):
        drawer.generate(torch.rand(1, 1, 16, 16), **tokenizer(["MKTAYIAK"], return_tensors="pt"))


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        (DeepLocConfig, {"thresholds": [0.5] * 9 + [1.5]}, "a threshold is a probability, from 0 to 1, got 1.5"),
        (DeepLocConfig, {"membrane_threshold": float("nan")}, "membrane_threshold is nan"),
        (DeepLocConfig, {"calibration_scale": [1.0] * 9 + [0.0]}, "the calibration must be above 0, got 0.0"),
        (DeepLocConfig, {"membrane_calibration_scale": -1.0}, "the calibration must be above 0, got -1.0"),
        (DeepLocConfig, {"calibration_bias": [float("nan")] * 10}, "calibration_bias is nan"),
        (DeepLocConfig, {"max_length": 0}, "max_length must be 1 or more, got 0"),
        (
            DeepLocConfig,
            {"decoder_steps": 10**9},
            "decoder_steps is 1000000000: it must be a number, and at most 1,000",
        ),
        (DeepLocConfig, {"backbone_config": {"model_type": "esm", "hidden_size": 10**9}}, "hidden_size is 1000000000"),
        (DeepGPSConfig, {"max_length": -3}, "max_length must be 1 or more, got -3"),
        (DeepGPSConfig, {"num_inference_steps": 10**9}, "num_inference_steps is 1000000000"),
        (DeepGPSConfig, {"label_temperature": float("nan")}, "label_temperature is nan"),
        (DeepGPSConfig, {"unet_channels": [8, 0]}, "unet_channels must be 1 or more, got 0"),
        (DeepGPSConfig, {"unet_channels": []}, "unet_channels is empty"),
        (UniRepConfig, {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
    ],
)
def test_configurations_that_make_no_sense(kind, fields, message):
    with pytest.raises(Exception, match=message):
        kind(**fields)


def test_a_model_that_loads_still_does(tiny_model_dir):
    assert load_config(tiny_model_dir).decoder_steps == 3
    assert load_model(tiny_model_dir)[0].config.model_type == "deeploc"
