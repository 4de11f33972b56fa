"""What `protloc push` uploads: files of a folder, and those made for the Hub, by their path in the repository."""

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from yaml import YAMLError

from ..loading import one_line

CARD_REPO = "OWNER/NAME"  # in a card's snippets, until the model is pushed
EVALUATION = "evaluation.json"
PANEL = "panel.png"  # what a deepGPS draws, which its card shows
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def read_card(kind: Any, path: Path, change: Callable[[str], str] = str) -> Any:
    """A card, its text changed first; `ValueError` if its metadata can't be read."""
    try:
        return kind(change(path.read_text(encoding="utf-8")), ignore_metadata_errors=False)
    except (YAMLError, ValueError) as error:
        raise ValueError(f"{path}: its metadata can't be read: {one_line(error)}") from None


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
