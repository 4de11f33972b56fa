"""Microscope fields -> crops around nuclei, for data sets and inference."""

import base64
import logging
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from . import ASSETS
from .images import read_image, read_two_channels
from .loading import NEED_IMAGES
from .models.image_processing_deepgps import INVERTED, is_inverted, normalize
from .nuclei import segment
from .simulation import simulate

try:
    from skimage.measure import regionprops
    from skimage.transform import resize
except ImportError:
    raise ImportError(NEED_IMAGES) from None

__all__ = [
    "DEFAULT_NUCLEUS",
    "OPENCELL_UM_PER_PX",
    "Crop",
    "normalize",
    "nucleus_crops",
    "nucleus_found",
    "read_image",
    "read_two_channels",
    "rescale",
    "segment_nuclei",
    "simulate",
]

# A real nucleus (`assets/deepgps/README.md` gives its source) for `DeepGPSImageProcessor(default_nucleus=...)`
DEFAULT_NUCLEUS = base64.b64encode((ASSETS / "deepgps" / "default_nucleus.png").read_bytes()).decode()

OPENCELL_UM_PER_PX = 0.206
MIN_NUCLEUS_AREA = 1000 * OPENCELL_UM_PER_PX**2  # um2; deepGPS, "Image preprocessing": 1,000 pixels
MIN_UM_PER_PX, MAX_UM_PER_PX = 0.02, 4  # of light microscopes
SEGMENTERS = ("builtin", "stardist")

logger = logging.getLogger(__name__)


class Crop(NamedTuple):
    nucleus: np.ndarray  # float32 (size, size) in [0, 1]
    protein: np.ndarray
    box: tuple[int, int, int, int]  # left, top, right, bottom in the field; outside of it where it was padded
    focus: float  # of the nucleus: how much of its contrast is fine detail
    saturation: float  # share of the protein's pixels at the upper end


def rescale(image: np.ndarray, um_per_px: float, target_um_per_px: float) -> np.ndarray:
    """
    An image at another pixel size.

    Args:
        image (`np.ndarray` of shape `(H, W)`)
        um_per_px, target_um_per_px (`float`): Pixel size before and after, in micrometres.

    Returns:
        `np.ndarray`: float32, smoothed before downscaling.
    """
    if um_per_px == target_um_per_px:
        return image.astype(np.float32)
    scale = um_per_px / target_um_per_px
    shape = tuple(max(1, round(side * scale)) for side in image.shape)
    return resize(image.astype(np.float32), shape, order=1, anti_aliasing=scale < 1).astype(np.float32)


def segment_nuclei(image: np.ndarray, um_per_px: float | None = None, segmenter: str = "builtin") -> np.ndarray:
    """
    Segment all nuclei of a field; `nucleus_crops` applies the rules for size and border.

    Warns if no nucleus is found, and if the field looks inverted, with dark nuclei on a bright background.

    Args:
        image (`np.ndarray` of shape `(H, W)`): A nuclear stain, in any unit.
        um_per_px (`float`, *optional*): Pixel size in micrometres. Without it, the size of the nuclei is found out
            first, which takes some ten times as long.
        segmenter (`str`): `"builtin"`, a small network that ships with the package, or `"stardist"`, the model
            `2D_versatile_fluo` (Schmidt et al. 2018), which needs `pip install protloc[stardist]` and takes no pixel
            size.

    Returns:
        `np.ndarray`: int32 labels of shape `(H, W)`, 0 for the background.

    Raises:
        ValueError: For an image without contrast, with several channels or with NaN or infinite pixels, an unknown
            segmenter, or an invalid pixel size.
        ImportError: If StarDist is not installed.
    """
    if segmenter not in SEGMENTERS:
        raise ValueError(f"segmenter must be one of {', '.join(SEGMENTERS)}, got {segmenter!r}")
    if um_per_px is not None and not MIN_UM_PER_PX <= um_per_px <= MAX_UM_PER_PX:
        raise ValueError(f"um_per_px must be from {MIN_UM_PER_PX} to {MAX_UM_PER_PX} micrometres, got {um_per_px}")
    if np.ndim(image) != 2:
        raise ValueError(f"expected one channel of shape (height, width), got {np.shape(image)}")
    normalized = normalize(image)
    if segmenter == "builtin":
        labels = segment(normalized, um_per_px)
    elif find_spec("stardist") is None:
        raise ImportError("segmenter 'stardist' needs the package stardist: pip install protloc[stardist]")
    else:
        labels = stardist().predict_instances(normalized)[0].astype(np.int32)
    if is_inverted(normalized):
        logger.warning("%s", INVERTED)
    elif not labels.any():
        size = "of unknown pixel size" if um_per_px is None else f"at {um_per_px:g} um a pixel"
        logger.warning("no nucleus is seen in the field, %s", size)
    return labels


