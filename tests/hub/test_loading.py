"""Models and data sets loaded from the Hub, with protloc and without it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

from protloc import ASSETS, DeepGPSModel, DeepGPSProcessor, DeepLocForSequenceClassification, DeepLocModel
from tests.helpers import ROOT, assert_alike, run_protloc, run_without_protloc
from training.common.cards import INSULIN, SV40_SIGNAL

PROTEINS = [INSULIN, SV40_SIGNAL]
NUCLEUS = ROOT / "examples" / "nucleus.tif"


@pytest.fixture
def pushed(hub):
    """Both shipped models on the Hub."""
    for family in ("deeploc", "deepgps"):
        assert run_protloc("push", "model", ASSETS / family, f"owner/{family}")[0] == 0
    return hub


def test_auto_classes_need_no_remote_code_where_protloc_is(pushed):
    assert type(AutoConfig.from_pretrained("owner/deeploc")).__module__.startswith("protloc.")
    assert type(AutoTokenizer.from_pretrained("owner/deeploc")).__name__ == "TokenizersBackend"
    assert type(AutoModel.from_pretrained("owner/deeploc")) is DeepLocModel
    model = AutoModelForSequenceClassification.from_pretrained("owner/deeploc")
    assert type(model) is DeepLocForSequenceClassification
    shipped = AutoModelForSequenceClassification.from_pretrained(ASSETS / "deeploc")
    assert all(tensor.equal(shipped.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert type(AutoModel.from_pretrained("owner/deepgps")) is DeepGPSModel
    assert type(AutoProcessor.from_pretrained("owner/deepgps")) is DeepGPSProcessor
    assert type(AutoImageProcessor.from_pretrained("owner/deepgps")).__module__.startswith("protloc.")


def test_a_custom_pipeline_needs_consent(pushed):
    for task, repo in (("protein-localization", "owner/deeploc"), ("protein-imaging", "owner/deepgps")):
        with pytest.raises(ValueError, match="trust_remote_code"):
            pipeline(task, model=repo, trust_remote_code=False)


def test_a_revision_is_what_it_was(pushed, tmp_path):
    first = pushed.repo("owner/deeploc").refs["main"]
    before = AutoModelForSequenceClassification.from_pretrained("owner/deeploc", revision=first)
    changed = AutoModelForSequenceClassification.from_pretrained(ASSETS / "deeploc")
    with torch.no_grad():
        changed.get_parameter("classifier.weight").zero_()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "deeploc")
    pipeline("protein-localization", model=changed, tokenizer=tokenizer).save_pretrained(tmp_path / "changed")
    (tmp_path / "changed" / "README.md").write_text("---\nlicense: mit\n---\n")
    assert run_protloc("push", "model", tmp_path / "changed", "owner/deeploc")[0] == 0
    after = AutoModelForSequenceClassification.from_pretrained("owner/deeploc")
    pinned = AutoModelForSequenceClassification.from_pretrained("owner/deeploc", revision=first)
    assert not after.get_parameter("classifier.weight").any()
    assert pinned.get_parameter("classifier.weight").equal(before.get_parameter("classifier.weight"))


def test_predictions_with_a_model_from_the_hub(pushed, tmp_path):
    (tmp_path / "in.fasta").write_text(f">insulin\n{INSULIN}\n")
    answers = [
        run_protloc("predict", tmp_path / "in.fasta", "--dtype", "float32", *options)
        for options in ([], ["--model", "owner/deeploc"])
    ]
    assert answers[0][0] == 0 and answers[0] == answers[1]


@pytest.mark.parametrize(
    ("repo", "options", "token", "said"),
    [
        ("owner/nothing", {}, "hf_owner", "owner/nothing"),
        ("owner/secret", {"private": True}, "hf_other", "owner/secret"),
        ("owner/gated", {"gated": True}, "hf_other", "gated"),
    ],
)
def test_what_may_not_be_read(hub, monkeypatch, tmp_path, repo, options, token, said):
    if options:
        hub.add(repo, {"config.json": (ASSETS / "deeploc" / "config.json").read_bytes()}, **options)
    monkeypatch.setenv("HF_TOKEN", token)
    (tmp_path / "in.fasta").write_text(f">insulin\n{INSULIN}\n")
    code, out, err = run_protloc("predict", tmp_path / "in.fasta", "--model", repo)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert err.startswith(f"protloc: cannot load the model '{repo}': ") and said in err and token not in err


def test_data_sets_load_and_stream(tiny_crops, tiny_proteins, hub):
    assert run_protloc("push", "dataset", tiny_crops / "known", "owner/crops")[0] == 0
    assert run_protloc("push", "dataset", tiny_proteins, "owner/proteins", "--private")[0] == 0
    there, here = (load_dataset(name, split="test") for name in ("owner/crops", str(tiny_crops / "known")))
    assert there.features == here.features and len(there) == len(here) == 4
    for one, other in zip(there, here, strict=True):
        assert np.array_equal(np.asarray(one.pop("nucleus")), np.asarray(other.pop("nucleus")))
        assert np.array_equal(np.asarray(one.pop("protein")), np.asarray(other.pop("protein")))
        assert one == other
    streamed = list(load_dataset("owner/crops", split="test", streaming=True).select_columns("sequence"))
    assert [row["sequence"] for row in streamed] == here["sequence"][:]
    assert load_dataset("owner/proteins", split="train").num_rows == 12
    assert any("Range" in path or "/cdn/" in path for _, path, _ in hub.requests)


def test_a_private_data_set_is_private(tiny_proteins, hub, monkeypatch):
    assert run_protloc("push", "dataset", tiny_proteins, "owner/private", "--private")[0] == 0
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(datasets.exceptions.DatasetNotFoundError):
        load_dataset("owner/private", split="train")


SCRIPT = """
import importlib.util, json, sys
import numpy as np
assert importlib.util.find_spec("protloc") is None, "protloc must not be importable here"
from transformers import (
    AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoProcessor, AutoTokenizer, pipeline
)
proteins, nucleus = json.loads(sys.argv[1]), sys.argv[2]
options = {"trust_remote_code": True}
assert AutoConfig.from_pretrained("owner/deeploc", **options).model_type == "deeploc"
tokenizer = AutoTokenizer.from_pretrained("owner/deeploc", **options)
model = AutoModelForSequenceClassification.from_pretrained("owner/deeploc", **options)
base = AutoModel.from_pretrained("owner/deeploc", **options)
inputs = tokenizer(proteins, padding=True, return_tensors="pt")
found = {"logits": model(**inputs).logits.tolist(), "base": base(**inputs).pooler_output.tolist()}
found["classes"] = pipeline("text-classification", model="owner/deeploc", top_k=None, **options)(proteins)
found["localization"] = pipeline(model="owner/deeploc", **options)(proteins)
processor = AutoProcessor.from_pretrained("owner/deepgps", **options)
drawer = AutoModel.from_pretrained("owner/deepgps", **options)
inputs = processor(text=proteins[0], images=nucleus)
AutoModel.from_pretrained("owner/deepgps", dtype="auto", **options)  # the Hub's own snippet
found["label_logits"] = drawer.generate(**inputs).logits.tolist()
drawn = pipeline(model="owner/deepgps", **options)({"sequence": proteins[0], "nucleus": nucleus})
found["image"] = np.asarray(drawn.pop("image")).tolist()
found["drawn"] = drawn
print(json.dumps(found))
"""


@pytest.mark.slow
def test_everything_loads_without_protloc_and_then_offline(pushed, tmp_path):
    """What the shipped models give here, and again from the cache where there is no Hub."""
    arguments = json.dumps(PROTEINS), NUCLEUS
    found = json.loads(run_without_protloc(SCRIPT, *arguments, cache=tmp_path))
    offline = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    again = json.loads(run_without_protloc(SCRIPT, *arguments, cache=tmp_path, **offline))
    images = [np.array(answer.pop("image")) for answer in (found, again)]
    assert_alike(again, found)

    deeploc, deepgps = ASSETS / "deeploc", ASSETS / "deepgps"
    inputs = AutoTokenizer.from_pretrained(deeploc)(PROTEINS, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForSequenceClassification.from_pretrained(deeploc)(**inputs).logits
        base = AutoModel.from_pretrained(deeploc)(**inputs).pooler_output
    inputs = AutoProcessor.from_pretrained(deepgps)(text=INSULIN, images=NUCLEUS)
    drawn = pipeline("protein-imaging")({"sequence": INSULIN, "nucleus": str(NUCLEUS)})
    for image in images:  # of 8 bit
        np.testing.assert_allclose(image, np.asarray(drawn["image"], dtype=int), rtol=0, atol=1)
    del drawn["image"]
    expected = {
        "logits": logits.tolist(),
        "base": base.tolist(),
        "classes": pipeline("text-classification", model=str(deeploc), top_k=None)(PROTEINS),
        "localization": pipeline("protein-localization")(PROTEINS),
        "label_logits": AutoModel.from_pretrained(deepgps).generate(**inputs).logits.tolist(),
        "drawn": drawn,
    }
    assert_alike(found, {name: expected[name] for name in found}, atol=1e-5)


def snippets(card: bytes) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.decode(), flags=re.DOTALL)


@pytest.mark.slow
def test_the_snippets_of_the_cards(pushed, tmp_path):
    """The first of each card runs without protloc, the others with it."""
    for family in ("deeploc", "deepgps"):
        first, *others = snippets(pushed.repo(f"owner/{family}").files()["README.md"])
        assert f'"owner/{family}"' in first
        run_without_protloc(first, cache=tmp_path)
        for snippet in others:
            subprocess.run([sys.executable, "-c", snippet], check=True, cwd=tmp_path, capture_output=True)
    assert Image.open(tmp_path / "protein.png").size == (208, 208)


@pytest.mark.slow
def test_remote_code_is_what_lies_here(pushed):
    """What people read on the Hub is what this package runs."""
    for family in ("deeploc", "deepgps"):
        for name, content in pushed.repo(f"owner/{family}").files().items():
            if name.endswith(".py"):
                (source,) = (ROOT / "modeling" / "protloc").rglob(name)
                assert content == Path(source).read_bytes()
