"""Arguments that the build scripts share, the folder they write, and the push of what they built to the Hub."""

import argparse
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

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


def default_config(content: str, splits: Iterable[str]) -> list[dict[str, Any]]:
    """
    What a card says of a folder with `SPLIT.parquet` files, as its only configuration.

    Args:
        content (`str`): A digest: `load_dataset` caches a local folder by its name and its card's metadata alone, so
            that with it a folder that was built anew is read anew.
    """
    files = [{"split": split, "path": f"{split}.parquet"} for split in splits]
    return [{"config_name": "default", "default": True, "description": f"Content {content}.", "data_files": files}]


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
    parser.add_argument("--private", action="store_true", help="make a new repository private")


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
