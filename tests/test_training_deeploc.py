"""Real runs of the training and evaluation scripts at tiny size."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModel, EsmConfig, pipeline

from protloc.embedding import ResidueEmbeddings, embed
from protloc.loading import load_model
from protloc.models.convert_unirep import build_tokenizer
from protloc.models.protein_sequence import window_text
from protloc.prediction import predict
from protloc.taxonomy import COMPARTMENTS, KINGDOMS
from tests.helpers import ROOT, tiny_deeploc, tiny_unirep, write_pssm

TRAIN = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "-m", "training.deeploc.train"]
TOY = str(ROOT / "training" / "configs" / "toy.yaml")


def train(dataset, output_dir, *overrides, command=TRAIN):
    arguments = [TOY, f"dataset={dataset}", f"output_dir={output_dir}", "max_tokens_per_batch=400", *overrides]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *arguments], capture_output=True, text=True, env=env, cwd=ROOT)
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
    mode = (trained / "training.json").stat().st_mode  # the umask's
    assert {path.stat().st_mode for path in trained.rglob("*.safetensors")} == {mode}


def test_training_logs_and_rotates_checkpoints(trained):
    events = EventAccumulator(str(trained / "logs" / "tensorboard")).Reload()
    assert {"train/loss", "train/lr", "validation/micro_f1", "validation/macro_auprc"} <= set(events.Tags()["scalars"])
    assert len(events.Scalars("validation/micro_f1")) == 2
    learning_rates = [event.value for event in events.Scalars("train/lr")]
    assert max(learning_rates) <= 0.01 and learning_rates[-1] < 1e-6
    assert len(list((trained / "checkpoints").iterdir())) == 2


def test_evaluation(run_script, trained, tiny_dataset, tmp_path):
    code, out, err = run_script(
        *("training.deeploc.evaluate", "--model", trained, "--dataset", tiny_dataset),
        *("--config", "deeploc2", "--split", "validation", "--out", tmp_path / "scores.json"),
    )
    assert code == 0, err
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["localization"]["num_proteins"] == 20 and scores["membrane"]["num_proteins"] == 20
    micro = scores["localization"]["average"]["micro"]["f1"]
    assert f"| {micro:.3f} |" in next(line for line in out.splitlines() if line.startswith("| micro"))
    assert "Averages over 10 classes: Cytoplasm, Nucleus" in out
    low, high = scores["intervals"]["micro_f1"]
    assert low < micro < high and f"micro f1 {low:.3f}-{high:.3f}" in out
    assert sum(scores["groups"][kingdom]["num_proteins"] for kingdom in KINGDOMS) == 20
    assert scores["groups"]["1-200 residues"]["micro_f1"] == micro


def test_evaluation_of_an_ensemble_with_figures(run_script, trained, tiny_dataset, tmp_path):
    code, _, err = run_script(
        *("training.deeploc.evaluate", "--dataset", tiny_dataset, "--config", "deeploc2", "--split", "validation"),
        *("--figures", tmp_path / "figures", "--ensemble", trained, trained),
    )
    assert code == 0, err
    names = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert {"locations", "confusion", "reliability", "curves", "membrane"} < names
    assert sum(name.startswith("attention_") for name in names) == 6


def test_evaluation_of_length_policies(run_script, tiny_dataset, tmp_path, tokenizer):
    folder = tmp_path / "model"
    pipeline("protein-localization", model=tiny_deeploc(max_length=50), tokenizer=tokenizer).save_pretrained(folder)
    options = ["--dataset", tiny_dataset, "--config", "deeploc2", "--split", "validation", "--model", folder]
    code, out, err = run_script(
        "training.deeploc.evaluate", *options, "--length-policies", "middle", "window", "--out", tmp_path / "s.json"
    )
    assert code == 0, err
    long = sum(len(s) > 50 for s in load_dataset(str(tiny_dataset), "deeploc2", split="validation")["sequence"])
    assert out.startswith(f"{long} proteins of more than 50 residues.")
    policies = json.loads((tmp_path / "s.json").read_text())["length_policies"]
    assert list(policies) == ["middle", "window"] and policies["middle"] != policies["window"]
    assert policies["window"]["localization"]["num_proteins"] == long


@pytest.mark.slow
def test_single_label_training(tmp_path):
    fasta = tmp_path / "deeploc1.fasta"
    names = ["Nucleus-S", "Cytoplasm-S", "Cell.membrane-M", "Cytoplasm-Nucleus-U"]
    fasta.write_text(
        "".join(f">A{i} {names[i % 4]}\nM{'ACDE'[i % 4] * (i + 5)}\n" for i in range(40)) + ">T Nucleus-U test\nMW\n"
    )
    build = [sys.executable, "-m", "datasets_scripts.build_deeploc", "--deeploc1", fasta, "--out", tmp_path / "data"]
    subprocess.run(build, check=True, cwd=ROOT)
    train(
        *(tmp_path / "data", tmp_path / "run", "dataset_config=deeploc1_single"),
        *("train_split=train[:20]", "validation_split=train[20:]"),
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
        ([str(ROOT / "Makefile")], "training.deeploc.train: "),
        ([TOY, "learning_rat=1"], "learning_rat"),
        ([TOY, "epochs=many"], "epochs"),
        ([TOY, "model.lstm_sise=512"], "model.lstm_sise is no field of DeepLocConfig"),
        ([TOY, "model.lstm_size=big"], "Field 'lstm_size' expected int, got str"),
        ([TOY, "optimizer=lion"], "optimizer must be one of adamw, adam, sgd, got 'lion'"),
        ([TOY, "model.dropout=2"], "dropout must be at least 0 and below 1, got 2"),
        ([TOY, "limit=-3"], "limit must be 1 or more, got -3"),
        ([TOY, "backbone=nowhere"], "cannot build on 'nowhere'"),
        ([TOY, "initial_weights=nowhere"], "cannot build on 'nowhere'"),
        ([TOY, "initial_weights=a", "backbone=b"], "backbone and initial_weights both name weights"),
        ([TOY, "teacher=[nowhere.csv]"], "training.deeploc.train: nowhere.csv: No such file or directory"),
        ([TOY, "unlabelled=nowhere"], "training.deeploc.train: unlabelled proteins learn from a teacher"),
        ([TOY, "model.length_policy=error", "model.max_length=30"], "training.deeploc.train: "),
        ([TOY, "train_split=train+validation"], "deeploc, such as 'P00030', are both trained on and held out"),
        ([TOY, "validation_partition=9"], "no protein of partition 9; there are 0, 1, 2"),
        ([TOY, "model.input_features=profile"], "needs a data set with profiles, or profiles=DIR"),
        ([TOY, "model.problem_type=single_label_classification"], "single-label training needs exactly one"),
        ([TOY, "dataset=nowhere"], "cannot read 'nowhere'"),
    ],
)
def test_bad_configuration(run_script, tiny_dataset, tmp_path, arguments, message):
    folders = [f"output_dir={tmp_path}", f"dataset={tiny_dataset}"]
    code, _, err = run_script("training.deeploc.train", *arguments[:1], *folders, *arguments[1:])
    assert code == 2
    assert message in err.splitlines()[-1] and "Traceback" not in err


def test_a_used_folder_is_not_started_anew(run_script, trained, tiny_dataset):
    arguments = [TOY, f"dataset={tiny_dataset}", f"output_dir={trained}"]
    code, _, err = run_script("training.deeploc.train", *arguments)
    assert code == 2 and "holds a run: add resume=true" in err


def test_a_run_resumes_with_its_own_settings_only(run_script, trained, tiny_dataset):
    options = ["max_tokens_per_batch=400", "checkpoint_steps=4", "checkpoints_kept=2", "resume=true"]
    arguments = [TOY, f"dataset={tiny_dataset}", f"output_dir={trained}", *options]
    before = (trained / "model.safetensors").read_bytes()
    for change in ("model.dropout=0.5", "learning_rate=0.5", "ema_decay=0.9"):
        code, _, err = run_script("training.deeploc.train", *arguments, change)
        name, value = change.split("=")
        assert code == 2 and f"was begun with {name}=" in err and f"not {value}: resume with the settings" in err
    code, out, err = run_script("training.deeploc.train", *arguments)
    assert (code, out) == (0, f"{trained} is complete\n"), err
    assert (trained / "model.safetensors").read_bytes() == before


def test_the_report_says_how_it_was_trained(trained, tiny_dataset):
    report = json.loads((trained / "training.json").read_text())
    assert report["command"].startswith("python -m training.deeploc.train ")
    assert report["command"].endswith("checkpoint_steps=4 checkpoints_kept=2")
    assert report["processes"] == 1 and report["proteins"] == 60 and report["steps"] > 4
    settings = OmegaConf.load(trained / "training.yaml")
    assert settings.model.lstm_size == 16 and settings.train_split == "train"


def test_weights_of_another_kind_are_refused(run_script, tiny_dataset, tmp_path):
    EsmConfig(hidden_size=8, vocab_size=33, pad_token_id=1).save_pretrained(tmp_path / "esm")
    arguments = [TOY, f"dataset={tiny_dataset}", f"output_dir={tmp_path / 'run'}"]
    code, _, err = run_script("training.deeploc.train", *arguments, f"initial_weights={tmp_path / 'esm'}")
    assert code == 2 and "is a esm model" in err.splitlines()[-1]


def test_bad_evaluation(run_script, tiny_dataset, tmp_path):
    for arguments in (["--dataset", tmp_path / "none"], ["--dataset", tiny_dataset, "--config", "none"]):
        code, _, err = run_script("training.deeploc.evaluate", *arguments)
        assert code == 2 and "none" in err.splitlines()[-1]
    code, _, err = run_script("training.deeploc.evaluate", "--dataset", tiny_dataset, "--limit", "-100")
    assert code == 2 and "--limit must be 1 or more, got -100" in err
    for options in (["--dataset", tmp_path / "none"], ["--dataset", tiny_dataset, "--runs", tmp_path / "none"]):
        arguments = ["--model", ROOT / "modeling/protloc/assets/deeploc", *options]
        code, _, err = run_script("training.deeploc.report", *arguments)
        last = err.splitlines()[-1]
        assert code == 2 and last.startswith("training.deeploc.report: ") and "none" in last and "Traceback" not in err


@pytest.mark.slow
def test_every_loss_sampling_and_average(tiny_dataset, tmp_path):
    """Tree, signals, focal and class-balanced loss, oversampling, SGD, moving average, windows, a constant rate."""
    train(
        *(tiny_dataset, tmp_path / "run", "epochs=2", "model.tree=true", "model.signals=true", "model.focal_gamma=2"),
        *("class_balance=effective_number", "oversampling_frequency=0.2", "optimizer=sgd", "learning_rate=0.02"),
        *("schedule=constant", "ema_decay=0.9", "model.length_policy=window", "model.max_length=40"),
        "max_proteins_per_batch=8",
    )
    model, tokenizer = load_model(tmp_path / "run")
    assert len(model.config.class_weights) == 10 and model.config.positive_weights is None
    (row,) = predict([("a", "MKTAYIAK" * 20)], model, tokenizer, signals=True, tree=True)
    assert not row["truncated"] and 0 < row["signal_SP"] < 1 and 0 < row["tree_secretory"] < 1
    report = json.loads((tmp_path / "run" / "training.json").read_text())
    assert len(report["validation"]["epochs"]) == 2 and report["seconds"] > 0


@pytest.mark.parametrize(("backbone", "training"), [("esm", "lora"), ("protbert", "frozen"), ("esm", "full")])
def test_training_on_a_backbone(tiny_dataset, tiny_backbones, tmp_path, backbone, training):
    options = [f"backbone={tiny_backbones[backbone]}", f"backbone_training={training}", "model.conv_widths=[]"]
    options += ["model.second_conv_channels=0", "model.lstm_size=0", "model.decoder_steps=1", "epochs=1"]
    train(tiny_dataset, tmp_path / "run", *options)
    model, tokenizer = load_model(tmp_path / "run")
    before = AutoModel.from_pretrained(tiny_backbones[backbone]).state_dict()
    after = model.deeploc.backbone.state_dict()
    assert {name.split(".")[0] for name in before.keys() - after.keys()} <= {"pooler", "contact_head"}
    name = "encoder.layer.0.attention.self.query.weight"
    moved = (before[name].bfloat16().float() - after[name]).abs().max().item()
    assert (moved == 0) == (training == "frozen")
    (row,) = predict([("a", "MKTAYIAK")], model, tokenizer)
    assert row["localizations"]


@pytest.fixture(scope="module")
def tiny_unirep_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unirep")
    tiny_unirep().save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


REGIONS = ["model.pooling=regions", "model.conv_widths=[]", "model.second_conv_channels=0", "model.lstm_size=0"]


@pytest.mark.parametrize(
    ("project", "model_options"),
    [(None, []), (6, []), (16, []), (6, REGIONS), (6, ["model.pooling=light_attention"])],
)
def test_embeddings_and_sequences_give_the_same(tiny_dataset, tiny_unirep_dir, tmp_path, project, model_options):
    """A model trained on embeddings from disk predicts from sequences what it predicts from embeddings."""
    splits = [load_dataset(str(tiny_dataset), "deeploc2", split=split) for split in ("train", "validation")]
    sequences = [sequence for split in splits for sequence in split["sequence"]]
    folder = tmp_path / "embeddings"
    embed(sequences, folder, str(tiny_unirep_dir), dtype="float32", project=project, max_length=40)
    options = [f"backbone={tiny_unirep_dir}", f"embeddings={folder}", "model.max_length=40", "model.signals=true"]
    train(tiny_dataset, tmp_path / "run", *options, *model_options, "epochs=1")
    model, tokenizer = load_model(tmp_path / "run", dtype="float32")
    assert model.config.projection_size == (project or 0)
    assert torch.equal(model.deeploc.backbone.embeddings.weight, tiny_unirep().unirep.embeddings.weight)
    stored = ResidueEmbeddings(folder)
    for sequence in sequences[:8]:
        (row,) = predict([("a", sequence)], model, tokenizer)
        _, [window] = model.prepare_sequence(sequence)
        with torch.no_grad():
            outputs = model(residue_embeddings=stored[window_text(sequence, window)].float()[None])
        expected = outputs.logits.sigmoid()[0].tolist()
        assert [row[name] for name in COMPARTMENTS] == pytest.approx(expected, abs=1e-3)


def test_a_companion(tiny_dataset, tiny_unirep_dir, tmp_path, trained):
    """The logits that a model on UniRep and its companion have of the same sequence are averaged, then calibrated."""
    splits = [load_dataset(str(tiny_dataset), "deeploc2", split=split) for split in ("train", "validation")]
    sequences = [sequence for split in splits for sequence in split["sequence"]]
    embed(sequences, tmp_path / "embeddings", str(tiny_unirep_dir), dtype="float32", project=6)
    options = [f"backbone={tiny_unirep_dir}", f"embeddings={tmp_path / 'embeddings'}", *REGIONS, "epochs=1"]
    train(tiny_dataset, tmp_path / "run", *options, f"companion={trained}")
    model, tokenizer = load_model(tmp_path / "run", dtype="float32")
    companion, companion_tokenizer = load_model(trained, dtype="float32")
    config, sequence = model.config, "MKTAYIAKUXQR"
    both = model(**tokenizer([sequence, "MKV"], padding=True, return_tensors="pt"))
    other = companion(**companion_tokenizer([sequence, "MKV"], padding=True, return_tensors="pt"))
    torch.testing.assert_close(both.attentions[0], other.attentions[0, :, :-1], rtol=0, atol=1e-5)
    model.companion = None
    own = model(**tokenizer([sequence, "MKV"], padding=True, return_tensors="pt"))
    scale, bias = torch.tensor(config.calibration_scale), torch.tensor(config.calibration_bias)
    raw = (own.logits - bias) / scale
    torch.testing.assert_close(both.logits, (raw + other.logits) / 2 * scale + bias, rtol=0, atol=1e-4)


def test_embeddings_that_do_not_fit(run_script, tiny_dataset, tiny_unirep_dir, tiny_backbones, tmp_path):
    embed(["MKTAYIAK"], tmp_path / "few", str(tiny_unirep_dir))
    embed(["MKTAYIAK"], tmp_path / "mean", str(tiny_unirep_dir), mean=True)
    embed(["MKTAYIAK"], tmp_path / "esm", str(tiny_backbones["esm"]))
    backbone = f"backbone={tiny_unirep_dir}"
    for options, message in (
        ([f"embeddings={tmp_path / 'few'}"], "name it with backbone"),
        ([f"embeddings={tmp_path / 'few'}", backbone, "backbone_training=full"], "frozen backbone"),
        ([f"embeddings={tmp_path / 'nowhere'}", backbone], "make it with protloc embed"),
        ([f"embeddings={tmp_path / 'mean'}", backbone], "without --mean"),
        ([f"embeddings={tmp_path / 'esm'}", backbone], "other weights"),
        ([f"embeddings={tmp_path / 'few'}", backbone], "has no embedding of"),
    ):
        arguments = [TOY, f"dataset={tiny_dataset}", f"output_dir={tmp_path / 'run'}", *options]
        code, _, err = run_script("training.deeploc.train", *arguments)
        assert code == 2 and message in err.splitlines()[-1], err
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_profiles_and_a_partition_that_validates(tiny_dataset, tmp_path):
    profiles = tmp_path / "profiles"
    profiles.mkdir()
    for split in ("train", "validation"):
        for protein in load_dataset(str(tiny_dataset), "deeploc2", split=split):
            write_pssm(profiles / f"{protein['id']}.pssm", protein["sequence"])
    output = train(
        *(tiny_dataset, tmp_path / "run", "epochs=1", "model.input_features=profile", f"profiles={profiles}"),
        *("train_split=train+validation", "validation_partition=1"),
    )
    assert "epoch 1: 20 validation proteins" in output
    splits = [load_dataset(str(tiny_dataset), "deeploc2", split=split) for split in ("train", "validation")]
    proteins = [p for split in splits for p in split if p["partition"] != 1]
    model, tokenizer = load_model(tmp_path / "run")
    with pytest.raises(ValueError, match="name the folder"):
        next(predict([("a", "MKT")], model, tokenizer))
    (row,) = predict([(proteins[0]["id"], proteins[0]["sequence"])], model, tokenizer, profiles=profiles)
    assert row["length"] == len(proteins[0]["sequence"])


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_weights(tiny_dataset, tmp_path):
    options = ["checkpoint_steps=3", "epochs=4", "ema_decay=0.9", "oversampling_frequency=0.2"]
    train(tiny_dataset, tmp_path / "whole", *options)

    arguments = [TOY, f"dataset={tiny_dataset}", f"output_dir={tmp_path / 'cut'}", "max_tokens_per_batch=400", *options]
    process = subprocess.Popen([*TRAIN, *arguments], start_new_session=True, cwd=ROOT)
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
    options = ["model.dropout=0", "checkpoint_steps=2", "ema_decay=0.5"]
    output = train(tiny_dataset, tmp_path / "run", "epochs=1", *options, command=[*command, *TRAIN[-2:]])
    assert output.count("epoch 1: 20 validation proteins") == 1
    assert load_model(tmp_path / "run")[0].config.thresholds != [0.5] * 10
    output = train(tiny_dataset, tmp_path / "run", "epochs=2", "resume=true", *options, command=[*command, *TRAIN[-2:]])
    assert "resumed from" in output
    assert output.count("epoch 2: 20 validation proteins") == 1


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_global_batch(tiny_dataset, tmp_path):
    """Without dropout and masking, two processes do what one does that gathers two batches for each step."""
    options = ["model.dropout=0", "mask_rate=0", "epochs=1", "max_tokens_per_batch=500"]  # 8 batches
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *TRAIN[-2:]]
    train(tiny_dataset, tmp_path / "two", *options, command=two)
    train(tiny_dataset, tmp_path / "one", *options, "gradient_accumulation_steps=2")
    one, two = (load_file(tmp_path / name / "best" / "model.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    reports = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two")]
    assert reports[0]["steps"] == reports[1]["steps"] == 4


class Payload:
    """Pickled, it creates a file where it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


