"""`protloc push`: models, data sets and Spaces to the Hugging Face Hub, each in one commit."""

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from httpx2 import HTTPError
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    EvalResultEntry,
    HfApi,
    ModelCard,
    RepoCard,
    constants,
    eval_result_entries_to_yaml,
    get_token,
    save_torch_state_dict,
)
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from packaging.requirements import Requirement
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)
from yaml import YAMLError

from .loading import LOAD_ERRORS, one_line

CARD_REPO = "OWNER/NAME"  # in a card's snippets, until the model is pushed
ENDPOINTS = Path(__file__).parent / "endpoints"
EVALUATION = "evaluation.json"
# What `requirements.txt` of a model repository names: all that its remote code and handler import
REMOTE_CODE_NEEDS = {"deeploc": ["numpy", "torch", "transformers"]}
REMOTE_CODE_NEEDS["deepgps"] = [*REMOTE_CODE_NEEDS["deeploc"], "diffusers", "imagecodecs", "pillow", "tifffile"]
EVAL_RESULTS = ".eval_results/protloc.yaml"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
# What an earlier push left and this one doesn't bring: it would be loaded, or say what is not true of the new files
STALE = (".safetensors", ".index.json", ".py", ".parquet", ".whl", *PICKLES, EVALUATION, EVAL_RESULTS, "tokenizer.json")
DATA_FILES = {".parquet", ".csv", ".png", ".md"}
SPACE_FILES = {".py", ".md", ".txt", ".css", ".csv", ".fasta", ".json", ".yaml", ".png", ".jpg", ".svg", ".tif"}
SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY")
MAX_SPACE_FILE = 10_000_000  # bytes: larger ones are models or data, which have repositories of their own


def describe(upload: dict[str, Path]) -> str:
    """A line for each file, with its size in bytes."""
    lines = [f"{path.stat().st_size:>13,}  {name}" for name, path in sorted(upload.items())]
    total = sum(path.stat().st_size for path in upload.values())
    return "\n".join([*lines, f"{total:>13,}  bytes in {len(lines)} files"])


def refusal(error: Exception) -> str:
    """What an error of a push says, in one line."""
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        said = error.server_message or f"status {error.response.status_code}"
        return f"the Hub refused: {said.splitlines()[0]}"
    if isinstance(error, HTTPError):
        broke = f"the connection to {constants.ENDPOINT} broke ({one_line(error)})"
        return f"{broke}: push again, a whole push changes nothing"
    return one_line(error)


def check_repo_id(repo_id: str) -> None:
    """`ValueError` unless it is OWNER/NAME."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(one_line(error)) from None
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} has no owner: name the repository OWNER/NAME")


def check_login() -> None:
    """`ValueError` unless there is a token to push with."""
    if get_token() is None:
        raise ValueError("you are not logged in to the Hub: run `hf auth login`, or set HF_TOKEN to a write token")


def push(
    kind: str,
    folder: Path,
    repo_id: str,
    private: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
) -> str:
    """
    Push a folder in one commit: either all of it arrives, or a repository's files stay as they were.

    Args:
        kind (`str`): `"model"`, `"dataset"` or `"space"`.
        folder (`Path`): Of a trained DeepLoc or deepGPS, of a built data set, or of a Space.
        repo_id (`str`): OWNER/NAME.
        private (`bool`): For a repository that is made by this push.
        create_pr (`bool`): As a pull request to an existing repository.
        revision (`str`, *optional*): Branch, made if there is none; `main` by default.
        dry_run (`bool`): Nothing is sent, only listed.
        datasets (`Sequence[str]`): Hub data sets that a model was trained or evaluated on, for its card and
            `.eval_results/`.
        base_model (`str`, *optional*): Hub model that it was built on, for its card.

    Returns:
        `str`: Address of the commit or pull request; of a dry run the list of files.

    Raises:
        ValueError: In one sentence, for a folder that can't be pushed, and without a login.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    check_repo_id(repo_id)
    if not dry_run:
        check_login()
    if not folder.is_dir():
        raise ValueError(f"there is no folder {str(folder)!r}")
    with tempfile.TemporaryDirectory() as staging:
        upload = STAGE[kind](folder, repo_id, Path(staging), private=private, datasets=datasets, base_model=base_model)
        refuse_secrets(upload)
        if dry_run:
            return describe(upload)
        operations: list[Any] = [CommitOperationAdd(name, path) for name, path in upload.items()]
        api = HfApi()
        if not create_pr:
            sdk = "gradio" if kind == "space" else None
            api.create_repo(repo_id, repo_type=kind, private=private or None, space_sdk=sdk, exist_ok=True)
        if revision:
            api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True)
        there: Any = api.repo_info(repo_id, repo_type=kind, revision=revision)
        if private and not there.private:
            raise ValueError(f"{repo_id} is there already and is public: push without --private, or to another name")
        names = [file.rfilename for file in there.siblings or []]
        operations += [CommitOperationDelete(name) for name in names if name.endswith(STALE) and name not in upload]
        commit = api.create_commit(
            repo_id,
            repo_type=kind,
            revision=revision,
            create_pr=create_pr,
            parent_commit=there.sha,  # of what was just listed: nobody else's commit gets mixed in
            operations=operations,
            commit_message=f"Push with protloc {importlib.metadata.version('protloc')}",
        )
    return commit.pr_url or commit.commit_url


