"""Weights cut over two processes (FSDP, on CPUs): trainings run to their end, and give what one process gives."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModel

from protloc.loading import load_model
from tests.helpers import ROOT

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]
ONE = [*LAUNCH, "--cpu", "-m"]
TWO = [*LAUNCH, "--config_file", "training/configs/fsdp.yaml", "--num_processes", "2", "--mixed_precision", "no"]
TWO += ["tests/fsdp_on_cpus.py"]
COMMON = ["mixed_precision=no", "backbone_training=full", "epochs=2", "learning_rate=0.001"]


def run(command, folder, *arguments):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [*command, *arguments, *COMMON, f"output_dir={folder}"]
    options = {"capture_output": True, "text": True, "cwd": ROOT, "env": env, "timeout": 240}
    result = subprocess.run(list(map(str, command)), **options)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads((folder / "training.json").read_text())


@pytest.mark.slow
def test_deepgps(tiny_crops, tiny_proteins, tiny_backbones, tmp_path):
    """Of three batches that validate, one process has two; and one writes the picture of an epoch, which both draw."""
    images = f"images=[{{dataset: {tiny_crops / 'known'}, config: known}}]"
    settings = ["training.deepgps.train", ROOT / "training" / "configs" / "deepgps_toy.yaml", images, "limit=null"]
    settings += [f"backbone={tiny_backbones['esm']}", "validation_share=0.67", f"proteins={tiny_proteins}"]
    settings += ["model.dropout=0.0"]
    one = run(ONE, tmp_path / "one", *settings, "batch_size=4", "proteins_per_step=4")
    two = run(TWO, tmp_path / "two", *settings, "batch_size=2", "proteins_per_step=2")
    assert (two["processes"], two["crops"], two["validation_crops"]) == (2, 6, 6)
    assert one["validation"]["best"] == pytest.approx(two["validation"]["best"], abs=1e-3)
    answers = []
    for name in ("one", "two"):
        model = AutoModel.from_pretrained(tmp_path / name / "best").eval()
        tokens = {"input_ids": torch.arange(4, 24)[None], "attention_mask": torch.ones(1, 20, dtype=torch.long)}
        answers.append(model.generate(torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)), **tokens))
    for head in ("logits", "protein_image"):
        torch.testing.assert_close(answers[0][head], answers[1][head], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_deeploc(tiny_dataset, tiny_backbones, tmp_path):
    settings = ["training.deeploc.train", ROOT / "training" / "configs" / "toy.yaml", f"dataset={tiny_dataset}"]
    settings += [f"backbone={tiny_backbones['esm']}", "max_tokens_per_batch=300"]
    two = run(TWO, tmp_path / "two", *settings)
    assert two["processes"] == 2 and len(two["validation"]["epochs"]) == 2
    model, _ = load_model(tmp_path / "two")
    assert model.config.calibration_scale != [1.0] * 10


PASSES = """
import os
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from torch.utils.data import DataLoader
from training.common.loop import equal_batches
accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(even_batches=False))
for count in (1, 4, 5, 6):
    rows = [{"x": torch.tensor(float(i))} for i in range(count)]
    found = []
    for batch, counted in equal_batches(accelerator, accelerator.prepare(DataLoader(rows, batch_size=2))):
        torch.distributed.all_reduce(batch["x"].sum())  # as FSDP gathers weights in every pass
        found += batch["x"].tolist() * counted
    os.write(1, f"{accelerator.process_index} {count} {found}\\n".encode())  # at once: both write to one pipe
accelerator.end_training()  # else gloo's threads may outlive the interpreter, and the process is aborted
"""


@pytest.mark.slow
def test_processes_pass_equally_often(tmp_path):
    """One batch more on one process, and a process without any; each row counts once."""
    (tmp_path / "passes.py").write_text(PASSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    env["PYTHONPATH"] = f"{ROOT}:{env.get('PYTHONPATH', '')}"
    options = {"capture_output": True, "text": True, "env": env, "timeout": 120, "check": True}
    lines = sorted(subprocess.run([*command, tmp_path / "passes.py"], **options).stdout.splitlines())
    assert lines == [
        "0 1 [0.0]", "0 4 [0.0, 1.0]", "0 5 [0.0, 1.0, 4.0]", "0 6 [0.0, 1.0, 4.0, 5.0]",
        "1 1 []", "1 4 [2.0, 3.0]", "1 5 [2.0, 3.0]", "1 6 [2.0, 3.0]",
    ]  # fmt: skip
