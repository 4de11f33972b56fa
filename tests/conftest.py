"""Fixtures for every test. Caches go to a temporary folder, and the Hub is one of our own, on loopback."""

import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

_HOME = tempfile.TemporaryDirectory(prefix="protloc-tests-")
os.environ["HF_HOME"] = _HOME.name
from tests.hub.local_hub import HUB

os.environ["HF_ENDPOINT"] = HUB.url
os.environ["HF_HUB_DISABLE_XET"] = "1"  # the client then speaks LFS, which is what our Hub understands
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"  # bars would stand before errors
for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
    os.environ.pop(name, None)
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from transformers import BertConfig, BertModel, BertTokenizer, EsmConfig, EsmModel, EsmTokenizer, pipeline

from protloc import ASSETS
from protloc.loading import load_model
from protloc.microscopy import simulate
from protloc.models.residue_features import VOCABULARY
from protloc.taxonomy import IMAGE_CLASSES, OPENCELL_CATEGORIES
from tests.helpers import ROOT, SEQUENCES, TINY_ESM, deeploc2_csv, signals_csv, tiny_deeploc


@pytest.fixture
def hub(monkeypatch):
    """Our own Hub, empty, and a token to write to the repositories of `owner`."""
    HUB.reset()
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    yield HUB
    HUB.reset()


@pytest.fixture
def fasta(request, tmp_path) -> Path:
    """The test file's own `FASTA`."""
    path = tmp_path / "proteins.fasta"
    path.write_text(request.module.FASTA)
    return path


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


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Run a script of the repository, by its module, in this process: exit code, standard output, standard error."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        AcceleratorState._reset_state(reset_partial_state=True)  # of another test: a process has one
        monkeypatch.delitem(sys.modules, script, raising=False)  # of tests that import it; runpy warns of it
        code = 0
        try:
            runpy.run_module(script, run_name="__main__", alter_sys=True)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory) -> Path:
    """A small data set with sorting signals in the form that `build_deeploc.py` gives it."""
    folder = tmp_path_factory.mktemp("data")
    source = deeploc2_csv(folder / "deeploc2.csv")
    signals = signals_csv(folder / "signals.csv", source)
    build = [sys.executable, "-m", "datasets_scripts.build_deeploc", "--out", folder / "deeploc"]
    subprocess.run([*build, "--deeploc2", source, "--signals", signals], check=True, cwd=ROOT)
    return folder / "deeploc"


@pytest.fixture(scope="session")
def tiny_backbones(tmp_path_factory) -> dict[str, Path]:
    """Random transformers encoders with their tokenizers, as the Hub has them: an ESM-2 and a ProtBert."""
    folder = tmp_path_factory.mktemp("backbones")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    EsmModel(EsmConfig(**TINY_ESM)).save_pretrained(folder / "esm")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder / "esm")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"LAGVESIKRDTPNQFYMHCWXUBZO"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertModel(BertConfig(vocab_size=len(vocabulary), **sizes)).save_pretrained(folder / "protbert")
    BertTokenizer(str(folder / "vocab.txt"), do_lower_case=False).save_pretrained(folder / "protbert")
    return {"esm": folder / "esm", "protbert": folder / "protbert"}


SIDE = 176  # MS-SSIM needs 161 pixels


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
        "cell_line": ("HEK293T", "U-2 OS", "")[seed // 2 % 3],
        "field_id": f"F{seed}",
        "source_image": f"M{seed // 2}",
    }


def crop_features() -> Features:
    text = Value("string")
    names = ("sequence", "uniprot_id", "gene", "cell_line", "field_id", "source_image")
    return Features(
        {"nucleus": Image(), "protein": Image(), "labels": List(ClassLabel(names=OPENCELL_CATEGORIES))}
        | {name: text for name in names}
    )


@pytest.fixture(scope="session")
def tiny_crops(tmp_path_factory) -> Path:
    """Configuration `known`: sixteen crops with sequences, eight of them to learn with; `cells`: none has one."""
    folder = tmp_path_factory.mktemp("data")
    for config in ("known", "cells"):
        rows = [
            crop(name, seed, SEQUENCES[name] + "A" * seed if config == "known" else "")
            for seed, name in enumerate(list(SEQUENCES) * 8)
        ]
        write_dataset(folder / config, config, {"train": rows[:12], "test": rows[12:]}, crop_features())
    return folder


@pytest.fixture(scope="session")
def split_cells(tmp_path_factory) -> Path:
    """Configuration `cells` with a validation split too: eighteen crops of two classes in each."""
    folder = tmp_path_factory.mktemp("data") / "cells"
    cells = [crop(name, seed, "") for seed, name in enumerate(list(SEQUENCES) * 27)]
    splits = {split: cells[18 * i : 18 * i + 18] for i, split in enumerate(("train", "validation", "test"))}
    write_dataset(folder, "cells", splits, crop_features())
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
