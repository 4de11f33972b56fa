"""Nucleus images as people have them -> what deepGPS reads, and its images back."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

CHANNELS = ["red", "green", "blue"]


def read_image(source: Any, channel: str | None = None, page: int = 0, max_pixels: int = 64_000_000) -> np.ndarray:
    """
    One channel of an image.

    Args:
        source (`str`, `Path`, `PIL.Image.Image` or `np.ndarray`): A file that Pillow reads (PNG, JPEG, TIFF, OME-TIFF;
            8 or 16 bit or float), an open image, or an array `(H, W)` or `(H, W, 3)`.
        channel (`str`, *optional*): `"red"`, `"green"` or `"blue"`, needed for a colour image.
        page (`int`): Of a file with several, such as a stack or an OME-TIFF; from 0.
        max_pixels (`int`): Larger images are refused before they are unpacked.

    Returns:
        `np.ndarray`: float32 of shape `(H, W)`, in the image's own unit.

    Raises:
        ValueError: In one sentence, for a missing, unreadable, cut-off, empty or huge image, colours without `channel`,
            a page that is not there, and values that are no numbers.
    """
    name = str(source) if isinstance(source, (str, Path)) else "the image"
    if isinstance(source, (str, Path)):
        try:
            source = Image.open(source)
        except FileNotFoundError:
            raise ValueError(f"{name}: there is no such file") from None
        except Image.DecompressionBombError:
            raise ValueError(f"{name}: more than the {max_pixels:,} pixels that are read at once") from None
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{name}: no image that can be read: {str(error).splitlines()[0]}") from None
    if isinstance(source, Image.Image):
        if source.width * source.height > max_pixels:
            raise ValueError(f"{name}: {source.width} x {source.height} pixels are more than {max_pixels:,}")
        pages = getattr(source, "n_frames", 1)
        if page >= pages:
            raise ValueError(f"{name}: has no page {page}; it has {pages}, counted from 0")
        try:
            source.seek(page)
            if source.mode in ("P", "CMYK", "RGBA", "LA", "PA"):  # palettes and transparency
                source = source.convert("L" if source.mode == "LA" else "RGB")
            pixels = np.asarray(source)
        except (OSError, EOFError, SyntaxError, ValueError) as error:
            raise ValueError(f"{name}: the image is cut off or damaged: {str(error).splitlines()[0]}") from None
    else:
        pixels = np.asarray(source)

    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        colours = [pixels[..., i] for i in range(3)]
        if channel is not None:
            if channel not in CHANNELS:
                raise ValueError(f"channel must be one of {', '.join(CHANNELS)}, got {channel!r}")
            pixels = colours[CHANNELS.index(channel)]
        elif all(np.array_equal(colours[0], other) for other in colours[1:]):
            pixels = colours[0]  # grey, stored as colours
        else:
            raise ValueError(f"{name}: is in colour: say which channel holds the nucleus ({', '.join(CHANNELS)})")
    if pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"{name}: expected one channel of shape (height, width), got {pixels.shape}")
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"{name}: values of type {pixels.dtype} are no intensities")
    pixels = pixels.astype(np.float32)
    if not np.isfinite(pixels).all():
        raise ValueError(f"{name}: {int((~np.isfinite(pixels)).sum())} pixels are NaN or infinite")
    return pixels


def normalize(image: np.ndarray, low: float = 1.0, high: float = 99.8) -> np.ndarray:
    """
    Stretch an image between two of its percentiles (as CSBDeep; deepGPS, "Image preprocessing"), and clip.

    Args:
        image (`np.ndarray` of shape `(H, W)`)
        low, high (`float`): Percentiles that become 0 and 1.

    Returns:
        `np.ndarray`: float32 of shape `(H, W)` in [0, 1].

    Raises:
        ValueError: If all pixels are the same, as in an image that is black.
    """
    image = np.asarray(image, dtype=np.float32)
    bottom, top = np.percentile(image, [low, high])
    if top <= bottom:  # little but background: its extremes instead
        bottom, top = image.min(), image.max()
    if top <= bottom:
        raise ValueError(f"the image is empty: all of its pixels are {bottom:g}")
    return np.clip((image - bottom) / (top - bottom), 0, 1).astype(np.float32)


class DeepGPSImageProcessor(BaseImageProcessor):
    """
    Reads nucleus images and stretches them to [0, 1]; `postprocess` gives protein images back.

    Args:
        low, high (`float`): Percentiles of the normalisation.
        default_nucleus (`str`, *optional*): A PNG in base64, for proteins that come without a nucleus.
    """

    model_input_names = ["nucleus"]  # noqa: RUF012

    def __init__(self, low: float = 1.0, high: float = 99.8, default_nucleus: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.low = low
        self.high = high
        self.default_nucleus = default_nucleus

    def default_image(self) -> Image.Image:
        """
        The nucleus for proteins that come without one.

        Raises:
            ValueError: If this processor has none.
        """
        if self.default_nucleus is None:
            raise ValueError("this model comes without a default nucleus: give an image")
        return Image.open(io.BytesIO(base64.b64decode(self.default_nucleus)))

    def preprocess(
        self, images: Any, channel: str | None = None, page: int = 0, return_tensors: str | None = "pt", **kwargs
    ) -> BatchFeature:
        """
        Args:
            images: One image or a list of images of one size, as for `read_image`; `None` for the default nucleus.
            channel, page: As for `read_image`.

        Returns:
            `BatchFeature`: `nucleus`, float32 of shape `(batch, 1, H, W)` in [0, 1].

        Raises:
            ValueError: As `read_image` and `normalize`, and for images of several sizes.
        """
        images = images if isinstance(images, (list, tuple)) else [images]
        read = []
        for image in images:
            source = self.default_image() if image is None else image
            read.append(normalize(read_image(source, channel, page), self.low, self.high))
        sizes = sorted({image.shape for image in read})
        if len(sizes) > 1:
            raise ValueError(f"images of a batch must have one size, got {' and '.join(map(str, sizes[:2]))}")
        return BatchFeature({"nucleus": np.stack(read)[:, None]}, tensor_type=return_tensors)

    def postprocess(self, images: torch.Tensor) -> list[Image.Image]:
        """Images `(batch, 1, H, W)` in [0, 1] as 8-bit grey pictures."""
        pixels = (images.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        return [Image.fromarray(image[0]) for image in pixels]


DeepGPSImageProcessor.register_for_auto_class()
