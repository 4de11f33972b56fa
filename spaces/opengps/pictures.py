"""Pictures and files of the site."""

import base64
import csv
import io
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from verdict import named, text, verdict

from protloc import crops, prediction
from protloc.files import safe_name

CITE = "openGPS (protloc); DeepLoc: Almagro Armenteros et al. 2017, doi 10.1093/bioinformatics/btx431"
INSIDE = ("attention", "image", "nucleus", "uncertainty", "thresholds", "image_scores", "segments", "accurate", "scale")


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


def figure(image: Image.Image, caption: str, alt: str, elem_id: str = "") -> str:
    """An image with its caption below, as HTML."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure{f" id={elem_id}" if elem_id else ""}><img alt="{text(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
    )


def figures(found: dict[str, Any], gain: float = 1.0) -> str:
    """The pictures of a protein; empty without any."""
    if "image" not in found:
        return ""
    name, label = found["protein_id"], found["image_label"]
    share = max(found["image_scores"].values(), default=0)
    shown = [
        figure(
            overlay(found["nucleus"], found["image"], gain),
            "Protein (yellow) on nucleus (blue)",
            f"{name} drawn as {label or 'a picture'} in yellow around the nucleus in blue",
            "overlay",
        ),
        figure(
            grey(found["image"], gain), f"Protein, drawn as {label} ({share:.2f})", f"{name}, brighter where drawn more"
        ),
        figure(grey(found["nucleus"]), "Nucleus", "The nucleus that the protein is drawn on"),
    ]
    if found["uncertainty"] is not None:
        shown.append(figure(grey(found["uncertainty"]), "Uncertainty", "Brighter where the pictures differ more"))
    said = (
        f"Drawn, not seen in a microscope: one way in which a protein of these compartments may look. {found['scale']}"
    )
    return f'<div class="figures">{"".join(shown)}</div><p class="note">{text(said)}</p>'


def side_by_side(rows: list[dict[str, Any]], gain: float = 1.0, most: int = 20) -> str:
    """The first proteins side by side on their nucleus (deepGPS, Fig. 2e); empty for fewer than two."""
    drawn = [row for row in rows if "image" in row][:most]
    if len(drawn) < 2:
        return ""
    shown = (
        figure(overlay(row["nucleus"], row["image"], gain), row["protein_id"], f"{row['protein_id']} on the nucleus")
        for row in drawn
    )
    return f'<h4>Cross-assay: several proteins on one nucleus</h4><div class="figures small">{"".join(shown)}</div>'


def describe(found: dict[str, Any]) -> dict[str, Any]:
    """
    What programs get of a protein: the command's columns, with lists in place of joined names, and the verdict in
    words.
    """
    said = {name: value for name, value in found.items() if name not in (*INSIDE, "sequence")}
    said["localizations"] = named(found)
    said["thresholds"] = found["thresholds"]
    if "signals" in found:
        said["signals"] = [name for name in found["signals"].split("|") if name]
    if "segments" in found:
        said["segments"] = found["segments"]
    if "image_label" in found:
        said |= {"image_scores": found["image_scores"], "image_scale": found["scale"]}
    if "accurate" in found:
        said["accurate"] = describe(found["accurate"])
    if "image_label" in found or "organism" in found:
        said["verdict"] = verdict(found)
    return said


def flat(found: dict[str, Any], date: str) -> dict[str, Any]:
    """A row of the table to take home: the command's columns first, under its names."""
    row = {name: value for name, value in found.items() if name not in (*INSIDE, "sequence")}
    if "image_label" in found:
        row["image_label_probability"] = max(found["image_scores"].values(), default=0)
    if "segments" in found:
        row["segments"] = prediction.segments_text(found["segments"])
    if "accurate" in found:
        kept = ("localizations", "membrane", "membrane_probability")
        row |= {f"accurate_{name}": found["accurate"][name] for name in kept}
        row |= {f"accurate_{name}": found["accurate"][name] for name in found["thresholds"]}
    row |= {f"threshold_{name}": value for name, value in found["thresholds"].items()}
    # A spreadsheet would compute an id that begins with one of these characters.
    name = found["protein_id"]
    row["protein_id"] = f"'{name}" if name.startswith(("=", "+", "-", "@")) else name
    return row | {"sequence": found["sequence"], "date": date, "cite": CITE}


def write_csv(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    date = datetime.now(UTC).date().isoformat()
    lines = [flat(row, date) for row in rows]
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def about(rows: list[dict[str, Any]]) -> str:
    """What a ZIP holds, and how to cite it."""
    return (
        f"Made by openGPS on {datetime.now(UTC).date().isoformat()}: predictions, not measurements.\n"
        f"Models: {rows[0]['model_version']}\nCite: {CITE}\n\n"
        "predictions.csv   a row for each protein, in the columns of `protloc predict --signals --tree`\n"
        "sequences.fasta   what was read\nattention/        where the model looked, residue by residue\n"
        "images/           drawn by deepGPS; nobody has seen them in a microscope\n\n"
        + "\n".join(verdict(row) for row in rows)
        + "\n"
    )


def write_archive(rows: list[dict[str, Any]], path: Path) -> None:
    """
    A ZIP of the table, the sequences, the attention and, where drawn, each picture as PNG, as 16-bit TIFF, and as an
    overlay on the nucleus.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = uuid.uuid4().bytes  # a file of its own, as in `picture`
        archive.writestr("README.txt", about(rows))
        archive.writestr("predictions.csv", write_csv(rows))
        archive.writestr("sequences.fasta", "".join(f">{row['protein_id']}\n{row['sequence']}\n" for row in rows))
        for row in rows:
            name = safe_name(row["protein_id"])
            weights = zip(row["sequence"], row["attention"], strict=True)
            lines = [f"{place},{residue},{weight:.6g}" for place, (residue, weight) in enumerate(weights, start=1)]
            archive.writestr(f"attention/{name}.csv", "\n".join(["position,residue,attention", *lines, ""]))
            if "image" not in row:
                continue
            sixteen = Image.fromarray(np.round(np.clip(row["image"], 0, 1) * 65535).astype(np.uint16))
            files = {f"{name}.tif": (sixteen, "TIFF"), f"{name}.png": (picture(row["image"]), "PNG")}
            files[f"{name}_overlay.png"] = overlay(row["nucleus"], row["image"]), "PNG"
            if row["uncertainty"] is not None:
                files[f"{name}_uncertainty.png"] = grey(row["uncertainty"]), "PNG"
            for file, (image, kind) in files.items():
                buffer = io.BytesIO()
                image.save(buffer, kind)
                archive.writestr(f"images/{file}", buffer.getvalue())
