"""
Evaluate a DeepLoc model.

    # the numbers of docs/results.md: the independent test set, and the validation partition
    python -m training.deeploc.evaluate --dataset data/deeploc --config hpa --split test
    python -m training.deeploc.evaluate --dataset data/deeploc --config deeploc2 --split validation
    # another model, with all scores as JSON
    python -m training.deeploc.evaluate --model runs/deeploc --dataset OWNER/NAME --config hpa --out hpa.json

    # figures; an ensemble; proteins longer than the model's maximum length, with each length policy
    python -m training.deeploc.evaluate --dataset data/deeploc --config hpa --figures figures/hpa
    python -m training.deeploc.evaluate --ensemble runs/folds/fold_* --dataset data/deeploc --config hpa
    python -m training.deeploc.evaluate --dataset data/deeploc --config hpa --length-policies middle end window

Precision, recall, F1 and ranking scores are averaged over the classes with a positive in the split, which are listed.
The other scores are over all ten classes. The validation split also selected the epoch, the calibration and the
thresholds.
"""

import argparse
import itertools
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset

from protloc import plots
from protloc.loading import DEFAULT_MODEL, LOAD_ERRORS, load_ensemble, load_model, one_line
from protloc.metrics import LocalizationMetric, MembraneMetric, bootstrap_intervals
from protloc.packed_weights import pack_unirep
from protloc.prediction import predict
from protloc.taxonomy import MEMBRANE
from training.deeploc.data import profile_source

LENGTHS = [0, 200, 500, 1000, 2000, 10**9]  # bounds of the groups by length


def predict_proteins(model, tokenizer, proteins, max_tokens_per_batch: int, profiles: Path | None) -> dict[str, Any]:
    """Labels, predictions and probabilities (n, classes), and the membrane ones (n,) if it tells them, as arrays."""
    names = list(model.config.id2label.values())
    records = zip(proteins["id"], proteins["sequence"], strict=True)
    source = profile_source(proteins, profiles)
    rows = list(predict(records, model, tokenizer, max_tokens_per_batch, profiles=source))
    arrays = {
        "labels": np.array([[int(i in indices) for i in range(len(names))] for indices in proteins["labels"]]),
        "predictions": np.array([[int(name in row["localizations"].split("|")) for name in names] for row in rows]),
        "probabilities": np.array([[row[name] for name in names] for row in rows]),
    }
    if not model.config.membrane:
        return arrays
    return arrays | {
        "membrane_labels": np.array(proteins["membrane"]),
        "membrane_predictions": np.array([int(row["membrane"] == MEMBRANE[1]) for row in rows]),
        "membrane_probabilities": np.array([row["membrane_probability"] for row in rows]),
    }


