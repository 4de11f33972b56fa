"""`protloc push`: models, data sets and Spaces to the Hugging Face Hub, each in one commit."""

import importlib.metadata
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from .loading import one_line
from .staging import EVALUATION, PICKLES
from .staging.dataset import stage_dataset
from .staging.model import stage_model
from .staging.space import stage_space

# What an earlier push left and this one doesn't bring: it would be loaded, or say what is not true of the new files
STALE = (
    *(".safetensors", ".index.json", ".py", ".parquet", ".whl", *PICKLES, EVALUATION, "tokenizer.json", "vocab.txt"),
    ".eval_results/protloc.yaml",  # of earlier versions
)
SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY")
STAGE: dict[str, Any] = {"model": stage_model, "dataset": stage_dataset, "space": stage_space}


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
    models: Sequence[str] = (),
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
        datasets (`Sequence[str]`): Hub data sets that a model was trained or evaluated on, or that a Space uses, for
            its card.
        base_model (`str`, *optional*): Hub model that a model was built on, for its card.
        models (`Sequence[str]`): Hub models that a Space runs, for its card.

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
        named = {"datasets": datasets, "base_model": base_model, "models": models}
        upload = STAGE[kind](folder, repo_id, Path(staging), private=private, **named)
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


def refuse_secrets(upload: dict[str, Path]) -> None:
    for name, path in upload.items():
        if not name.endswith((".safetensors", ".parquet", ".whl", ".png", ".tif")) and SECRET.search(path.read_bytes()):
            raise ValueError(f"{name} holds what looks like an access token or a private key: take it out")
