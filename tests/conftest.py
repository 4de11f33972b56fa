"""Fixtures for every test. Caches go to a temporary folder, and the Hub is one of our own, on loopback."""

import contextlib
import csv
import io
import os
import random
import runpy
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

_HOME = tempfile.TemporaryDirectory(prefix="protloc-tests-")
os.environ["HF_HOME"] = _HOME.name
from hub.local_hub import LocalHub

HUB = LocalHub()
os.environ["HF_ENDPOINT"] = HUB.url
os.environ["HF_HUB_DISABLE_XET"] = "1"  # the client then speaks LFS, which is what our Hub understands
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
    os.environ.pop(name, None)
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from transformers import BertConfig, BertModel, BertTokenizer, EsmConfig, EsmModel, pipeline

import protloc_entry
from protloc import ASSETS, DeepGPSConfig, DeepGPSModel, DeepLocConfig, DeepLocForSequenceClassification
from protloc.microscopy import simulate
from protloc.models.residue_features import BLOSUM62, RESIDUES
from protloc.prediction import load_model
from protloc.taxonomy import COMPARTMENTS, IMAGE_CLASSES, KINGDOMS, OPENCELL_CATEGORIES

ROOT = Path(__file__).parents[1]

TINY_DEEPLOC = {
    "embedding_size": 8,
    "conv_filters": 4,
    "second_conv_channels": 12,
    "lstm_size": 8,
    "attention_size": 8,
    "decoder_size": 8,
    "decoder_steps": 3,
    "hidden_size": 16,
    "max_length": 60,
}


def tiny_deeploc(**overrides) -> DeepLocForSequenceClassification:
    """A random DeepLoc of a few thousand weights, ready to predict."""
    torch.manual_seed(0)
    return DeepLocForSequenceClassification(DeepLocConfig(**{**TINY_DEEPLOC, **overrides})).eval()


TINY_ESM = {
    "model_type": "esm",
    "vocab_size": 33,
    "pad_token_id": 1,
    "mask_token_id": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
TINY_DEEPGPS = {
    "backbone_config": TINY_ESM,
    "latent_size": 16,
    "classifier_sizes": [8, 8, 8],
    "unet_channels": [8, 8, 16],
    "attention_head_size": 8,
    "image_size": 16,
}


def tiny_deepgps(**overrides) -> DeepGPSModel:
    """A random deepGPS of a few thousand weights, ready to predict."""
    torch.manual_seed(0)
    return DeepGPSModel(DeepGPSConfig(**{**TINY_DEEPGPS, **overrides})).eval()


@pytest.fixture
def hub(monkeypatch):
    """Our own Hub, empty, and a token to write to the repositories of `owner`."""
    HUB.reset()
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    yield HUB
    HUB.reset()


@pytest.fixture(scope="session")
def tokenizer():
    return load_model(ASSETS / "deeploc")[1]


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory, tokenizer) -> Path:
    """A folder as training leaves it: weights, configuration, tokenizer and remote code."""
    folder = tmp_path_factory.mktemp("tiny") / "deeploc"
    pipeline("protein-localization", model=tiny_deeploc(), tokenizer=tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real data, which are not part of the repository."""
    folder = Path(os.environ.get("PROTLOC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}; set PROTLOC_DATA to their folder")
    return folder


def run_protloc(*arguments) -> tuple[int, str, str]:
    """The `protloc` command in this process: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv
    sys.argv = ["protloc", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            protloc_entry.main()
    except SystemExit as stop:
        return int(stop.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("the command always ends with an exit code")


def run_without_protloc(script: str, *arguments, cache: Path, **environment: str) -> str:
    """Run Python with this environment's packages but not protloc: `-S` leaves the editable install's .pth unread."""
    env = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "HF_HOME": str(cache), **environment}
    command = [sys.executable, "-S", "-c", script, *map(str, arguments)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, cwd=cache)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run a script of the repository in this process: exit code, standard output, standard error."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *map(str, arguments)])
        monkeypatch.syspath_prepend((ROOT / script).parent)  # as Python does for a script
        code = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def deeploc2_csv(path: Path, proteins: int = 80) -> Path:
    """A made-up file in the layout of DeepLoc 2.0: residues tell the label, so that there is something to learn."""
    generator = random.Random(0)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ACC", "Kingdom", "Partition", "Membrane", *COMPARTMENTS, "Sequence"])
        for i in range(proteins):
            labels = {i % 10} | ({(i + 1) % 10} if i % 4 == 0 else set())
            sequence = "M" + "".join(generator.choices("ACDEFGHIKL"[i % 10] + "MNPQ", k=generator.randint(20, 90)))
            flags = [float(label in labels) for label in range(10)]
            writer.writerow([f"P{i:05}", KINGDOMS[i % 4], i // 10 % 4, float(i % 3 == 0), *flags, sequence])
    return path


def signals_csv(path: Path, source: Path) -> Path:
    """A signal, of a kind that goes with the label, in the first residues of every other protein."""
    with open(source) as proteins, open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["accession", "sequence", "annotation"])
        for i, row in enumerate(csv.DictReader(proteins)):
            if i % 2 == 0:
                digits = f"{i % 10 or 1}" * 5
                writer.writerow([row["ACC"], row["Sequence"], digits.ljust(len(row["Sequence"]), "0")])
    return path


def write_pssm(path: Path, sequence: str) -> Path:
    """A profile in the layout of `psiblast -out_ascii_pssm`: BLOSUM62's row of each residue, and no counts."""
    lines = ["", "Last position-specific scoring matrix computed", "         " + "  ".join(RESIDUES * 2)]
    for i, residue in enumerate(sequence, start=1):
        scores = " ".join(f"{score:3}" for score in BLOSUM62.get(residue, [-1] * 20))
        lines.append(f"{i:5} {residue} {scores} {' '.join(['0'] * 20)} 0.00 0.00")
    lines += ["", "                      K         Lambda", "PSI Ungapped         0.1334     0.3157"]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """A small data set with sorting signals in the form that `build_deeploc.py` gives it."""
    folder = tmp_path_factory.mktemp("data")
    source = deeploc2_csv(folder / "deeploc2.csv")
    signals = signals_csv(folder / "signals.csv", source)
    script = ROOT / "datasets_scripts" / "build_deeploc.py"
    options = ["--deeploc2", source, "--signals", signals, "--out", folder / "deeploc"]
    subprocess.run([sys.executable, script, *options], check=True)
    return folder / "deeploc"


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory, tokenizer) -> dict[str, Path]:
    """Random transformers encoders with their tokenizers, as the Hub has them: an ESM-2 and a ProtBert."""
    folder = tmp_path_factory.mktemp("backbones")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    EsmModel(EsmConfig(**TINY_ESM)).save_pretrained(folder / "esm")
    tokenizer.save_pretrained(folder / "esm")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"LAGVESIKRDTPNQFYMHCWXUBZO"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder / "protbert")
    BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder / "protbert")
    return {"esm": folder / "esm", "protbert": folder / "protbert"}


