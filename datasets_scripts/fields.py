"""Fields of a microscope -> crops around nuclei in Parquet: shared by the OpenCell and the HPA builder."""

import argparse
import csv
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import sys
import threading
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Features
from tqdm import tqdm

from datasets_scripts.arguments import add_push_arguments, check_out, positive, share
from datasets_scripts.crop_cards import SPLITS, describe_fields, montage, overlays, render_card
from datasets_scripts.dictionary import read_composite
from datasets_scripts.proteins import MAX_LENGTH, Protein, download_structures
from protloc.crops import crop_features, crop_row
from protloc.files import atomic_path, replaced_folder
from protloc.images import COLOURS, read_image, read_two_channels
from protloc.microscopy import (
    OPENCELL_UM_PER_PX,
    SEGMENTERS,
    normalize,
    nucleus_crops,
    rescale,
    segment_nuclei,
)
from protloc.nuclei import WEIGHTS
from protloc_entry import positive_int

SHARD_BYTES = 500_000_000
OWN_FILES = re.compile(
    r"README\.md|(fields|unmatched|split)\.csv|(overlays|montage)\.png|data/.+-(train|validation|test)-\d{5}\.parquet"
)


@dataclasses.dataclass(frozen=True)
class Field:
    field_id: str
    nucleus: Path
    protein_image: Path | None  # None: the second channel of `nucleus`
    um_per_px: float
    protein: Protein
    labels: tuple[str, ...]
    cell_line: str
    split: str
    group: str  # fields that all configurations take or leave together
    grade: int = 0  # of the labels, 3 very prominent to 1 weak; 0 where the source has none
    source_image: str = ""  # what several fields were cut from; the field itself by default
    pad: bool = False  # a picture of one or a few cells: what is missing around it is black
    composite: bool = False  # both images are channels of one picture, with a scale bar


