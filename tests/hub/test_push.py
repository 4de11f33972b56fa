"""`protloc push`, and what it leaves on the Hub."""

import json
import re
import shutil
import struct

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, pipeline

from protloc import ASSETS
from protloc.loading import load_model
from protloc.staging.model import stage_model
from tests.helpers import ROOT, run_protloc, tiny_deeploc

CARD = "---\nlicense: apache-2.0\n---\n# A model\n\n`OWNER/NAME`\n"


@pytest.fixture
def trained(tiny_model_dir, tmp_path):
    """A folder as training leaves it, card and checkpoints included."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in tiny_model_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "README.md").write_text(CARD)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "optimizer.bin").write_bytes(b"\x80\x04pickle")
    (folder / "training.yaml").write_text("output_dir: here")
    return folder


def test_a_model_arrives_whole_in_one_commit(trained, hub):
    code, out, err = run_protloc("push", "model", trained, "owner/deeploc")
    assert (code, err) == (0, "")
    repo = hub.repo("owner/deeploc")
    assert out.strip().endswith(f"/owner/deeploc/commit/{repo.refs['main']}")
    assert len(repo.messages) == 2  # the repository's own first one, and ours
    files = repo.files()
    assert set(files) == {
        ".gitattributes", "README.md", "config.json", "model.safetensors", "tokenizer_config.json", "tokenizer.json",
        "configuration_deeploc.py", "layers_deeploc.py", "losses_deeploc.py", "modeling_deeploc.py",
        "configuration_unirep.py", "modeling_unirep.py", "protein_sequence.py", "residue_features.py",
        "companion_deeploc.py", "windows_deeploc.py", "segments_deeploc.py", "safetensors_model.py",
        "pipeline_files.py", "pipeline_protein_localization.py", "handler.py", "requirements.txt",
    }  # fmt: skip
    assert files["model.safetensors"] == (trained / "model.safetensors").read_bytes()
    assert b"`owner/deeploc`" in files["README.md"]
    assert files["requirements.txt"] == b"numpy>=2.0\npillow>=11.0\ntorch>=2.13\ntransformers>=5.23\n"


def test_nothing_pickled_is_pushed(trained, hub):
    for name, folder in {"tiny": trained, "deeploc": ASSETS / "deeploc", "deepgps": ASSETS / "deepgps"}.items():
        assert run_protloc("push", "model", folder, f"owner/{name}")[0] == 0
        for path, content in hub.repo(f"owner/{name}").files().items():
            assert not re.search(r"\.(bin|pt|pth|pkl|pickle|ckpt|joblib|npy|npz)$", path)
            assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04"))
        weights = hub.repo(f"owner/{name}").files()["model.safetensors"]
        (length,) = struct.unpack("<Q", weights[:8])
        assert "__metadata__" in json.loads(weights[8 : 8 + length])


def test_nothing_pickled_is_loaded():
    """No source of ours opens a pickle; the tests' own exchange of tensors is not shipped."""
    pattern = re.compile(r"torch\.load\(|pickle\.|joblib|allow_pickle=True|weights_only=False")
    for folder in ("modeling", "training", "datasets_scripts", "spaces"):
        for path in (ROOT / folder).rglob("*.py"):
            assert not pattern.search(path.read_text()), path


def test_pickled_weights_are_not_loaded(tiny_model_dir, tmp_path):
    """Neither by our own commands nor by the Auto classes."""
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_model_dir, folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_model(folder)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoModelForSequenceClassification.from_pretrained(folder)


def test_pushed_again_nothing_changes(trained, hub):
    for _ in range(2):
        assert run_protloc("push", "model", trained, "owner/deeploc")[0] == 0
    assert len(hub.repo("owner/deeploc").messages) == 2


def test_what_an_earlier_push_left_goes(trained, hub):
    old = ["pytorch_model.bin", "pytorch_model.bin.index.json", "model-00001-of-00002.safetensors", "evaluation.json"]
    old += [".eval_results/protloc.yaml", "vocab.txt", "weights.pth"]
    hub.add("owner/deeploc", {"notes.txt": b"kept"} | dict.fromkeys(old, b"of other weights"))
    assert run_protloc("push", "model", trained, "owner/deeploc")[0] == 0
    files = hub.repo("owner/deeploc").files()
    assert "notes.txt" in files and not set(old) & set(files)


