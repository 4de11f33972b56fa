"""
Images that people send: out of sight until a maintainer has reviewed them, then rows of a data set of crops.

A submission is one Parquet file. In a folder it lies in `pending/` and, once approved, in `data/`; on the Hub in a
private data set `OWNER/NAME-pending`, and in `OWNER/NAME`.
"""

import hashlib
import json
import os
import secrets
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features, Value
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    CommitScheduler,
    DatasetCardData,
    HfApi,
    hf_hub_download,
)
from huggingface_hub.errors import RepositoryNotFoundError

from protloc.crops import crop_features, crop_row
from protloc.hub import check_repo_id
from protloc.microscopy import OPENCELL_UM_PER_PX, Crop, normalize, nucleus_crops, rescale, segment_nuclei
from protloc.tables import sha1
from protloc.taxonomy import HPA_LOCATIONS

LICENCE = "CC BY 4.0"
LABELS = [name for name in HPA_LOCATIONS if name not in ("Negative", "Vesicles and punctate cytosolic patterns")]
SIZE = 208  # pixels of a crop
MAX_CROPS = 100  # of one submission
MAX_PIXELS = 16_000_000  # of an image at the crops' pixel size
FEATURES = Features(
    {
        **crop_features(LABELS),
        "submission_id": Value("string"),
        "received": Value("string"),  # ISO 8601
        "licence": Value("string"),
        "credit": Value("string"),
    }
)
RETRY_MINUTES = 5
CARD = """---
{metadata}
---

# Cells and proteins sent to openGPS

{count} submissions of microscope images, each with a nuclear stain, a protein and its sequence, cut into crops of
{size} x {size} pixels of {um} micrometres around the nuclei. People sent them under {licence} (column `credit` says
whom to name); a maintainer reviewed each before it came here. Labels are the submitters' own;
an empty list means that they gave none. Columns are those of the other crops that protloc trains deepGPS with, so this
is one more line in the `images` of a training configuration. Proteins that only test stand in the split `test`.
"""


@dataclass(frozen=True)
class Submission:
    """
    One field of view: nuclear stain and protein, `(H, W)` in the camera's unit, and what is known of them.

    Raises:
        ValueError: In one sentence, for what can't be a submission.
    """

    nucleus: np.ndarray
    protein: np.ndarray
    sequence: str
    cell_line: str
    gene: str = ""
    uniprot_id: str = ""
    labels: tuple[str, ...] = ()
    credit: str = ""
    um_per_px: float = OPENCELL_UM_PER_PX

    def __post_init__(self):
        if self.nucleus.shape != self.protein.shape:
            raise ValueError(
                f"the image of the nucleus has {size(self.nucleus)} pixels and that of the protein "
                f"{size(self.protein)}: send two images of one field"
            )
        if np.array_equal(self.nucleus, self.protein):
            raise ValueError("nucleus and protein are the same image: choose another file, channel or page for one")
        if not 0.02 <= self.um_per_px <= 2:
            raise ValueError(f"a pixel of {self.um_per_px:g} micrometres: give a size from 0.02 to 2")
        if self.nucleus.size * (self.um_per_px / OPENCELL_UM_PER_PX) ** 2 > MAX_PIXELS:
            raise ValueError(
                f"{size(self.nucleus)} pixels of {self.um_per_px:g} micrometres are too many at once: send a part"
            )
        if not self.cell_line:
            raise ValueError("no cell line: say which cells these are, such as U-2 OS or HEK293T")
        for name in ("cell_line", "gene", "uniprot_id", "credit"):
            text = getattr(self, name)
            if len(text) > 100 or not text.isprintable():
                raise ValueError(f"{name} {text[:30]!r}... must be at most 100 printable letters")
        for label in self.labels:
            if label not in LABELS:
                raise ValueError(f"there is no location {label[:50]!r}; known are {', '.join(LABELS)}")

    @property
    def id(self) -> str:
        """
        A digest of both images and one of what is said of them: the same pixels with the same claim are the same
        submission, whatever file they come in; a wrong claim doesn't keep a right one out.
        """
        claim = "\n".join([self.sequence, self.cell_line, self.gene, self.uniprot_id, *sorted(self.labels)])
        return self.images_id + sha1(claim)[:8]

    @property
    def images_id(self) -> str:
        """A digest of both images."""
        digest = hashlib.sha1(repr(self.nucleus.shape).encode())
        for image in (self.nucleus, self.protein):
            digest.update(np.ascontiguousarray(image, dtype=np.float32).tobytes())
        return digest.hexdigest()[:16]

    def crops(self) -> list[Crop]:
        """
        The first `MAX_CROPS` cells whose nucleus is seen whole and whose protein is seen at all.

        Raises:
            ValueError: If there is none, or an image is empty.
        """
        nucleus, protein = (
            rescale(image, self.um_per_px, OPENCELL_UM_PER_PX) for image in (self.nucleus, self.protein)
        )
        labels = segment_nuclei(nucleus, OPENCELL_UM_PER_PX)
        images = normalize(nucleus), normalize(protein, robust=False), labels
        # A picture of one cell is smaller than a crop.
        crops = nucleus_crops(*images, SIZE) or nucleus_crops(*images, SIZE, pad=True)
        if not crops:
            raise ValueError(
                f"no whole nucleus was found among {int(labels.max())} bright regions: check the pixel size, "
                f"{self.um_per_px:g} micrometres, and that this is the nuclear stain"
            )
        crops = [crop for crop in crops if crop.protein.min() < crop.protein.max()]
        if not crops:
            raise ValueError("the image of the protein is empty around every nucleus: choose another channel or page")
        return crops[:MAX_CROPS]


