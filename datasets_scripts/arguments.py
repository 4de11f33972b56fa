"""Shared by the build scripts: arguments, the files' metadata in a card, the folder, and the push to the Hub."""

import argparse
import hashlib
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Features
from httpx2 import HTTPError

from protloc import hub
from protloc.files import replaced_folder


def positive(text: str) -> float:
    """For argparse: a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def share(text: str) -> float:
    """For argparse: above 0, at most 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


def size_category(rows: int) -> str:
    """What the Hub's filter calls the size of a data set, such as `10K<n<100K`."""
    bounds = [(1_000, "1K"), (10_000, "10K"), (100_000, "100K"), (1_000_000, "1M")]
    names = ["n<1K", *(f"{low}<n<{high}" for (_, low), (_, high) in itertools.pairwise(bounds)), "n>1M"]
    return names[sum(rows >= bound for bound, _ in bounds)]


def digest(paths: Iterable[Path]) -> str:
    content = hashlib.sha1()
    for path in paths:
        with open(path, "rb") as handle:
            content.update(hashlib.file_digest(handle, "sha1").digest())
    return content.hexdigest()[:12]


def describe_files(
    folder: Path, features: Features, files: Mapping[str, Mapping[str, Sequence[Path]]], **descriptions: str
) -> dict[str, Any]:
    """
    What a card's metadata say of Parquet files: `configs`, `dataset_info` and `size_categories` of `DatasetCardData`.

    Args:
        folder (`Path`): Of the data set.
        features (`Features`): Columns, of all configurations alike.
        files: By configuration and split; those of split parts of no file are left out. The default configuration is
            `all`, or the first.
        descriptions: Of configurations.
    """
    default = "all" if "all" in files else next(iter(files))
    configs, infos = [], []
    for name, splits in files.items():
        splits = {split: paths for split, paths in splits.items() if paths}
        content = digest(path for paths in splits.values() for path in paths)
        places = {split: [path.relative_to(folder).as_posix() for path in paths] for split, paths in splits.items()}
        configs.append(
            {
                "config_name": name,
                **({"default": True} if name == default else {}),
                # `load_dataset` caches a local folder by its name and this metadata alone: with a digest of the content
                # in it, a folder that was built anew is read anew.
                "description": f"{descriptions.get(name, '')} Content {content}.".lstrip(),
                "data_files": [{"split": split, "path": paths} for split, paths in places.items()],
            }
        )
        sizes = {split: [pq.read_metadata(path) for path in paths] for split, paths in splits.items()}
        parts = [
            {
                "name": split,
                "num_bytes": sum(
                    meta.row_group(i).total_byte_size for meta in found for i in range(meta.num_row_groups)
                ),
                "num_examples": sum(meta.num_rows for meta in found),
            }
            for split, found in sizes.items()
        ]
        infos.append(
            {
                "config_name": name,
                "features": features._to_yaml_list(),
                "splits": parts,
                "download_size": sum(path.stat().st_size for paths in splits.values() for path in paths),
                "dataset_size": sum(part["num_bytes"] for part in parts),
            }
        )
    every = {path for splits in files.values() for paths in splits.values() for path in paths}
    rows = sum(pq.read_metadata(path).num_rows for path in every)
    return {"configs": configs, "dataset_info": infos, "size_categories": [size_category(rows)]}


def repository(text: str) -> str:
    """For argparse: a repository that a push can go to, known before anything is built."""
    try:
        hub.check_repo_id(text)
        hub.check_login()
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def check_out(out: Path, own: re.Pattern) -> None:
    """
    A build replaces its whole folder: `ValueError` if that holds what no such build made.

    Args:
        own (`re.Pattern`): What the build writes, as a path below the folder, with slashes.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is no folder: choose another")
    for path in sorted(out.rglob("*")):
        if path.is_file() and not own.fullmatch(path.relative_to(out).as_posix()):
            raise ValueError(f"--out {out} holds {path}, which no build made: choose another folder")
    if (out / "README.md").exists() and not any(out.rglob("*.parquet")):
        raise ValueError(f"--out {out} holds {out / 'README.md'}, which no build made: choose another folder")


def add_push_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--push-to-hub",
        type=repository,
        metavar="OWNER/NAME",
        help="publish the folder as this data set repository",
    )
    parser.add_argument("--private", action="store_true", help="create a new repository as private")


def build_and_push(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    own: re.Pattern,
    build: Callable[[argparse.Namespace], tuple[Any, str]],
    write: Callable[[Any, str, Path, str], None],
) -> None:
    """
    What a build script does with its arguments: `--out` is replaced whole, and published where asked to.

    Args:
        own (`re.Pattern`): As for `check_out`.
        build: Gives the content, and its summary.
        write: Writes both into a folder, with the name for its card.
    """
    try:
        check_out(args.out, own)
        content, summary = build(args)
        print(summary, file=sys.stderr)
        with replaced_folder(args.out) as folder:
            write(content, summary, folder, args.push_to_hub or str(args.out))
    except (ValueError, OSError) as error:
        parser.exit(2, f"{Path(parser.prog).stem}: {error}\n")
    push(parser, args.out, args.push_to_hub, args.private)


def push(parser: argparse.ArgumentParser, folder: Path, repo_id: str | None, private: bool) -> None:
    """Publish a data set that has been built, where asked to."""
    if repo_id:
        try:
            print(hub.push("dataset", folder, repo_id, private), file=sys.stderr)
        except (ValueError, OSError, HTTPError) as error:
            again = f"`protloc push dataset {folder} {repo_id}` tries again"
            parser.exit(2, f"{Path(parser.prog).stem}: {hub.refusal(error)}; {again}\n")
