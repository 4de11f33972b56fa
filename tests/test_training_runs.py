"""Configurations, cross-validation, ablation and search: real runs at tiny size, cut off and resumed."""

import contextlib
import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from pickle import UnpicklingError

import pandas as pd
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from datasets import Dataset, load_dataset
from omegaconf import OmegaConf

from protloc import DeepGPSConfig, DeepLocConfig
from protloc.files import lock
from protloc.loading import load_ensemble, load_model
from protloc.prediction import predict
from tests.helpers import ROOT
from training.common.checkpoints import tensors_only
from training.common.loop import check_fsdp, start_accelerator
from training.common.settings import choose_precision, load_yaml
from training.deepgps.label_head import TrainingConfig as LabelTraining
from training.deepgps.train import TrainingConfig as DeepGPSTraining
from training.deeploc.train import TrainingConfig

TOY = str(ROOT / "training" / "configs" / "toy.yaml")
CONFIGS = sorted((ROOT / "training" / "configs").glob("*.yaml"))
TINY = {
    "model": {
        "embedding_size": 4,
        "conv_filters": 2,
        "second_conv_channels": 4,
        "lstm_size": 4,
        "attention_size": 4,
        "decoder_size": 4,
        "decoder_steps": 1,
        "hidden_size": 4,
    },
    "epochs": 1,
    "limit": 20,
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations(path):
    """Every field of every file exists, in the training's configuration and in the model's."""
    config = load_yaml(path)
    if path.stem == "deepgps_unirep":
        run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(LabelTraining), config))
        assert DeepGPSConfig(**run.model).pooling == "mean" and run.backbone == "unirep"
        return
    if path.stem.startswith("deepgps"):
        run = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DeepGPSTraining), config))
        assert DeepGPSConfig(**run.model).model_type == "deepgps" and run.images[0].dataset
        return
    if "distributed_type" in config:  # of accelerate, which refuses unknown fields
        launched = load_config_from_file(str(path))
        assert launched.distributed_type == config.distributed_type
        if launched.distributed_type == DistributedType.FSDP:
            assert launched.fsdp_config["fsdp_state_dict_type"] == "FULL_STATE_DICT"
        return
    runs = [config]
    if "training" in config:
        for changes in [{}, *(config.get("variants") or {}).values()]:
            dotlist = [f"{name}={value}" for name, value in changes.items()]
            runs.append(OmegaConf.merge(config.training, OmegaConf.from_dotlist(dotlist)))
        searched = [f"{name}={(space.get('choices') if 'choices' in space else space)[0]}"
                    for name, space in (config.get("space") or {}).items()]  # fmt: skip
        runs.append(OmegaConf.merge(config.training, OmegaConf.from_dotlist(searched)))
        runs = runs[1:]
    for run in runs:
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrainingConfig), {"output_dir": "x"}, run))
        assert DeepLocConfig(**merged.model).num_labels == 10


def test_a_configuration_overrides_its_base():
    shipped, blosum = (load_yaml(ROOT / "training" / "configs" / f"{name}.yaml") for name in ("deeploc", "blosum62"))
    assert blosum.output_dir == "runs/blosum62" and "base" not in blosum
    assert blosum.model == {**shipped.model, "input_features": "blosum62"} and blosum.epochs == shipped.epochs
    two, four = (load_yaml(ROOT / "training" / "configs" / f"deepgps_single{n}.yaml") for n in (2, 4))
    assert four.images == [{"dataset": "data/opencell", "config": "single-4"}] and len(four.labels) == 4
    assert four.learning_rate == two.learning_rate


def run_script(script, *arguments):
    command = [sys.executable, "-m", f"training.deeploc.{script}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def write(path, **content):
    OmegaConf.save(OmegaConf.create(content), path)
    return path


@pytest.mark.slow
def test_ablation(tiny_dataset, tmp_path):
    variants = {"baseline": {}, "no dropout": {"model.dropout": 0}}
    training = {"dataset": str(tiny_dataset), **TINY}
    config = write(tmp_path / "c.yaml", output_dir=str(tmp_path / "out"), training=training, variants=variants)
    result = run_script("ablate", config)
    assert result.returncode == 0, result.stderr
    scores = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert list(scores) == ["baseline", "no dropout"]
    line = next(line for line in result.stdout.splitlines() if line.startswith("| no dropout "))
    assert f"| {scores['no dropout']['macro_auprc']:.3f} |" in line
    trained = OmegaConf.load(tmp_path / "out" / "no dropout" / "config.yaml")
    assert trained.model.dropout == 0 and trained.model.lstm_size == 4


@pytest.mark.slow
def test_a_run_that_fails_stops_the_rest(tiny_dataset, tmp_path):
    training = {"dataset": "nowhere", **TINY}
    config = write(
        tmp_path / "c.yaml", output_dir=str(tmp_path / "out"), training=training, variants={"a": {}, "b": {}}
    )
    result = run_script("ablate", config)
    assert result.returncode == 2 and result.stderr.count("cannot read 'nowhere'") == 1
    assert not (tmp_path / "out" / "b").exists()
    result = run_script("ablate", tmp_path / "none.yaml")
    assert (
        result.returncode == 2
        and result.stderr.startswith("training.deeploc.ablate: ")
        and result.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ablate", "toy.yaml"], "training.deeploc.ablate: dataset: Key 'dataset' not in 'AblationConfig'"),
        (["folds", "ablation.yaml"], "training.deeploc.folds: variants: Key 'variants' not in 'FoldsConfig'"),
        (
            ["folds", "teacher.yaml", "training.companion=deeploc"],
            "training.deeploc.folds: training.companion has seen",
        ),
        (["search", "search.yaml", "trials=abc"], "training.deeploc.search: trials: Value 'abc'"),
        (["search", "search.yaml", "space={seed:[0,1]}"], "training.deeploc.search: while scanning a plain scalar in"),
        (["ablate", "ablation.yaml", "--launcher", "nosuchprogram"], "cannot start 'nosuchprogram': No such file"),
    ],
)
def test_bad_series(tmp_path, arguments, message):
    script, config, *rest = arguments
    result = run_script(script, ROOT / "training" / "configs" / config, f"output_dir={tmp_path}", *rest)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


