"""What the site computes: proteins in, compartments and pictures out, within limits that keep it up for everybody."""

import io
import os
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig

from protloc import drawing, loading, prediction
from protloc.images import read_image
from protloc.sequences import open_text, read_sequences

MAX_PROTEINS = 100  # of a request
MAX_CHARACTERS = 1_000_000
MAX_RESIDUES = 20_000  # of a protein
MAX_IMAGE_PIXELS = 16_000_000
MAX_IMAGE_BYTES = 50_000_000
MAX_SAMPLES = 8
FORMATS = ["PNG", "TIFF", "JPEG"]  # what microscopes give; every other decoder is one more way in
CROP = 208  # pixels of the picture that deepGPS draws on

SHIPPED = {"DeepLoc: compartments": (None, None), "DeepLoc and deepGPS: compartments and picture": (None, "deepgps")}
DEFAULT_MODEL = list(SHIPPED)[1]
# Hub names that the owner of the Space lets people choose, in a variable of the Space: OPENGPS_MODELS="me/a me/b"
ALLOWED = os.environ.get("OPENGPS_MODELS", "").split()
MODELS = [*SHIPPED, *ALLOWED]
computing = threading.Semaphore(2)  # requests that compute at a time; the others wait


class InputError(ValueError):
    """What is wrong with the user's input, in words for them."""


def read_proteins(text: str, file: str | None = None) -> list[tuple[str, str]]:
    """
    Ids and sequences of pasted text (a sequence, FASTA, CSV or TSV) or of an uploaded file.

    Raises:
        InputError: In one sentence.
    """
    try:
        if file:
            with open_text(file) as handle:
                text = handle.read(MAX_CHARACTERS + 1)  # never more, whatever a compressed file unpacks to
        if len(text) > MAX_CHARACTERS:
            raise InputError(f"The input is longer than {MAX_CHARACTERS:,} characters: send it in parts.")
        text = text.strip()
        if not text:
            raise InputError("Paste a protein sequence, or choose a file.")
        first = text.splitlines()[0]
        if not first.startswith(">") and not {",", "\t"} & set(first):
            text = f">protein\n{text}"
        proteins: list[tuple[str, str]] = []
        for protein in read_sequences([io.StringIO(text)]):
            if len(proteins) == MAX_PROTEINS:
                raise InputError(f"More than {MAX_PROTEINS} proteins: send at most {MAX_PROTEINS} at a time.")
            if len(protein[1]) > MAX_RESIDUES:
                raise InputError(f"{protein[0]} has {len(protein[1]):,} residues; at most {MAX_RESIDUES:,} are read.")
            proteins.append(protein)
    except (ValueError, OSError, EOFError) as error:
        said = str(error).removeprefix("the input, ").removeprefix("<stream>, ")
        raise error if isinstance(error, InputError) else InputError(f"{said[:300]}.") from None
    return proteins


def read_nucleus(file: str | None, channel: str | None = None, page: int | None = None) -> np.ndarray | None:
    """The image that a protein is to be drawn on, as `read_channel` gives it; `None` without a file."""
    return read_channel(file, "nucleus", channel, page) if file else None


def read_channel(
    source: Any, shows: str, channel: str | None = None, page: int | None = None, project: str | None = None
) -> np.ndarray:
    """
    One channel of an image, float32 `(H, W)` in its own unit.

    Args:
        source: Path of an uploaded file, or an open binary file.
        shows (`str`): What it shows, for messages.
        channel, page, project: As for `protloc.images.read_image`.

    Raises:
        InputError: In one sentence.
    """
    try:
        if isinstance(source, str) and Path(source).stat().st_size > MAX_IMAGE_BYTES:
            raise ValueError(f"the file is larger than {MAX_IMAGE_BYTES // 1_000_000} MB")
        data = Path(source).read_bytes() if isinstance(source, str) else source
        return read_image(data, channel, page, project, MAX_IMAGE_PIXELS, FORMATS).pixels
    except ValueError as error:
        said = str(error).removeprefix("the image: ").replace("holds the nucleus", f"holds the {shows}")
        raise InputError(f"The image of the {shows}: {said}.") from None
    except Exception:  # decoders of damaged and of hostile files fail in every way
        raise InputError(
            f"The image of the {shows}: it can't be read, send a PNG, TIFF or JPEG file of 8 or 16 bit."
        ) from None


