"""A built data set as a data set repository."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import RepoCard

from . import files_below, read_card

DATA_FILES = {".parquet", ".csv", ".png", ".md"}


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
