"""
Measure a DeepLoc model.

    # the README's numbers: the independent test set, and the validation partition
    python training/evaluate_deeploc.py --dataset data/deeploc --config hpa --split test
    python training/evaluate_deeploc.py --dataset data/deeploc --config deeploc2 --split validation
    # another model, with all scores as JSON
    python training/evaluate_deeploc.py --model runs/deeploc --dataset OWNER/NAME --config hpa --out hpa.json

Precision, recall, F1 and ranking scores are averaged over the classes that have a positive in the split, which are
named; the other scores are over all ten. The validation split also chose the epoch, the calibration and the thresholds.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset

from protloc.metrics import LocalizationMetric, MembraneMetric
from protloc.prediction import DEFAULT_MODEL, load_model, predict
from protloc.taxonomy import MEMBRANE


def evaluate_model(model, tokenizer, proteins, max_tokens_per_batch: int) -> dict[str, Any]:
    """Localization scores, and membrane scores where the type is known."""
    names = list(model.config.id2label.values())
    rows = list(predict(zip(proteins["id"], proteins["sequence"], strict=True), model, tokenizer, max_tokens_per_batch))
    labels = np.array([[int(i in indices) for i in range(len(names))] for indices in proteins["labels"]])  # (n, 10)
    probabilities = np.array([[row[name] for name in names] for row in rows])
    predictions = np.array([[int(name in row["localizations"].split("|")) for name in names] for row in rows])

    result = {
        "labels": names,
        "localization": LocalizationMetric().compute(
            references=labels, predictions=predictions, probabilities=probabilities, classes=names
        ),
    }
    membrane = np.array(proteins["membrane"])
    known = membrane >= 0
    if known.any():
        result["membrane"] = MembraneMetric().compute(
            references=membrane[known],
            predictions=np.array([row["membrane"] == MEMBRANE[1] for row in rows])[known],
            probabilities=np.array([row["membrane_probability"] for row in rows])[known],
        )
    return result


def table(result: dict[str, Any]) -> str:
    """The scores as a Markdown table."""

    def cells(name, scores):
        values = [scores.get(key) for key in ("precision", "recall", "f1", "mcc", "auroc", "auprc", "support")]
        texts = ["" if v is None else str(v) if isinstance(v, int) else f"{v:.3f}" for v in values]
        return f"| {name} | " + " | ".join(texts) + " |"

    localization = result["localization"]
    num_classes = len(result["labels"])
    lines = [
        "| class | precision | recall | F1 | MCC | AUROC | AUPRC | support |",
        "|---|---|---|---|---|---|---|---|",
        *(cells(name, scores) for name, scores in localization["per_class"].items()),
        *(cells(f"{name} average", scores) for name, scores in localization["average"].items()),
        "",
        f"{localization['num_proteins']} proteins. Averages over {len(localization['classes'])} classes: "
        + ", ".join(localization["classes"])
        + ".",
        "",
        f"Over all {num_classes} classes: subset accuracy {localization['subset_accuracy']:.3f}, arg-max accuracy "
        f"{localization['argmax_accuracy']:.3f}, Jaccard {localization['jaccard']:.3f}, calibration error "
        f"{localization['calibration_error']:.3f}.",
    ]
    if "membrane" in result:
        scores = result["membrane"]
        lines += [
            "",
            f"Membrane or soluble ({scores['num_proteins']} proteins): accuracy {scores['accuracy']:.3f}, "
            f"F1 {scores['f1']:.3f}, MCC {scores['mcc']:.3f}, AUROC {scores['auroc']:.3f}, "
            f"calibration error {scores['calibration_error']:.3f}.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder or Hub name (default: the shipped model)")
    parser.add_argument("--dataset", required=True, help="folder or Hub repository that load_dataset reads")
    parser.add_argument("--config", default="hpa", help="configuration of the data set (default: hpa)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="measure the first N proteins only")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--max-tokens-per-batch", type=int, default=16_384)
    parser.add_argument("--out", type=Path, help="write all scores as JSON")
    args = parser.parse_args()

    try:
        proteins = load_dataset(args.dataset, args.config, split=args.split)
        model, tokenizer = load_model(args.model, args.device, args.dtype)
    except (ValueError, OSError) as error:
        parser.exit(2, f"evaluate_deeploc: {str(error).strip().splitlines()[0]}\n")
    if args.limit:
        proteins = proteins.select(range(min(args.limit, len(proteins))))
    result = evaluate_model(model, tokenizer, proteins, args.max_tokens_per_batch)
    result = {"model": str(args.model), "dataset": args.dataset, "config": args.config, "split": args.split, **result}
    print(table(result))
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")
        print(f"\nall scores in {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
