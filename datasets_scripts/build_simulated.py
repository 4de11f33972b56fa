"""
Build simulated images of rare classes on real nuclei: crops of other data sets -> crops in Parquet.

    python -m datasets_scripts.build_simulated data/hpa:cells data/hpa:dictionary data/opencell:all --out data/simulated

For some compartments there are only a handful of real pictures, too few to learn their appearance in any cell. Each
crop has a real nucleus, from the split `train` of one of the given data sets, and a protein that `protloc.simulation`
draws in a simulated cell around it. The data set has one configuration, `all`, with OpenCell's categories as labels and
the image that the nucleus was cut from as `source_image`. The simulated proteins have no sequence. Add `--push-to-hub
OWNER/NAME` to publish it.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard, DatasetCardData

from datasets_scripts.arguments import add_push_arguments, build_and_push, describe_files
from protloc.crops import crop_features, encode_image
from protloc.loading import one_line
from protloc.microscopy import normalize, segment_nuclei
from protloc.simulation import PATTERNS, brightness, simulate_protein
from protloc_entry import positive_int

OWN_FILES = re.compile(r"README\.md|train\.parquet")
CARD_TEMPLATE = Path(__file__).resolve().parents[1] / "model_cards" / "dataset_simulated.md.jinja"
CATEGORIES = ["golgi", "membrane", "mitochondria", "vesicles"]
CYTOPLASM, SPREAD, LEAST, MOST = 8.0, 0.35, 4.0, 14.0  # um from the nucleus to the border; SPREAD of its logarithm


def training_crops(text: str) -> Dataset:
    """For argparse: the training split of `DATASET:CONFIG`."""
    dataset, _, config = text.rpartition(":")
    try:
        return load_dataset(dataset, config, split="train")
    except (ValueError, OSError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no DATASET:CONFIG with a split train: {one_line(error)}"
        ) from None


def build(args: argparse.Namespace) -> tuple[Dataset, str]:
    """The crops, and the sentence on where their nuclei are from."""
    numbers = np.random.default_rng(args.seed)
    features = crop_features(sorted(args.categories))
    rows: list[dict[str, Any]] = []
    images, skipped = set(), 0
    for label, category in enumerate(sorted(args.categories)):
        for number in range(args.count):
            crops = args.crops[number % len(args.crops)]
            row: dict[str, Any] = crops[int(numbers.integers(len(crops)))]
            nucleus = normalize(np.asarray(row["nucleus"], dtype=np.float32))
            nuclei = segment_nuclei(nucleus, row["um_per_px"])
            if not nuclei.any():
                skipped += 1
                continue
            cytoplasm = float(np.clip(numbers.lognormal(np.log(CYTOPLASM), SPREAD), LEAST, MOST))
            seed = int(numbers.integers(2**31))
            protein = simulate_protein(category, nuclei, row["um_per_px"], seed, cytoplasm)
            images.add(row["source_image"])
            rows.append(
                {
                    **{name: row[name] for name in ("cell_line", "source_image", "crop_box", "um_per_px", "focus")},
                    **{"sequence": "", "uniprot_id": "", "gene": "", "grade": 0, "saturation": 0.0},
                    "nucleus": encode_image(nucleus),
                    "protein": encode_image(brightness(protein)),
                    "labels": [label],
                    "field_id": f"{row['field_id']}-{category}-{number}",
                }
            )
    if not rows:
        raise ValueError("no nucleus is seen in these crops")
    summary = f"{len(rows)} simulated images on nuclei of {len(images)} real ones; in {skipped} crops none was seen."
    return Dataset.from_list(rows, features=features), summary


def write(crops: Dataset, summary: str, out: Path, repo_id: str) -> None:
    crops.to_parquet(out / "train.parquet")
    card_data = DatasetCardData(
        pretty_name="Simulated proteins on real nuclei",
        license="cc-by-sa-4.0",  # of the nuclei
        tags=["biology", "microscopy", "synthetic"],
        **describe_files(out, crops.features, {"all": {"train": [out / "train.parquet"]}}),
    )
    names = ", ".join(crops.features["labels"].feature.names)
    card = DatasetCard.from_template(
        card_data, template_path=str(CARD_TEMPLATE), repo_id=repo_id, summary=summary, categories=names
    )
    card.save(out / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "crops", metavar="DATASET:CONFIG", type=training_crops, nargs="+", help="data sets of crops of the same size"
    )
    parser.add_argument(
        "--categories",
        nargs="+",
        choices=sorted(PATTERNS),
        default=CATEGORIES,
        metavar="CATEGORY",
        help=f"of OpenCell's (default: {' '.join(CATEGORIES)})",
    )
    parser.add_argument("--count", type=positive_int, default=120, help="number of crops per category (default: 120)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    add_push_arguments(parser)
    build_and_push(parser, parser.parse_args(), OWN_FILES, build, write)


if __name__ == "__main__":
    main()