def write_unlabelled(folder, count):
    folder.mkdir()
    rows = {"id": [f"u{i}" for i in range(count)], "sequence": [f"MKT{'AYIAK' * (i + 3)}" for i in range(count)]}
    Dataset.from_dict(rows).to_parquet(folder / "train.parquet")


@pytest.mark.slow
def test_folds(tiny_dataset, tmp_path):
    training = {"dataset": str(tiny_dataset), "dataset_config": "deeploc2", "train_split": "train+validation", **TINY}
    del training["limit"]
    write_unlabelled(tmp_path / "unlabelled", 7)
    config = write(
        *(tmp_path / "c.yaml",),
        **{"output_dir": str(tmp_path / "out"), "partitions": [0, 2], "training": training},
        unlabelled=str(tmp_path / "unlabelled"),
    )
    result = run_script("folds", config)
    assert result.returncode == 0, result.stderr
    pooled = json.loads((tmp_path / "out" / "out_of_fold.json").read_text())
    assert pooled["localization"]["num_proteins"] == 40
    assert [line.split(" | ")[0] for line in result.stdout.splitlines()[-3:]] == ["| 0", "| 2", "| all"]
    ensemble, tokenizer = load_ensemble([tmp_path / "out" / f"fold_{k}" for k in (0, 2)])
    (row,) = predict([("a", "MKTAYIAK")], ensemble, tokenizer)
    assert row["localizations"]

    # What was answered out of fold teaches another, which trains on all with the decisions of the folds.
    answers = pd.read_csv(tmp_path / "out" / "out_of_fold.csv").set_index("protein_id")
    unlabelled = pd.read_csv(tmp_path / "out" / "unlabelled.csv")
    assert len(answers) == 40 and len(unlabelled) == 7
    held_out, tokenizer = load_model(tmp_path / "out" / "fold_2", dtype="float32")
    decisions = json.loads((tmp_path / "out" / "decisions.json").read_text())
    held_out.config.update(decisions)
    proteins = load_dataset(str(tiny_dataset), "deeploc2", split="train+validation")
    protein = proteins[proteins["partition"].index(2)]
    (row,) = predict([(protein["id"], protein["sequence"])], held_out, tokenizer)
    columns = [*held_out.config.id2label.values(), "membrane_probability"]
    assert answers.loc[protein["id"], columns].tolist() == pytest.approx([row[name] for name in columns], abs=1e-4)
    settings = {"teacher": [str(tmp_path / "out" / name) for name in ("out_of_fold.csv", "unlabelled.csv")]}
    settings |= {"unlabelled": str(tmp_path / "unlabelled"), "decisions": str(tmp_path / "out" / "decisions.json")}
    training = training | settings | {"output_dir": str(tmp_path / "taught"), "epochs": 2}
    result = run_script("train", write(tmp_path / "t.yaml", **training))
    assert result.returncode == 2 and "no row for 40 proteins" in result.stderr  # of partitions 1 and 3
    result = run_script("train", tmp_path / "t.yaml", "train_split=train[:10]")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "taught" / "training.json").read_text())
    assert (report["proteins"], report["unlabelled"]) == (10, 7)
    taught = DeepLocConfig.from_pretrained(tmp_path / "taught")
    assert taught.thresholds == decisions["thresholds"] and taught.calibration_bias == decisions["calibration_bias"]


@pytest.mark.slow
def test_a_failed_trial_is_not_tried_again(tiny_dataset, tmp_path):
    out = tmp_path / "out"
    search = {"output_dir": str(out), "trials": 1, "space": {"model.dropout": {"choices": [0.5]}}}
    config = write(tmp_path / "c.yaml", **search, training={"dataset": "nowhere", **TINY})
    result = run_script("search", config)
    assert result.returncode == 2 and "cannot read 'nowhere'" in result.stderr
    config = write(tmp_path / "c.yaml", **search, training={"dataset": str(tiny_dataset), **TINY})
    result = run_script("search", config)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in out.glob("trial_*")) == ["trial_0", "trial_1"]
    result = run_script("search", config, "space={learning_rate: [0.1, 0.2]}")
    assert result.returncode == 2 and "searches another space" in result.stderr