def size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def receipt() -> tuple[str, str]:
    """A secret that takes a submission back, and what is kept of it."""
    code = secrets.token_urlsafe(12)
    return code, hashlib.sha256(code.encode()).hexdigest()


def same_receipt(path: Path, code: str) -> bool:
    """Whether a submission's file was kept with this secret."""
    kept = (pq.read_schema(path).metadata or {}).get(b"receipt", b"")
    return secrets.compare_digest(hashlib.sha256(code.encode()).hexdigest().encode(), kept)


def to_table(
    submission: Submission, crops: list[Crop], scores: Mapping[str, float], locked_receipt: str = ""
) -> pa.Table:
    """
    Rows of the data set; for the maintainer a summary, with `scores` of the model's drawing, in the table's metadata,
    and the digest of its receipt.
    """
    known = {
        "sequence": submission.sequence,
        "uniprot_id": submission.uniprot_id,
        "gene": submission.gene,
        "labels": [LABELS.index(label) for label in submission.labels],
        "grade": 0,
        "cell_line": submission.cell_line,
        "field_id": submission.id,
        "source_image": submission.id,
        "um_per_px": OPENCELL_UM_PER_PX,
        "submission_id": submission.id,
        "received": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": LICENCE,
        "credit": submission.credit,
    }
    rows = [known | crop_row(crop) for crop in crops]
    summary = {name: known[name] for name in ("received", "gene", "uniprot_id", "cell_line", "credit")} | {
        "residues": len(submission.sequence),
        "labels": "|".join(submission.labels),
        "cells": len(crops),
        **{name: round(score, 3) for name, score in scores.items()},
    }
    schema = FEATURES.arrow_schema
    metadata = {**schema.metadata, b"summary": json.dumps(summary).encode()}
    metadata[b"receipt"] = locked_receipt.encode()
    return pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata))


def read_summary(path: Path) -> dict[str, Any]:
    """
    What `to_table` said of a submission.

    Raises:
        ValueError: If the file is none.
    """
    try:
        return dict(json.loads(pq.read_schema(path).metadata[b"summary"]))
    except (TypeError, KeyError, ValueError, OSError, pa.ArrowException):
        raise ValueError(f"{path} is no submission, or a damaged one: reject it, or move it away") from None


def write_whole(table: pa.Table, path: Path) -> None:
    """The file is there whole, on disk, when this returns; before that it isn't there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")  # two visitors may send the same images at once
    try:
        with open(partial, "wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)  # of a disk that is full


def remove_old(partials: Iterable[Path], seconds: float = 3600) -> None:
    """Remove files that nobody has written for an hour; younger ones may be another process's."""
    for path in partials:
        try:
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()
        except FileNotFoundError:  # that process was faster
            continue


