"""What the site makes of microscopy that people send: read, checked, compared with what deepGPS draws, and kept."""

import csv
import io
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import reading
import service
from httpx2 import HTTPError
from huggingface_hub import get_token
from reading import InputError
from store import LICENCE, FolderStore, HubStore, Submission, receipt, same_receipt, to_table

from protloc import drawing
from protloc.image_metrics import find_regions, image_scores
from protloc.microscopy import OPENCELL_UM_PER_PX, nucleus_found, rescale, segment_nuclei

MAX_PAIRS = 50  # of a ZIP
MAX_ARCHIVE_BYTES = 200_000_000
MAX_ARCHIVE_PIXELS = 10 * service.MAX_IMAGE_PIXELS  # of the nuclei of a ZIP
MAX_LIST_BYTES = 1_000_000  # of a manifest, and of a ZIP's table of contents
MAX_WAITING_BYTES = 5_000_000_000  # of submissions that nobody has reviewed
MAX_VISITOR_BYTES = MAX_WAITING_BYTES // 20  # of these, from one visitor since the site started
COMPARED = 4  # crops of a submission
MANIFEST = "manifest.csv"
REQUIRED = ["nucleus_image", "protein_image", "sequence", "cell_line"]
OPTIONAL = ["gene", "uniprot_id", "labels", "credit", "um_per_px"]
OPTIONAL += ["nucleus_channel", "nucleus_page", "protein_channel", "protein_page"]
RECEIVED = "Received: nobody else sees it until a maintainer has approved it."
ONCE_MORE = "The same images were sent before with something else said of them: a maintainer will look at both."
SWAPPED = "The image of the protein looks more like nuclei than that of the nuclei: are the two images swapped?"
MIN_NUCLEUS = 1000  # pixels of 0.206 um, as of `nucleus_crops`
LOOKED_AT = 1000  # pixels of an image's side
SHOWN_SCORES = ["psnr", "ssim", "pearson"]
# Where submissions go: OPENGPS_SUBMISSIONS is a folder, or OWNER/NAME of a data set on the Hub if there is a token.
WHERE = os.environ.get("OPENGPS_SUBMISSIONS", "submissions")
sent: dict[str, int] = {}  # bytes kept of each visitor


