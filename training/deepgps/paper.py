"""
Draw Figures 2 to 4 and Tables 1 and 2 of deepGPS (Yuan et al. 2025) from the models and data that are given.

    python -m training.deepgps.paper --model sequence=runs/deepgps_single2 --model both=runs/deepgps_structure \
        --structures data/structures --images data/opencell:single-2 --tool DeepLoc=deeploc.txt --out paper

Writes into `--out`

    tables.md       labels of every model, by protein and by crop, and of other tools on the same proteins (Table 1, or
                    Table 2 for the Human Protein Atlas); images of every model beside the baselines
    variants.png    the models side by side, such as sequence, structure and both (Figure 3)
    NAME/           scores and figures of each model: ROC curves, confusion matrices and cross-assay (Figure 2),
                    examples and PSNR cut-offs (Figure 4)

Options are those of `training.deepgps.evaluate`; a tool's file is read as by `training.deepgps.compare_tools`, which
needs `--proteins`, or the proteins of a single set of crops.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from protloc import plots
from protloc.loading import LOAD_ERRORS, one_line
from training.common.runs import table
from training.deepgps.compare_tools import compare, read_tool
from training.deepgps.evaluate import add_data_arguments, evaluate

LABELS = {"accuracy": "accuracy", "specificity": "specificity", "sensitivity": "sensitivity", "f1": "F1"}
LABELS |= {"auroc": "AUROC", "auprc": "AUPRC"}
IMAGES = {"psnr": "PSNR (dB)", "ssim": "SSIM"}


def label_rows(name: str, results: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Scores of a model's labels, by protein and by crop, each with the name of its row."""
    found = [(f"{name}, {classes}, by protein", scores) for classes, scores in results.get("labels", {}).items()]
    by_crop = results.get("labels_by_crop")
    return found + ([(f"{name}, by crop", by_crop)] if by_crop else [])


def tables(models: dict[str, dict[str, Any]], tools: dict[str, dict[str, Any]]) -> str:
    """The tables in Markdown."""
    rows = [row for name, results in models.items() for row in label_rows(name, results)]
    rows += [(f"{name}, single-2, by protein", scores) for name, scores in tools.items()]
    written = [["labels", "number", *LABELS.values()]]
    for name, scores in rows:
        written.append([name, str(scores["count"]), *(f"{scores[key]:.3f}" for key in LABELS)])
    parts = ["# Labels", table(written)]
    written = [["images", *IMAGES.values()]]
    for name, results in models.items():
        for method, scores in results.get("images", {"methods": {}})["methods"].items():
            values = [f"{scores[key]['mean']:.3f} ± {scores[key]['sd']:.3f}" for key in IMAGES]
            written.append([f"{name}, {method}", *values])
    if len(written) > 1:
        parts += ["# Images", table(written)]
    return "\n\n".join(parts) + "\n"


def variants_figure(models: dict[str, dict[str, Any]]) -> Figure:
    """A bar for each model: the AUROC of its labels, and the PSNR and SSIM of its images (deepGPS, Fig. 3)."""
    values: dict[str, dict[str, float]] = {"AUROC": {}, **{title: {} for title in IMAGES.values()}}
    for name, results in models.items():
        for _, scores in label_rows(name, results)[-1:]:
            values["AUROC"][name] = scores["auroc"]
        for key, title in IMAGES.items():
            if "images" in results:
                values[title][name] = results["images"]["methods"]["model"][key]["mean"]
    figure = Figure(figsize=(9, 3), layout="constrained")
    for ax, (title, bars) in zip(figure.subplots(1, len(values)), values.items(), strict=True):
        ax.bar(list(bars), list(bars.values()))
        ax.set_title(title)
    return figure


def draw(args: argparse.Namespace) -> None:
    """Write everything of all models."""
    tools = {}
    if args.tool:  # first: a file that can't be read is known before hours of drawing
        of_crops = args.images[0] if args.images else None
        tools = compare(argparse.Namespace(**{**vars(args), "images": of_crops, "fasta": None}))
    models: dict[str, dict[str, Any]] = {}
    for name, path in args.model:
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        models[name] = evaluate(argparse.Namespace(**{**vars(args), "model": path, "figures": folder}))
        (folder / "scores.json").write_text(json.dumps(models[name], indent=2) + "\n", encoding="utf-8")
    (args.out / "tables.md").write_text(tables(models, tools), encoding="utf-8")
    plots.save(variants_figure(models), args.out / "variants.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=read_tool, action="append", required=True, metavar="NAME=FOLDER", help="a model, with its name"
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--tool", type=read_tool, action="append", default=[], metavar="NAME=FILE", help="another tool's predictions"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    if not args.images and not args.proteins:
        parser.error("give --images, --proteins or both")
    if args.tool and not args.proteins and len(args.images) > 1:
        parser.error("--tool compares the proteins of one set of crops: give one --images, or --proteins")
    twice = {name for name, _ in args.model if [other for other, _ in args.model].count(name) > 1}
    if twice:
        parser.error(f"two models have the name {min(twice)!r}: give each its own")
    try:
        draw(args)
    except LOAD_ERRORS as error:
        parser.exit(2, f"training.deepgps.paper: {one_line(error)}\n")


if __name__ == "__main__":
    main()
