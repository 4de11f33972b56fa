"""
Judge a deepGPS's images with a classifier that is trained on real images only.

    python -m training.deepgps.judge --images data/hpa:dictionary data/hpa:cells data/hpa:markers \
        --out judge.json --panel panel.png

A small ResNet is trained to classify the compartment of real crops of the split `validation`. It then classifies the
real crops of the split `test`, which is the upper bound, and the model's images of every compartment on their nuclei.
The model uses the split `train`; the three splits share no source image (`datasets_scripts/build_hpa.py` makes them).
Compartments with fewer than three sources are drawn but not judged. The model must draw given compartments (objective
`adversarial`).
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from protloc import ASSETS, DeepGPSModel, plots
from protloc.loading import LOAD_ERRORS, model_path, naming, one_line
from protloc_entry import positive_int
from training.deepgps.data import Crops, CropSampler, load_crops, read_source
from training.deepgps.figures import panel_figure

SPLITS = "train", "validation", "test"
EPOCHS, BATCH, LEARNING_RATE = 30, 16, 1e-3
RESAMPLES = 1000
NUCLEI = 6  # of the panel


def classifier(labels: int) -> ResNetForImageClassification:
    """A ResNet of 0.7 million parameters over nucleus and protein."""
    config = ResNetConfig(
        num_channels=2,
        embedding_size=24,
        hidden_sizes=[24, 48, 96, 128],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        num_labels=labels,
    )
    return ResNetForImageClassification(config)


def batches(crops: Crops, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Nuclei and proteins `(batch, 2, H, W)` of an epoch, and their labels."""
    sampler = CropSampler(crops, BATCH, seed=0, num_processes=1)
    sampler.set_epoch(epoch)
    for batch in sampler:
        rows = crops.collate([crops[place] for place in batch])
        yield torch.cat([rows["nucleus"], rows["protein"]], dim=1), rows["labels"]