@cache
def open_store() -> FolderStore | HubStore:
    """
    Raises:
        ValueError: If the data set of pending submissions is public.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    on_hub = get_token() is not None and re.fullmatch(r"[\w.-]+/[\w.-]+", WHERE)
    store = HubStore(WHERE, Path("submissions-on-their-way")) if on_hub else FolderStore(Path(WHERE))
    store.clean()
    return store


def read_submission(given: dict[str, Any], nucleus: Any, protein: Any) -> Submission:
    """
    Two images and what is said of them.

    Args:
        given: Texts and numbers by the names of `REQUIRED` and `OPTIONAL`; `labels` joined by `|`.
        nucleus, protein: As for `service.read_channel`; they may be the same file.

    Raises:
        InputError: In one sentence.
    """
    given = {name: value for name, value in given.items() if value is not None}
    texts = {name: str(given.get(name, "")).strip() for name in (*REQUIRED, *OPTIONAL)}
    proteins, skipped = reading.read_proteins(texts["sequence"])
    if len(proteins) + len(skipped) > 1:
        raise InputError(f"{len(proteins) + len(skipped)} proteins: an image shows one, send its sequence alone.")
    pages = [reading.number(texts[f"{name}_page"], "A page", whole=True) for name in ("nucleus", "protein")]
    um_per_px = reading.number(texts["um_per_px"], "The size of a pixel")
    images = []
    for name, source, page in (("nucleus", nucleus, pages[0]), ("protein", protein, pages[1])):
        channel = texts[f"{name}_channel"]
        images.append(service.read_channel(source, name, None if channel in ("", "grey") else channel, page))
    known: dict[str, Any] = {name: texts[name] for name in ("cell_line", "gene", "uniprot_id", "credit")}
    known["labels"] = tuple(label.strip() for label in texts["labels"].split("|") if label.strip())
    known |= {"nucleus": images[0].pixels, "protein": images[1].pixels, "sequence": proteins[0][1]}
    known["um_per_px"] = service.pixel_size(images[0], "nucleus", um_per_px)[0]
    try:
        return Submission(**known)
    except ValueError as error:
        raise InputError(f"{sentence(error)}.") from None


def sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


def check_contents(file: io.BufferedIOBase) -> None:
    """Refuse a ZIP whose table of contents would fill the memory, by its end record (APPNOTE 4.3.16)."""
    file.seek(0, io.SEEK_END)
    file.seek(max(0, file.tell() - 65_557))  # the record and the longest comment
    tail = file.read()
    start = tail.rfind(b"PK\5\6")
    if b"PK\6\7" in tail or start < 0 or len(tail) - start < 22:  # ZIP64 is for more than we take
        raise InputError("The ZIP file can't be read: pack the images and the manifest as an ordinary ZIP file.")
    if struct.unpack_from("<L", tail, start + 12)[0] > MAX_LIST_BYTES:
        raise InputError(f"The ZIP file lists too many files: send at most {MAX_PAIRS} pairs of images at a time.")


def read_member(archive: zipfile.ZipFile, name: str, limit: int) -> io.BytesIO:
    """A file of a ZIP in memory; nothing is ever written to a path that a ZIP names."""
    if name not in archive.NameToInfo:
        raise InputError(f"There is no file {name[:80]!r} in the ZIP file.")
    # `zipfile` unpacks all of the others at once, whatever limit `read` has and the ZIP says of their size
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{name[:80]} in the ZIP file is compressed in an unusual way: pack an ordinary ZIP file.")
    if archive.getinfo(name).file_size > limit:
        raise InputError(f"{name[:80]} in the ZIP file unpacks to more than {limit // 1_000_000} MB.")
    try:
        with archive.open(name) as member:
            return io.BytesIO(member.read(limit))
    except Exception as error:  # passwords, unknown and damaged compression fail in every way
        raise InputError(f"{name[:80]} in the ZIP file can't be unpacked: {str(error)[:100]}.") from None


def read_manifest(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    """
    Rows of the ZIP's manifest, which may lie in a folder together with the images.

    Raises:
        InputError: In one sentence.
    """
    paths = [name for name in archive.namelist() if PurePosixPath(name).name.lower() == MANIFEST]
    if len(paths) != 1:
        raise InputError(f"The ZIP file must hold one {MANIFEST}, it holds {len(paths)}.")
    try:
        text = read_member(archive, paths[0], MAX_LIST_BYTES).read().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{MANIFEST} is not in UTF-8: save it as CSV UTF-8.") from None
    header = text.partition("\n")[0]
    try:
        rows = list(csv.DictReader(io.StringIO(text), restval="", delimiter=max(",;\t", key=header.count)))
    except csv.Error as error:
        raise InputError(f"{MANIFEST} is no CSV table: {error}.") from None
    columns = [name for name in rows[0] if name is not None] if rows else []
    missing = [name for name in REQUIRED if name not in columns]
    unknown = [name for name in columns if name not in (*REQUIRED, *OPTIONAL)]
    if missing:
        raise InputError(f"{MANIFEST} has no column {missing[0]!r}, or no rows.")
    if unknown:
        raise InputError(
            f"{MANIFEST} has a column {str(unknown[0])[:80]!r}; known are {', '.join(REQUIRED + OPTIONAL)}."
        )
    for number, row in enumerate(rows, start=1):
        if None in row:
            raise InputError(f"Row {number} of {MANIFEST} has more cells than the header: quote text with a comma.")
    if len(rows) > MAX_PAIRS:
        raise InputError(f"{MANIFEST} has {len(rows)} rows: send at most {MAX_PAIRS} pairs of images at a time.")
    for row in rows:
        for key in REQUIRED[:2]:
            row[key] = str(PurePosixPath(paths[0]).parent / row[key].replace("\\", "/"))  # as Windows writes paths
    return rows


def read_archive(path: str) -> Iterator[tuple[str, Submission | InputError]]:
    """
    Submissions of a ZIP file one after the other, each with its name; of one that is wrong the reason.

    Raises:
        InputError: In one sentence, if the file or its manifest can't be read.
    """
    if Path(path).stat().st_size > MAX_ARCHIVE_BYTES:
        raise InputError(f"The ZIP file is larger than {MAX_ARCHIVE_BYTES // 1_000_000} MB: send it in parts.")
    with open(path, "rb") as file:
        check_contents(file)
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error):
            raise InputError("The ZIP file can't be read: is it cut off?") from None
        pixels = 0
        for number, row in enumerate(read_manifest(archive), start=1):
            name = f"{number}: {PurePosixPath(row['nucleus_image']).name[:80]}"
            try:
                images = [read_member(archive, row[key], service.MAX_IMAGE_BYTES) for key in REQUIRED[:2]]
                submission = read_submission(row, *images)
                pixels += submission.nucleus.size
                if pixels > MAX_ARCHIVE_PIXELS:
                    raise InputError(
                        f"The images up to this one have more than {MAX_ARCHIVE_PIXELS:,} pixels: send the rest in "
                        "another ZIP file."
                    )
                yield name, submission
            except InputError as error:
                yield name, error


def looks_swapped(submission: Submission) -> bool:
    """
    Whether the image of the protein shows nuclei and that of the nuclei what lies around them: as many regions, which
    are larger. A protein in nucleoli or elsewhere within the nucleus is no such case.
    """
    counts, areas = [], []
    for image in (submission.nucleus, submission.protein):
        part = rescale(image[:LOOKED_AT, :LOOKED_AT], submission.um_per_px, OPENCELL_UM_PER_PX)
        sizes = np.bincount(segment_nuclei(part, OPENCELL_UM_PER_PX).ravel())[1:]
        counts.append((sizes >= MIN_NUCLEUS).sum())
        areas.append(sizes[sizes >= MIN_NUCLEUS].sum())
    return bool(counts[1] > counts[0] / 4 and areas[0] > 1.5 * areas[1])


def compare(submission: Submission) -> tuple[list[Any], dict[str, Any]]:
    """
    Cut a submission's cells out, and draw its protein on the first of them.

    Returns:
        All crops, and `scores` (means over the crops that were drawn; `protloc.image_metrics.image_scores`) and
        `pictures`, for each of these crops nucleus, protein and drawing, `(H, W)` from 0 to 255.

    Raises:
        InputError: In one sentence, if no cell is found.
    """
    model, processor = service.load_drawer(None)
    try:
        crops = submission.crops()
    except ValueError as error:
        size = submission.um_per_px
        swapped = not nucleus_found(submission.nucleus, size) and nucleus_found(submission.protein, size)
        more = " Nuclei are seen in the image of the protein: are the two images swapped?" if swapped else ""
        raise InputError(f"{sentence(error)}.{more}") from None
    pictures, scores = [], []
    for crop in crops[:COMPARED]:
        pixels = processor.image_processor(crop.nucleus)["nucleus"]
        (drawn,) = drawing.draw([("protein", submission.sequence)], pixels, model, processor)
        regions = find_regions(crop.nucleus, crop.protein)
        scores.append(image_scores(drawn["image"], crop.protein, regions))
        images = (crop.nucleus, crop.protein, drawn["image"])
        pictures.append([np.round(255 * np.clip(image, 0, 1)).astype(np.uint8) for image in images])
    means = {name: float(np.mean([score[name] for score in scores])) for name in SHOWN_SCORES}
    return crops, {"scores": means, "pictures": pictures}


def examine(
    pairs: Iterator[tuple[str, Submission | InputError]], keep: bool, visitor: str = ""
) -> Iterator[dict[str, Any]]:
    """
    Check and compare submissions one after the other, and keep each that is fine before the next.

    Args:
        pairs: As `read_archive` gives them.
        keep (`bool`): Whether their owner agreed to the licence.
        visitor (`str`): Whose share of the store they take.

    Yields:
        `dict`: `name`, `id`, `cells`, `status` (a sentence), `scores` and `pictures`, of one that is kept `receipt`,
        which takes it back (`withdraw`); of one that is wrong only `name` and `status`.

    Raises:
        InputError: In one sentence, if nothing can be kept.
    """
    store = open_store()
    try:
        if keep and store.waiting_bytes() > MAX_WAITING_BYTES:
            raise InputError("Too many submissions wait for review: please try in some days.")
        known = store.known() if keep else set()
    except (OSError, HTTPError):
        raise InputError("Nothing can be kept now: please try again later, or compare without sending.") from None
    for name, submission in pairs:
        try:
            if isinstance(submission, InputError):
                raise submission
            crops, compared = compare(submission)
            swapped = f" {SWAPPED}" if looks_swapped(submission) else ""
            found = {"name": name, "id": submission.id, "cells": len(crops)}
            found["status"] = f"Compared; nothing is kept.{swapped}"
            if submission.id in known:
                found["status"] = "These images were sent before: they are kept once, with what was said of them then."
            elif keep:
                code, locked = receipt()
                table = to_table(submission, crops, compared["scores"], locked)
                if sent.get(visitor, 0) + table.nbytes > MAX_VISITOR_BYTES:
                    raise InputError("Your share of the room for submissions is used up: please send more another day.")
                store.add(submission.id, table)
                sent[visitor] = sent.get(visitor, 0) + table.nbytes
                again = any(submission.images_id == other[: len(submission.images_id)] for other in known)
                known.add(submission.id)
                found |= {
                    "status": RECEIVED + swapped + (f" {ONCE_MORE}" if again else ""),
                    "receipt": f"{submission.id}-{code}",
                }
            yield found | compared
        except InputError as error:
            yield {"name": name, "status": f"Refused: {error}"}
        except OSError:
            raise InputError(
                f"{name} could not be kept, for want of room: what came before it is kept, send the rest again later."
            ) from None


def withdraw(code: str) -> str:
    """
    Take a submission back that nobody has approved yet.

    Args:
        code (`str`): Its receipt.

    Returns:
        `str`: What happened, in one sentence.

    Raises:
        InputError: If there is no such submission, or it has been approved.
    """
    name, _, secret = code.strip().partition("-")
    store = open_store()
    try:
        waits = re.fullmatch("[0-9a-f]{16,32}", name) and name in store.pending()
        if not waits or not same_receipt(store.fetch(name), secret):
            raise InputError(
                "No submission that waits for review has this receipt: it may be approved, rejected or withdrawn."
            )
        store.reject([name])
    except (OSError, HTTPError):
        raise InputError("The submissions can't be reached now: please try again later.") from None
    return "Withdrawn and deleted. You may send it anew, with something else said of it."


def deliver(found: list[dict[str, Any]]) -> None:
    """Bring what was received to where it belongs, and say in its `status` if that has to wait."""
    received = [row for row in found if "receipt" in row]
    if received and not open_store().deliver():
        for row in received:
            row["status"] = "Received: it is kept here until the Hub, which can't be reached now, takes it."


def check_licence(licence: str) -> None:
    """
    Raises:
        InputError: If that is not the licence that submissions are kept under.
    """
    if licence != LICENCE:
        raise InputError(f"Images are kept under {LICENCE} only: agree to it, or compare them without sending.")
