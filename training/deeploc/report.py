"""
Evaluate a DeepLoc before it is shipped, and write its card.

    python -m training.deeploc.report --dataset data/deeploc --runs runs/deeploc --model modeling/protloc/assets/deeploc

Writes `evaluation.json` beside the weights, with the scores on the independent test set and on the validation partition
(if the data set has them), a comparison of the length policies, the ablation study (if `--ablation` names its JSON
file) and the cost of the training, and renders it into the model's `README.md`.
"""

import argparse
import json
import platform
from functools import partial
from pathlib import Path

from datasets import get_dataset_config_names, load_dataset

from protloc.loading import LOAD_ERRORS, load_model, one_line
from protloc.staging import EVALUATION
from training.common.cards import render_deeploc_card
from training.common.runs import training_costs
from training.deeploc.evaluate import compare_policies, evaluate_model

TEMPLATE = Path(__file__).parents[2] / "model_cards" / "deeploc.md.jinja"
EVALUATIONS = {
    ("hpa", "test"): (
        "Independent test set: human proteins of the Human Protein Atlas",
        "Not used for training, calibration or thresholds.",
    ),
    ("deeploc2", "validation"): (
        "Validation: a homology partition of DeepLoc 2.0",
        "It chose the epoch and fitted calibration and thresholds, so these scores are a little optimistic.",
    ),
}

LEFT_OUT = "The model that is shipped learnt from it too: measured is the same training without it."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model, where the card is written")
    parser.add_argument("--dataset", required=True, help="folder or Hub repository that load_dataset reads")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], help="the runs that trained it, in order")
    parser.add_argument(
        "--validation-model",
        type=Path,
        help="for a model trained on the validation partition too: the same training without it, evaluated instead",
    )
    parser.add_argument("--ablation", type=Path, help="ablation.json of training/deeploc/ablate.py")
    parser.add_argument("--dtype", default="float32", help="bfloat16 if a language model is slow (default: float32)")
    parser.add_argument("--watts", type=float, default=100, help="assumed power of the machine (default: 100)")
    parser.add_argument("--hardware", default=f"{platform.machine()} CPU", help="hardware that it was trained on")
    parser.add_argument("--figures", type=Path, help="folder for the figures")
    args = parser.parse_args()
    try:
        report(args)
    except LOAD_ERRORS as error:
        parser.exit(2, f"training.deeploc.report: {one_line(error)}\n")


def report(args: argparse.Namespace) -> None:
    results: dict = {}
    results["ablation"] = json.loads(args.ablation.read_text(encoding="utf-8")) if args.ablation else {}
    results["training"] = training_costs(args.runs, args.watts, args.hardware)
    model, tokenizer = load_model(args.model, dtype=args.dtype)
    results |= {"parameters": model.num_parameters(), "dtype": args.dtype, "evaluations": {}}
    results["language_model"] = model.config.backbone_config.model_type if model.config.backbone_config else None
    known = get_dataset_config_names(args.dataset)
    wanted = {place: about for place, about in EVALUATIONS.items() if place[0] in known}
    if not wanted:
        raise ValueError(f"{args.dataset} has none of the configurations {', '.join(name for name, _ in EVALUATIONS)}")
    for (config, split), (title, note) in wanted.items():
        proteins = load_dataset(args.dataset, config, split=split)
        figures = args.figures / config if args.figures else None
        measured = model
        if split == "validation" and args.validation_model:
            measured, note = load_model(args.validation_model, dtype=args.dtype)[0], f"{note} {LEFT_OUT}"
        scores = evaluate_model(measured, tokenizer, proteins, 16_384, None, figures)
        about = {"title": title, "note": note, "config": config, "split": split}
        results["evaluations"][config] = {**about, **scores}
    load = partial(load_model, args.model, "auto", args.dtype)
    results["length_policies"] = {}
    # A language model takes too long for three readings of the longest proteins.
    if results["language_model"] is None and max(map(len, proteins["sequence"])) > model.config.max_length:
        results["length_policies"], _ = compare_policies(load, proteins, ["middle", "end", "window"], 16_384, None)
    card = render_deeploc_card(results, TEMPLATE)
    (args.model / EVALUATION).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    card.save(args.model / "README.md")
    print(f"{args.model / EVALUATION}, {args.model / 'README.md'}")


if __name__ == "__main__":
    main()
