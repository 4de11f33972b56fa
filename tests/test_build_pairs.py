"""Pairs of images and categories of one's own: the data set, and what a deepGPS starts with on it."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_dataset
from huggingface_hub import DatasetCard
from PIL import Image
from transformers import AutoModel

from protloc.microscopy import simulate
from tests.helpers import ROOT, tiny_deepgps
from training.deepgps.data import UNKNOWN, ImageSource, data_labels, hold_out, load_crops
from training.deepgps.train import load_initial


def write_pairs(folder: Path, rows: list[dict]) -> Path:
    """Fields of one's own: `pairs.csv` and its images."""
    for number in range(len(rows)):
        field = simulate(("nucleoplasm", "cytoplasmic")[number % 2], size=420, cells=6, seed=number)
        for part, image in (("nucleus", field.nucleus), ("protein", field.protein)):
            pixels = (image / image.max() * 65535).astype(np.uint16)
            Image.fromarray(pixels).save(folder / f"{number}_{part}.png")
    with open(folder / "pairs.csv", "w", newline="") as file:
        names = {name: None for row in rows for name in row}
        writer = csv.DictWriter(file, ["nucleus", "protein", *names], restval="")
        writer.writeheader()
        for number, row in enumerate(rows):
            writer.writerow({"nucleus": f"{number}_nucleus.png", "protein": f"{number}_protein.png", **row})
    return folder / "pairs.csv"


def test_own_pairs_with_own_categories(tmp_path, run_script):
    rows = [
        {"sequence": "MK" + "AG" * number, "label": "speckles" if number < 2 else "p bodies"} for number in range(4)
    ]
    rows[3]["label"] = "p bodies; speckles"
    table = write_pairs(tmp_path, [*rows, {"sequence": "MKV", "label": ""}])
    arguments = ["datasets_scripts.build_pairs", table, "--out", tmp_path / "mine", "--processes", "1"]
    code, _, err = run_script(*arguments)
    assert code == 0, err
    parts = load_dataset(str(tmp_path / "mine"), "all")
    names = parts["train"].features["labels"].feature.names
    assert names == ["p bodies", "speckles"] and "no label" in (tmp_path / "mine" / "unmatched.csv").read_text()
    crops = [row for part in parts.values() for row in part]
    found = {row["sequence"]: {names[i] for i in row["labels"]} for row in crops}
    assert found["MKAGAGAG"] == {"p bodies", "speckles"} and found["MK"] == {"speckles"}
    assert crops[0]["nucleus"].size == (208, 208)
    card = DatasetCard.load(tmp_path / "mine" / "README.md")
    assert "speckles" in card.text and card.data.license == "other"

    sources = [ImageSource(str(tmp_path / "mine"), "all")]
    assert data_labels(sources) == names
    train = load_crops(sources, "train", names)
    assert set(train["class"]) <= {0, 1, UNKNOWN}
    assert {label for sequence, label in zip(train["sequence"], train["class"], strict=True) if sequence == "MK"} <= {1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sequence": "MK1"}, "line 2: '1' at position 3 is not an amino-acid code"),
        ({"protein": "none.png"}, "line 2: there is no file"),
        ({"um_per_px": "0"}, "line 2: must be above 0, got 0"),
        ({"id": "1_nucleus"}, "line 3: there is a field '1_nucleus' already"),
    ],
)
def test_pairs_that_can_not_be_read(tmp_path, run_script, change, message):
    rows = [{"sequence": "MK", "label": "speckles"}, {"sequence": "MKV", "label": "p bodies"}]
    table = write_pairs(tmp_path, [rows[0] | change, rows[1]])
    code, _, err = run_script("datasets_scripts.build_pairs", table, "--out", tmp_path / "mine")
    assert code == 2 and message in err and err.count("\n") == 1 and not (tmp_path / "mine").exists()


def test_one_protein_at_least_validates(tmp_path, run_script):
    table = write_pairs(tmp_path, [{"sequence": "MK" + "AG" * number, "label": "speckles"} for number in range(3)])
    run_script("datasets_scripts.build_pairs", table, "--out", tmp_path / "mine", "--processes", "1")
    crops = load_crops([ImageSource(str(tmp_path / "mine"), "all")], "train", ["speckles"])
    train, validation = hold_out(crops, 0.001, "gene")
    assert len(set(validation["sequence"])) == 1 and not set(validation["sequence"]) & set(train["sequence"])


@pytest.mark.slow
def test_a_training_takes_the_labels_of_the_data_and_resumes(tmp_path, run_script, tokenizer):
    table = write_pairs(
        tmp_path, [{"sequence": "MK" + "AG" * n, "label": ("speckles", "p bodies")[n % 2]} for n in range(4)]
    )
    build = run_script("datasets_scripts.build_pairs", table, "--out", tmp_path / "mine", "--processes", "1")
    assert build[0] == 0, build[2]
    start = tiny_deepgps(patch_size=4, drawing_margin=2, drawing_shifts=4)
    start.save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    settings = [f"images=[{{dataset: {tmp_path / 'mine'}, config: all}}]", f"initial_weights={tmp_path / 'start'}"]
    settings += [f"output_dir={tmp_path / 'run'}", "epochs=1", "batch_size=1", "mixed_precision=no"]
    recipe = ROOT / "training" / "configs" / "deepgps_finetune.yaml"
    code, out, err = run_script("training.deepgps.train", recipe, *settings)
    assert code == 0, err
    model = AutoModel.from_pretrained(tmp_path / "run")
    assert list(model.config.id2label.values()) == ["p bodies", "speckles"]
    # Validation drew once; the model that is kept draws as the one that it began with.
    assert (model.config.drawing_margin, model.config.drawing_shifts) == (2, 4)
    code, out, err = run_script("training.deepgps.train", recipe, *settings, "resume=true")
    assert code == 0 and "run is complete" in out, err


@pytest.mark.parametrize("labels", [["speckles", "p bodies"], ["a", "b", "c"]])
def test_other_labels_keep_the_trained_layers(tmp_path, labels):
    start = tiny_deepgps(condition_on_label=True)
    start.save_pretrained(tmp_path)
    model = load_initial(str(tmp_path), {"id2label": dict(enumerate(labels))}, {"dropout": 0.4})
    assert list(model.config.id2label.values()) == labels and model.config.num_labels == len(labels)
    assert model.config.dropout == 0.4 and model.config.latent_size == start.config.latent_size
    before, after = start.state_dict(), model.state_dict()
    for name, weight in after.items():
        anew = name.startswith((f"classifier.{len(model.classifier) - 1}.", "label_latent."))
        assert (before[name].shape == weight.shape and torch.equal(before[name], weight)) != anew, name
    with pytest.raises(ValueError, match="don't fit the settings of model: "):
        load_initial(str(tmp_path), {"id2label": dict(enumerate(labels))}, {"latent_size": 8})


def test_the_same_labels_keep_all(tmp_path):
    start = tiny_deepgps()
    start.save_pretrained(tmp_path)
    model = load_initial(str(tmp_path), {"id2label": start.config.id2label}, {})
    assert all(torch.equal(weight, start.state_dict()[name]) for name, weight in model.state_dict().items())
