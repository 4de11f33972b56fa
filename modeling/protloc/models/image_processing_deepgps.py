"""Nucleus images -> inputs of deepGPS, and its outputs -> images."""

import base64
import io
import logging
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from .image_files_deepgps import FORMATS, read_image
from .tiff_files_deepgps import explained

logger = logging.getLogger(__name__)

INVERTED = "the image looks inverted, with dark nuclei on a bright ground: invert it"
MAX_DRAWN_PIXELS = 2048 * 2048  # more take a minute and gigabytes for each protein
BLOCK = 8  # pixels, of the side of squares in which noise averages out


def normalize(image: np.ndarray, low: float = 1.0, high: float = 99.8, robust: bool = True) -> np.ndarray:
    """
    Stretch an image between two of its percentiles (as CSBDeep; deepGPS, "Image preprocessing"), and clip.

    Args:
        image (`np.ndarray` of shape `(H, W)`)
        low, high (`float`): Percentiles that are mapped to 0 and 1.
        robust (`bool`): If the upper percentile is in a few very bright spots (a scale bar, a dead cell), or in the
            noise around a single nucleus, use another one and warn. Not for proteins: their spots are signal.

    Returns:
        `np.ndarray`: float32 of shape `(H, W)` in [0, 1].

    Raises:
        ValueError: If all pixels are the same, as in a black image, or some are NaN or infinite.
    """
    image = np.asarray(image, dtype=np.float32)
    unusable = int((~np.isfinite(image)).sum())
    if unusable:
        raise ValueError(f"{unusable:,} of {image.size:,} pixels are NaN or infinite: fill them, or cut them off")
    bottom, top = np.percentile(image, [low, high])
    if top <= bottom:  # little but background: its extremes instead
        bottom, top = image.min(), image.max()
    elif robust and min(image.shape) >= 8 * BLOCK:
        top = upper_end(image, bottom, top, high)
    if top <= bottom:
        raise ValueError(f"the image is empty: all of its pixels are {bottom:g}")
    return np.clip((image - bottom) / (top - bottom), 0, 1).astype(np.float32)


def upper_end(image: np.ndarray, bottom: float, top: float, high: float) -> float:
    """What becomes 1 in place of the percentile `top`, if that lies in spots or in noise."""
    rows, columns = (side // BLOCK for side in image.shape)
    blocks = image[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).swapaxes(1, 2)
    means = blocks.mean(axis=(2, 3))
    middle = np.median(means)
    objects = means > middle + 6 * 1.4826 * np.median(np.abs(means - middle))

    # Neighbouring blocks differ by no more than noise: all there is to see are these few objects
    pixel_noise, block_noise = (np.median(np.abs(np.diff(values))) for values in (image, means))
    if 4 <= objects.sum() < 0.02 * objects.size and block_noise <= 0.3 * pixel_noise:
        logger.warning("nearly all of the image is background: it is stretched by the one part of it that is bright")
        return float(np.percentile(blocks[objects], 98))

    kept = np.ones_like(objects)
    for _ in range(3):  # spots may hide others
        pixels = (blocks > (bottom + top) / 2) & kept[..., None, None]
        if pixels.sum() > 0.02 * kept.sum() * BLOCK**2:
            break
        bright = pixels.any(axis=(2, 3))
        around = bright.copy()
        for _axis in (0, 1):
            around[1:] |= around[:-1]
            around[:-1] |= around[1:]
            around = around.T
        rest = kept & ~around
        if (objects & rest).sum() < 3 * bright.sum():
            break
        next_top = float(np.percentile(blocks[rest], high))
        if top - bottom < 2.5 * (next_top - bottom):
            break
        row, column = (BLOCK * int(np.median(place)) for place in np.nonzero(bright))
        logger.warning(
            "the brightest %.1f%% of the image outshine all else, as debris or a scale bar does, around row %d, column "
            "%d: they are left out of the stretch",
            100 - high,
            row,
            column,
        )
        top, kept = next_top, rest
    return top


def is_inverted(normalized: np.ndarray) -> bool:
    """Whether a normalized field is bright nearly everywhere and at its border, as a negative is."""
    border = np.concatenate([normalized[0], normalized[-1], normalized[:, 0], normalized[:, -1]])
    return bool(min(np.median(normalized), np.median(border)) > 0.65)


class DeepGPSImageProcessor(BaseImageProcessor):
    """
    Reads nucleus images and normalizes them to [0, 1]; `postprocess` returns protein images.

    Args:
        low, high (`float`): Percentiles of the normalization.
        default_nucleus (`str`, *optional*): A PNG in base64, for proteins without a nucleus.
    """

    model_input_names = ["nucleus"]  # noqa: RUF012

    def __init__(self, low: float = 1.0, high: float = 99.8, default_nucleus: str | None = None, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= low < high <= 100:
            raise ValueError(f"low and high must be percentiles, the first below the second, got {low} and {high}")
        self.low = low
        self.high = high
        self.default_nucleus = default_nucleus

    def default_image(self) -> Image.Image:
        """
        The nucleus for proteins without one.

        Raises:
            ValueError: If this processor has none, or a damaged one.
        """
        if self.default_nucleus is None:
            raise ValueError("this model comes without a default nucleus: give an image")
        with explained("this model's default nucleus", "is damaged, give an image"):
            return Image.open(io.BytesIO(base64.b64decode(self.default_nucleus)))

    def read(
        self,
        image: Any,
        channel: str | int | None = None,
        page: int | None = None,
        project: str | None = None,
        max_pixels: int = MAX_DRAWN_PIXELS,
        formats: Collection[str] = FORMATS,
    ) -> np.ndarray:
        """
        One nucleus, float32 of shape `(H, W)` in its own unit; see `read_image`.

        Raises:
            ValueError: As `read_image`, also for images larger than `max_pixels`, on which nothing is drawn at once.
        """
        return read_image(image, channel, page, project, max_pixels, formats).pixels

    def preprocess(
        self,
        images: Any,
        channel: str | int | None = None,
        page: int | None = None,
        project: str | None = None,
        return_tensors: str | None = "pt",
        **kwargs,
    ) -> BatchFeature:
        """
        Args:
            images: One image or a list of images of the same size, as for `read_image`; `None` for the default nucleus.
            channel, page, project: As for `read_image`.

        Returns:
            `BatchFeature`: `nucleus`, float32 of shape `(batch, 1, H, W)` in [0, 1].

        Raises:
            ValueError: As `read_image` and `normalize`, and for images of several sizes.
        """
        images = images if isinstance(images, (list, tuple)) else [images]
        read = []
        for image in images:
            source = self.default_image() if image is None else image
            read.append(normalize(self.read(source, channel, page, project), self.low, self.high))
            if is_inverted(read[-1]):
                logger.warning("%s", INVERTED)
        sizes = sorted({image.shape for image in read})
        if len(sizes) > 1:
            raise ValueError(f"images of a batch must have one size, got {' and '.join(map(str, sizes[:2]))}")
        return BatchFeature({"nucleus": np.stack(read)[:, None]}, tensor_type=return_tensors)

    def postprocess(self, images: torch.Tensor) -> list[Image.Image]:
        """Images `(batch, 1, H, W)` in [0, 1] as 8-bit grey images."""
        pixels = (images.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        return [Image.fromarray(image[0]) for image in pixels]


DeepGPSImageProcessor.register_for_auto_class()
