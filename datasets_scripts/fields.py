"""Fields of a microscope -> crops around nuclei in Parquet: what the OpenCell and the HPA builder share."""

import argparse
import csv
import dataclasses
import functools
import hashlib
import io
import json
import multiprocessing
import shutil
import sys
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import ClassLabel, Features, Image, List, Value
from huggingface_hub import DatasetCard, DatasetCardData
from jinja2 import Environment, FileSystemLoader
from PIL import Image as PILImage
from PIL import ImageDraw
from proteins import MAX_LENGTH, Protein, download_structures
from skimage.segmentation import mark_boundaries
from tables import push
from tqdm import tqdm

from protloc.microscopy import (
    OPENCELL_UM_PER_PX,
    SEGMENTERS,
    normalize,
    nucleus_crops,
    read_image,
    read_two_channels,
    rescale,
    segment_nuclei,
)

SHARD_BYTES = 500_000_000
FEW_NUCLEI = 3
CONFLUENT = 0.5  # share of the field that nuclei cover, above which they can hardly be told apart
CARDS = Path(__file__).resolve().parents[1] / "model_cards"
WORK = ".fields"  # one file for each field that is done, until all are


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
    pad: bool = False  # one cell, cut out: what is missing around it is black


@dataclasses.dataclass(frozen=True)
class Settings:
    size: int
    um_per_px: float
    segmenter: str
    max_overlap: float


def crop_features(labels: list[str]) -> Features:
    return Features(
        {
            "nucleus": Image(),
            "protein": Image(),
            "sequence": Value("string"),
            "uniprot_id": Value("string"),
            "gene": Value("string"),
            "labels": List(ClassLabel(names=labels)),
            "grade": Value("int8"),
            "cell_line": Value("string"),
            "field_id": Value("string"),
            "crop_box": List(Value("int32"), length=4),  # left, top, right, bottom at um_per_px
            "um_per_px": Value("float32"),
            "focus": Value("float32"),
            "saturation": Value("float32"),
        }
    )


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
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: 0)")
    parser.add_argument(
        "--cluster-identity", type=float, help="split by MMseqs2 clusters of this identity, such as 0.3"
    )
    parser.add_argument("--size", type=int, default=208, help="side of the crops in pixels (default: 208)")
    parser.add_argument(
        "--um-per-px",
        type=float,
        default=OPENCELL_UM_PER_PX,
        help=f"size of a pixel of the crops in micrometres (default: {OPENCELL_UM_PER_PX}, OpenCell's)",
    )
    parser.add_argument("--segmenter", choices=SEGMENTERS, default="builtin")
    parser.add_argument("--max-overlap", type=float, default=0.6, help="of two crops, over their union (default: 0.6)")
    parser.add_argument("--processes", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--structures", type=Path, help="folder to download AlphaFold's models of the proteins to")
    parser.add_argument("--parallel", type=int, default=4, help="downloads at a time (default: 4)")
    parser.add_argument("--limit", type=int, help="first fields only, to try")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="publish the folder as this data set repository")
    parser.add_argument("--private", action="store_true", help="make a new repository private")


