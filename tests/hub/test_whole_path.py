"""The way of a model: a data set on the Hub, training, evaluation, card, push, and its use in an empty environment."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, snapshot_download
from transformers import pipeline

from conftest import ROOT, run_protloc
from protloc.cards import INSULIN, SV40_SIGNAL

PROTEINS = [INSULIN, SV40_SIGNAL]


def run(script: str, *arguments) -> str:
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_from_a_data_set_to_a_prediction_elsewhere(hub, tiny_dataset, tmp_path):
    assert run_protloc("push", "dataset", tiny_dataset, "owner/toy-deeploc")[0] == 0
    folder = tmp_path / "run"
    settings = [
        "dataset=owner/toy-deeploc",
        f"output_dir={folder}",
        "epochs=1",
        "push_to_hub=owner/toy",
        "private=true",
    ]
    out = run("training/train_deeploc.py", ROOT / "training" / "configs" / "toy.yaml", *settings)
    repo = hub.repo("owner/toy")
    assert f"/owner/toy/commit/{repo.refs['main']}" in out and repo.private
    first = ModelCard(repo.files()["README.md"].decode())
    assert "not been judged yet" in first.text and first.data.datasets == ["owner/toy-deeploc"]

    options = ["--model", folder, "--dataset", "owner/toy-deeploc", "--runs", folder]
    run("training/report_deeploc.py", *options)
    assert run_protloc("push", "model", folder, "owner/toy", "--dataset", "owner/toy-deeploc")[0] == 0
    files = repo.files()
    evaluation = json.loads(files["evaluation.json"])["evaluations"]["deeploc2"]
    micro = evaluation["localization"]["average"]["micro"]["f1"]
    card = ModelCard(files["README.md"].decode())
    assert re.search(rf"^\| micro average \|.* {micro:.3f} \|", card.text, re.MULTILINE)
    assert card.data.eval_results[0].metric_value == round(micro, 3)

    # An environment with what the repository asks for, and nothing else
    there = Path(snapshot_download("owner/toy", local_dir=tmp_path / "there"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    pip = [tmp_path / "env" / "bin" / "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, "-r", there / "requirements.txt"], check=True)
    script = (
        "import json, sys\nfrom transformers import pipeline\n"
        "locate = pipeline(model='owner/toy', trust_remote_code=True)\n"
        "print(json.dumps(locate(json.loads(sys.argv[1]))))"
    )
    command = [tmp_path / "env" / "bin" / "python", "-c", script, json.dumps(PROTEINS)]
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    found = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    locate = pipeline("protein-localization", model=str(folder), trust_remote_code=True)
    assert json.loads(found.stdout) == locate(PROTEINS)


@pytest.mark.slow
def test_deepgps_trains_from_and_pushes_to_the_hub(hub, tiny_crops, tmp_path):
    assert run_protloc("push", "dataset", tiny_crops / "known", "owner/crops")[0] == 0
    images = "images=[{dataset: owner/crops, config: known}]"
    settings = [images, f"output_dir={tmp_path / 'run'}", "limit=null", "epochs=1", "push_to_hub=owner/toy-deepgps"]
    run("training/train_deepgps.py", ROOT / "training" / "configs" / "deepgps_toy.yaml", *settings)
    files = hub.repo("owner/toy-deepgps").files()
    card = ModelCard(files["README.md"].decode())
    assert card.data.datasets == ["owner/crops"] and card.data.pipeline_tag == "image-to-image"
    draw = pipeline("protein-imaging", model="owner/toy-deepgps", trust_remote_code=True)
    assert draw({"sequence": INSULIN, "nucleus": None})["image"].size == (208, 208)


def test_training_that_could_not_be_pushed_does_not_start(run_script, hub, monkeypatch, tmp_path):
    arguments = [ROOT / "training" / "configs" / "toy.yaml", f"output_dir={tmp_path / 'run'}"]
    code, _, err = run_script("training/train_deeploc.py", *arguments, "push_to_hub=toy")
    assert code == 2 and "push_to_hub=toy: 'toy' has no owner" in err
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = run_script("training/train_deeploc.py", *arguments, "push_to_hub=owner/toy")
    assert code == 2 and "you are not logged in to the Hub" in err and hub.requests == []
