"""
How often the page's words hold: `python -m benchmarks.confidence --dataset data/deeploc`.

openGPS says how far a compartment's probability lies above its threshold. This counts, for a shipped DeepLoc (the
accurate one with `--model deeploc-unirep`), how often a compartment that was named with each of these words is right,
on the independent test set and on the validation partition (which chose thresholds and calibration, so that its numbers
are a little optimistic), and writes what the page shows into `spaces/opengps/confidence.json`. `--max-proteins` takes
so many of each set at random; the calls that it writes say how many were counted.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset

from protloc.loading import load_model
from protloc.prediction import model_digest
from training.deeploc.evaluate import predict_proteins

OUT = Path(__file__).resolve().parents[1] / "spaces" / "opengps" / "confidence.json"
# Each from a distance of the probability's log-odds to those of the threshold
WORDS = {
    "below its threshold, but the most probable": -np.inf,
    "just above its threshold": 0.0,
    "above its threshold": 0.5,
    "well above its threshold": 1.5,
}
SETS = {"independent human proteins (HPA)": ("hpa", "test"), "DeepLoc 2.0's validation": ("deeploc2", "validation")}


def log_odds(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


def counted(right: np.ndarray, distances: np.ndarray) -> dict[str, dict[str, float]]:
    """How many calls each word was used for, and the share that was right."""
    used = np.digitize(distances, list(WORDS.values())[1:])
    return {
        word: {"calls": int((used == i).sum()), "right": round(float(right[used == i].mean()), 3)}
        for i, word in enumerate(WORDS)
        if (used == i).any()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="as datasets_scripts.build_deeploc writes it")
    parser.add_argument("--model", default="deeploc", choices=["deeploc", "deeploc-unirep"], help="(default: deeploc)")
    parser.add_argument("--max-proteins", type=int, help="of each set, drawn at random (default: all)")
    parser.add_argument("--out", type=Path, default=OUT, help="(default: what the page reads)")
    args = parser.parse_args()
    model, tokenizer = load_model(args.model, dtype="float32")  # of any machine the same
    result: dict[str, Any] = {"model_digest": model_digest(model), "compartments": {}, "membrane": {}}
    for title, (config, split) in SETS.items():
        proteins = load_dataset(args.dataset, config, split=split)
        if args.max_proteins:
            proteins = proteins.shuffle(seed=0).select(range(min(args.max_proteins, len(proteins))))
        found = predict_proteins(model, tokenizer, proteins, 16_384, None)
        named = found["predictions"].astype(bool)
        distances = log_odds(found["probabilities"]) - log_odds(np.array(model.config.thresholds))
        result["compartments"][title] = counted(found["labels"][named], distances[named])
        known = found["membrane_labels"] >= 0
        if known.any():
            away = log_odds(found["membrane_probabilities"]) - log_odds(np.array(model.config.membrane_threshold))
            right = found["membrane_predictions"] == found["membrane_labels"]
            result["membrane"][title] = counted(right[known], np.abs(away[known]))
    words = {word: None if np.isinf(start) else start for word, start in WORDS.items()}
    models = json.loads(args.out.read_text(encoding="utf-8"))["models"] if args.out.exists() else {}
    args.out.write_text(
        json.dumps({"from": words, "models": models | {args.model: result}}, indent=1) + "\n", encoding="utf-8"
    )
    for title, counts in result["compartments"].items():
        print(f"\n{title}\n| word | calls | right |\n|---|---|---|")
        for word, said in counts.items():
            print(f"| {word} | {said['calls']} | {said['right']:.0%} |")


if __name__ == "__main__":
    main()
