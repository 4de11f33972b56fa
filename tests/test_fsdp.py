"""Weights cut over two processes: the trainings run to their end, and give what one process gives."""

import json
import os
import subprocess
import sys

import pytest
from transformers import AutoModel

from tests.helpers import ROOT

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
FSDP = [*LAUNCH, "--config_file", "training/configs/fsdp.yaml", "--num_processes", "2", "--mixed_precision", "no"]
FSDP += ["tests/fsdp_on_cpus.py"]


def run(command, *arguments):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    options = {"capture_output": True, "text": True, "cwd": ROOT, "env": env, "timeout": 300}
    result = subprocess.run([*map(str, command), *map(str, arguments)], **options)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


@pytest.mark.slow
def test_deepgps(tiny_crops, tiny_backbones, tmp_path):
    """One process validates a batch more than the other, and one alone draws the picture of an epoch."""
    images = f"images=[{{dataset: {tiny_crops / 'known'}, config: known}}]"
    settings = ["training.deepgps.train", ROOT / "training" / "configs" / "deepgps_toy.yaml", images, "limit=5"]
    settings += [f"backbone={tiny_backbones['esm']}", "backbone_training=full", "mixed_precision=no", "batch_size=2"]
    settings += ["model.dropout=0.0", "validation_share=0.4", "epochs=2"]
    run(FSDP, *settings, f"output_dir={tmp_path / 'two'}")
    report = json.loads((tmp_path / "two" / "training.json").read_text())
    print(report)
    assert AutoModel.from_pretrained(tmp_path / "two")
