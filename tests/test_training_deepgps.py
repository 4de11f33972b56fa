"""Real runs of deepGPS's training and evaluation at tiny size, on simulated cells."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModel, pipeline

from protloc import DeepGPSConfig
from protloc.embedding import ResidueEmbeddings, embed
from protloc.models.convert_unirep import build_tokenizer
from protloc.structures import point_cloud
from protloc.taxonomy import IMAGE_CLASSES
from tests.fuzz.readers import structures
from tests.helpers import ROOT, SEQUENCES, run_protloc, tiny_deeploc, tiny_unirep
from training.common.ship import ship
from training.deepgps.data import Crops, ImageSource, ProteinReader, augmented, load_crops

TRAIN = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "-m", "training.deepgps.train"]
TOY = str(ROOT / "training" / "configs" / "deepgps_toy.yaml")


def run(output_dir, crops, *overrides, config="known", command=TRAIN, text=True):
    images = f"images=[{{dataset: {crops / config}, config: {config}}}]"
    arguments = [TOY, images, f"output_dir={output_dir}", "limit=null", *overrides]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=text, env=env, cwd=ROOT)


def train(output_dir, crops, *overrides, **options):
    result = run(output_dir, crops, *overrides, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def trained(tiny_crops, tiny_proteins, tmp_path_factory) -> Path:
    """Cells of unknown proteins, paired with sequences of their class."""
    folder = tmp_path_factory.mktemp("runs") / "toy"
    overrides = (f"proteins={tiny_proteins}", "validation_by=source_image", "proteins_per_step=4", "ema_decay=0.5")
    out = train(folder, tiny_crops, *overrides, config="cells")
    assert "12 labelled proteins" in out and "0 left out" in out
    return folder


def test_training_leaves_a_model_that_draws(trained):
    draw = pipeline("protein-imaging", model=AutoModel.from_pretrained(trained), processor=str(trained))
    drawn = draw({"sequence": "MPKKKRKV", "nucleus": None})
    assert drawn["label"] in ("cytoplasm", "nucleoplasm") and drawn["image"].size == (208, 208)
    stored = load_file(trained / "model.safetensors")
    assert {str(tensor.dtype) for tensor in stored.values()} == {"torch.bfloat16"}
    assert (trained / "pipeline_protein_imaging.py").exists()


def test_a_projection_is_that_of_the_embeddings(tiny_crops, tiny_deeploc_dir, tmp_path):
    sequences = [SEQUENCES[name] + "A" * seed for seed, name in enumerate(list(SEQUENCES) * 8)]
    embed(sequences, tmp_path / "embeddings", str(tiny_deeploc_dir), project=4)
    options = [f"backbone={tiny_deeploc_dir}", f"embeddings={tmp_path / 'embeddings'}", "epochs=1"]
    refused = run(tmp_path / "no", tiny_crops, *options)
    assert refused.returncode and "holds 4 numbers a residue" in refused.stderr
    embed(sequences, tmp_path / "means", str(tiny_deeploc_dir), mean=True)
    refused = run(tmp_path / "no", tiny_crops, *options, f"embeddings={tmp_path / 'means'}")
    assert refused.returncode and "holds one embedding a protein" in refused.stderr
    train(tmp_path / "run", tiny_crops, *options, "model.projection_size=4")
    model = AutoModel.from_pretrained(tmp_path / "run")
    fitted = load_file(tmp_path / "embeddings" / "projection.safetensors")
    for name, weight in model.projection.state_dict().items():
        torch.testing.assert_close(weight, fitted[name])
    refused = run(tmp_path / "none", tiny_crops, "model.projection_size=4")
    assert refused.returncode and "needs embeddings that protloc embed --project has fitted" in refused.stderr


def test_the_same_protein_in_two_cell_lines(tiny_crops, tmp_path):
    train(tmp_path / "lines", tiny_crops, "model.cell_lines=[HEK293T,U2OS]", "epochs=1")
    draw = pipeline(
        "protein-imaging", model=AutoModel.from_pretrained(tmp_path / "lines"), processor=str(tmp_path / "lines")
    )
    protein = {"sequence": "MPKKKRKVKK", "nucleus": None}
    images = [np.asarray(draw(protein, cell_line=line)["image"]) for line in ("HEK293T", "U-2 OS", None)]
    assert (images[0] != images[1]).any() and (images[1] != images[2]).any()
    named = draw([{**protein, "cell_line": line} for line in ("HEK293T", "U2OS", "unknown")], batch_size=3)
    for image, other in zip(images, named, strict=True):
        assert np.abs(image.astype(int) - np.asarray(other["image"], int)).max() <= 1
    with pytest.raises(ValueError, match="no cell line 'HeLa': it knows HEK293T, U2OS, and unknown"):
        draw(protein, cell_line="HeLa")
    (tmp_path / "p.fasta").write_text(">p\nMPKKKRKVKK\n")
    command = "predict", tmp_path / "p.fasta", "--nucleus", "default", "--image-model", tmp_path / "lines"
    for number, line in enumerate(("hek293t", "U-2 OS")):
        code, _, error = run_protloc(*command, "--cell-line", line, "-o", tmp_path / f"{number}.csv")
        assert code == 0, error
        (path,) = (tmp_path / f"{number}_images").glob("*.png")
        drawn = Image.open(path)
        assert np.abs(np.asarray(drawn, int) - images[number].astype(int)).max() <= 1
    code, _, error = run_protloc(*command, "--cell-line", "HeLa", "-o", tmp_path / "no.csv")
    assert code == 2 and "no cell line 'HeLa'" in error and not (tmp_path / "no.csv").exists()


def test_some_cell_lines_are_not_told(split_cells):
    config = DeepGPSConfig(image_size=64, cell_lines=["HEK293T", "U2OS"])
    crops = load_crops([ImageSource(str(split_cells), "cells")], "train", IMAGE_CLASSES[:2])
    told, whole = (Crops(crops, {}, None, config, augment, 0) for augment in (True, False))
    for name, index in (("HEK293T", 0), ("U-2 OS", 1), ("", 2)):
        rows = [i for i, line in enumerate(crops["cell_line"]) if line == name]
        assert {whole[i]["cell_line"] for i in rows} == {index}
        assert {told[i, time]["cell_line"] for i in rows for time in range(8)} == {index, 2}


def test_training_logs_scores_and_pictures(trained):
    events = EventAccumulator(str(trained / "logs" / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert {"train/loss", "train/label_loss", "validation/psnr", "validation/auroc_2"} <= set(events.Tags()["scalars"])
    assert len(events.Images("validation")) == 2
    report = json.loads((trained / "training.json").read_text())
    assert report["proteins"] == 12 and len(report["validation"]["epochs"]) == 2
    assert report["crops"] + report["validation_crops"] == 12


def test_evaluation(run_script, trained, tiny_crops, tiny_proteins, tmp_path):
    code, out, err = run_script(
        *("training.deepgps.evaluate", "--model", trained, "--proteins", tiny_proteins, "--sequences", 2),
        *("--images", f"{tiny_crops / 'cells'}:cells", "--out", tmp_path / "s.json", "--figures", tmp_path / "figures"),
    )
    assert code == 0, err
    scores = json.loads((tmp_path / "s.json").read_text())
    assert scores["labels"]["single-2"]["count"] == 6 and "single-4" not in scores["labels"]
    low, high = scores["labels"]["single-2"]["intervals"]["auroc"]
    assert low <= scores["labels"]["single-2"]["auroc"] <= high
    assert scores["images"]["crops"] == 4 and scores["images"]["images"] == 8
    methods = scores["images"]["methods"]
    assert set(methods) == {"model", "sequence shuffled", "sequence removed", "nucleus copied", "mean image",
                            "mean image of the true class"}  # fmt: skip
    assert methods["nucleus copied"]["psnr"]["mean"] < methods["mean image of the true class"]["psnr"]["mean"]
    assert f"{methods['model']['ssim']['mean']:.3f}" in out
    assert scores["images"]["nuclear_ratio"]["real_right_side"] == 1
    assert {tuple(found) for found in scores["images"]["traces"].values()} == {("grid", "frame")}
    assert [row["protein"] for row in scores["independent"]] == ["Q16630", "P33240", "P13639"]
    assert np.array(scores["cross_assay"]["ratios"]).shape == (6, 4)
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"examples.png", "cutoffs.png", "cross_assay.png", "matrix_by_crop.png", "curves_by_protein.png"} <= figures


def test_the_paper_s_tables_and_figures(run_script, trained, tiny_crops, tiny_proteins, tmp_path):
    rows = [row for row in load_dataset(str(tiny_proteins), split="test")]
    lines = [f"{row['uniprot_id']},{'Nucleus' if row['label'] else 'Cytoplasm'}" for row in rows]
    (tmp_path / "tool.csv").write_text("\n".join(["protein_id,localization", *lines]) + "\n")
    data = ["--images", f"{tiny_crops / 'cells'}:cells", "--proteins", tiny_proteins, "--sequences", 1, "--limit", 2]
    out = tmp_path / "paper"
    models = ["--model", f"sequence={trained}", "--model", f"again={trained}"]
    command = "training.deepgps.paper", *models, *data, "--tool", f"known={tmp_path / 'tool.csv'}"
    code, _, error = run_script(*command, "--out", out)
    assert code == 0, error
    text = (out / "tables.md").read_text()
    assert "| known, single-2, by protein | 6 | 0.500 | 1.000 | 0.000 |" in text  # two proteins share an accession
    assert "sequence, by crop" in text and "again, nucleus copied" in text
    assert Image.open(out / "variants.png").width > 300
    for name in ("sequence", "again"):
        assert {"scores.json", "examples.png", "cutoffs.png"} <= {path.name for path in (out / name).iterdir()}
    code, _, error = run_script(*command, "--model", f"again={trained}", "--out", out)
    assert code == 2 and "two models have the name 'again'" in error


@pytest.fixture(scope="module")
def adversarial(tiny_crops, tiny_proteins, tmp_path_factory) -> Path:
    """A model that is told labels alone and learns to deceive a discriminator, in two sittings."""
    folder = tmp_path_factory.mktemp("runs") / "adversarial"
    model = ["objective=adversarial", "condition_on_label=true", "condition_on_residues=false", "head_channels=4"]
    overrides = [f"model.{field}" for field in model] + [f"proteins={tiny_proteins}", "validation_by=source_image"]
    overrides += ["discriminator_channels=4", "balance_classes=true", "proteins_per_step=4", "ema_decay=0.5"]
    train(folder, tiny_crops, *overrides, "epochs=1", config="cells")
    (latest,) = (folder / "checkpoints").iterdir()
    assert {"model.safetensors", "model_1.safetensors", "optimizer_1.bin"} <= {path.name for path in latest.iterdir()}
    assert "resumed from" in train(folder, tiny_crops, *overrides, "epochs=2", "resume=true", config="cells")
    return folder


@pytest.mark.slow
def test_an_adversarial_model_draws_from_noise(adversarial):
    report = json.loads((adversarial / "training.json").read_text())
    assert {"texture_error", "image_loss", "psnr", "accuracy"} <= set(report["validation"]["best"])
    draw = pipeline("protein-imaging", model=AutoModel.from_pretrained(adversarial), processor=str(adversarial))
    protein = {"sequence": "MPKKKRKV", "nucleus": None}
    first, again, other = (np.asarray(draw(protein, seed=seed)["image"]) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert draw(protein, seed=0, num_samples=2)["uncertainty"].size == (208, 208)


@pytest.mark.slow
def test_labels_of_another_encoder_and_the_same_images(run_script, adversarial, trained, tiny_proteins, tmp_path):
    unirep = tmp_path / "unirep"
    tiny_unirep().save_pretrained(unirep)
    build_tokenizer().save_pretrained(unirep)
    sequences = [row["sequence"] for part in load_dataset(str(tiny_proteins)).values() for row in part]
    embed(sequences, tmp_path / "embeddings", str(unirep), project=6)
    config = ROOT / "training" / "configs" / "deepgps_unirep.yaml"
    arguments = [config, f"proteins={tiny_proteins}", f"embeddings={tmp_path / 'embeddings'}", f"backbone={unirep}"]
    arguments += [f"output_dir={tmp_path / 'run'}", "epochs=2", "batch_size=4"]
    code, _, error = run_script("training.deepgps.label_head", *arguments, f"initial_weights={adversarial}")
    assert code == 0, error
    model, before = (AutoModel.from_pretrained(path).eval() for path in (tmp_path / "run", adversarial))
    nucleus = torch.rand(1, 1, 64, 64)
    label, images = torch.tensor([1]), []
    for one in (model, before):
        images.append(one.generate(nucleus, labels=label, generator=torch.Generator().manual_seed(0)).protein_image)
    torch.testing.assert_close(*images)
    reader = build_tokenizer()
    embeddings = ResidueEmbeddings(tmp_path / "embeddings")
    for text in sequences[:3]:
        found = model(**reader(text, return_tensors="pt")).logits
        known = {"residue_embeddings": embeddings[text][None].float(), "residue_mask": torch.ones(1, len(text))}
        torch.testing.assert_close(model(**known).logits, found, atol=2e-3, rtol=2e-3)
    draw = pipeline("protein-imaging", model=model, processor=str(tmp_path / "run"))
    assert draw({"sequence": "MPKKKRKVKK", "nucleus": None})["label"] in IMAGE_CLASSES

    ship(tmp_path / "run", tmp_path / "shipped", tmp_path / "run" / "model.safetensors")
    kept = load_file(tmp_path / "shipped" / "model.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"projection", "project", "classifier"}
    with pytest.raises(ValueError, match="draws otherwise than deepgps"):
        ship(tmp_path / "run", tmp_path / "other")
    other = [f"output_dir={tmp_path / 'none'}"]
    code, _, error = run_script("training.deepgps.label_head", *arguments, f"initial_weights={trained}", *other)
    assert code == 2 and "draws from more than a label" in error


@pytest.mark.slow
def test_a_classifier_judges_what_is_drawn(run_script, adversarial, trained, split_cells, tmp_path):
    arguments = ["--model", adversarial, "--images", f"{split_cells}:cells", "--epochs", 2, "--nuclei", 3]
    files = ["--out", tmp_path / "judge.json", "--panel", tmp_path / "panel.png"]
    code, _, error = run_script("training.deepgps.judge", *arguments, *files)
    assert code == 0, error
    found = json.loads((tmp_path / "judge.json").read_text())
    assert found["real"]["images"] == 18 and found["drawn"]["images"] == 2 * 3
    for part in ("real", "drawn"):
        low, high = found[part]["interval"]
        assert low <= found[part]["right"] <= high and set(found[part]["classes"]) == {"cytoplasm", "nucleoplasm"}
    assert Image.open(tmp_path / "panel.png").width > 300
    code, _, error = run_script("training.deepgps.judge", *arguments[2:], "--model", trained)
    assert code == 2 and "draws proteins, not compartments" in error


@pytest.mark.slow
def test_diffusion_is_judged_by_its_samples(run_script, tiny_crops, tmp_path):
    train(tmp_path / "run", tiny_crops, "epochs=1", "model.objective=diffusion")
    code, _, err = run_script(
        *("training.deepgps.evaluate", "--model", tmp_path / "run", "--images", f"{tiny_crops / 'known'}:known"),
        *("--samples", 2, "--steps", 2, "--limit", 2, "--out", tmp_path / "scores.json"),
    )
    assert code == 0, err
    found = json.loads((tmp_path / "scores.json").read_text())["images"]["methods"]["model"]
    assert found["best_psnr"]["mean"] >= found["sample_psnr"]["mean"]
    assert 0 <= found["within_2_spreads"]["mean"] <= 1


@pytest.mark.slow
def test_the_published_network_and_schedule(tiny_crops, tiny_backbones, tmp_path):
    train(
        *(
            tmp_path / "run",
            tiny_crops,
            "model.unet=paper",
            "model.patch_size=1",
            "model.pooling=mean",
            "schedule=decay",
        ),
        *("model.image_loss=mae", f"backbone={tiny_backbones['esm']}", "backbone_training=lora", "batch_size=2"),
    )
    events = EventAccumulator(str(tmp_path / "run" / "logs" / "tensorboard")).Reload()
    rates = sorted({event.value for event in events.Scalars("train/lr")})
    assert rates == pytest.approx([2e-3 * 0.81, 2e-3 * 0.9, 2e-3])
    assert AutoModel.from_pretrained(tmp_path / "run").config.backbone_config.model_type == "esm"


@pytest.mark.slow
def test_embeddings_computed_before_give_the_same_training(tiny_crops, tiny_deeploc_dir, tmp_path):
    sequences = [SEQUENCES[name] + "A" * seed for seed, name in enumerate(list(SEQUENCES) * 8)]
    embed(sequences, tmp_path / "embeddings", str(tiny_deeploc_dir), dtype="float32")
    common = (f"backbone={tiny_deeploc_dir}", "mixed_precision=no", "epochs=1")
    train(tmp_path / "tokens", tiny_crops, *common)
    train(tmp_path / "embedded", tiny_crops, *common, f"embeddings={tmp_path / 'embeddings'}")
    one, other = (load_file(tmp_path / name / "best" / "model.safetensors") for name in ("tokens", "embedded"))
    for name in one:  # the embeddings are stored in bfloat16
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0.02)


@pytest.fixture(scope="module")
def tiny_deeploc_dir(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("models") / "deeploc"
    tiny_deeploc().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.unet_chanels=[8]"], "model.unet_chanels is no field of DeepGPSConfig"),
        (["labels=[nucleus]"], "labels: 'nucleus' is none of the data's: ER, Golgi"),
        (["validation_share=0"], "validation_share must be between 0 and 1, got 0.0"),
        (["schedule=linear"], "schedule must be one of cosine, constant, decay, got 'linear'"),
        (["embeddings=/nowhere"], "/nowhere holds no embeddings.safetensors.index.json: make it with protloc embed"),
        (["embeddings=/nowhere", "backbone_training=full"], "embeddings are those of a frozen encoder"),
        (["backbone=/nowhere"], "cannot build on '/nowhere'"),
        (["backbone=deeploc", "initial_weights=deepgps"], "backbone and initial_weights both name an encoder"),
        (["initial_weights=deepgps", "model.latent_size=16"], "don't fit the settings of model: "),
        (["backbone_training=lora"], "a DeepLoc encoder has no linear layers for LoRA"),
        (["batch_size=100"], "lower batch_size"),
        (["images=[{dataset: /nowhere, config: all}]"], "cannot read the data"),
        (["proteins=x", "model.inputs=structure"], "proteins have sequences and no structures"),
        (["model.unet=paper"], "unet 'paper' reads single pixels"),
    ],
)
def test_settings_that_make_no_sense(run_script, tiny_crops, tmp_path, overrides, message):
    images = f"images=[{{dataset: {tiny_crops / 'known'}, config: known}}]"
    arguments = [TOY, images, f"output_dir={tmp_path / 'run'}", *overrides]
    code, _, err = run_script("training.deepgps.train", *arguments)
    assert code == 2
    assert err.splitlines()[-1].startswith("training.deepgps.train: ") and message in err.splitlines()[-1]
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_cells_of_unknown_proteins_need_partners(run_script, tiny_crops, tmp_path):
    images = f"images=[{{dataset: {tiny_crops / 'cells'}, config: cells}}]"
    code, _, err = run_script("training.deepgps.train", TOY, images, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and "crops without a sequence need `proteins`" in err


def test_what_is_learnt_is_not_scored(run_script, tiny_crops, tiny_proteins, tmp_path):
    """Folders of two builds with other splits."""
    mixed = shutil.copytree(tiny_crops / "known", tmp_path / "crops")
    shutil.copy(mixed / "data" / "train.parquet", mixed / "data" / "test.parquet")
    images = f"images=[{{dataset: {mixed}, config: known}}]"
    code, _, err = run_script("training.deepgps.train", TOY, images, f"output_dir={tmp_path / 'run'}")
    assert code == 2 and "crops, such as 'M0', are both trained on and held out: build the data set anew" in err

    mixed = shutil.copytree(tiny_proteins, tmp_path / "proteins")
    shutil.copy(mixed / "data" / "train.parquet", mixed / "data" / "validation.parquet")
    card = (mixed / "README.md").read_text()  # `load_dataset` caches by the folder's name and this
    (mixed / "README.md").write_text(card.replace("  data_files:", "  description: mixed\n  data_files:"))
    images = f"images=[{{dataset: {tiny_crops / 'known'}, config: known}}]"
    options = [TOY, images, f"output_dir={tmp_path / 'run'}", f"proteins={mixed}"]
    code, out, err = run_script("training.deepgps.train", *options)
    assert code == 2, (out, err)
    assert "sequences of" in err and "are both trained on and held out" in err


def test_embeddings_of_other_weights(run_script, tiny_crops, tiny_backbones, tiny_deeploc_dir, tmp_path):
    embed(["MK"], tmp_path / "embeddings", str(tiny_backbones["esm"]))
    images = f"images=[{{dataset: {tiny_crops / 'known'}, config: known}}]"
    arguments = [TOY, images, f"output_dir={tmp_path / 'run'}", f"embeddings={tmp_path / 'embeddings'}"]
    code, _, err = run_script("training.deepgps.train", *arguments, f"backbone={tiny_deeploc_dir}")
    assert code == 2 and "holds residue embeddings of other weights than" in err


def test_of_a_complex_the_chain_of_the_sequence_is_read(tmp_path):
    (tmp_path / "P1.pdb").write_bytes(structures()[0])
    reader = ProteinReader(DeepGPSConfig(inputs="structure"), None, None, str(tmp_path))
    cloud = reader(["GGSW"], ["P1"])["structure"][0].numpy()
    assert np.array_equal(cloud, point_cloud(tmp_path / "P1.pdb", chain="B"))
    assert not np.array_equal(cloud, reader(["MKVAAGHC"], ["P1"])["structure"][0].numpy())


@pytest.mark.slow
def test_structures(run_script, tiny_crops, data_dir, tmp_path):
    """Without the sequence; the accessions of the crops stand for real structures."""
    folder = tmp_path / "structures"
    folder.mkdir()
    for number, path in enumerate(sorted((data_dir / "structures").glob("*.pdb.gz"))[:16]):
        shutil.copyfile(path, folder / f"AF-P{number}-F1-model_v6.pdb.gz")
    options = ("model.inputs=structure", f"structures={folder}", "epochs=1")
    train(tmp_path / "run", tiny_crops, *options)
    code, out, err = run_script(
        *("training.deepgps.evaluate", "--model", tmp_path / "run", "--images", f"{tiny_crops / 'known'}:known"),
        *("--structures", folder, "--limit", 2),
    )
    assert code == 0, err
    assert "2 images of 2 crops" in out
    code, _, err = run_script(
        *("training.deepgps.train", TOY, f"images=[{{dataset: {tiny_crops / 'known'}, config: known}}]"),
        *(f"output_dir={tmp_path / 'other'}", "model.inputs=structure"),
    )
    assert code == 2 and "the model reads structures: name their folder" in err


@pytest.mark.slow
def test_a_killed_run_resumes_as_if_never_stopped(tiny_crops, tiny_proteins, tmp_path):
    overrides = (f"proteins={tiny_proteins}", "checkpoint_steps=1", "epochs=3", "batch_size=2", "mixed_precision=no")
    train(tmp_path / "whole", tiny_crops, *overrides)
    images = f"images=[{{dataset: {tiny_crops / 'known'}, config: known}}]"
    arguments = [TOY, images, f"output_dir={tmp_path / 'cut'}", "limit=null", *overrides]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    script = [sys.executable, *TRAIN[-2:], *arguments]
    process = subprocess.Popen(script, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "checkpoints" / "step_2").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / "training.json").exists()
    out = train(tmp_path / "cut", tiny_crops, *overrides, "resume=true")
    assert "resumed from" in out
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], rtol=0, atol=0)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(tiny_crops, tiny_proteins, tmp_path):
    overrides = (f"proteins={tiny_proteins}", "epochs=1", "mixed_precision=no", "model.dropout=0.0")
    train(tmp_path / "one", tiny_crops, *overrides, "batch_size=4", "proteins_per_step=4")
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *TRAIN[-2:]]
    train(tmp_path / "two", tiny_crops, *overrides, "batch_size=2", "proteins_per_step=2", command=two)
    # Biases in front of a normalization have no gradient but rounding, which Adam enlarges: the answers are the same.
    answers = []
    for name in ("one", "two"):
        model = AutoModel.from_pretrained(tmp_path / name / "best").eval()
        tokens = {"input_ids": torch.arange(4, 24)[None], "attention_mask": torch.ones(1, 20, dtype=torch.long)}
        nucleus = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
        answers.append(model.generate(nucleus, **tokens))
    for head in ("logits", "protein_image"):
        torch.testing.assert_close(answers[0][head], answers[1][head], rtol=0, atol=1e-4)
    losses = []
    for name in ("one", "two"):
        report = json.loads((tmp_path / name / "training.json").read_text())
        losses.append(report["validation"]["epochs"][-1])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_crops_are_balanced_and_moved_together(split_cells):
    crops = Crops(
        load_crops([ImageSource(str(split_cells), "cells")], "train", IMAGE_CLASSES[:2]),
        *({}, None, DeepGPSConfig(image_size=64), True, 0),
    )
    crops.repeats = [3.0 if label else 1.0 for label in crops.crops["class"]]
    crops.balance()
    totals = [
        sum(r for r, c in zip(crops.repeats, crops.crops["class"], strict=True) if c == label) for label in (0, 1)
    ]
    assert totals == pytest.approx([len(crops) / 2] * 2)
    row, again = crops[0, 0], crops[0, 0]
    assert row["nucleus"].shape == row["protein"].shape == (1, 64, 64) and (row["nucleus"] == again["nucleus"]).all()
    assert not torch.equal(row["nucleus"], crops[0, 1]["nucleus"])
    image = torch.rand(1, 90, 80)
    nucleus, protein = augmented(image, image, 64, np.random.default_rng(0))
    assert np.corrcoef(nucleus.flatten(), protein.flatten())[0, 1] > 0.9  # one movement for both
