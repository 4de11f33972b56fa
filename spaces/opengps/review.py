"""
Review what people sent through the site. Nobody else sees a submission until it is approved; then it is part of a data
set of crops that deepGPS can be trained with.

    python review.py list WHERE --preview pictures            # a line and a picture for each pending submission
    python review.py approve WHERE ID ID --exclude test.fasta
    python review.py reject WHERE ID                          # deletes it

WHERE is the site's folder of submissions, or OWNER/NAME of the data set on the Hub.
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from httpx2 import HTTPError
from PIL import Image
from store import SIZE, FolderStore, HubStore, read_summary

from protloc.crops import decode_image, overlay
from protloc.hub import refusal
from protloc.loading import one_line
from protloc.tables import read_exclusions, sha1


def find_store(where: str) -> FolderStore | HubStore:
    """
    The store of a folder, or of a data set on the Hub.

    Raises:
        ValueError: If there is neither.
    """
    if Path(where).is_dir():
        return FolderStore(Path(where))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", where):
        raise ValueError(f"there is no folder {where!r}, and OWNER/NAME of a data set it is not")
    return HubStore(where)


def preview(path: Path, columns: int = 5) -> Image.Image:
    """A picture of the first cells of a submission: nuclei in blue, protein in yellow."""
    rows = pq.read_table(path, columns=["nucleus", "protein"]).slice(0, 4 * columns).to_pylist()
    sheet = np.ones((-(-len(rows) // columns) * (SIZE + 4), min(len(rows), columns) * (SIZE + 4), 3))
    for number, row in enumerate(rows):
        top, left = (place * (SIZE + 4) for place in divmod(number, columns))
        sheet[top : top + SIZE, left : left + SIZE] = overlay(*(decode_image(row[n]) for n in ("nucleus", "protein")))
    return Image.fromarray(np.round(sheet * 255).astype(np.uint8))


def split_of(path: Path, excluded: tuple[set[str], set[str]]) -> str:
    """`test` for a protein of `read_exclusions`, else `train`."""
    row = pq.read_table(path, columns=["sequence", "uniprot_id"]).slice(0, 1).to_pylist()[0]
    return "test" if row["uniprot_id"] in excluded[0] or sha1(row["sequence"]) in excluded[1] else "train"


def list_pending(store: FolderStore | HubStore, previews: Path | None) -> list[str]:
    """
    Print a tab-separated table of the pending submissions.

    Returns:
        `list[str]`: A sentence for each pending file that is damaged.
    """
    damaged = []
    columns: list[str] = []
    for name in store.pending():
        path = store.fetch(name)
        try:
            summary = read_summary(path)
            if previews:
                previews.mkdir(parents=True, exist_ok=True)
                preview(path).save(previews / f"{name}.png")
        except (ValueError, OSError) as error:  # pyarrow's are of both kinds
            damaged.append(f"{name}: {one_line(error)}")
            continue
        if not columns:
            columns = list(summary)
            print("id", *columns, sep="\t")
        print(name, *(summary[column] for column in columns), sep="\t")
    return damaged


def approve(store: FolderStore | HubStore, ids: list[str], exclude: list[Path]) -> str:
    """
    Move submissions to the data set; proteins of the files `exclude` go to its split `test`.

    Raises:
        ValueError: If one is damaged; then nothing is moved.
    """
    excluded = read_exclusions(exclude)
    chosen = {name: store.fetch(name) for name in ids}
    for path in chosen.values():
        read_summary(path)
    splits = {name: split_of(path, excluded) for name, path in chosen.items()}
    store.approve(chosen, splits)
    testing = list(splits.values()).count("test")
    return f"{len(chosen)} approved" + (f", {testing} of them for testing only" if testing else "")


def review(args: argparse.Namespace) -> list[str]:
    """What went wrong, a sentence each."""
    store = find_store(args.where)
    pending = store.pending()
    if args.action == "list":
        if not pending:
            print(f"{args.where}: nothing is pending")
        return list_pending(store, args.preview)
    ids = list(dict.fromkeys(args.ids))
    for name in ids:
        if name not in pending:
            raise ValueError(f"no submission {name!r} is pending in {args.where}: see `review.py list`")
    if args.action == "approve":
        print(f"{args.where}: {approve(store, ids, args.exclude)}")
    else:
        store.reject(ids)
        print(f"{args.where}: {len(ids)} rejected and deleted")
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    for name, does in (("list", "show what is pending"), ("approve", "to the data set"), ("reject", "delete")):
        action = actions.add_parser(name, help=does, description=does)
        action.add_argument("where", metavar="WHERE", help="the site's folder of submissions, or OWNER/NAME on the Hub")
        if name == "list":
            action.add_argument("--preview", type=Path, metavar="DIR", help="a picture ID.png of each one's cells")
        else:
            action.add_argument("ids", nargs="+", metavar="ID", help="as `list` shows them")
        if name == "approve":
            action.add_argument(
                "--exclude",
                type=Path,
                nargs="+",
                default=[],
                metavar="FILE",
                help="proteins for testing only: FASTA, tables of sequences, or of accession, sequence_sha1",
            )
    args = parser.parse_args()
    try:
        errors = review(args)
    except (ValueError, OSError, HTTPError) as error:
        errors = [refusal(error)]
    for line in errors:
        print(f"review: {line}", file=sys.stderr)
    sys.exit(2 if errors else 0)


if __name__ == "__main__":
    main()
