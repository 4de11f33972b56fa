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

from tests.helpers import ROOT, assert_alike, run_protloc
from training.common.cards import INSULIN, SV40_SIGNAL

PROTEINS = [INSULIN, SV40_SIGNAL]
ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
PAGE = (ROOT / "docs" / "hub.md").read_text()


def run_commands(commands: str, folder: Path) -> None:
    """Commands of the page, in a folder that looks like a clone."""
    for name in ("training", "datasets_scripts", "model_cards"):
        (folder / name).symlink_to(ROOT / name)
    env = {**os.environ, **ENVIRONMENT, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    options = {"capture_output": True, "text": True, "cwd": folder, "env": env}
    result = subprocess.run(["bash", "-ec", commands.replace("OWNER", "owner")], **options)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_from_a_data_set_to_a_prediction_elsewhere(hub, tiny_dataset, tmp_path):
    """The commands of docs/hub.md, one after the other, and its snippet in an empty environment."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "deeploc").symlink_to(tiny_dataset)
    run_commands(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)[0], tmp_path)
    files = hub.repo("owner/deeploc").files()
    evaluation = json.loads(files["evaluation.json"])["evaluations"]["deeploc2"]
    micro = evaluation["localization"]["average"]["micro"]["f1"]
    card = ModelCard(files["README.md"].decode())
    assert re.search(rf"^\| micro average \|.* {micro:.3f} \|", card.text, re.MULTILINE)
    assert card.data.eval_results[0].metric_value == round(micro, 3)
    assert card.data.datasets == ["owner/protloc-deeploc"]

    # An environment with what the repository asks for, and nothing else
    there = Path(snapshot_download("owner/deeploc", local_dir=tmp_path / "there"))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    pip = [tmp_path / "env" / "bin" / "pip", "install", "-q", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, "-r", there / "requirements.txt"], check=True)
    snippet = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0].replace("OWNER", "owner")
    script = f"{snippet}\nimport json, sys\nprint(json.dumps(locate(json.loads(sys.argv[1]))))"
    command = [tmp_path / "env" / "bin" / "python", "-c", script, json.dumps(PROTEINS)]
    env = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    found = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    locate = pipeline("protein-localization", model=str(tmp_path / "runs" / "toy"), trust_remote_code=True)
    assert_alike(json.loads(found.stdout.splitlines()[-1]), locate(PROTEINS))


@pytest.mark.slow
def test_deepgps_trains_from_and_pushes_to_the_hub(hub, tiny_crops, tmp_path):
    assert run_protloc("push", "dataset", tiny_crops / "known", "owner/crops")[0] == 0
    images = "images=[{dataset: owner/crops, config: known}]"
    train = [sys.executable, "-m", "training.deepgps.train", ROOT / "training" / "configs" / "deepgps_toy.yaml"]
    settings = [images, f"output_dir={tmp_path / 'run'}", "limit=null", "epochs=1", "push_to_hub=owner/toy-deepgps"]
    env = {**os.environ, **ENVIRONMENT}
    result = subprocess.run([*train, *settings], capture_output=True, text=True, env=env, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    repo = hub.repo("owner/toy-deepgps")
    assert f"/owner/toy-deepgps/commit/{repo.refs['main']}" in result.stdout
    files = repo.files()
    card = ModelCard(files["README.md"].decode())
    assert (
        "not been evaluated yet" in card.text
        and card.data.datasets == ["owner/crops"]
        and card.data.pipeline_tag == "image-text-to-image"
    )
    draw = pipeline("protein-imaging", model="owner/toy-deepgps", trust_remote_code=True)
    assert draw({"sequence": INSULIN, "nucleus": None})["image"].size == (208, 208)


def test_training_that_could_not_be_pushed_does_not_start(run_script, hub, monkeypatch, tmp_path):
    arguments = [ROOT / "training" / "configs" / "toy.yaml", f"output_dir={tmp_path / 'run'}"]
    code, _, err = run_script("training.deeploc.train", *arguments, "push_to_hub=toy")
    assert code == 2 and "push_to_hub=toy: 'toy' has no owner" in err
    monkeypatch.delenv("HF_TOKEN")
    code, _, err = run_script("training.deeploc.train", *arguments, "push_to_hub=owner/toy")
    assert code == 2 and "you are not logged in to the Hub" in err and hub.requests == []