def nucleus_found(image: np.ndarray, um_per_px: float | None = None) -> bool:
    """Whether `segment_nuclei` finds a nucleus; warns if it doesn't, or if the image looks inverted."""
    return bool(segment_nuclei(image, um_per_px).any())


@cache
def stardist():
    from stardist.models import StarDist2D

    return StarDist2D.from_pretrained("2D_versatile_fluo")


def nucleus_crops(
    nucleus: np.ndarray,
    protein: np.ndarray,
    labels: np.ndarray,
    size: int = 208,
    um_per_px: float = OPENCELL_UM_PER_PX,
    max_overlap: float = 0.6,
    pad: bool = False,
) -> list[Crop]:
    """
    Square crops with a nucleus at the centre (deepGPS, "Image preprocessing").

    The following are excluded: regions smaller than 1,000 pixels of OpenCell's 0.206 um (or the same area at another
    pixel size), nuclei cut by the border, windows that extend beyond the field, and windows that overlap an earlier one
    too much.

    Args:
        nucleus, protein (`np.ndarray` of shape `(H, W)`): Normalized to [0, 1].
        labels (`np.ndarray` of shape `(H, W)`): From `segment_nuclei`.
        size (`int`): Side of the crops in pixels.
        um_per_px (`float`): Pixel size in micrometres.
        max_overlap (`float`): Maximum intersection over union of two windows.
        pad (`bool`): Mirror the field beyond its border instead of excluding a window, for fields of a few cells.

    Returns:
        `list[Crop]`: Ordered from the top to the bottom of the field.

    Raises:
        ValueError: If the three shapes differ.
    """
    if not nucleus.shape == protein.shape == labels.shape:
        raise ValueError(
            f"nucleus, protein and labels must have one shape, got {nucleus.shape}, {protein.shape} and {labels.shape}"
        )
    height, width = labels.shape
    margin = size if pad else 0
    nucleus, protein = (np.pad(image, margin, mode="symmetric") for image in (nucleus, protein))
    crops: list[Crop] = []
    for region in sorted(regionprops(labels), key=lambda region: region.centroid):
        top, left, bottom, right = region.bbox
        cut = top == 0 or left == 0 or bottom == height or right == width
        if cut or region.area * um_per_px**2 < MIN_NUCLEUS_AREA:
            continue
        row, column = (round(centre) - size // 2 for centre in region.centroid)
        inside = 0 <= row <= height - size and 0 <= column <= width - size
        if not (inside or pad) or any(overlap(crop.box, (column, row), size) > max_overlap for crop in crops):
            continue
        window = np.s_[row + margin : row + margin + size, column + margin : column + margin + size]
        crops.append(
            Crop(
                nucleus[window].copy(),  # a view would keep the whole field in memory
                protein[window].copy(),
                (column, row, column + size, row + size),
                focus(nucleus[window], um_per_px),
                float((protein[window] >= 1).mean()),
            )
        )
    return crops


def overlap(box: tuple[int, int, int, int], corner: tuple[int, int], size: int) -> float:
    """Intersection over union of a crop's box and another window of the same size."""
    shared = max(0, size - abs(box[0] - corner[0])) * max(0, size - abs(box[1] - corner[1]))
    return shared / (2 * size**2 - shared)


def focus(image: np.ndarray, um_per_px: float) -> float:
    """Share of an image's variance that lies in details under about a micrometre, noise of single pixels left out."""
    image = ndimage.uniform_filter(image, 3)
    coarse = ndimage.uniform_filter(image, max(5, round(1.5 / um_per_px)))
    return float((image - coarse).var() / max(image.var(), 1e-12))
