"""Figures and files of the site."""

import csv
import io
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from protloc import crops
from protloc.files import safe_name
from protloc.plots import attention_along

# Okabe and Ito's palette, which people with any colour vision tell apart.
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#999999"


def stretched(image: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """An image `(H, W)` up to its own maximum, times `gain`, clipped to [0, 1]."""
    return np.clip(image / max(float(image.max()), 1e-6) * gain, 0, 1)


def picture(pixels: np.ndarray) -> Image.Image:
    """
    Values in [0, 1] as an image of 8 bit.

    With a text of its own, because Gradio names files by their content: of two people with the same picture one would
    write the file while the other reads it.
    """
    image = Image.fromarray(np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
    image.info["request"] = uuid.uuid4().hex
    return image


def overlay(nucleus: np.ndarray, protein: np.ndarray, gain: float = 1.0) -> Image.Image:
    """The nucleus in blue and the protein in yellow."""
    return picture(crops.overlay(stretched(nucleus), stretched(protein, gain)))


def grey(image: np.ndarray, gain: float = 1.0) -> Image.Image:
    return picture(stretched(image, gain))


def bars(found: dict[str, Any]) -> Figure:
    """The probability of each compartment; a mark at its threshold, and what reaches it in blue."""
    names = sorted(found["scores"], key=lambda name: found["scores"][name])
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = [BLUE if name in found["localizations"] else GREY for name in names]
    axes.barh(names, [found["scores"][name] for name in names], color=colours)
    axes.plot(
        [found["thresholds"][name] for name in names], names, "|", color=ORANGE, markersize=14, markeredgewidth=2.5
    )
    axes.set(xlim=(0, 1), xlabel="probability (orange: threshold)")
    axes.set_title(found["id"], fontsize=10, parse_math=False)
    return figure


def attention(found: dict[str, Any]) -> Figure:
    return attention_along(
        found["sequence"], found["attention"], found["id"], predicted=", ".join(found["localizations"])
    )


def table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows, one a protein."""
    with_image = "image" in rows[0]
    header = ["protein", "residues", "compartments", "membrane"] + ["picture shows"] * with_image
    header += list(rows[0]["scores"])
    lines = []
    for row in rows:
        line = [row["id"], len(row["sequence"]), ", ".join(row["localizations"]) or "none", round(row["membrane"], 3)]
        line += [row["image_label"]] * with_image
        lines.append(line + [round(score, 3) for score in row["scores"].values()])
    return header, lines


def write_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    header, lines = table(rows)
    # A spreadsheet would compute an id that begins with one of these characters.
    lines = [[f"'{name}" if name.startswith(("=", "+", "-", "@")) else name, *rest] for name, *rest in lines]
    csv.writer(text, lineterminator="\n").writerows([header, *lines])
    return text.getvalue()


def write_archive(rows: list[dict[str, Any]], path: Path) -> None:
    """A ZIP of the table and, where drawn, each picture as PNG, as 16-bit TIFF, and as an overlay on the nucleus."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = uuid.uuid4().bytes  # a file of its own, as in `picture`
        archive.writestr("predictions.csv", write_csv(rows))
        for row in rows:
            if "image" not in row:
                continue
            name = safe_name(row["id"])
            sixteen = Image.fromarray(np.round(np.clip(row["image"], 0, 1) * 65535).astype(np.uint16))
            files = {f"{name}.tif": (sixteen, "TIFF"), f"{name}.png": (picture(row["image"]), "PNG")}
            files[f"{name}_overlay.png"] = overlay(row["nucleus"], row["image"]), "PNG"
            if row["uncertainty"] is not None:
                files[f"{name}_uncertainty.png"] = grey(row["uncertainty"]), "PNG"
            for file, (image, kind) in files.items():
                buffer = io.BytesIO()
                image.save(buffer, kind)
                archive.writestr(f"images/{file}", buffer.getvalue())
