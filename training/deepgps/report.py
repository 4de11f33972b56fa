"""
Evaluate a deepGPS before it is shipped, and write its card.

    python -m training.deepgps.judge --images data/hpa:dictionary data/hpa:cells data/hpa:markers \
        --out runs/deepgps/judge.json --panel modeling/protloc/assets/deepgps/panel.png
    python -m training.deepgps.report --model modeling/protloc/assets/deepgps --runs runs/deepgps \
        --proteins data/proteins --images data/hpa:cells --samples 4 --judge runs/deepgps/judge.json

Writes `evaluation.json` beside the weights, with the scores of `training/deepgps/evaluate.py` for the same options and
the cost of the training, and renders it into the model's `README.md`. The card also shows a run with the other
objective if `--other` names the run and `--other-scores` the output of the evaluation script:

    python -m training.deepgps.evaluate --model runs/deepgps_diffusion --proteins data/proteins \
        --images data/hpa:cells --samples 4 --steps 5 --out runs/deepgps_diffusion/scores.json
"""

import argparse
import json
import platform
from pathlib import Path
from typing import Any

from protloc.loading import LOAD_ERRORS, one_line
from protloc.staging import EVALUATION
from training.common.cards import render_deepgps_card
from training.common.runs import training_costs
from training.deepgps.evaluate import add_data_arguments, add_model_arguments, evaluate

TEMPLATE = Path(__file__).parents[2] / "model_cards" / "deepgps.md.jinja"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_model_arguments(parser)
    add_data_arguments(parser)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="the runs that trained it, in order")
    parser.add_argument("--other", type=Path, help="a run with the other objective")
    parser.add_argument("--other-scores", type=Path, help="JSON of training.deepgps.evaluate for that run")
    parser.add_argument("--judge", type=Path, help="JSON of training.deepgps.judge for the shipped model")
    parser.add_argument("--watts", type=float, default=100, help="assumed power of the machine (default: 100)")
    parser.add_argument("--hardware", default=f"{platform.machine()} CPU", help="hardware that it was trained on")
    args = parser.parse_args()
    try:
        report(args)
    except LOAD_ERRORS as error:
        parser.exit(2, f"training.deepgps.report: {one_line(error)}\n")


def report(args: argparse.Namespace) -> None:
    if not args.proteins or not args.images:
        raise ValueError("the card needs --proteins and --images")
    if (args.other is None) != (args.other_scores is None):
        raise ValueError("--other and --other-scores go together")
    shipped, runs = Path(args.model), [*args.runs, *([args.other] if args.other else [])]
    results: dict[str, Any] = {"evaluations": {}}
    results["training"] = training_costs(runs, args.watts, args.hardware)
    found = evaluate(args)
    results["language_model"] = None if found["encoder"] == "deeploc" else found["encoder"]
    results["evaluations"][found["objective"]] = {**found, "model": shipped.name}
    results["parameters"] = found["parameters"]
    if args.other:
        found = json.loads(args.other_scores.read_text(encoding="utf-8"))
        if found["objective"] in results["evaluations"]:
            raise ValueError(f"{args.other} has the objective {found['objective']!r} too: --other is for the other one")
        results["evaluations"][found["objective"]] = {**found, "model": args.other.name}
    if args.judge:
        results["judge"] = json.loads(args.judge.read_text(encoding="utf-8"))
    written = json.dumps(results, indent=1) + "\n"
    card = render_deepgps_card(json.loads(written), TEMPLATE)
    (shipped / EVALUATION).write_text(written, encoding="utf-8")
    card.save(shipped / "README.md")
    print(f"{shipped / EVALUATION}, {shipped / 'README.md'}")


if __name__ == "__main__":
    main()
