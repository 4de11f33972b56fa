"""The pictures of the Human Protein Atlas's dictionary of compartments: colour composites that contain a scale bar."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from protloc.tables import read_csv
from protloc.taxonomy import HPA_SPELLINGS

BAR_UM = 10  # length of the bar; with it nuclei measure 12 to 22 um, as those of the atlas's single cells
CORNER = 0.9, 0.75  # of height and width, where the corner begins that the bar lies in
MIN_BAR_PX = 40
HALO_PX = 4  # around the bar, where JPEG has blurred it


def find_bar(image: np.ndarray) -> tuple[np.ndarray, int]:
    """
    The white scale bar at the lower right of a composite.

    Args:
        image (`np.ndarray` of shape `(H, W, 3)`): uint8.

    Returns:
        `tuple`: A mask `(H, W)` of the bar with a rim, and its length in pixels; 0 where there is none.
    """
    white = image.min(axis=-1) > 180
    white[: round(CORNER[0] * len(white))] = False
    white[:, : round(CORNER[1] * white.shape[1])] = False
    labels, _ = ndimage.label(white)
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, length = rows.stop - rows.start, columns.stop - columns.start
        full = (labels[rows, columns] == number).mean() > 0.9  # a rectangle
        if full and length >= MIN_BAR_PX and height < length / 4:
            return ndimage.binary_dilation(labels == number, iterations=HALO_PX), length
    return np.zeros_like(white), 0


def read_composite(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Nucleus (blue) and protein (green), float32 `(H, W)` in [0, 1]; in place of the bar the nearest pixels."""
    with Image.open(path) as opened:
        image = np.asarray(opened.convert("RGB"))
    bar, _ = find_bar(image)
    nearest = ndimage.distance_transform_edt(bar, return_distances=False, return_indices=True)
    image = image[tuple(nearest)].astype(np.float32) / 255
    return image[..., 2], image[..., 1]


def read_index(path: Path) -> Iterator[tuple[Path, str, float | None]]:
    """Picture, location, and size of its pixels in micrometres; None where it has no bar."""
    for _, row in read_csv(path, ["file", "compartment"]):
        picture = path.parent / row["file"]
        with Image.open(picture) as opened:
            _, length = find_bar(np.asarray(opened.convert("RGB")))
        compartment = row["compartment"]
        yield picture, HPA_SPELLINGS.get(compartment, compartment), BAR_UM / length if length else None
