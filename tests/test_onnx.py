"""ONNX files of DeepLoc and deepGPS, run by ONNX Runtime."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import pipeline

from protloc import ASSETS, DeepGPSImageProcessor, DeepGPSProcessor
from protloc.loading import load_model
from protloc.microscopy import DEFAULT_NUCLEUS
from tests.helpers import ROOT, tiny_deepgps, tiny_deeploc

onnxruntime = pytest.importorskip("onnxruntime")


def export(model, out):
    """In a process of its own: torch fixes the lengths in a second export."""
    command = [sys.executable, "-m", "training.common.export", "--model", model, "--onnx", out]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{"tree": True, "signals": True}, {"membrane": False, "pooling": "light_attention"}])
def test_deeploc_gives_what_torch_gives(tokenizer, tmp_path, fields):
    model = tiny_deeploc(**fields)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    result = export(tmp_path / "model", tmp_path / "model.onnx")
    assert result.returncode == 0, result.stderr
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()][1] == (
        "membrane_logits" if "tree" in fields else "attentions"
    )
    for sequences in (["MKTAYIAKQRQISF", "MSLLT", "MK"], ["MPKKKRKV" * 4]):
        batch = tokenizer(sequences, padding=True, return_tensors="pt")
        found = session.run(["logits"], {name: batch[name].numpy() for name in ("input_ids", "attention_mask")})
        with torch.no_grad():
            expected = model(batch["input_ids"], batch["attention_mask"]).logits
        np.testing.assert_allclose(found[0], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"condition_on_label": True, "patch_size": 2, "drawing_margin": 3, "drawing_shifts": 4},
        {"condition_on_label": True, "patch_size": 2, "objective": "adversarial", "condition_on_residues": False},
    ],
)
def test_deepgps_gives_what_torch_gives(tmp_path, fields):
    model, tokenizer = tiny_deepgps(**fields), load_model(ASSETS / "deeploc")[1]
    processor = DeepGPSProcessor(tokenizer, DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))
    pipeline("protein-imaging", model=model, processor=processor).save_pretrained(tmp_path / "model")
    result = export(tmp_path / "model", tmp_path / "model.onnx")
    assert result.returncode == 0, result.stderr
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for sequences in (["MKTAYIAKQRQISF", "MSLLT", "MK"], ["MPKKKRKV" * 4]):
        inputs = processor.tokenize(sequences) | {"nucleus": torch.rand(len(sequences), 1, 16, 16)}
        if model.config.objective == "adversarial":
            inputs["noise"] = model.draw_noise(inputs["nucleus"])
        found = session.run(["logits", "protein_image"], {name: tensor.numpy() for name, tensor in inputs.items()})
        with torch.no_grad():
            expected = model(**inputs)
        np.testing.assert_allclose(found[0], expected.logits, atol=1e-5)
        np.testing.assert_allclose(found[1], expected.protein_image, atol=1e-5)


@pytest.mark.slow
def test_a_diffusion_model_is_no_onnx_file(tmp_path):
    processor = DeepGPSProcessor(
        load_model(ASSETS / "deeploc")[1], DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS)
    )
    model = tiny_deepgps(objective="diffusion")
    pipeline("protein-imaging", model=model, processor=processor).save_pretrained(tmp_path / "model")
    result = export(tmp_path / "model", tmp_path / "model.onnx")
    assert result.returncode == 2 and "draws in steps, which ONNX has not" in result.stderr
    assert not (tmp_path / "model.onnx").exists()