PICKLED = ["custom_checkpoint_0.pkl", "optimizer.bin", "random_states_0.pkl", "pytorch_model.bin", "state.json"]
IGNORED = ["scheduler.bin", "sampler.bin", "scaler.pt", "dl_state_dict.bin"]


@pytest.mark.parametrize("name", [*PICKLED, *IGNORED])
def test_a_checkpoint_cannot_run_code(run_script, trained, tiny_dataset, tmp_path, name):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "training.json").unlink()
    *_, latest = sorted((tmp_path / "run" / "checkpoints").iterdir(), key=lambda path: int(path.name[5:]))
    (latest / name).write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    if name == "pytorch_model.bin":
        (latest / "model.safetensors").unlink()
    options = ["max_tokens_per_batch=400", "checkpoint_steps=4", "checkpoints_kept=2", "resume=true"]
    arguments = [TOY, f"dataset={tiny_dataset}", f"output_dir={tmp_path / 'run'}", *options]
    code, _, err = run_script("training.deeploc.train", *arguments)
    assert not (tmp_path / "executed").exists()
    if name in ["random_states_0.pkl", *IGNORED]:  # every batch is seeded by its place
        assert code == 0, err
    else:
        assert code == 2 and f"cannot resume from {latest}: " in err.splitlines()[-1] and "Traceback" not in err