def train_classifier(crops: Crops, labels: int, epochs: int) -> ResNetForImageClassification:
    torch.manual_seed(0)
    crops.balance()
    model = classifier(labels).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    steps = epochs * len(CropSampler(crops, BATCH, seed=0, num_processes=1))
    if not steps:
        raise ValueError(f"{len(crops)} crops to train the classifier with are less than a batch of {BATCH}")
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for epoch in range(epochs):
        for images, truth in batches(crops, epoch):
            loss = F.cross_entropy(model(images).logits, truth, label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if schedule.last_epoch < steps:
                schedule.step()
    return model.eval()


@torch.inference_mode()
def read(
    model: ResNetForImageClassification, nuclei: torch.Tensor, proteins: torch.Tensor, judged: list[int]
) -> np.ndarray:
    """Classes `(count,)` that the classifier sees, of the judged ones."""
    logits = torch.cat(
        [model(torch.cat(pair, dim=1)).logits for pair in zip(nuclei.split(BATCH), proteins.split(BATCH), strict=True)]
    )
    return np.array(judged)[logits[:, judged].argmax(dim=-1).numpy()]


def score(truth: np.ndarray, found: np.ndarray, sources: np.ndarray, judged: list[int]) -> dict[str, Any]:
    """Mean over classes of the share that is told right, its 95 % interval by resampling sources, and each class's."""

    def mean(rows: np.ndarray) -> float:
        return float(np.mean([right[rows][truth[rows] == label].mean() for label in set(truth[rows])]))

    right = truth == found
    names = np.unique(sources)
    members = {name: np.flatnonzero(sources == name) for name in names}
    numbers = np.random.default_rng(0)
    draws = [np.concatenate([members[name] for name in numbers.choice(names, len(names))]) for _ in range(RESAMPLES)]
    interval = np.quantile([mean(rows) for rows in draws], [0.025, 0.975])
    return {
        "images": len(truth),
        "sources": len(names),
        "right": mean(np.arange(len(truth))),
        "interval": interval.tolist(),
        "classes": {label: float(right[truth == label].mean()) for label in judged if (truth == label).any()},
    }


@torch.inference_mode()
def draw_all(model: Any, nuclei: torch.Tensor, label: int) -> torch.Tensor:
    """What the model draws of one compartment on nuclei `(count, 1, H, W)`."""
    generator = torch.Generator().manual_seed(label)
    noisy = []  # noise of its own for each nucleus
    for nucleus in nuclei.split(1):
        noisy.append(model.generate(nucleus, labels=torch.tensor([label]), generator=generator).protein_image)
    return torch.cat(noisy)


def judge(args: argparse.Namespace) -> dict[str, Any]:
    with naming(args.model):
        model = DeepGPSModel.from_pretrained(model_path(args.model)).eval()
    if model.config.objective != "adversarial" or model.config.condition_on_residues:
        raise ValueError(
            f"{args.model} draws proteins, not compartments: give an adversarial one that is told labels alone"
        )
    labels = list(model.config.id2label.values())
    parts, sources = {}, {}
    for split in SPLITS:
        crops = load_crops(args.images, split, labels)
        parts[split] = Crops(crops, {}, None, model.config, augment=split == "validation", seed=0)
        sources[split] = np.array(parts[split].crops["source_image"])
    classes = {split: np.array(part.crops["class"]) for split, part in parts.items()}
    judged = [label for label in range(len(labels)) if all((classes[split] == label).any() for split in SPLITS)]
    eye = train_classifier(parts["validation"], len(labels), args.epochs)

    test = parts["test"]
    kept = np.flatnonzero(np.isin(classes["test"], judged))
    rows = [test[int(i)] for i in kept]
    nuclei, real = (torch.stack([row[name] for row in rows]) for name in ("nucleus", "protein"))
    truth, from_where = classes["test"][kept], sources["test"][kept]
    results: dict[str, Any] = {"model": Path(args.model).name, "epochs": args.epochs}
    results["classifier_images"] = {labels[i]: int((classes["validation"] == i).sum()) for i in judged}
    found = read(eye, nuclei, real, judged)
    results["real"] = score(truth, found, from_where, judged)
    # Every compartment on as many nuclei, of all classes alike
    numbers = np.random.default_rng(0)
    chosen = numbers.choice(len(nuclei), min(args.nuclei, len(nuclei)), replace=False)
    drawn = {label: draw_all(model, nuclei[chosen], label) for label in judged}
    answers = [read(eye, nuclei[chosen], drawn[label], judged) for label in judged]
    results["drawn"] = score(
        np.repeat(judged, len(chosen)), np.concatenate(answers), np.tile(from_where[chosen], len(judged)), judged
    )
    for part in ("real", "drawn"):
        results[part]["classes"] = {labels[label]: share for label, share in results[part]["classes"].items()}
    if args.panel:
        shown = chosen[:NUCLEI]
        pictures = [[draw_all(model, nuclei[[i]], label)[0, 0].numpy() for label in range(len(labels))] for i in shown]
        examples = [first_real(parts, label) for label in range(len(labels))]
        plots.save(panel_figure([nuclei[i, 0].numpy() for i in shown], pictures, labels, examples), args.panel)
        Image.open(args.panel).convert("L").save(args.panel, optimize=True)  # grey, at half the size
    return results


def first_real(parts: dict[str, Crops], label: int) -> np.ndarray | None:
    """A real crop of a class, of a source that the model hasn't seen where there is one."""
    for split in ("test", "validation", "train"):
        members = np.flatnonzero(np.array(parts[split].crops["class"]) == label)
        if len(members):
            return parts[split][int(members[-1])]["protein"][0].numpy()
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=ASSETS / "deepgps", help="folder or Hub name (default: the shipped model)")
    parser.add_argument(
        "--images", type=read_source, nargs="+", required=True, metavar="DATASET:CONFIG", help="data sets of crops"
    )
    parser.add_argument(
        "--nuclei",
        type=positive_int,
        default=60,
        help="number of nuclei that each compartment is drawn on (default: 60)",
    )
    parser.add_argument(
        "--epochs", type=positive_int, default=EPOCHS, help=f"epochs of the classifier (default: {EPOCHS})"
    )
    parser.add_argument("--out", type=Path, help="JSON file for the scores")
    parser.add_argument("--panel", type=Path, help="PNG of every compartment on six nuclei, with real images")
    args = parser.parse_args()
    for path in filter(None, (args.out, args.panel)):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        results = judge(args)
    except LOAD_ERRORS as error:
        parser.exit(2, f"training.deepgps.judge: {one_line(error)}\n")
    text = json.dumps(results, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