def test_private_does_not_publish(trained, hub):
    hub.add("owner/public", {"README.md": b"before"})
    code, _, err = run_protloc("push", "model", trained, "owner/public", "--private")
    assert code == 2 and "owner/public is there already and is public: push without --private" in err
    assert len(hub.repo("owner/public").messages) == 2


def test_secrets_and_links_stay_here(trained, hub, tmp_path):
    def refused() -> str:
        code, _, err = run_protloc("push", "model", trained, "owner/x", "--dry-run")
        assert code == 2 and err.count("\n") == 1
        return err

    (trained / "evaluation.json").write_text(f'{{"token": "hf_{"a" * 34}"}}')
    assert "evaluation.json holds what looks like an access token" in refused()
    (trained / "evaluation.json").unlink()
    (trained / "README.md").unlink()
    (tmp_path / "secret.md").write_text("---\nlicense: mit\n---\n")
    (trained / "README.md").symlink_to(tmp_path / "secret.md")
    assert "README.md is a link out of" in refused()
    (trained / "README.md").unlink()
    (trained / "README.md").write_text("---\nlicense: [mit\n---\n")
    assert "README.md: its metadata can't be read: " in refused()


def test_dry_run_sends_nothing(trained, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, out, _ = run_protloc("push", "model", trained, "owner/deeploc", "--dry-run")
    assert code == 0 and "model.safetensors" in out and "bytes in 21 files" in out
    assert hub.requests == []


def test_without_a_token_nothing_is_sent(trained, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, out, err = run_protloc("push", "model", trained, "owner/deeploc")
    assert (code, out) == (2, "")
    assert err == "protloc: you are not logged in to the Hub: run `hf auth login`, or set HF_TOKEN to a write token\n"
    assert hub.requests == []


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("hf_wrong", "protloc: the Hub refused: Invalid credentials in Authorization header"),
        ("hf_other", "protloc: the Hub refused: You don't have the rights to create a model under the namespace"),
    ],
)
def test_a_token_that_may_not(trained, hub, monkeypatch, token, said):
    monkeypatch.setenv("HF_TOKEN", token)
    code, out, err = run_protloc("push", "model", trained, "owner/deeploc")
    assert (code, out) == (2, "") and err.startswith(said) and err.count("\n") == 1
    assert token not in out + err and hub.repos == {}


@pytest.mark.parametrize(
    "fault", [("POST", "/commit/", "drop"), ("POST", "/commit/", 500), ("POST", r"\.git/info", 403)]
)
def test_cut_off_half_way_leaves_the_repository_as_it_was(trained, hub, fault):
    hub.add("owner/deeploc", {"README.md": b"before"})
    before = dict(hub.repo("owner/deeploc").refs)
    hub.faults = [fault] * 3
    code, out, err = run_protloc("push", "model", trained, "owner/deeploc")
    assert (code, out) == (2, "") and err.startswith("protloc: the ") and err.count("\n") == 1
    assert hub.repo("owner/deeploc").refs == before
    hub.faults = []
    assert run_protloc("push", "model", trained, "owner/deeploc")[0] == 0
    assert "model.safetensors" in hub.repo("owner/deeploc").files()


def test_a_commit_whose_answer_gets_lost(trained, hub):
    hub.faults = [("POST", "/commit/", "deafen")]
    code, _, err = run_protloc("push", "model", trained, "owner/deeploc")
    assert code == 2 and "push again, a whole push changes nothing" in err
    arrived = dict(hub.repo("owner/deeploc").refs)
    assert "model.safetensors" in hub.repo("owner/deeploc").files()
    assert run_protloc("push", "model", trained, "owner/deeploc")[0] == 0
    assert hub.repo("owner/deeploc").refs == arrived


