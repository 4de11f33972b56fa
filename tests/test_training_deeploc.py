"""Real runs of the training and evaluation scripts at tiny size."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import ROOT
from protloc.prediction import load_model, predict

TRAIN = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", str(ROOT / "training" / "train_deeploc.py")]
TOY = str(ROOT / "training" / "configs" / "toy.yaml")


def train(dataset, output_dir, *overrides, command=TRAIN):
    arguments = [TOY, f"dataset={dataset}", f"output_dir={output_dir}", "max_tokens_per_batch=400", *overrides]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def trained(tiny_dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "toy"
    train(tiny_dataset, folder, "checkpoint_steps=4", "checkpoints_kept=2")
    return folder


def test_training_leaves_a_model_that_predicts(trained):
    model, tokenizer = load_model(trained)
    assert model.config.lstm_size == 16 and len(model.config.positive_weights) == 10
    assert model.config.calibration_bias != [0.0] * 10 and model.config.thresholds != [0.5] * 10
    assert model.config.membrane_threshold != 0.5
    (row,) = predict([("a", "MKTAYIAK")], model, tokenizer)
    assert row["localizations"]
    stored = load_file(trained / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {"torch.bfloat16"}
    assert (trained / "pipeline_protein_localization.py").exists()


def test_training_logs_and_rotates_checkpoints(trained):
    events = EventAccumulator(str(trained / "logs" / "tensorboard")).Reload()
    assert {"train/loss", "train/lr", "validation/micro_f1", "validation/macro_auprc"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("validation/micro_f1")) == 2
    learning_rates = [event.value for event in events.Scalars("train/lr")]
    assert max(learning_rates) <= 0.01 and learning_rates[-1] < 1e-6
    assert len(list((trained / "checkpoints").iterdir())) == 2


def test_evaluation(run_script, trained, tiny_dataset, tmp_path):
    code, out, err = run_script(
        *("training/evaluate_deeploc.py", "--model", trained, "--dataset", tiny_dataset),
        *("--config", "deeploc2", "--split", "validation", "--out", tmp_path / "scores.json"),
    )
    assert code == 0, err
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["localization"]["num_proteins"] == 20 and scores["membrane"]["num_proteins"] == 20
    micro = scores["localization"]["average"]["micro"]["f1"]
    assert f"| {micro:.3f} |" in next(line for line in out.splitlines() if line.startswith("| micro"))
    assert "Averages over 10 classes: Cytoplasm, Nucleus" in out


def test_single_label_training(tmp_path):
    fasta = tmp_path / "deeploc1.fasta"
    names = ["Nucleus-S", "Cytoplasm-S", "Cell.membrane-M", "Cytoplasm-Nucleus-U"]
    fasta.write_text(
        "".join(f">A{i} {names[i % 4]}\nM{'ACDE'[i % 4] * (i + 5)}\n" for i in range(40)) + ">T Nucleus-U test\nMW\n"
    )
    script = ROOT / "datasets_scripts" / "build_deeploc.py"
    subprocess.run([sys.executable, script, "--deeploc1", fasta, "--out", tmp_path / "data"], check=True)
    train(
        *(tmp_path / "data", tmp_path / "run", "dataset_config=deeploc1_single", "validation_split=train"),
        *("model.problem_type=single_label_classification", "epochs=1"),
    )
    model, tokenizer = load_model(tmp_path / "run")
    (row,) = predict([("a", "MKTAYIAK")], model, tokenizer)
    assert sum(row[name] for name in model.config.id2label.values()) == pytest.approx(1, abs=1e-4)
    assert "|" not in row["localizations"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(ROOT / "none.yaml")], "No such file"),
        ([str(ROOT / "Makefile")], "train_deeploc: "),
        ([TOY, "learning_rat=1"], "learning_rat"),
        ([TOY, "epochs=many"], "epochs"),
        ([TOY, "model.lstm_sise=512"], "model.lstm_sise is no field of DeepLocConfig"),
        ([TOY, "model.lstm_size=big"], "Field 'lstm_size' expected int, got str"),
        ([TOY, "dataset=nowhere"], "cannot load 'train' of 'nowhere'"),
    ],
)
def test_bad_configuration(run_script, tiny_dataset, tmp_path, arguments, message):
    folders = [f"output_dir={tmp_path}", f"dataset={tiny_dataset}"]
    code, _, err = run_script("training/train_deeploc.py", *arguments[:1], *folders, *arguments[1:])
    assert code == 2
    assert message in err and err.count("\n") == 1


def test_a_used_folder_is_not_started_anew(run_script, trained, tiny_dataset):
    arguments = [TOY, f"dataset={tiny_dataset}", f"output_dir={trained}"]
    code, _, err = run_script("training/train_deeploc.py", *arguments)
    assert code == 2 and "holds checkpoints: add resume=true" in err


def test_bad_evaluation(run_script, tiny_dataset, tmp_path):
    for arguments in (["--dataset", tmp_path / "none"], ["--dataset", tiny_dataset, "--config", "none"]):
        code, _, err = run_script("training/evaluate_deeploc.py", *arguments)
        assert code == 2 and "none" in err.splitlines()[-1]


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_weights(tiny_dataset, tmp_path):
    options = ["checkpoint_steps=3", "epochs=4"]
    train(tiny_dataset, tmp_path / "whole", *options)

    arguments = [TOY, f"dataset={tiny_dataset}", f"output_dir={tmp_path / 'cut'}", "max_tokens_per_batch=400", *options]
    process = subprocess.Popen([*TRAIN, *arguments], start_new_session=True)
    while not list((tmp_path / "cut").glob("checkpoints/step_*")):
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert "resumed from" in train(tiny_dataset, tmp_path / "cut", *options, "resume=true")

    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert [name for name in whole if not whole[name].equal(cut[name])] == []


@pytest.mark.slow
def test_two_processes(tiny_dataset, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    options = ["model.dropout=0", "checkpoint_steps=2"]
    output = train(tiny_dataset, tmp_path / "run", "epochs=1", *options, command=[*command, TRAIN[-1]])
    assert output.count("epoch 1: 20 validation proteins") == 1
    assert load_model(tmp_path / "run")[0].config.thresholds != [0.5] * 10
    output = train(tiny_dataset, tmp_path / "run", "epochs=2", "resume=true", *options, command=[*command, TRAIN[-1]])
    assert "resumed from" in output
    assert output.count("epoch 2: 20 validation proteins") == 1