def test_weights_that_are_not_finite_stop_the_run(run_script, tiny_dataset, tmp_path):
    arguments = [TOY, f"dataset={tiny_dataset}", f"output_dir={tmp_path / 'run'}", "max_tokens_per_batch=400"]
    options = ["optimizer=sgd", "learning_rate=1e30", "max_grad_norm=1e30", "warmup_fraction=0"]
    code, _, err = run_script("training.deeploc.train", *arguments, *options)
    assert code == 2 and "is nan: lower learning_rate, or raise warmup_fraction" in err.splitlines()[-1]
    assert not list((tmp_path / "run").glob("checkpoints/step_*"))


def test_a_run_ships_without_remote_code(run_script, trained, tmp_path):
    code, _, err = run_script("training.common.ship", "--run", trained, "--out", tmp_path / "assets")
    assert code == 0, err
    assert {path.suffix for path in (tmp_path / "assets").iterdir()} == {".safetensors", ".json"}
    config = json.loads((tmp_path / "assets" / "config.json").read_text())
    assert "auto_map" in json.loads((trained / "config.json").read_text()) and "auto_map" not in config
    (row,) = predict([("a", "MKTAYIAK")], *load_model(tmp_path / "assets"))
    assert row["localizations"]
    code, _, err = run_script("training.common.ship", "--run", tmp_path, "--out", tmp_path / "assets")
    assert code == 2 and f"{tmp_path} has no config.json: give a complete run" in err