def test_a_short_failure_is_survived(trained, hub):
    hub.faults = [("PUT", "/lfs/", 503), ("POST", "/preupload/", 502)]
    assert run_protloc("push", "model", trained, "owner/deeploc")[0] == 0
    assert hub.faults == [] and "model.safetensors" in hub.repo("owner/deeploc").files()


def test_private_branch_and_pull_request(trained, hub, monkeypatch):
    assert run_protloc("push", "model", trained, "owner/secret", "--private", "--revision", "v1")[0] == 0
    repo = hub.repo("owner/secret")
    assert repo.private and "config.json" in repo.files("v1") and "config.json" not in repo.files("main")

    hub.add("owner/public", {"README.md": b"theirs"})
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    code, out, _ = run_protloc("push", "model", trained, "owner/public", "--create-pr")
    repo = hub.repo("owner/public")
    assert code == 0 and out.strip().endswith("/owner/public/discussions/1")
    assert repo.files("main")["README.md"] == b"theirs" and "config.json" in repo.files("refs/pr/1")


def test_large_weights_are_cut_into_files(tmp_path, tokenizer):
    model = tiny_deeploc(embedding_size=64)
    folder = tmp_path / "model"
    pipeline("protein-localization", model=model, tokenizer=tokenizer).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    (tmp_path / "staging").mkdir()
    upload = stage_model(folder, "owner/deeploc", tmp_path / "staging", max_shard_size="20KB")
    shards = [path for name, path in upload.items() if name.endswith(".safetensors")]
    assert len(shards) > 1 and "model.safetensors.index.json" in upload
    there = tmp_path / "there"
    there.mkdir()
    for name, path in upload.items():
        (there / name).write_bytes(path.read_bytes())
    loaded = AutoModelForSequenceClassification.from_pretrained(there)
    for name, tensor in model.state_dict().items():
        assert tensor.equal(loaded.state_dict()[name])


def test_the_card_names_data_sets_and_scores(hub):
    options = ["--dataset", "owner/protloc-deeploc", "--base-model", "owner/base"]
    assert run_protloc("push", "model", ASSETS / "deeploc", "owner/deeploc", *options)[0] == 0
    files = hub.repo("owner/deeploc").files()
    card = ModelCard(files["README.md"].decode())
    assert card.data.datasets == ["owner/protloc-deeploc"] and card.data.base_model == "owner/base"
    evaluation = json.loads(files["evaluation.json"])
    micro = round(evaluation["evaluations"]["hpa"]["localization"]["average"]["micro"]["f1"], 3)
    # Files in `.eval_results` are read of benchmarks with an `eval.yaml` alone; the card's scores are for all others.
    assert not any(name.startswith(".eval_results") for name in files)
    scores = HfApi().model_info("owner/deeploc").card_data.eval_results
    assert {result.dataset_type for result in scores} == {"owner/protloc-deeploc"}
    assert next(score.metric_value for score in scores if score.dataset_config == "hpa") == micro


def test_folders_that_are_no_models(trained, hub, tmp_path):
    def refused(*arguments) -> str:
        code, out, err = run_protloc("push", *arguments)
        assert (code, out) == (2, "") and err.count("\n") == 1 and hub.repos == {}
        return err

    assert "there is no folder" in refused("model", tmp_path / "nowhere", "owner/x")
    assert "holds no model that can be pushed" in refused("model", ROOT / "examples", "owner/x")
    assert "'x' has no owner: name the repository OWNER/NAME" in refused("model", trained, "x")
    assert "Repo id must" in refused("model", trained, "owner/na me")
    (trained / "README.md").unlink()
    assert "has no model card README.md" in refused("model", trained, "owner/x")
    weights = load_file(trained / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name][:1].contiguous()}, trained / "model.safetensors")
    assert f"don't fit its config.json: {name} is [1" in refused("model", trained, "owner/x")
    (trained / "model.safetensors").rename(trained / "pytorch_model.bin")
    assert "only the pickle pytorch_model.bin, which is never pushed" in refused("model", trained, "owner/x")


