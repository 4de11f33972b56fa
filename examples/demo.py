"""Predict and draw the example proteins with the shipped models, and compare with what is known: `make demo`."""

import csv
import sys
from pathlib import Path

import transformers
from matplotlib.figure import Figure

from protloc import drawing
from protloc.plots import save
from protloc.prediction import predict
from protloc.sequences import read_fasta

HERE = Path(__file__).parent
OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")


def main() -> None:
    transformers.utils.logging.disable_progress_bar()
    with open(HERE / "proteins.csv", encoding="utf-8") as file:
        known = {row["protein_id"]: row for row in csv.DictReader(file)}

    line = "{:<8} {:<8} {:<44} {:<22} {:<9} {:<9} {}"
    print(line.format("protein", "gene", "predicted (probability)", "known", "membrane", "known", "first right"))
    top_right = exactly_right = membrane_right = 0
    for row in predict(read_fasta(HERE / "proteins.fasta")):
        truth = known[row["protein_id"]]
        predicted = row["localizations"].split("|")
        locations = set(truth["localizations"].split("|"))
        hit = predicted[0] in locations
        top_right += hit
        exactly_right += set(predicted) == locations
        membrane_right += row["membrane"] == truth["membrane"]
        print(
            line.format(
                row["protein_id"],
                truth["gene"],
                ", ".join(f"{name} {row[name]:.2f}" for name in predicted),
                truth["localizations"].replace("|", ", "),
                row["membrane"],
                truth["membrane"],
                "yes" if hit else "no",
            ).rstrip()
        )
    print(
        f"\n{len(known)} proteins: first-named compartment right for {top_right}, all compartments right for "
        f"{exactly_right}, membrane type right for {membrane_right}."
    )

    draw_all(known)


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
