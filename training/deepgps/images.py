"""Agreement of deepGPS's images with the real ones, compared with simple baselines."""

import argparse
import random
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from sklearn import metrics as sk
from tqdm import tqdm

from protloc.image_metrics import SCORES, DrawingTraces, find_regions, image_scores, nuclear_ratio
from training.deepgps.data import UNKNOWN, Crops
from training.deepgps.encoded_proteins import EncodedProteins, Inputs

CUTOFFS = [10, 12, 14, 16, 18, 20]  # dB; deepGPS, Fig. 4f
SEED = 0
NUCLEAR, CYTOPLASMIC = {"nucleoplasm", "nucleoli"}, {"cytoplasm"}
SAMPLED = "psnr", "ssim", "pearson"
# Of a diffusion model's samples: the best, their mean, and whether their spread tells the error
OF_SAMPLES = [f"{kind}_{name}" for kind in ("best", "sample") for name in SAMPLED]
OF_SAMPLES += ["spread_correlation", "within_2_spreads"]
NUCLEI, EACH = 4, 3  # nuclei, and proteins of either class, in the cross-assay


@torch.inference_mode()
def draw(model: Any, nucleus: torch.Tensor, inputs: Inputs, samples: int, steps: int | None) -> np.ndarray:
    """Images `(samples, H, W)`, from noise that only the seed decides."""
    generator = torch.Generator().manual_seed(SEED)
    options = {"num_samples": samples, "num_inference_steps": steps, "generator": generator}
    drawn = model.generate(nucleus[None].to(model.device), **inputs, **options).samples
    return drawn[0, :, 0].float().cpu().numpy()


def without_protein(inputs: Inputs) -> Inputs:
    """The protein masked out; a structure becomes zeros."""
    return {
        name: torch.zeros_like(tensor) if name in ("residue_mask", "structure") else tensor
        for name, tensor in inputs.items()
    }


def shuffled(sequence: str) -> str:
    return "".join(random.Random(SEED).sample(sequence, len(sequence)))


def mean_images(crops: Crops) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The mean protein image of training crops, and of each class; `(H, W)`."""
    sums: dict[int, Any] = defaultdict(float)
    counts: dict[int, int] = defaultdict(int)
    for i in range(len(crops)):
        row = crops[i]
        sums[row["label"]] += row["protein"][0].numpy()
        counts[row["label"]] += 1
    total = sum(sums.values()) / len(crops)
    return total, {label: sums[label] / counts[label] for label in sums if label != UNKNOWN}


def judge_images(
    model: Any, encoded: EncodedProteins, crops: Crops, train: Crops, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """
    A row for each crop, draw of a sequence, and method; some images to show; and the grid and the frame in the model's
    and in the real images.
    """
    labels = list(model.config.id2label.values())
    mean, class_means = mean_images(train)
    rows, shown = [], {}
    traces = {"model": DrawingTraces(), "real": DrawingTraces()}
    places = [(i, time) for i in range(len(crops)) for time in range(args.sequences if not crops.known[i] else 1)]
    picked = set(random.Random(SEED).sample(range(len(places)), min(12, len(places))))
    for number, place in enumerate(tqdm(places, disable=not sys.stderr.isatty())):
        row = crops[place]
        encoded.add([(row["sequence"], row["accession"]), (shuffled(row["sequence"]), row["accession"])])
        nucleus, protein = row["nucleus"], row["protein"][0].numpy()
        line = {"cell_line": torch.tensor([row["cell_line"]], device=model.device)}
        inputs = encoded[row["sequence"], row["accession"]] | line
        regions = find_regions(nucleus[0].numpy(), protein)
        predicted = None
        if model.config.classify:
            with torch.inference_mode():
                predicted = labels[int(model(**inputs).logits.argmax())]
        known = labels[row["label"]] if row["label"] != UNKNOWN else None
        samples = draw(model, nucleus, inputs, args.samples, args.steps)
        others = {
            "sequence shuffled": encoded[shuffled(row["sequence"]), row["accession"]] | line,
            "sequence removed": without_protein(inputs),
        }
        images = {
            "model": samples.mean(axis=0),
            **{
                name: draw(model, nucleus, other, args.samples, args.steps).mean(axis=0)
                for name, other in others.items()
            },
            "nucleus copied": nucleus[0].numpy(),
            "mean image": mean,
        }
        if row["label"] in class_means:
            images["mean image of the true class"] = class_means[row["label"]]
        about = {
            "crop": place[0],
            "class": known,
            "predicted": predicted,
            "sequence": row["sequence"],
            "accession": row["accession"],
            "real_ratio": nuclear_ratio(protein, regions),
        }
        for method, image in images.items():
            rows.append({**about, "method": method, **image_scores(image, protein, regions)})
        if model.config.objective != "regression" and args.samples > 1:
            scores = [image_scores(sample, protein, regions) for sample in samples]
            spread, error = samples.std(axis=0), np.abs(samples.mean(axis=0) - protein)
            rows[-len(images)] |= {
                **{f"best_{name}": max(found[name] for found in scores) for name in SAMPLED},
                **{f"sample_{name}": float(np.mean([found[name] for found in scores])) for name in SAMPLED},
                "spread_correlation": float(np.corrcoef(spread.ravel(), error.ravel())[0, 1]),
                "within_2_spreads": float((error <= 2 * spread).mean()),
            }
        traces["model"].add(images["model"])
        traces["real"].add(protein)
        if number in picked:
            title = f"{known or 'other'}{f', said to be {predicted}' if predicted else ''}"
            shown[f"{number}: {title}"] = np.stack([nucleus[0].numpy(), protein, images["model"]])
    return rows, shown, {name: found.scores() for name, found in traces.items()}


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and spread of each score, by method and class, and the shares of images under PSNR cut-offs."""
    by_method: dict[str, list] = defaultdict(list)
    for row in rows:
        by_method[row["method"]].append(row)

    def statistics(some: list[dict[str, Any]]) -> dict[str, Any]:
        names = [name for name in [*SCORES, *OF_SAMPLES] if name in some[0]]
        values = {name: np.array([row[name] for row in some]) for name in names}
        return {
            name: {"mean": float(np.nanmean(found)), "sd": float(np.nanstd(found))} for name, found in values.items()
        }

    model = by_method["model"]
    classes = sorted({row["class"] for row in model if row["class"]})
    return {
        "images": len(model),
        "crops": len({row["crop"] for row in model}),
        "proteins": len({row["sequence"] for row in model}),
        "methods": {method: statistics(some) for method, some in by_method.items()},
        "classes": {
            name: {"images": sum(row["class"] == name for row in model)}
            | statistics([row for row in model if row["class"] == name])
            for name in classes
        },
        "psnr_cutoffs": {cutoff: float(np.mean([row["psnr"] < cutoff for row in model])) for cutoff in CUTOFFS},
        "nuclear_ratio": right_sides(model),
    }