def test_usage(capsys):
    for arguments, said in {
        ("push", "dataset", ".", "a/b", "--base-model", "c/d"): "--base-model is for a model, not for a dataset",
        ("push", "dataset", ".", "a/b", "--dataset", "c/d"): "--dataset is for a model or a space, not for a dataset",
        ("push", "model", ".", "a/b", "--model", "c/d"): "--model is for a space, not for a model",
        ("push", "model", ".", "a/b", "--create-pr", "--private"): "--create-pr goes to an existing repository",
        ("push", "everything", ".", "a/b"): "invalid choice: 'everything'",
    }.items():
        code, _, err = run_protloc(*arguments)
        assert code == 2 and said in err


def test_a_data_set_without_what_its_card_lists(tiny_crops, hub, tmp_path):
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text((tiny_crops / "known" / "README.md").read_text())
    code, _, err = run_protloc("push", "dataset", folder, "owner/crops")
    assert code == 2 and "lists data/train.parquet, which is not there" in err and hub.repos == {}


def test_a_data_set_takes_only_its_own_files(tiny_crops, hub, tmp_path):
    folder = tmp_path / "data"
    (folder / "data").mkdir(parents=True)
    for path in (tiny_crops / "known").rglob("*.*"):
        (folder / path.relative_to(tiny_crops / "known")).write_bytes(path.read_bytes())
    (folder / "data" / "other.parquet").write_bytes(b"of another build")
    (folder / ".env").write_text("HF_TOKEN=hf_secret")
    with open(folder / "README.md", "a") as card:
        card.write(f'\n```python\nload_dataset("{folder}", "known")\n```\n')
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "montage.png")
    assert run_protloc("push", "dataset", folder, "owner/crops")[0] == 0
    files = hub.repo("owner/crops", "dataset").files()
    assert set(files) == {".gitattributes", "README.md", "data/train.parquet", "data/test.parquet", "montage.png"}
    assert b'load_dataset("owner/crops", "known")' in files["README.md"]
    (folder / "fields.csv").symlink_to(ROOT / "pyproject.toml")
    code, _, err = run_protloc("push", "dataset", folder, "owner/crops")
    assert code == 2 and "fields.csv is a link out of" in err


@pytest.fixture
def space(tmp_path):
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntitle: openGPS\nsdk: gradio\napp_file: app.py\n---\n# openGPS\n")
    (folder / "app.py").write_text("import protloc\n")
    (folder / "model.pkl").write_bytes(b"pickle")
    (folder / "requirements.txt").write_text("gradio>=6.0\n")
    return folder


def test_what_no_space_should_hold(space, hub):
    def refused(*options) -> str:
        code, out, err = run_protloc("push", "space", space, "owner/opengps", *options)
        assert (code, out) == (2, "") and err.count("\n") == 1 and hub.repos == {}
        return err

    assert "which it can't read when it is private" in refused("--private")
    (space / "app.py").write_text(f"TOKEN = 'hf_{'a' * 34}'\n")
    assert "app.py holds what looks like an access token" in refused()
    (space / "app.py").write_text("KEY = '-----BEGIN RSA PRIVATE KEY-----'")
    assert "app.py holds what looks like" in refused()
    (space / "README.md").write_text("# openGPS\n")
    assert "is no Gradio Space" in refused()


@pytest.mark.slow
def test_a_space_carries_protloc(space, hub):
    options = ["--model", "owner/deeploc", "--model", "owner/deepgps", "--dataset", "owner/cells"]
    assert run_protloc("push", "space", space, "owner/opengps", *options)[0] == 0
    repo = hub.repo("owner/opengps", "space")
    files = repo.files()
    card = ModelCard(files["README.md"].decode()).data
    assert card["models"] == ["owner/deepgps", "owner/deeploc"] and card["datasets"] == ["owner/cells"]
    assert repo.sdk == "gradio" and files["app.py"] == b"import protloc\n"
    (wheel,) = [name for name in files if name.endswith(".whl")]
    first, *own = files["requirements.txt"].decode().splitlines()
    assert first.startswith(f"protloc[space] @ {hub.url}/spaces/owner/opengps/resolve/main/{wheel}#sha256=")
    assert own == ["gradio>=6.0"] and files[wheel].startswith(b"PK") and "model.pkl" not in files