def cut(image: np.ndarray, x: int | None = None, y: int | None = None) -> np.ndarray:
    """The square of `CROP` pixels around a point (the middle by default), kept inside; smaller images stay whole."""
    height, width = image.shape
    top, left = (
        min(max((middle if point is None else point) - CROP // 2, 0), max(size - CROP, 0))
        for point, size, middle in ((y, height, height // 2), (x, width, width // 2))
    )
    return image[top : top + CROP, left : left + CROP]


@lru_cache(maxsize=4)
def load_localizer(name: str | None) -> tuple[Any, Any]:
    return loading.load_model(name) if name else loading.load_model()


@lru_cache(maxsize=4)
def load_drawer(name: str | None) -> tuple[Any, Any]:
    return drawing.load_model(name) if name else drawing.load_model()


def choose(name: str) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
    """What a name of `MODELS` (or `default`) stands for: DeepLoc and its tokenizer, deepGPS and its processor."""
    name = DEFAULT_MODEL if name == "default" else name
    if name in SHIPPED:
        return load_localizer(None), load_drawer(None) if SHIPPED[name][1] else None
    if name not in ALLOWED:
        raise InputError(f"There is no model {name[:80]!r} here. Known are: default, {', '.join(MODELS)}.")
    try:
        if AutoConfig.from_pretrained(name, trust_remote_code=False).model_type == "deepgps":
            return load_localizer(None), load_drawer(name)
        return load_localizer(name), None
    except (ValueError, OSError) as error:
        raise InputError(f"The model {name!r} can't be loaded: {loading.one_line(error)}") from None


def analyze(
    proteins: list[tuple[str, str]],
    nucleus: np.ndarray | None = None,
    model: str = "default",
    threshold: float | None = None,
    samples: int = 1,
) -> Iterator[dict[str, Any]]:
    """
    Each protein as soon as it is done.

    Args:
        proteins: Ids and sequences.
        nucleus (`np.ndarray` of shape `(H, W)`, *optional*): By default the one that comes with deepGPS.
        model (`str`): One of `MODELS`, or `default`.
        threshold (`float`, *optional*): In place of the model's own thresholds, one for each compartment.
        samples (`int`): Pictures drawn by a diffusion model.

    Yields:
        `dict`: `id`, `sequence`, `localizations`, `scores`, `thresholds`, `membrane` (probability), `attention`; with a
        deepGPS also `image_label`, `image_scores`, `image` and `nucleus` `(H, W)` in [0, 1], `uncertainty` or `None`.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"The threshold must be from 0 to 1, got {threshold:g}.")
    if not 1 <= samples <= MAX_SAMPLES:
        raise InputError(f"The number of pictures must be from 1 to {MAX_SAMPLES}, got {samples}.")
    (localizer, tokenizer), drawer = choose(model)
    labels = list(localizer.config.id2label.values())
    own = dict(zip(labels, localizer.config.thresholds, strict=True))
    if drawer:
        try:
            pixels = drawer[1].image_processor(nucleus)["nucleus"]
        except ValueError as error:
            raise InputError(f"The image of the nucleus: {error}.") from None
    for protein in proteins:
        with computing:
            (row,) = prediction.predict([protein], localizer, tokenizer, attention=True)
            scores = {label: row[label] for label in labels}
            localizations = row["localizations"].split("|")
            if threshold is not None:
                localizations = [
                    label for label in sorted(scores, key=lambda n: -scores[n]) if scores[label] >= threshold
                ]
            found: dict[str, Any] = {
                "id": protein[0],
                "sequence": protein[1],
                "localizations": localizations,
                "scores": scores,
                "thresholds": own if threshold is None else dict.fromkeys(labels, threshold),
                "membrane": row["membrane_probability"],
                "attention": row["attention"],
            }
            if drawer:
                (drawn,) = drawing.draw([protein], pixels, *drawer, num_samples=samples)
                diffusion = drawer[0].config.objective == "diffusion" and samples > 1
                found |= {
                    "image_label": drawn["label"],
                    "image_scores": drawn["scores"],
                    "image": drawn["image"],
                    "nucleus": pixels[0, 0].numpy(),
                    "uncertainty": drawn["uncertainty"] if diffusion else None,
                }
        yield found