SIDE = 176  # MS-SSIM needs 161 pixels
SEQUENCES = {"cytoplasmic": "MKLLVAGEDLKKA", "nucleoplasm": "MPKKKRKVSPKKKRKVR"}


def write_dataset(folder: Path, config: str, splits: dict[str, list[dict]], features: Features) -> None:
    """A folder that `load_dataset` reads, as the builders leave it."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    lines = ["---", "configs:", f"- config_name: {config}", "  data_files:"]
    for split, rows in splits.items():
        Dataset.from_list(rows, features=features).to_parquet(folder / "data" / f"{split}.parquet")
        lines += [f"  - split: {split}", f"    path: data/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", f"# {folder}"]))


def crop(category: str, seed: int, sequence: str) -> dict:
    field = simulate(category, size=SIDE, seed=seed)
    images = [np.round(np.clip(i / i.max(), 0, 1) * 65535).astype(np.uint16) for i in (field.nucleus, field.protein)]
    return {
        "nucleus": PILImage.fromarray(images[0]),
        "protein": PILImage.fromarray(images[1]),
        "sequence": sequence,
        "uniprot_id": f"P{seed}",
        "gene": f"GENE{seed // 2}",
        "labels": [category],
        "field_id": f"F{seed}",
        "source_image": f"M{seed // 2}",
    }


@pytest.fixture(scope="session")
def tiny_crops(tmp_path_factory) -> Path:
    """Configuration `known`: sixteen crops with sequences, eight of them to learn with; `cells`: none has one."""
    folder = tmp_path_factory.mktemp("data")
    text = Value("string")
    names = ("sequence", "uniprot_id", "gene", "field_id", "source_image")
    features = Features(
        {"nucleus": Image(), "protein": Image(), "labels": List(ClassLabel(names=OPENCELL_CATEGORIES))}
        | {name: text for name in names}
    )
    for config in ("known", "cells"):
        rows = [
            crop(name, seed, SEQUENCES[name] + "A" * seed if config == "known" else "")
            for seed, name in enumerate(list(SEQUENCES) * 8)
        ]
        write_dataset(folder / config, config, {"train": rows[:12], "test": rows[12:]}, features)
    return folder


@pytest.fixture(scope="session")
def tiny_proteins(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "proteins"
    features = Features(
        {"sequence": Value("string"), "uniprot_id": Value("string"), "gene": Value("string")}
        | {"label": ClassLabel(names=IMAGE_CLASSES), "source_labels": Value("string")}
        | {"source": Value("string"), "human": Value("bool")}
    )
    known = list(zip(SEQUENCES, IMAGE_CLASSES, strict=False))
    rows = [
        {"sequence": SEQUENCES[name] + "G" * number, "uniprot_id": f"Q{number}", "gene": "", "label": label,
         "source_labels": name, "source": "OpenCell" if number % 2 else "DeepLoc 2.0", "human": number % 3 > 0}
        for number in range(12) for name, label in known
    ]  # fmt: skip
    write_dataset(folder, "default", {"train": rows[:12], "validation": rows[12:18], "test": rows[18:]}, features)
    return folder