def scores(arrays: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Localization scores, and membrane scores where the type is known."""
    localization = {name: arrays[name] for name in ("predictions", "probabilities")}
    result = {
        "localization": LocalizationMetric().compute(references=arrays["labels"], **localization, classes=names),
    }
    known = arrays.get("membrane_labels", np.array([])) >= 0
    if known.any():
        result["membrane"] = MembraneMetric().compute(
            references=arrays["membrane_labels"][known],
            predictions=arrays["membrane_predictions"][known],
            probabilities=arrays["membrane_probabilities"][known],
        )
    return result


def intervals(arrays: dict[str, Any]) -> dict[str, list[float]]:
    """What [`~protloc.metrics.bootstrap_intervals`] gives for the predictions of a split."""
    return bootstrap_intervals(**{name: arrays[name] for name in arrays if name != "membrane_probabilities"})


def group_scores(arrays: dict[str, Any], proteins, names: list[str]) -> dict[str, dict[str, Any]]:
    """The main scores of each kingdom and each range of lengths."""
    kingdoms = np.array(proteins.features["kingdom"].names)[np.array(proteins["kingdom"])]
    lengths = np.array([len(sequence) for sequence in proteins["sequence"]])
    groups = {kingdom: kingdoms == kingdom for kingdom in proteins.features["kingdom"].names}
    for low, high in itertools.pairwise(LENGTHS):
        title = f"over {low} residues" if high == LENGTHS[-1] else f"{low + 1}-{high} residues"
        groups[title] = (low < lengths) & (lengths <= high)
    result = {}
    for title, members in groups.items():
        if members.any():
            group = scores({name: values[members] for name, values in arrays.items()}, names)
            localization = group["localization"]
            result[title] = {
                "num_proteins": localization["num_proteins"],
                "micro_f1": localization["average"]["micro"]["f1"],
                "macro_f1": localization["average"]["macro"]["f1"],
                "argmax_accuracy": localization["argmax_accuracy"],
                "membrane_accuracy": group["membrane"]["accuracy"] if "membrane" in group else None,
            }
    return result


def evaluate_model(model, tokenizer, proteins, max_tokens_per_batch: int, profiles: Path | None, figures: Path | None):
    """All scores of a split; with `figures` also its pictures, in that folder."""
    names = list(model.config.id2label.values())
    arrays = predict_proteins(model, tokenizer, proteins, max_tokens_per_batch, profiles)
    labels, predictions, probabilities = (arrays[name] for name in ("labels", "predictions", "probabilities"))
    if figures:
        figures.mkdir(parents=True, exist_ok=True)
        plots.save(plots.location_matrices(labels, predictions, names), figures / "locations.png")
        plots.save(plots.confusion(labels, probabilities, names), figures / "confusion.png")
        plots.save(plots.reliability(labels, probabilities, names), figures / "reliability.png")
        plots.save(plots.ranking_curves(labels, probabilities, names), figures / "curves.png")
        known = arrays.get("membrane_labels", np.array([])) >= 0
        if known.any():
            matrix = plots.membrane_matrix(arrays["membrane_labels"][known], arrays["membrane_predictions"][known])
            plots.save(matrix, figures / "membrane.png")
        draw_attention(model, tokenizer, proteins, figures, profiles)
    return {
        "labels": names,
        **scores(arrays, names),
        "intervals": intervals(arrays),
        "groups": group_scores(arrays, proteins, names),
    }


def draw_attention(model, tokenizer, proteins, figures: Path, profiles: Path | None, count: int = 6) -> None:
    """The attention along the first proteins with known sorting signals (of any kind where none is annotated)."""
    annotated = [i for i, digits in enumerate(proteins["signals"]) if digits] or range(len(proteins))
    chosen = proteins.select(annotated[:count])
    records = zip(chosen["id"], chosen["sequence"], strict=True)
    rows = predict(records, model, tokenizer, profiles=profile_source(chosen, profiles), attention=True)
    for row, digits in zip(rows, chosen["signals"], strict=True):
        figure = plots.attention_along(
            row["sequence"], row["attention"], row["protein_id"], digits, row["localizations"].replace("|", ", ")
        )
        plots.save(figure, figures / f"attention_{row['protein_id']}.png")


def table(result: dict[str, Any]) -> str:
    """The scores as a Markdown table."""

    def cells(name, scores):
        values = [scores.get(key) for key in ("precision", "recall", "f1", "mcc", "auroc", "auprc", "support")]
        texts = ["" if v is None else str(v) if isinstance(v, int) else f"{v:.3f}" for v in values]
        return f"| {name} | " + " | ".join(texts) + " |"

    localization, intervals = result["localization"], result["intervals"]
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
        f"{localization['calibration_error']:.3f}"
        + (f", Gorodkin's R_K {localization['gorodkin']:.3f}" if localization["gorodkin"] is not None else "")
        + ".",
        "",
        "95 % intervals (bootstrap over proteins): "
        + ", ".join(f"{name.replace('_', ' ')} {low:.3f}-{high:.3f}" for name, (low, high) in intervals.items())
        + ".",
    ]
    if "membrane" in result:
        scores = result["membrane"]
        lines += [
            "",
            f"Membrane or soluble ({scores['num_proteins']} proteins): accuracy {scores['accuracy']:.3f}, "
            f"F1 {scores['f1']:.3f}, MCC {scores['mcc']:.3f}, AUROC {scores['auroc']:.3f}, "
            f"calibration error {scores['calibration_error']:.3f}.",
        ]
    lines += ["", "| group | proteins | micro F1 | macro F1 | arg-max accuracy | membrane accuracy |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, group in result["groups"].items():
        values = [group[key] for key in ("micro_f1", "macro_f1", "argmax_accuracy", "membrane_accuracy")]
        texts = " | ".join("" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {group['num_proteins']} | {texts} |")
    return "\n".join(lines)


def compare_policies(load, proteins, policies: list[str], max_tokens_per_batch: int, profiles: Path | None):
    """
    Scores of each length policy on the proteins that it matters for, and a table.

    `load(policy)` gives the model under that policy, and its tokenizer.
    """
    results: dict[str, Any] = {}
    for policy in policies:
        model, tokenizer = load(policy)
        long = proteins.filter(lambda protein, most=model.config.max_length: len(protein["sequence"]) > most)
        if len(long) == 0:
            raise ValueError(f"no protein is longer than the {model.config.max_length} residues that the model reads")
        arrays = predict_proteins(model, tokenizer, long, max_tokens_per_batch, profiles)
        results[policy] = scores(arrays, list(model.config.id2label.values()))
    lines = [f"{len(long)} proteins of more than {model.config.max_length} residues.", ""]
    lines += ["| length policy | micro F1 | macro F1 | arg-max accuracy | membrane accuracy |", "|---|---|---|---|---|"]
    for policy, result in results.items():
        localization = result["localization"]
        values = [localization["average"][kind]["f1"] for kind in ("micro", "macro")]
        values.append(localization["argmax_accuracy"])
        membrane = f"{result['membrane']['accuracy']:.3f}" if "membrane" in result else ""
        lines.append(f"| {policy} | " + " | ".join(f"{value:.3f}" for value in values) + f" | {membrane} |")
    return results, "\n".join(lines)


def load(args, length_policy: str | None = None):
    options = args.device, args.dtype, length_policy
    model, tokenizer = load_ensemble(args.ensemble, *options) if args.ensemble else load_model(args.model, *options)
    pack_unirep(model, rows=32)
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--model", default=DEFAULT_MODEL, help="folder or Hub name (default: the shipped model)")
    models.add_argument("--ensemble", nargs="+", metavar="MODEL", help="several models, averaged")
    parser.add_argument("--dataset", required=True, help="folder or Hub repository that load_dataset reads")
    parser.add_argument("--config", default="hpa", help="configuration of the data set (default: hpa)")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="evaluate only the first N proteins")
    parser.add_argument("--profiles", type=Path, help="folder of <id>.pssm files, for models that use profiles")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="float32", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--max-tokens-per-batch", type=int, default=16_384)
    parser.add_argument(
        "--length-policies",
        nargs="+",
        choices=["middle", "end", "window"],
        help="compare these length policies on long proteins only",
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="write figures as PNG")
    parser.add_argument("--out", type=Path, help="write all scores as JSON")
    args = parser.parse_args()
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit must be 1 or more, got {args.limit}")

    result: dict[str, Any] = {"model": [str(model) for model in args.ensemble or [args.model]]}
    result |= {"dataset": args.dataset, "config": args.config, "split": args.split}
    try:
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
        proteins = load_dataset(args.dataset, args.config, split=args.split)
        if args.limit:
            proteins = proteins.select(range(min(args.limit, len(proteins))))
        if args.length_policies:
            result["length_policies"], text = compare_policies(
                partial(load, args), proteins, args.length_policies, args.max_tokens_per_batch, args.profiles
            )
        else:
            model, tokenizer = load(args)
            result |= evaluate_model(model, tokenizer, proteins, args.max_tokens_per_batch, args.profiles, args.figures)
            text = table(result)
    except LOAD_ERRORS as error:
        parser.exit(2, f"training.deeploc.evaluate: {one_line(error)}\n")
    print(text)
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"\nall scores in {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
