"""What tests import: tiny models, made-up files, and the command run in this process or without protloc."""

import contextlib
import csv
import io
import os
import random
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import torch

import protloc_entry
from protloc import (
    DeepGPSConfig,
    DeepGPSModel,
    DeepLocConfig,
    DeepLocForSequenceClassification,
    UniRepConfig,
    UniRepForCausalLM,
)
from protloc.models.residue_features import BLOSUM62, RESIDUES
from protloc.taxonomy import COMPARTMENTS, KINGDOMS

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
SEQUENCES = {"cytoplasmic": "MKLLVAGEDLKKA", "nucleoplasm": "MPKKKRKVSPKKKRKVR"}


def tiny_deeploc(**overrides) -> DeepLocForSequenceClassification:
    """A random DeepLoc of a few thousand weights, ready to predict."""
    torch.manual_seed(0)
    return DeepLocForSequenceClassification(DeepLocConfig(**{**TINY_DEEPLOC, **overrides})).eval()


def assert_alike(one: Any, other: Any, atol: float = 1e-6) -> None:
    """Two answers, as JSON has them, of processes whose threads may add in another order."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list):
        assert len(one) == len(other)
        for value, another in zip(one, other, strict=True):
            assert_alike(value, another, atol)
    elif isinstance(one, float):
        assert abs(one - other) <= atol * max(1, abs(one)), (one, other)
    else:
        assert one == other


TINY_UNIREP = {"hidden_size": 16, "num_hidden_layers": 2}


def tiny_unirep(**overrides) -> UniRepForCausalLM:
    """A random UniRep of two layers."""
    torch.manual_seed(0)
    return UniRepForCausalLM(UniRepConfig(**{**TINY_UNIREP, **overrides})).eval()


def tiny_deepgps(**overrides) -> DeepGPSModel:
    """A random deepGPS of a few thousand weights, ready to predict."""
    torch.manual_seed(0)
    return DeepGPSModel(DeepGPSConfig(**{**TINY_DEEPGPS, **overrides})).eval()


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
