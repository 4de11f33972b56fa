"""
Evaluate a deepGPS on proteins and cells that it has not seen.

    python -m training.deepgps.evaluate --proteins data/proteins --images data/hpa:cells data/opencell:all \
        --out scores.json --figures figures
    python -m training.deepgps.evaluate --model runs/deepgps_single2 --images data/opencell:single-2 --out scores.json

Labels are evaluated on the proteins of the images and of `--proteins` (a data set of `build_proteins.py`; split
`test`): two classes against each other (deepGPS-single-2), four classes, and all classes of the model. A cell without a
sequence is drawn with sequences of its class from `--proteins`. The table of images compares the model with these
baselines: the nucleus itself, the mean image of the training crops, the mean image of the true class, and the model
with a shuffled and without a sequence. `traces` measures the grid of patches and the frame at the border, in drawn and
real images (`image_metrics.DrawingTraces`).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from protloc import ASSETS, DeepGPSModel, plots
from protloc.image_metrics import SCORES
from protloc.loading import model_path, naming, one_line
from protloc.sequences import read_fasta
from training.common.runs import table
from training.deepgps.data import UNKNOWN, Crops, LabelledProteins, ProteinReader, load_crops, read_source
from training.deepgps.encoded_proteins import EncodedProteins, label_probabilities
from training.deepgps.figures import cross_assay_figure, cutoff_figure, examples_figure
from training.deepgps.images import EACH, cross_assay, judge_images, summarize
from training.deepgps.labels import judge_labels, label_scores

INDEPENDENT = Path(__file__).resolve().parents[2] / "examples" / "independent.fasta"
INDEPENDENT_CLASSES = {"Q16630": "nucleoplasm", "P33240": "nucleoplasm", "P13639": "cytoplasm"}  # deepGPS, "Website"

MAX_TOKENS = 16_384  # of a batch of sequences, padding included


def load(args: argparse.Namespace) -> tuple[Any, EncodedProteins]:
    with naming(args.model):
        path = model_path(args.model)
        model = DeepGPSModel.from_pretrained(path).to(args.device).eval()
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    return model, EncodedProteins(model, ProteinReader(model.config, tokenizer, None, args.structures), MAX_TOKENS)


def independent(model: Any, encoded: EncodedProteins, labels: list[str]) -> list[dict[str, Any]]:
    """Labels of the three proteins that the paper tested besides (CPSF6, CSTF2, EEF2)."""
    proteins = dict(read_fasta(INDEPENDENT))
    found = label_probabilities(model, encoded, [(sequence, "") for sequence in proteins.values()])
    return [
        {
            "protein": accession,
            "class": INDEPENDENT_CLASSES[accession],
            "predicted": labels[int(probabilities.argmax())],
            "probability": float(probabilities[labels.index(INDEPENDENT_CLASSES[accession])]),
        }
        for accession, probabilities in zip(proteins, found, strict=True)
    ]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=ASSETS / "deepgps", help="folder or Hub name (default: the shipped model)")
    parser.add_argument("--figures", type=Path, help="folder for figures")


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--images", type=read_source, nargs="+", default=[], metavar="DATASET:CONFIG", help="data sets of crops"
    )
    parser.add_argument("--proteins", help="data set of labelled sequences; cells without a sequence need it")
    parser.add_argument("--split", default="test", help="split to evaluate on (default: test)")
    parser.add_argument("--structures", help="folder of PDB or mmCIF files, for models that read them")
    parser.add_argument(
        "--sequences", type=int, default=3, help="sequences drawn for each cell without one (default: 3)"
    )
    parser.add_argument("--samples", type=int, default=1, help="samples per image, for diffusion (default: 1)")
    parser.add_argument("--steps", type=int, help="steps of diffusion (default: the model's)")
    parser.add_argument("--limit", type=int, help="use only the first crops, for a trial")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--out", type=Path, help="JSON file for the scores")
    args = parser.parse_args()
    if not args.images and not args.proteins:
        parser.error("give --images, --proteins or both")
    try:
        results = evaluate(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"training.deepgps.evaluate: {one_line(error)}\n")
    print(report(results))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def evaluate(args: argparse.Namespace) -> dict[str, Any]:
    model, encoded = load(args)
    labels = list(model.config.id2label.values())
    results: dict[str, Any] = {
        "model": str(args.model),
        "objective": model.config.objective,
        "unet": model.config.unet,
        "encoder": model.config.backbone_config.model_type,
        "parameters": model.num_parameters(),
        "split": args.split,
        "samples": args.samples,
        "steps": args.steps or model.config.num_inference_steps,
    }
    proteins = LabelledProteins(args.proteins, args.split, labels) if args.proteins else None
    if args.figures:
        args.figures.mkdir(parents=True, exist_ok=True)
    if proteins and model.config.classify and not model.reads_structure:
        results["labels"], probabilities = judge_labels(model, encoded, proteins, labels)
        if args.figures:
            truth = np.eye(len(labels), dtype=int)[proteins.labels]
            plots.save(plots.ranking_curves(truth, probabilities, labels), args.figures / "curves_by_protein.png")
            plots.save(plots.confusion(truth, probabilities, labels), args.figures / "matrix_by_protein.png")
    if model.config.classify and not model.reads_structure and set(INDEPENDENT_CLASSES.values()) <= set(labels):
        results["independent"] = independent(model, encoded, labels)
    if not args.images:
        return results

    partners = proteins.partners() if proteins else {}
    options = encoded.reader, model.config, False, 0
    crops = Crops(load_crops(args.images, args.split, labels), partners, *options)
    train_partners = {label: [""] for label in range(len(labels))}  # only the images are read
    train = Crops(load_crops(args.images, "train", labels), train_partners, *options)
    if args.limit:
        crops.crops = crops.crops.select(range(min(args.limit, len(crops))))
    if not len(crops):
        raise ValueError("no crop has a sequence: cells of unknown proteins need --proteins")
    rows, shown, traces = judge_images(model, encoded, crops, train, args)
    results["left_out_crops"] = crops.left_out
    results["images"] = summarize(rows) | {"traces": traces}
    by_crop = [row for row in rows if row["method"] == "model" and row["class"]]
    if model.config.classify and by_crop:
        truth = np.array([labels.index(row["class"]) for row in by_crop])
        probabilities = label_probabilities(model, encoded, [(row["sequence"], row["accession"]) for row in by_crop])
        results["labels_by_crop"] = label_scores(truth, probabilities, labels)
        if args.figures:
            truth = np.eye(len(labels), dtype=int)[truth]
            plots.save(plots.confusion(truth, probabilities, labels), args.figures / "matrix_by_crop.png")
    assayed = [] if model.reads_structure else pick_assay(proteins, crops, labels)
    if assayed:
        results["cross_assay"], nuclei, images = cross_assay(model, encoded, crops, assayed, args)
    if args.figures:
        plots.save(examples_figure(shown), args.figures / "examples.png")
        plots.save(cutoff_figure(shown), args.figures / "cutoffs.png")
        if assayed:
            kinds = [kind for _, kind in assayed]
            plots.save(cross_assay_figure(nuclei, images, kinds), args.figures / "cross_assay.png")
    return results


def pick_assay(proteins: LabelledProteins | None, crops: Crops, labels: list[str]) -> list[tuple[str, str]]:
    """Some proteins of the cytoplasm and of the nucleoplasm, for the cross-assay."""
    if proteins:
        pairs = list(zip(proteins.sequences, proteins.labels, strict=True))
    else:
        pairs = list(dict.fromkeys(zip(crops.crops["sequence"], crops.crops["class"], strict=True)))
    chosen = []
    for kind in ("cytoplasm", "nucleoplasm"):
        some = [sequence for sequence, label in pairs if sequence and label != UNKNOWN and labels[label] == kind]
        chosen.append([(sequence, kind) for sequence in some[:EACH]])
    return chosen[0] + chosen[1] if all(chosen) else []


def report(results: dict[str, Any]) -> str:
    """Tables in Markdown."""
    parts = []
    if "labels" in results:
        rows = [["classes", "proteins", "accuracy", "specificity", "sensitivity", "F1", "AUROC (95 %)", "AUPRC"]]
        for name, scores in results["labels"].items():
            low, high = scores["intervals"]["auroc"]
            numbers = [f"{scores[key]:.3f}" for key in ("accuracy", "specificity", "sensitivity", "f1")]
            auroc = f"{scores['auroc']:.3f} ({low:.3f}-{high:.3f})"
            rows.append([name, str(scores["count"]), *numbers, auroc, f"{scores['auprc']:.3f}"])
        parts.append(table(rows))
    if "images" in results:
        images = results["images"]
        rows = [["image", *SCORES]]
        for method, scores in images["methods"].items():
            rows.append([method, *(f"{scores[name]['mean']:.3f} ± {scores[name]['sd']:.3f}" for name in SCORES)])
        parts.append(f"{images['images']} images of {images['crops']} crops, {images['proteins']} sequences")
        parts.append(table(rows))
        parts.append(json.dumps({name: images[name] for name in ("nuclear_ratio", "psnr_cutoffs", "traces")}))
    for name in ("cross_assay", "independent"):
        if name in results:
            parts.append(f"{name}: {json.dumps(results[name])}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
