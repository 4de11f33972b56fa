"""The card and the pictures of a data set of crops, all from what was built."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Features
from huggingface_hub import DatasetCard, DatasetCardData
from jinja2 import Environment, FileSystemLoader
from PIL import Image, ImageDraw
from skimage.segmentation import mark_boundaries

from datasets_scripts.arguments import describe_files
from protloc.crops import crop_features
from protloc.microscopy import normalize, segment_nuclei

FEW_NUCLEI = 3
CONFLUENT = 0.4  # share of the field that nuclei cover, above which many touch
SPLITS = ("train", "validation", "test")
TEMPLATES = Path(__file__).resolve().parents[1] / "model_cards"


def render_card(
    template: str, folder: Path, files: dict[str, dict[str, list[Path]]], repo_id: str, **known
) -> DatasetCard:
    """
    Args:
        template: In `model_cards/`.
        folder: Of the data set.
        files: Shards by configuration and split.
        known: What the template shows besides.
    """
    card_data = DatasetCardData(
        pretty_name=known["title"],
        license=known["licence"],
        task_categories=["image-to-image", "image-classification"],
        tags=["biology", "protein", "subcellular-localization", "microscopy"],
        **describe_files(folder, crop_features(known["labels"]), files),
    )
    templates = Environment(loader=FileSystemLoader(TEMPLATES), keep_trailing_newline=True)
    text = templates.get_template(template).render(
        card_data=card_data.to_yaml(),
        repo_id=repo_id,
        few_nuclei=FEW_NUCLEI,
        confluent=CONFLUENT,
        nuclei=json.loads((TEMPLATES / "nuclei.json").read_text(encoding="utf-8")),
        crops={
            config: {split: describe_crops(paths, known["labels"]) for split, paths in splits.items()}
            for config, splits in files.items()
        },
        **known,
    )
    return DatasetCard(text)


def describe_fields(summaries: list[dict[str, Any]]) -> dict[str, int]:
    readable = [summary for summary in summaries if not summary["reason"]]
    return {
        "fields": len(summaries),
        "unreadable": len(summaries) - len(readable),
        "without nuclei": sum(summary["nuclei"] == 0 for summary in readable),
        "with few nuclei": sum(0 < summary["nuclei"] < FEW_NUCLEI for summary in readable),
        "over-confluent": sum(summary["covered"] > CONFLUENT for summary in readable),
        "nuclei seen": sum(summary["nuclei"] for summary in readable),
        "crops": sum(summary["crops"] for summary in readable),
    }


def describe_crops(paths: list[Path], labels: list[str]) -> dict[str, Any]:
    """Crops and known proteins of a split, counted from its files, also by label."""
    columns = ["gene", "sequence", "labels"]
    rows = [row for path in paths for row in pq.read_table(path, columns=columns).to_pylist()]

    def count(chosen: list[dict[str, Any]]) -> dict[str, int]:
        return {"crops": len(chosen), "proteins": len({row["sequence"] or row["gene"] for row in chosen} - {""})}

    by_label = {name: count([row for row in rows if i in row["labels"]]) for i, name in enumerate(labels)}
    return {**count(rows), "labels": by_label}


def overlays(images: list[np.ndarray], settings: Any, path: Path, columns: int = 4) -> None:
    """A picture of fields with the outlines of the nuclei that are seen in them."""
    pictures = []
    for image in images:
        labels = segment_nuclei(image, settings.um_per_px, settings.segmenter)
        picture = mark_boundaries(normalize(image) ** 0.7, labels, color=(1, 0.8, 0))
        pictures.append(Image.fromarray((picture * 255).astype(np.uint8)).resize((400, 400)))
    tile(pictures, columns).save(path)


def montage(shards: list[Path], features: Features, path: Path, columns: int = 6, rows: int = 4) -> None:
    """A picture with the first crop of each set of labels, single ones first: nucleus blue, protein green."""
    names = features["labels"].feature.names
    pictures: dict[tuple[int, ...], Image.Image] = {}
    for shard in shards:
        for batch in pq.ParquetFile(shard).iter_batches(batch_size=8, columns=["nucleus", "protein", "labels"]):
            for row in batch.to_pylist():
                labels = tuple(row["labels"])
                if labels not in pictures:
                    files = (io.BytesIO(row[name]["bytes"]) for name in ("nucleus", "protein"))
                    nucleus, protein = (np.asarray(Image.open(file)) // 256 for file in files)
                    colours = np.stack([nucleus // 4, protein, np.maximum(nucleus, protein // 4)], axis=-1)
                    picture = Image.fromarray(colours.astype(np.uint8))
                    caption = "\n".join(names[label] for label in labels)
                    ImageDraw.Draw(picture).text((4, 4), caption, fill="white", font_size=14)
                    pictures[labels] = picture
    chosen = sorted(pictures, key=lambda labels: (len(labels), labels))[: columns * rows]
    tile([pictures[labels] for labels in chosen], columns).save(path)


def tile(pictures: list[Image.Image], columns: int) -> Image.Image:
    side = pictures[0].width + 4
    sheet = Image.new("RGB", (side * min(columns, len(pictures)), side * -(-len(pictures) // columns)), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * side, i // columns * side))
    return sheet