def stage_model(
    folder: Path,
    repo_id: str,
    staging: Path,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    max_shard_size: str = "5GB",
    **_: Any,
) -> dict[str, Path]:
    """Weights, configuration, remote code, tokenizer, processors, card, evaluation, handler and requirements."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.model_type not in REMOTE_CODE_NEEDS:
            raise ValueError(f"it is a {config.model_type} model, neither deeploc nor deepgps")
        with torch.device("meta"):
            auto_class = AutoModelForSequenceClassification if config.model_type == "deeploc" else AutoModel
            model: Any = auto_class.from_config(config, trust_remote_code=False)
        if config.model_type == "deeploc":
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            served = pipeline("protein-localization", model=model, tokenizer=tokenizer, device="meta")
        else:
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            served = pipeline("protein-imaging", model=model, processor=processor, device="meta")
    except LOAD_ERRORS as error:
        raise ValueError(f"{str(folder)!r} holds no model that can be pushed: {one_line(error)}") from None
    weights = stage_weights(folder, model, staging, max_shard_size)
    # Configuration, tokenizer or processor, and the code of today: weights of a model on no device have no size.
    served.save_pretrained(staging / "rest", state_dict={})
    files = {path.name: path for path in (staging / "rest").iterdir() if not path.name.startswith("model.safetensors")}
    files |= weights

    written = files_below(folder, {".md", ".json"})
    if "README.md" not in written:
        raise ValueError(f"{str(folder)!r} has no model card README.md: training and training/*/report.py write one")
    card = read_card(ModelCard, written["README.md"], lambda text: text.replace(CARD_REPO, repo_id))
    if base_model:
        card.data.base_model = base_model
    if datasets:
        card.data.datasets = sorted({*(card.data.datasets or []), *datasets})
        if scores := name_datasets(card, datasets):
            (staging / "eval_results.yaml").write_text(yaml.safe_dump(scores, sort_keys=False))
            files[EVAL_RESULTS] = staging / "eval_results.yaml"
    card.save(staging / "README.md")
    files["README.md"] = staging / "README.md"
    if EVALUATION in written:
        files[EVALUATION] = written[EVALUATION]
    files["handler.py"] = ENDPOINTS / "handler.py"
    (staging / "requirements.txt").write_text(requirements(REMOTE_CODE_NEEDS[config.model_type]))
    files["requirements.txt"] = staging / "requirements.txt"
    return files


def stage_weights(folder: Path, model: Any, staging: Path, max_shard_size: str) -> dict[str, Path]:
    """The safetensors as they are, or cut into files of at most `max_shard_size`; their tensors must be the model's."""
    index = folder / "model.safetensors.index.json"
    found = sorted(folder.glob("model-*-of-*.safetensors" if index.exists() else "model.safetensors"))
    if not found:
        pickled = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
        other = f", only the pickle {pickled[0]}, which is never pushed" if pickled else ""
        raise ValueError(
            f"{str(folder)!r} holds no model.safetensors{other}: save the model with `save_pretrained` first"
        )
    shapes: dict[str, list[int]] = {}
    for path in found:
        with safe_open(path, framework="pt") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*wanted, *shapes]:
        if wanted.get(name) != shapes.get(name):
            raise ValueError(
                f"the weights in {str(folder)!r} don't fit its config.json: {name} is {shapes.get(name, 'missing')}, "
                f"and should be {wanted.get(name, 'missing')}"
            )
    if all(path.stat().st_size <= size_in_bytes(max_shard_size) for path in found):
        return {path.name: path for path in [*found, *([index] if index.exists() else [])]}
    (staging / "weights").mkdir()
    state = {name: tensor for path in found for name, tensor in load_file(path).items()}
    save_torch_state_dict(state, staging / "weights", max_shard_size=max_shard_size, metadata={"format": "pt"})
    return {path.name: path for path in (staging / "weights").iterdir()}


