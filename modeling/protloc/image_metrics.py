"""How well a drawn protein image agrees with the real one, in the terms of a cell biologist and of image processing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from .loading import NEED_IMAGES
from .microscopy import OPENCELL_UM_PER_PX, segment_nuclei

try:
    from skimage.filters import threshold_otsu, threshold_triangle
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure
except ImportError:
    raise ImportError(NEED_IMAGES) from None

RING_UM = 5.0  # how far from a nucleus its cytoplasm is measured
RIM_PX = 5  # at an image's border, where a frame is looked for
SCORES = ["psnr", "ssim", "ms_ssim", "pearson", "ratio_error", "iou"]


@dataclass
class Regions:
    """Masks `(H, W)` of a crop: nuclei, the cytoplasm around them, and all cells."""

    nuclei: np.ndarray
    cytoplasm: np.ndarray
    cells: np.ndarray


def find_regions(
    nucleus: np.ndarray, protein: np.ndarray | None = None, um_per_px: float = OPENCELL_UM_PER_PX
) -> Regions:
    """
    Args:
        nucleus, protein (`np.ndarray` of shape `(H, W)`): Of one crop, in [0, 1]; cells are where either is brighter
            than the background, or everywhere if only the nucleus is known.
        um_per_px (`float`): Size of a pixel in micrometres.
    """
    nuclei = segment_nuclei(nucleus, um_per_px) > 0
    cells = np.ones_like(nuclei)
    if protein is not None:
        smooth = ndimage.gaussian_filter(np.maximum(nucleus, protein), 2)
        cells = ndimage.binary_fill_holes((smooth > threshold_triangle(smooth)) | nuclei)
    distance = ndimage.distance_transform_edt(~nuclei) * um_per_px
    return Regions(nuclei, cells & (distance > um_per_px) & (distance <= RING_UM), cells)


def nuclear_ratio(image: np.ndarray, regions: Regions) -> float:
    """Mean intensity in the nuclei over that in the cytoplasm around them; NaN where there is no such region."""
    if not regions.nuclei.any() or not regions.cytoplasm.any():
        return float("nan")
    floor = 1e-3  # an eighth of a step of an 8-bit image: keeps the ratio of a black one finite
    return float((image[regions.nuclei].mean() + floor) / (image[regions.cytoplasm].mean() + floor))


def image_scores(drawn: np.ndarray, real: np.ndarray, regions: Regions) -> dict[str, float]:
    """
    Scores of one drawn image.

    Args:
        drawn, real (`np.ndarray` of shape `(H, W)`): In [0, 1], 161 pixels wide or more.

    Returns:
        `dict`: `psnr` in dB; `ssim` and `ms_ssim` (Wang et al. 2004, 2003); `pearson`, correlation inside the cells;
        `ratio`, the nucleus-to-cytoplasm ratio, and `ratio_error`, how far it is off in factors of two; `iou`,
        intersection over union of the bright regions (above Otsu's threshold of each image).
    """
    inside = regions.cells
    constant = drawn[inside].std() < 1e-6 or real[inside].std() < 1e-6
    bright = [image > threshold_otsu(image) if image.std() > 1e-6 else image > 2 for image in (drawn, real)]
    union = (bright[0] | bright[1]).sum()
    ratios = [nuclear_ratio(image, regions) for image in (drawn, real)]
    one, other = (torch.tensor(image, dtype=torch.float32)[None, None] for image in (drawn, real))
    return {
        "psnr": float(peak_signal_noise_ratio(real, drawn, data_range=1)),
        "ssim": float(structural_similarity(real, drawn, data_range=1, gaussian_weights=True, sigma=1.5)),
        "ms_ssim": float(multiscale_structural_similarity_index_measure(one, other, data_range=1.0)),
        "pearson": 0.0 if constant else float(np.corrcoef(drawn[inside], real[inside])[0, 1]),
        "ratio": ratios[0],
        "ratio_error": abs(float(np.log2(ratios[0] / ratios[1]))),
        "iou": float((bright[0] & bright[1]).sum() / union) if union else 0.0,
    }


class DrawingTraces:
    """
    What the way of drawing leaves in all images: a grid of patches, and a frame at the border. Images are added one by
    one.

    Args:
        period (`int`): Side of the patches in pixels.
    """

    def __init__(self, period: int = 4):
        self.period = period
        self.spectrum: Any = 0.0  # the sum of the images' power spectra
        self.steps: Any = 0.0  # that of the differences at the four sides
        self.rim = 0.0  # that of the means at the border

    def add(self, image: np.ndarray) -> None:
        """An image `(H, W)`, of 32 pixels or more and of the same size as the others."""
        height, width = (side - side % self.period for side in image.shape)
        inner = image[:height, :width]
        window = np.hanning(height)[:, None] * np.hanning(width)  # else the border is a line in the spectrum
        self.spectrum = self.spectrum + np.abs(np.fft.fft2((inner - inner.mean()) * window)) ** 2
        sides = [np.rot90(image, turns) for turns in range(4)]
        self.steps = self.steps + np.array([side[0].mean() - side[RIM_PX - 1].mean() for side in sides])
        rim = np.ones(image.shape, dtype=bool)
        rim[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX] = False
        self.rim += float(image[rim].mean())

    def scores(self) -> dict[str, float]:
        """
        Returns:
            `dict`: `grid`, the power at the frequencies of the grid (multiples of 1 / period along either axis or both)
            over the median of those up to 6 bins away, where it is highest; 1 is no grid. `frame`, the mean of the
            outermost row or column less that of the fifth, on the side where it is largest, over the mean of the outer
            five; 0 is no frame.
        """
        height, width = self.spectrum.shape
        reach, ratios = 6, []
        for down in range(self.period):
            for right in range(self.period):
                place = down * height // self.period, right * width // self.period
                near = np.roll(self.spectrum, (reach - place[0], reach - place[1]), (0, 1))
                near = near[: 2 * reach + 1, : 2 * reach + 1].copy()
                peak = near[reach, reach]
                near[reach - 1 : reach + 2, reach - 1 : reach + 2] = np.nan  # the window spreads the peak over these
                if down or right:
                    ratios.append(peak / max(float(np.nanmedian(near)), 1e-12))
        return {"grid": float(max(ratios)), "frame": float(np.abs(self.steps).max() / max(self.rim, 1e-12))}