def card(data_files: Iterable[str]) -> str:
    """The card of the approved submissions, from the names of their files."""
    names = sorted(data_files)
    splits = [split for split in ("train", "test") if any(name.startswith(f"data/{split}-") for name in names)]
    metadata = DatasetCardData(
        pretty_name="Cells and proteins sent to openGPS",
        license="cc-by-4.0",
        task_categories=["image-to-image", "image-classification"],
        tags=["biology", "protein", "subcellular-localization", "microscopy"],
        configs=[
            {
                "config_name": "default",
                # `load_dataset` caches a local folder by its name and this metadata; the names are digests of content
                "description": f"Content {sha1(' '.join(names))[:12]}.",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    )
    return CARD.format(metadata=metadata.to_yaml(), count=len(names), size=SIZE, um=OPENCELL_UM_PER_PX, licence=LICENCE)


class FolderStore:
    """Submissions in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __str__(self) -> str:
        return f"the folder {self.folder.resolve()}"

    def pending(self) -> list[str]:
        """Ids, the oldest first."""
        paths = (self.folder / "pending").glob("*.parquet")
        return [path.stem for path in sorted(paths, key=lambda path: path.stat().st_mtime)]

    def fetch(self, name: str) -> Path:
        """The file of a pending submission."""
        return self.folder / "pending" / f"{name}.parquet"

    def known(self) -> set[str]:
        """Ids of all that are pending or approved."""
        return {*self.pending(), *(path.stem.rpartition("-")[2] for path in (self.folder / "data").glob("*.parquet"))}

    def waiting_bytes(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "pending").glob("*.parquet"))

    def add(self, name: str, table: pa.Table) -> None:
        write_whole(table, self.fetch(name))

    def deliver(self) -> bool:
        """Whether all that was added lies where it belongs."""
        return True

    def clean(self) -> None:
        """Remove what a kill left half written; for a site that starts."""
        remove_old((self.folder / "pending").glob("*.partial"))

    def approve(self, paths: Mapping[str, Path], splits: Mapping[str, str]) -> None:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        for name, path in paths.items():
            path.rename(data / f"{splits[name]}-{name}.parquet")
        partial = self.folder / "README.md.partial"
        partial.write_text(card(f"data/{path.name}" for path in data.glob("*.parquet")), encoding="utf-8")
        partial.rename(self.folder / "README.md")

    def reject(self, ids: Iterable[str]) -> None:
        for name in ids:
            self.fetch(name).unlink()


class Spool(CommitScheduler):
    """Commits what lies in a folder, and takes it away once the Hub has it."""

    def push_to_hub(self) -> CommitInfo | None:
        paths = sorted(self.folder_path.glob("*.parquet"))
        if not paths:
            return None
        commit = self.api.create_commit(
            self.repo_id,
            repo_type="dataset",
            operations=[CommitOperationAdd(f"pending/{path.name}", path) for path in paths],
            commit_message=f"{len(paths)} submissions to review",
        )
        for path in paths:
            path.unlink(missing_ok=True)  # another process may have committed it too
        return commit


class HubStore:
    """
    Submissions on the Hub.

    Args:
        dataset (`str`): OWNER/NAME of the data set of approved ones.
        spool (`Path`, *optional*): Folder for those that have not reached the Hub yet; needed to `add`.

    Raises:
        ValueError: For a name that is none, and if the data set of pending ones is public.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """

    def __init__(self, dataset: str, spool: Path | None = None):
        check_repo_id(dataset)
        self.dataset, self.inbox = dataset, f"{dataset}-pending"
        self.api = HfApi()
        if spool:
            self.spool = Spool(
                repo_id=self.inbox, folder_path=spool, every=RETRY_MINUTES, repo_type="dataset", private=True
            )
            if not self.api.repo_info(self.inbox, repo_type="dataset").private:
                self.spool.stop()
                raise ValueError(f"{self.inbox} is public, and would show what nobody has reviewed: make it private")

    def __str__(self) -> str:
        return f"the data set {self.inbox} on the Hub"

    def _files(self, repo: str, folder: str) -> list[str]:
        try:
            files = self.api.list_repo_files(repo, repo_type="dataset")
        except RepositoryNotFoundError:
            return []
        return [name for name in files if name.startswith(f"{folder}/") and name.endswith(".parquet")]

    def pending(self) -> list[str]:
        return [Path(name).stem for name in self._files(self.inbox, "pending")]

    def fetch(self, name: str) -> Path:
        return Path(hf_hub_download(self.inbox, f"pending/{name}.parquet", repo_type="dataset"))

    def known(self) -> set[str]:
        """Ids of all that are on their way, pending or approved."""
        files = [*self._files(self.inbox, "pending"), *self._files(self.dataset, "data")]
        files += [path.name for path in self.spool.folder_path.glob("*.parquet")]
        return {Path(name).stem.rpartition("-")[2] for name in files}

    def waiting_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.spool.folder_path.glob("*.parquet"))

    def add(self, name: str, table: pa.Table) -> None:
        write_whole(table, self.spool.folder_path / f"{name}.parquet")

    def deliver(self) -> bool:
        """Whether the Hub has all that was added; what it has not, it is asked again every `RETRY_MINUTES`."""
        try:
            self.spool.trigger().result(timeout=60)
        except Exception:  # whatever keeps the Hub from answering: the files stay
            return False
        return True

    def clean(self) -> None:
        """Remove what a kill left half written; for a site that starts."""
        remove_old(self.spool.folder_path.glob("*.partial"))

    def approve(self, paths: Mapping[str, Path], splits: Mapping[str, str]) -> None:
        files = {f"data/{splits[name]}-{name}.parquet": path for name, path in paths.items()}
        self.api.create_repo(self.dataset, repo_type="dataset", exist_ok=True)
        operations: list[Any] = [CommitOperationAdd(name, path) for name, path in files.items()]
        text = card({*self._files(self.dataset, "data"), *files})
        self.api.create_commit(
            self.dataset,
            repo_type="dataset",
            operations=[*operations, CommitOperationAdd("README.md", text.encode())],
            commit_message=f"{len(files)} submissions approved",
        )
        self.reject(paths)  # killed before this, they are pending still, and approved once more as the same files

    def reject(self, ids: Iterable[str]) -> None:
        names = [f"pending/{name}.parquet" for name in ids]
        self.api.create_commit(
            self.inbox,
            repo_type="dataset",
            operations=[CommitOperationDelete(name) for name in names],
            commit_message=f"{len(names)} submissions reviewed",
        )
