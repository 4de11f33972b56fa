"""A Gradio Space with the wheel of protloc that it runs."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import RepoCard, constants

from . import files_below, read_card

SPACE_FILES = {".py", ".md", ".txt", ".css", ".csv", ".fasta", ".json", ".yaml", ".png", ".jpg", ".svg", ".tif"}
MAX_SPACE_FILE = 10_000_000  # bytes: larger ones are models or data, which have repositories of their own


def stage_space(
    folder: Path,
    repo_id: str,
    staging: Path,
    private: bool,
    models: Sequence[str] = (),
    datasets: Sequence[str] = (),
    **_: Any,
) -> dict[str, Path]:
    """The Space's files, its card with the models and data sets that it uses, and a wheel of protloc to install."""
    if private:
        raise ValueError("a Space installs protloc from its own repository, which it can't read when it is private")
    files = files_below(folder, SPACE_FILES)
    card = read_card(RepoCard, files["README.md"]) if "README.md" in files else None
    if card is None or card.data.to_dict().get("sdk") != "gradio":
        raise ValueError(f"{str(folder)!r} is no Gradio Space: its README.md must begin with metadata, sdk: gradio")
    for name, path in files.items():
        if path.stat().st_size > MAX_SPACE_FILE:
            raise ValueError(
                f"{name} has {path.stat().st_size:,} bytes: models and data have repositories of their own"
            )
    for name, repositories in (("models", models), ("datasets", datasets)):
        if repositories:
            card.data[name] = sorted({*card.data.get(name, []), *repositories})
            card.save(staging / "README.md")
            files["README.md"] = staging / "README.md"
    wheel = build_wheel(staging)
    files[wheel.name] = wheel
    # By address, because a Space installs its requirements before it copies its other files. The digest makes it build
    # anew when the wheel has changed.
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    address = f"{constants.ENDPOINT}/spaces/{repo_id}/resolve/main/{wheel.name}#sha256={digest}"
    own = (folder / "requirements.txt").read_text(encoding="utf-8") if (folder / "requirements.txt").exists() else ""
    (staging / "requirements.txt").write_text(f"protloc[space] @ {address}\n{own}", encoding="utf-8")
    files["requirements.txt"] = staging / "requirements.txt"
    return files


def build_wheel(folder: Path) -> Path:
    """A wheel of this protloc, from the repository that it was installed from."""
    root = Path(__file__).parents[3]
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
