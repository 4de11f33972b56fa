"""
Evaluate the segments of sorting signals that a DeepLoc finds.

    python -m training.deeploc.segments --dataset data/residues --split test validation --out segments.json
    # add the scores to the card of a model that has one
    python -m training.deeploc.segments --model modeling/protloc/assets/deeploc --dataset data/residues --card

A segment is found if a predicted segment of the same kind overlaps it by half of the longer of the two; its end is
correct within three residues. Only signals that a protein's source annotates count; segments that touch residues of
unknown class do not.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_dataset

from protloc.loading import DEFAULT_MODEL, LOAD_ERRORS, load_model, one_line
from protloc.models.segments_deeploc import find_segments
from protloc.prediction import predict
from protloc.staging import EVALUATION
from protloc.taxonomy import SORTING_SIGNALS
from training.common.cards import render_deeploc_card
from training.deeploc.report import TEMPLATE

OVERLAP, END = 0.5, 3  # of the longer segment; residues


def annotated_segments(signals: str) -> list[dict[str, Any]]:
    """Segments of a row of `datasets_scripts.build_residues`, as `find_segments` gives them."""
    segments, start, names = [], 0, list(SORTING_SIGNALS)
    for digit, residues in itertools.groupby(signals):
        stop = start + len(list(residues))
        if digit not in "0-":
            segments.append({"type": names[int(digit) - 1], "start": start + 1, "end": stop})
        start = stop
    return segments


def overlap(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Common residues as a share of the longer segment."""
    common = min(one["end"], other["end"]) - max(one["start"], other["start"]) + 1
    return common / (1 + max(part["end"] - part["start"] for part in (one, other)))


def segment_scores(proteins: Iterable[dict[str, Any]], found: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """
    Args:
        proteins: Rows with `signals` and `annotated`.
        found: Of each, its segments, or probabilities `(residues, 10)` that `find_segments` reads.

    Returns:
        `dict`: For each signal that some protein has: `f1`, `precision`, `recall` of segments (0 where not defined),
        `end_within_3` (of those found) and `support`.
    """
    counts = {name: {"found": 0, "missed": 0, "wrong": 0, "ends": 0} for name in SORTING_SIGNALS}
    for protein, answer in zip(proteins, found, strict=True):
        predicted = find_segments(answer) if isinstance(answer, torch.Tensor) else answer
        unknown = {i for i, digit in enumerate(protein["signals"], start=1) if digit == "-"}
        predicted = [part for part in predicted if unknown.isdisjoint(range(part["start"], part["end"] + 1))]
        truth = annotated_segments(protein["signals"])
        for name, digit in zip(SORTING_SIGNALS, "123456789", strict=True):
            if digit not in protein["annotated"]:
                continue
            left = [part for part in predicted if part["type"] == name]
            for part in truth:
                if part["type"] != name:
                    continue
                match = next((other for other in left if overlap(part, other) >= OVERLAP), None)
                counts[name]["found" if match else "missed"] += 1
                if match:
                    left.remove(match)
                    counts[name]["ends"] += abs(match["end"] - part["end"]) <= END
            counts[name]["wrong"] += len(left)
    scores = {}
    for name, count in counts.items():
        right, support = count["found"], count["found"] + count["missed"]
        if support:
            scores[name] = {
                "f1": 2 * right / (2 * right + count["missed"] + count["wrong"]),
                "precision": right / max(1, right + count["wrong"]),
                "recall": right / support,
                "end_within_3": count["ends"] / max(1, right),
                "support": support,
            }
    return scores


def table(scores: dict[str, dict[str, Any]]) -> str:
    lines = ["| signal | F1 | precision | recall | end within 3 | support |", "|---|---|---|---|---|---|"]
    for name, part in scores.items():
        values = " | ".join(f"{part[key]:.3f}" for key in ("f1", "precision", "recall", "end_within_3"))
        lines.append(f"| {name} | {values} | {part['support']} |")
    return "\n".join(lines)


def by_source(proteins: Dataset, found: list[Any]) -> dict[str, dict[str, Any]]:
    """Scores on the proteins of the topology, and on all others."""
    sources = {"topology": {"topology"}, "signals and compartments": {"signals", "compartments"}}
    result = {}
    for title, names in sources.items():
        chosen = [i for i, source in enumerate(proteins["source"]) if source in names]
        if chosen:
            result[title] = segment_scores(proteins.select(chosen), [found[i] for i in chosen])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder or Hub name (default: the shipped model)")
    parser.add_argument("--dataset", required=True, help="data set of datasets_scripts.build_residues")
    parser.add_argument("--split", nargs="+", default=["test", "validation"])
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, help="write the scores as JSON")
    parser.add_argument(
        "--card", action="store_true", help="write the scores into the model's evaluation.json and card"
    )
    args = parser.parse_args()
    result: dict[str, Any] = {"model": str(args.model), "dataset": args.dataset}
    try:
        model, tokenizer = load_model(args.model, dtype=args.dtype)
        for split in args.split:
            proteins = load_dataset(args.dataset, split=split)
            records = zip(map(str, range(len(proteins))), proteins["sequence"], strict=True)
            found = [row["segments"] for row in predict(records, model, tokenizer, signals=True)]
            result[split] = by_source(proteins, found)
            for title, scores in result[split].items():
                print(f"\n{split}, {title}\n\n{table(scores)}")
        if args.card:
            path = Path(args.model) / EVALUATION
            results = json.loads(path.read_text(encoding="utf-8")) | {
                "segments": {name: result[name] for name in args.split}
            }
            results["parameters"] = model.num_parameters()
            card = render_deeploc_card(results, TEMPLATE)
            path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            card.save(Path(args.model) / "README.md")
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(f"\nall scores in {args.out}", file=sys.stderr)
    except (*LOAD_ERRORS, KeyError) as error:
        parser.exit(2, f"training.deeploc.segments: {one_line(error)}\n")


if __name__ == "__main__":
    main()