def right_sides(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Share of nuclear and cytosolic proteins drawn brighter on their side; of those whose label is predicted right."""
    judged = [row for row in rows if row["class"] in NUCLEAR | CYTOPLASMIC and not np.isnan(row["ratio"])]
    right = {id(row): (row["ratio"] > 1) == (row["class"] in NUCLEAR) for row in judged}
    sure = [row for row in judged if row["predicted"] == row["class"]]
    real = [(row["real_ratio"] > 1) == (row["class"] in NUCLEAR) for row in judged]
    return {
        "images": len(judged),
        "right_side": float(np.mean([right[id(row)] for row in judged])) if judged else None,
        "label_right_images": len(sure),
        "label_right_right_side": float(np.mean([right[id(row)] for row in sure])) if sure else None,
        "real_right_side": float(np.mean(real)) if real else None,
    }


def cross_assay(
    model: Any, encoded: EncodedProteins, crops: Crops, proteins: list[tuple[str, str]], args: argparse.Namespace
) -> tuple[dict[str, Any], list[np.ndarray], list[list[np.ndarray]]]:
    """
    Every sequence on every nucleus (deepGPS, Fig. 2e): the place should follow the sequence, not the nucleus.

    Args:
        proteins: Sequence and class (cytoplasm or nucleoplasm).

    Returns:
        `right_side`, the share of images that are brighter in or around the nucleus as the class says; `auroc` of the
        nucleus-to-cytoplasm ratio for nuclear proteins; `share_from_sequence` of the variance of its logarithm. The
        nuclei, and a row of images for each protein.
    """
    encoded.add([(sequence, "") for sequence, _ in proteins])
    nuclei, regions = [], []
    for i in random.Random(SEED).sample(range(len(crops)), len(crops)):
        nucleus = crops[i]["nucleus"]
        region = find_regions(nucleus[0].numpy())
        if region.nuclei.any() and region.cytoplasm.any():
            nuclei.append(nucleus)
            regions.append(region)
        if len(nuclei) == NUCLEI:
            break
    images, ratios = [], []
    for sequence, _ in proteins:
        inputs = encoded[sequence, ""]
        images.append([draw(model, nucleus, inputs, args.samples, args.steps).mean(axis=0) for nucleus in nuclei])
        ratios.append([nuclear_ratio(image, region) for image, region in zip(images[-1], regions, strict=True)])
    found = np.array(ratios)
    nuclear = np.array([kind in NUCLEAR for _, kind in proteins])
    logs = np.log2(found)
    scores = {
        "proteins": len(proteins),
        "nuclei": len(nuclei),
        "classes": [kind for _, kind in proteins],
        "ratios": found.tolist(),
        "right_side": float(((found > 1) == nuclear[:, None]).mean()),
        "auroc": float(sk.roc_auc_score(np.repeat(nuclear, len(nuclei)), found.ravel())),
        "share_from_sequence": float(logs.mean(axis=1).var() / logs.var()),
    }
    return scores, [nucleus[0].numpy() for nucleus in nuclei], images