def png(image: np.ndarray) -> dict[str, Any]:
    """An image in [0, 1] with 16 bit."""
    buffer = io.BytesIO()
    PILImage.fromarray(np.round(image * 65535).astype(np.uint16)).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def read_field(field: Field, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Nucleus and protein, float32 `(H, W)` at the pixel size of the crops."""
    if field.protein_image is None:
        images = read_two_channels(field.nucleus)
    else:
        images = read_image(field.nucleus), read_image(field.protein_image)
        if images[0].shape != images[1].shape:
            raise ValueError(f"{field.nucleus} is {images[0].shape} pixels, {field.protein_image} {images[1].shape}")
    nucleus, protein = (rescale(image, field.um_per_px, settings.um_per_px) for image in images)
    return nucleus, protein


def process(field: Field, settings: Settings, folder: Path) -> dict[str, Any]:
    """Write the crops of a field, whole or not at all; an unreadable one gives its reason instead."""
    path = field_path(folder, field)
    if path.exists():
        return json.loads(pq.read_schema(path).metadata[b"summary"])
    try:
        nucleus, protein = read_field(field, settings)
        labels = segment_nuclei(nucleus, settings.um_per_px, settings.segmenter)
        crops = nucleus_crops(
            normalize(nucleus),
            normalize(protein),
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
    rows = [
        {
            "nucleus": png(crop.nucleus),
            "protein": png(crop.protein),
            "crop_box": crop.box,
            "focus": crop.focus,
            "saturation": crop.saturation,
        }
        for crop in crops
    ]
    table = pa.Table.from_pylist(rows, schema=CROPS.with_metadata({"summary": json.dumps(summary)}))
    pq.write_table(table, path.with_suffix(".partial"), compression="none")
    path.with_suffix(".partial").rename(path)
    return summary


def field_path(folder: Path, field: Field) -> Path:
    """Where the crops of a field are kept until all are done: another one for whatever changes the crops."""
    made_of = (field.field_id, field.nucleus, field.protein_image, field.um_per_px, field.pad)
    return folder / f"{hashlib.sha1(repr(made_of).encode()).hexdigest()}.parquet"


def process_all(fields: list[Field], settings: Settings, out: Path, processes: int) -> list[dict[str, Any]]:
    """Crops of all fields that have none yet, in several processes; their summaries in the order of the fields."""
    folder = out / WORK
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != dataclasses.asdict(settings):
        raise ValueError(f"{folder} was begun with {kept.read_text()}: repeat these settings or remove that folder")
    kept.write_text(json.dumps(dataclasses.asdict(settings)))
    work = functools.partial(process, settings=settings, folder=folder)
    progress = functools.partial(tqdm, total=len(fields), unit="field", disable=not sys.stderr.isatty())
    if processes == 1:
        return list(progress(map(work, fields)))
    context = multiprocessing.get_context("spawn")  # torch's threads don't survive a fork
    try:
        with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(progress(pool.map(work, fields)))
    except BrokenProcessPool:
        raise ValueError(
            f"one of {processes} processes was killed, perhaps for want of memory: start again to go on, with fewer "
            "--processes"
        ) from None


def merge(fields: list[Field], out: Path, settings: Settings, features: Features) -> dict[tuple[str, str], list[Path]]:
    """Crops of all fields -> shards of at most 500 MB by (group, split), a row group for each field; relative paths."""
    shutil.rmtree(out / "data.partial", ignore_errors=True)
    (out / "data.partial").mkdir()
    parts: dict[tuple[str, str], list[Field]] = defaultdict(list)
    for field in sorted(fields, key=lambda field: field.field_id):
        if pq.read_metadata(field_path(out / WORK, field)).num_rows:
            parts[field.group, field.split].append(field)
    shards: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for (group, split), members in sorted(parts.items()):
        sizes = np.cumsum([field_path(out / WORK, field).stat().st_size for field in members])
        for number in range(int(sizes[-1] // SHARD_BYTES) + 1):
            shard = [field for field, end in zip(members, sizes, strict=True) if end // SHARD_BYTES == number]
            path = Path("data") / f"{group}-{split}-{number:05d}.parquet"
            with pq.ParquetWriter(out / "data.partial" / path.name, features.arrow_schema) as writer:
                for field in shard:
                    writer.write_table(complete(field, out, settings, features))
            shards[group, split].append(path)
    shutil.rmtree(out / "data", ignore_errors=True)
    (out / "data.partial").rename(out / "data")
    return shards


def complete(field: Field, out: Path, settings: Settings, features: Features) -> pa.Table:
    """The crops of a field with what is known of its protein."""
    known = {
        **dataclasses.asdict(field.protein),
        "labels": [features["labels"].feature.str2int(label) for label in field.labels],
        "grade": field.grade,
        "cell_line": field.cell_line,
        "field_id": field.field_id,
        "um_per_px": settings.um_per_px,
    }
    rows = pq.read_table(field_path(out / WORK, field)).to_pylist()
    return pa.Table.from_pylist([{**row, **known} for row in rows], schema=features.arrow_schema)


def overlays(fields: list[Field], settings: Settings, path: Path, columns: int = 4, rows: int = 2) -> None:
    """A picture of some fields, evenly chosen, with the outlines of the nuclei that are seen in them."""
    chosen = [fields[i] for i in np.unique(np.linspace(0, len(fields) - 1, columns * rows).astype(int))]
    pictures = []
    for field in chosen:
        nucleus, _ = read_field(field, settings)
        labels = segment_nuclei(nucleus, settings.um_per_px, settings.segmenter)
        picture = mark_boundaries(normalize(nucleus) ** 0.7, labels, color=(1, 0.8, 0))
        pictures.append(PILImage.fromarray((picture * 255).astype(np.uint8)).resize((400, 400)))
    tile(pictures, columns).save(path)


def montage(shards: list[Path], path: Path, features: Features, columns: int = 6, rows: int = 4) -> None:
    """A picture with the first crop of each set of labels, single ones first: nucleus blue, protein green."""
    names = features["labels"].feature.names
    pictures: dict[tuple[int, ...], PILImage.Image] = {}
    for shard in shards:
        for batch in pq.ParquetFile(shard).iter_batches(batch_size=8, columns=["nucleus", "protein", "labels"]):
            for row in batch.to_pylist():
                labels = tuple(row["labels"])
                if labels not in pictures:
                    files = (io.BytesIO(row[name]["bytes"]) for name in ("nucleus", "protein"))
                    nucleus, protein = (np.asarray(PILImage.open(file)) // 256 for file in files)
                    colours = np.stack([nucleus // 4, protein, np.maximum(nucleus, protein // 4)], axis=-1)
                    picture = PILImage.fromarray(colours.astype(np.uint8))
                    caption = "\n".join(names[label] for label in labels)
                    ImageDraw.Draw(picture).text((4, 4), caption, fill="white", font_size=14)
                    pictures[labels] = picture
    chosen = sorted(pictures, key=lambda labels: (len(labels), labels))[: columns * rows]
    tile([pictures[labels] for labels in chosen], columns).save(path)


def tile(pictures: list[PILImage.Image], columns: int) -> PILImage.Image:
    side = pictures[0].width + 4
    sheet = PILImage.new("RGB", (side * min(columns, len(pictures)), side * -(-len(pictures) // columns)), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * side, i // columns * side))
    return sheet


def build(
    args: argparse.Namespace,
    fields: list[Field],
    labels: list[str],
    configs: dict[str, list[str]],
    template: str,
    counts: dict[str, Any],
) -> None:
    """
    Everything from the fields to the published folder.

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
    fields = fields[: args.limit]
    if args.structures:
        download_structures([field.protein for field in fields], args.structures, args.parallel)
    settings = Settings(args.size, args.um_per_px, args.segmenter, args.max_overlap)
    features = crop_features(labels)
    summaries = process_all(fields, settings, args.out, args.processes)
    readable = [field for field, summary in zip(fields, summaries, strict=True) if not summary["reason"]]
    if not readable:
        raise ValueError(f"none of {len(fields)} fields can be read; the first: {summaries[0]['reason']}")
    shards = merge(readable, args.out, settings, features)
    if not shards:
        raise ValueError(
            f"none of {len(readable)} fields holds a whole nucleus of the right size: is the pixel size right?"
        )
    write_csv(args.out / "fields.csv", summaries)
    unmatched = [{"name": name, "reason": reason} for name, reason in counts["unmatched"]]
    write_csv(args.out / "unmatched.csv", unmatched or [{"name": "", "reason": ""}])
    overlays(readable, settings, args.out / "overlays.png")
    montage([args.out / path for paths in shards.values() for path in paths], args.out / "montage.png", features)

    files = {
        config: {
            split: [str(path) for group in groups for path in shards.get((group, split), [])]
            for split in ("train", "test")
        }
        for config, groups in configs.items()
    }
    card_data = DatasetCardData(
        pretty_name=counts["title"],
        license=counts["licence"],
        task_categories=["image-to-image", "image-classification"],
        tags=["biology", "protein", "subcellular-localization", "microscopy"],
        configs=[
            {
                "config_name": config,
                # `load_dataset` caches a local folder by its name and this metadata: see build_deeploc.py
                "description": f"Content {digest([args.out / path for paths in splits.values() for path in paths])}.",
                "data_files": [{"split": split, "path": paths} for split, paths in splits.items() if paths],
            }
            for config, splits in files.items()
            if any(splits.values())
        ],
    )
    cards = Environment(loader=FileSystemLoader(CARDS), keep_trailing_newline=True)
    text = cards.get_template(template).render(
        card_data=card_data.to_yaml(),
        repo_id=args.push_to_hub or str(args.out),
        settings=settings,
        labels=labels,
        max_length=MAX_LENGTH,
        few_nuclei=FEW_NUCLEI,
        confluent=CONFLUENT,
        nuclei=json.loads((CARDS / "nuclei.json").read_text()),
        unmatched_count=len(unmatched),
        fields=describe_fields(fields, summaries),
        crops={
            config: {
                split: describe_crops([args.out / path for path in paths], labels) for split, paths in splits.items()
            }
            for config, splits in files.items()
        },
        **counts,
    )
    card = DatasetCard(text)
    card.save(args.out / "README.md")
    shutil.rmtree(args.out / WORK)
    crops = sum(summary["crops"] for summary in summaries)
    print(f"{args.out}: {crops} crops of {len(readable)} fields", file=sys.stderr)
    if len(readable) < len(fields):
        print(f"{len(fields) - len(readable)} fields can't be read: see {args.out / 'fields.csv'}", file=sys.stderr)
    if args.push_to_hub:
        pictures = ["overlays.png", "montage.png", "fields.csv", "unmatched.csv"]
        names = [str(path) for paths in shards.values() for path in paths]
        push(args.out, ["README.md", *pictures, *names], args.push_to_hub, args.private)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def digest(paths: list[Path]) -> str:
    content = hashlib.sha1()
    for path in paths:
        with open(path, "rb") as handle:
            content.update(hashlib.file_digest(handle, "sha1").digest())
    return content.hexdigest()[:12]


def describe_fields(fields: list[Field], summaries: list[dict[str, Any]]) -> dict[str, int]:
    readable = [summary for summary in summaries if not summary["reason"]]
    return {
        "fields": len(fields),
        "unreadable": len(fields) - len(readable),
        "without nuclei": sum(summary["nuclei"] == 0 for summary in readable),
        "with few nuclei": sum(0 < summary["nuclei"] < FEW_NUCLEI for summary in readable),
        "over-confluent": sum(summary["covered"] > CONFLUENT for summary in readable),
        "nuclei seen": sum(summary["nuclei"] for summary in readable),
        "crops": sum(summary["crops"] for summary in readable),
    }


def describe_crops(paths: list[Path], labels: list[str]) -> dict[str, Any]:
    """Crops and proteins of a split, counted from its files, also by label."""
    rows = [row for path in paths for row in pq.read_table(path, columns=["gene", "labels"]).to_pylist()]
    return {
        "crops": len(rows),
        "proteins": len({row["gene"] for row in rows} - {""}),
        "labels": {
            name: {
                "crops": sum(i in row["labels"] for row in rows),
                "proteins": len({row["gene"] for row in rows if i in row["labels"]} - {""}),
            }
            for i, name in enumerate(labels)
        },
    }