def size_in_bytes(text: str) -> int:
    """`5GB` -> 5,000,000,000."""
    number, unit = re.fullmatch(r"(\d+)([KMG]B)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"KB": 10**3, "MB": 10**6, "GB": 10**9}[unit]


def name_datasets(card: Any, datasets: Sequence[str]) -> list[dict[str, Any]]:
    """
    Give the scores in a card's metadata the Hub names of their data sets: `me/protloc-hpa` is that of scores on `hpa`.

    Returns:
        `list`: The same scores in the form of the Hub's `.eval_results/`.
    """
    entries = []
    for result in card.data.eval_results or []:
        for dataset in datasets:
            if result.dataset_type in re.split(r"[/_-]", dataset):
                result.dataset_type = dataset
                task = f"{result.dataset_config} {result.dataset_split} {result.metric_name}".lower()
                task_id = re.sub(r"[^a-z0-9]+", "_", task).strip("_")
                entries.append(EvalResultEntry(dataset, task_id, result.metric_value))
                break
    return eval_result_entries_to_yaml(entries)


def requirements(names: list[str]) -> str:
    """Lines of a `requirements.txt`, with protloc's own lower bounds."""
    needed = [Requirement(text) for text in importlib.metadata.requires("protloc") or []]
    return "".join(f"{needed_.name}{needed_.specifier}\n" for needed_ in needed if needed_.name in names)


def stage_dataset(folder: Path, repo_id: str, staging: Path, **_: Any) -> dict[str, Path]:
    """Card, Parquet files, and the tables and pictures that the build scripts write beside them."""
    files = files_below(folder, DATA_FILES)
    if "README.md" not in files:
        raise ValueError(f"{str(folder)!r} has no data set card README.md: build it with a script of datasets_scripts/")
    # In the card's snippet stands the folder that it was built in.
    card = read_card(
        RepoCard, files["README.md"], lambda text: re.sub(r'load_dataset\("[^"]*"', f'load_dataset("{repo_id}"', text)
    )
    try:
        entries = [entry["path"] for config in card.data.to_dict()["configs"] for entry in config["data_files"]]
        listed = [path for paths in entries for path in ([paths] if isinstance(paths, str) else paths)]
    except (KeyError, TypeError):  # another of the forms that the Hub knows, or none
        listed = []
    if not listed:
        raise ValueError(f"{folder / 'README.md'} lists no data files: build it with a script of datasets_scripts/")
    for pattern in listed:
        if not any(PurePosixPath(name).match(pattern) for name in files):
            raise ValueError(f"{folder / 'README.md'} lists {pattern}, which is not there: build the data set again")
    wanted = {
        name: path
        for name, path in files.items()
        if path.suffix != ".parquet" or any(PurePosixPath(name).match(pattern) for pattern in listed)
    }
    card.save(staging / "README.md")
    return wanted | {"README.md": staging / "README.md"}


def stage_space(folder: Path, repo_id: str, staging: Path, private: bool, **_: Any) -> dict[str, Path]:
    """The Space's files, and a wheel of protloc that its requirements install."""
    if private:
        raise ValueError("a Space installs protloc from its own repository, which it can't read when it is private")
    files = files_below(folder, SPACE_FILES)
    if "README.md" not in files or read_card(RepoCard, files["README.md"]).data.to_dict().get("sdk") != "gradio":
        raise ValueError(f"{str(folder)!r} is no Gradio Space: its README.md must begin with metadata, sdk: gradio")
    for name, path in files.items():
        if path.stat().st_size > MAX_SPACE_FILE:
            raise ValueError(
                f"{name} has {path.stat().st_size:,} bytes: models and data have repositories of their own"
            )
    wheel = build_wheel(staging)
    files[wheel.name] = wheel
    # By address, because a Space installs its requirements before it copies its other files. The digest makes it build
    # anew when the wheel has changed.
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    address = f"{constants.ENDPOINT}/spaces/{repo_id}/resolve/main/{wheel.name}#sha256={digest}"
    own = (folder / "requirements.txt").read_text() if (folder / "requirements.txt").exists() else ""
    (staging / "requirements.txt").write_text(f"protloc[space] @ {address}\n{own}")
    files["requirements.txt"] = staging / "requirements.txt"
    return files


def build_wheel(folder: Path) -> Path:
    """A wheel of this protloc, from the repository that it was installed from."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        raise ValueError("a Space carries a wheel of protloc, which is built from its repository: push from a clone")
    # From a copy, since setuptools leaves what it builds behind.
    source = folder / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(root / name, source)
    shutil.copytree(root / "modeling", source / "modeling", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise ValueError(f"the wheel of protloc can't be built: {result.stderr.strip().splitlines()[-1]}")
    return next(folder.glob("protloc-*.whl"))


def read_card(kind: Any, path: Path, change: Callable[[str], str] = str) -> Any:
    """A card, its text changed first; `ValueError` if its metadata can't be read."""
    try:
        return kind(change(path.read_text(encoding="utf-8")), ignore_metadata_errors=False)
    except (YAMLError, ValueError) as error:
        raise ValueError(f"{path}: its metadata can't be read: {one_line(error)}") from None


def refuse_secrets(upload: dict[str, Path]) -> None:
    for name, path in upload.items():
        if not name.endswith((".safetensors", ".parquet", ".whl", ".png", ".tif")) and SECRET.search(path.read_bytes()):
            raise ValueError(f"{name} holds what looks like an access token or a private key: take it out")


def files_below(folder: Path, endings: set[str]) -> dict[str, Path]:
    """Files of a folder with these endings, by their path in it; hidden ones and caches are left out."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") or part == "__pycache__" for part in PurePosixPath(name).parts)
        if hidden or not path.is_file() or path.suffix not in endings:
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"{name} is a link out of {str(folder)!r}: copy the file, or remove the link")
        if not re.fullmatch(r"[\w./ -]+", name, re.ASCII):
            raise ValueError(f"{name!r} is no file name for the Hub: use letters, digits, '.', '_' and '-'")
        files[name] = path
    return files


STAGE: dict[str, Any] = {"model": stage_model, "dataset": stage_dataset, "space": stage_space}