@dataclasses.dataclass(frozen=True)
class Settings:
    size: int
    um_per_px: float
    segmenter: str
    max_overlap: float


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
CROPS = pa.schema(
    {
        "nucleus": IMAGE,
        "protein": IMAGE,
        "crop_box": pa.list_(pa.int32(), 4),
        "focus": pa.float32(),
        "saturation": pa.float32(),
    }
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--split-file", type=Path, help="CSV with columns uniprot_id or target_name, and split")
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        help="proteins for testing only: FASTA, tables of sequences, or of accession, sequence_sha1",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    parser.add_argument(
        "--cluster-identity", type=share, help="split by MMseqs2 clusters of this identity, such as 0.3"
    )
    parser.add_argument("--size", type=positive_int, default=208, help="side of the crops in pixels (default: 208)")
    parser.add_argument(
        "--um-per-px",
        type=positive,
        default=OPENCELL_UM_PER_PX,
        help=f"pixel size of the crops in micrometres (default: {OPENCELL_UM_PER_PX}, OpenCell's)",
    )
    parser.add_argument("--segmenter", choices=SEGMENTERS, default="builtin")
    parser.add_argument(
        "--max-overlap", type=share, default=0.6, help="maximum overlap of two crops, over their union (default: 0.6)"
    )
    parser.add_argument("--processes", type=positive_int, default=multiprocessing.cpu_count())
    parser.add_argument("--structures", type=Path, help="folder to download AlphaFold's models of the proteins to")
    parser.add_argument("--parallel", type=positive_int, default=4, help="number of parallel downloads (default: 4)")
    parser.add_argument("--limit", type=positive_int, help="use only the first fields, for a trial")
    add_push_arguments(parser)


def read_field(field: Field, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Nucleus and protein, float32 `(H, W)` at the pixel size of the crops."""
    if field.composite:
        nucleus, protein = read_composite(field.nucleus)
    elif field.protein_image is None:
        nucleus, protein = read_two_channels(field.nucleus)
    else:
        paths = (field.nucleus, field.protein_image)
        nucleus, protein = (read_image(path, channel=colour_of(path)).pixels for path in paths)
        if nucleus.shape != protein.shape:
            raise ValueError(f"{field.nucleus} is {nucleus.shape} pixels, {field.protein_image} {protein.shape}")
    nucleus, protein = (rescale(image, field.um_per_px, settings.um_per_px) for image in (nucleus, protein))
    return nucleus, protein


def colour_of(path: Path) -> str | None:
    """The channel that `ID_blue.jpg` names, in colours of which the atlas's JPEGs use one."""
    colour = path.name.split(".")[0].rpartition("_")[2]
    return colour if colour in COLOURS else None


def process(field: Field, settings: Settings, folder: Path) -> dict[str, Any]:
    """Write the crops of a field, whole or not at all; an unreadable one gives its reason instead."""
    path = work_path(folder, field, settings)
    if path.exists():
        return json.loads(pq.read_schema(path).metadata[b"summary"])
    try:
        nucleus, protein = read_field(field, settings)
        labels = segment_nuclei(nucleus, settings.um_per_px, settings.segmenter)
        crops = nucleus_crops(
            normalize(nucleus),
            normalize(protein, robust=False),
            labels,
            settings.size,
            settings.um_per_px,
            settings.max_overlap,
            field.pad,
        )
    except ValueError as error:
        return {"field_id": field.field_id, "reason": str(error), "nuclei": 0, "crops": 0, "covered": 0.0}
    summary = {
        "field_id": field.field_id,
        "reason": "",
        "nuclei": int(labels.max()),
        "crops": len(crops),
        "covered": round(float((labels > 0).mean()), 3),
    }
    rows = [crop_row(crop) for crop in crops]
    table = pa.Table.from_pylist(rows, schema=CROPS.with_metadata({"summary": json.dumps(summary)}))
    with atomic_path(path) as partial:
        pq.write_table(table, partial, compression="none")
    return summary


def work_path(folder: Path, field: Field, settings: Settings) -> Path:
    """Where the crops of a field are kept until all are done: another place for whatever would change them."""
    sources = [path for path in (field.nucleus, field.protein_image) if path is not None and path.exists()]
    versions = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    made_of = (
        field.field_id,
        field.um_per_px,
        field.pad,
        field.composite,
        settings,
        versions,
        WEIGHTS.stat().st_mtime_ns,
    )
    return folder / f"{hashlib.sha1(repr(made_of).encode()).hexdigest()}.parquet"


def process_all(fields: list[Field], settings: Settings, folder: Path, processes: int) -> list[dict[str, Any]]:
    """Crops of all fields that have none yet, in several processes; their summaries in the order of the fields."""
    folder.mkdir(parents=True, exist_ok=True)
    work = functools.partial(process, settings=settings, folder=folder)
    progress = functools.partial(tqdm, total=len(fields), unit="field", disable=not sys.stderr.isatty())
    if processes == 1:
        return list(progress(map(work, fields)))
    context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
    try:
        with ProcessPoolExecutor(processes, context, initializer=start_worker) as pool:
            return list(progress(pool.map(work, fields)))
    except BrokenProcessPool:
        raise ValueError(
            f"one of {processes} processes was killed, perhaps for want of memory: start again to resume, with fewer "
            "--processes"
        ) from None


def start_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """A killed build must not leave its processes behind."""
    parent = multiprocessing.parent_process()
    assert parent  # this runs in a worker
    parent.join()
    os._exit(1)


def merge(
    fields: list[Field], settings: Settings, features: Features, work: Path, data: Path
) -> dict[tuple[str, str], list[Path]]:
    """Crops of all fields -> shards of at most 500 MB by (group, split) in `data`, a row group for each field."""
    data.mkdir(parents=True)
    parts: dict[tuple[str, str], list[Field]] = defaultdict(list)
    for field in sorted(fields, key=lambda field: field.field_id):
        if pq.read_metadata(work_path(work, field, settings)).num_rows:
            parts[field.group, field.split].append(field)
    shards: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for (group, split), members in sorted(parts.items()):
        ends = np.cumsum([work_path(work, field, settings).stat().st_size for field in members])
        for number in range(int(ends[-1] // SHARD_BYTES) + 1):
            shard = [field for field, end in zip(members, ends, strict=True) if end // SHARD_BYTES == number]
            path = data / f"{group}-{split}-{number:05d}.parquet"
            with pq.ParquetWriter(path, features.arrow_schema, compression="zstd") as writer:
                for field in shard:
                    rows = pq.read_table(work_path(work, field, settings)).to_pylist()
                    writer.write_table(complete(rows, field, settings, features))
            shards[group, split].append(path)
    return shards


def complete(rows: list[dict[str, Any]], field: Field, settings: Settings, features: Features) -> pa.Table:
    """The crops of a field with what is known of its protein."""
    known = {
        **dataclasses.asdict(field.protein),
        "labels": [features["labels"].feature.str2int(label) for label in field.labels],
        "grade": field.grade,
        "cell_line": field.cell_line,
        "field_id": field.field_id,
        "source_image": field.source_image or field.field_id,
        "um_per_px": settings.um_per_px,
    }
    return pa.Table.from_pylist([{**row, **known} for row in rows], schema=features.arrow_schema)


def build(
    args: argparse.Namespace,
    fields: list[Field],
    labels: list[str],
    configs: dict[str, list[str]],
    template: str,
    counts: dict[str, Any],
) -> None:
    """
    Everything from the fields to the published folder, which changes only when all is done.

    Args:
        labels: Names of the classes.
        configs: Groups of fields that each configuration takes.
        template: Of the card, in `model_cards/`.
        counts: What the card says besides.
    """
    if not fields:
        raise ValueError("no image belongs to a protein of the build: are the folder and the tables the right ones?")
    twice = [name for name, count in Counter(field.field_id for field in fields).items() if count > 1]
    if twice:
        raise ValueError(f"two images are of field {twice[0]}: move one of them away")
    check_out(args.out, OWN_FILES)
    fields = fields[: args.limit]
    if args.structures:
        download_structures([field.protein for field in fields], args.structures, args.parallel)
    settings = Settings(args.size, args.um_per_px, args.segmenter, args.max_overlap)
    features = crop_features(labels)
    work = args.out.with_name(f"{args.out.name}.fields")  # a file for each field that is done, until all are
    summaries = process_all(fields, settings, work, args.processes)
    readable = [field for field, summary in zip(fields, summaries, strict=True) if not summary["reason"]]
    if not readable:
        raise ValueError(f"none of {len(fields)} fields can be read; the first: {summaries[0]['reason']}")
    with replaced_folder(args.out) as new:
        shards = merge(readable, settings, features, work, new / "data")
        if not shards:
            raise ValueError(
                f"none of {len(readable)} fields holds a whole nucleus of the right size: is the pixel size right?"
            )
        write_csv(new / "fields.csv", summaries, list(summaries[0]))
        unmatched = [{"name": name, "reason": reason} for name, reason in counts["unmatched"]]
        write_csv(new / "unmatched.csv", unmatched, ["name", "reason"])
        sides = {(field.protein.uniprot_id, field.protein.gene): field.split for field in fields}
        proteins = [
            {"uniprot_id": accession, "target_name": gene, "split": side}
            for (accession, gene), side in sorted(sides.items())
            if accession or gene
        ]
        write_csv(new / "split.csv", proteins, ["uniprot_id", "target_name", "split"])
        shown = [readable[i] for i in np.unique(np.linspace(0, len(readable) - 1, 8).astype(int))]
        overlays([read_field(field, settings)[0] for field in shown], settings, new / "overlays.png")
        montage([path for paths in shards.values() for path in paths], features, new / "montage.png")
        files = {
            config: {split: [path for group in groups for path in shards.get((group, split), [])] for split in SPLITS}
            for config, groups in configs.items()
            if any((group, split) in shards for group in groups for split in SPLITS)
        }
        card = render_card(
            template,
            new,
            files,
            args.push_to_hub or str(args.out),
            labels=labels,
            settings=settings,
            fields=describe_fields(summaries),
            lines=Counter(f.cell_line or "not stated" for f in {field.nucleus: field for field in fields}.values()),
            max_length=MAX_LENGTH,
            **{**counts, "unmatched": len(unmatched)},
        )
        card.save(new / "README.md")
    shutil.rmtree(work)
    print(f"{args.out}: {sum(s['crops'] for s in summaries)} crops of {len(readable)} fields", file=sys.stderr)
    if len(readable) < len(fields):
        print(f"{len(fields) - len(readable)} fields can't be read: see {args.out / 'fields.csv'}", file=sys.stderr)


def write_csv(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns)
        writer.writeheader()
        writer.writerows(rows)