@pytest.mark.slow
def test_search_resumes(tiny_dataset, tmp_path):
    training = {"dataset": str(tiny_dataset), **TINY}
    space = {"learning_rate": [0.001, 0.1, "log"], "model.decoder_steps": {"choices": [1, 2]}}
    out = tmp_path / "out"
    config = write(tmp_path / "c.yaml", output_dir=str(out), trials=1, space=space, training=training)
    result = run_script("search", config)
    assert result.returncode == 0, result.stderr
    # A second trial that was cut off: asked for and never told.
    with sqlite3.connect(out / "study.db") as database:
        database.execute("UPDATE trials SET state = 'RUNNING' WHERE number = 0")
    (out / "trial_0" / "training.json").unlink()
    result = run_script("search", config, "trials=2")
    assert result.returncode == 0, result.stderr
    assert "resumed from" in result.stdout
    best = json.loads((out / "best.json").read_text())
    assert set(best["fields"]) == set(space) and best["macro_auprc"] > 0
    assert sorted(path.name for path in out.glob("trial_*")) == ["trial_0", "trial_2"]


def test_a_folder_has_one_run_at_a_time(run_script, tmp_path):
    with lock(tmp_path / "run.lock", tmp_path / "run"):
        code, _, err = run_script("training.deeploc.train", TOY, f"output_dir={tmp_path / 'run'}", "dataset=nowhere")
    assert code == 2 and "run is being written by process" in err
    code, _, err = run_script("training.deeploc.train", TOY, f"output_dir={tmp_path / 'run'}", "dataset=nowhere")
    assert code == 2 and "cannot read 'nowhere'" in err


def test_a_tracker_that_is_not_installed_is_named(run_script, tmp_path):
    settings = [f"output_dir={tmp_path / 'run'}", "log_with=nothing"]
    code, _, err = run_script("training.deeploc.train", TOY, *settings)
    assert code == 2 and "log_with=nothing: this tracker is not installed; there are tensorboard" in err


def test_what_accelerate_was_launched_with_is_honoured(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert choose_precision("auto") == "fp16" and choose_precision("no") == "no"


def test_sharded_checkpoints_are_refused(capsys):
    config = TrainingConfig(output_dir="x", dataset="x")
    for kind in ("SHARDED_STATE_DICT", "FULL_STATE_DICT"):
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type=kind)
        for decay in (0.0, 0.9):
            config.ema_decay = decay
            refused = contextlib.nullcontext() if not decay and kind.startswith("FULL") else pytest.raises(SystemExit)
            with refused:
                check_fsdp(plugin, config)
    said = capsys.readouterr().err.splitlines()
    assert ["FULL_STATE_DICT" in line for line in said] == [True, False, False]


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_what_a_library_unpickles_runs_no_code(tmp_path):
    """As DeepSpeed does, which asks for everything."""
    torch.save({"weight": torch.ones(2), "other": Payload(tmp_path / "executed")}, tmp_path / "checkpoint")
    torch.save({"weight": torch.ones(2), "step": 3}, tmp_path / "plain")
    with tensors_only():
        with pytest.raises(UnpicklingError):
            torch.load(tmp_path / "checkpoint", weights_only=False)
        assert torch.load(tmp_path / "plain", weights_only=False)["step"] == 3
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "checkpoint", weights_only=False)
    assert (tmp_path / "executed").exists()  # so that the test can fail


@pytest.mark.parametrize("file", [None, {"gradient_accumulation_steps": "auto", "gradient_clipping": "auto"}])
def test_deepspeed_accumulates_and_clips_as_the_settings_say(tmp_path, monkeypatch, file):
    """By default, and where a file of DeepSpeed's says `auto`."""
    for name in ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_GRADIENT_CLIPPING"):
        monkeypatch.setenv(name, "1")  # as launched
    AcceleratorState._reset_state(reset_partial_state=True)
    settings = {"gradient_accumulation_steps": 3, "max_grad_norm": 0.5, "mixed_precision": "no"}
    start_accelerator(TrainingConfig(dataset="none", output_dir=str(tmp_path / "run"), **settings))
    if file is not None:
        (tmp_path / "deepspeed.json").write_text(json.dumps(file | {"zero_optimization": {"stage": 2}}))
        file = str(tmp_path / "deepspeed.json")
    plugin = DeepSpeedPlugin(hf_ds_config=file)
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == 3
    assert plugin.deepspeed_config["gradient_clipping"] == 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "asked"), [("--cpu", "several"), ("--multi_gpu", "2")])
def test_accelerate_starts_as_many_processes_as_it_was_asked_for(tmp_path, kind, asked):
    if kind == "--multi_gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, "-m", "accelerate.commands.launch", kind, "--num_processes", "2"]
    command += ["-m", "training.deeploc.train", TOY, f"output_dir={tmp_path / 'run'}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert f"{asked} processes were asked for, and 1 trains" in result.stderr and not (tmp_path / "run").exists()
