"""One reader for every image: `read_image`, and `read_two_channels` for a nucleus and a protein in one file."""

import math
import re
from pathlib import Path

import numpy as np

from .models.image_files_deepgps import COLOURS, MAX_PIXELS, Picture, describe, one_channel, read_image
from .models.tiff_files_deepgps import MAGIC, ImageError, Scene, read_tiff

__all__ = ["COLOURS", "Picture", "read_image", "read_two_channels"]

NUCLEAR = re.compile(r"dapi|hoechst|h33342|h33258|draq|sytox|\bnuc(leus|lei|lear|blue|red)?\b|\bdna\b|\b405\b", re.I)
NAMELESS = re.compile(r"(channel|ch|c)?[\s:_/-]*\d*([:_/-]\s*[tc]?\d+)*(\s*-.*)?", re.I)


def read_two_channels(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """
    Nucleus and protein of a two-channel TIFF, stacks as their maximum projection.

    The channel names in the metadata (DAPI, Hoechst, ...) determine the nuclear channel; without names it is the first,
    as in OpenCell's files. Pages without any metadata are all planes of the nucleus, followed by all planes of the
    protein.

    Args:
        path: A projection, or a stack.

    Returns:
        Two `np.ndarray`: float32 of shape `(H, W)`, in the camera's unit.

    Raises:
        ValueError: In one sentence, if the file can't be read, doesn't have two channels, has several scenes or time
            points, names that identify no or two nuclear channels, or values that are not intensities.
    """
    try:
        stream = open(path, "rb")
    except OSError as error:
        raise ImageError(f"{path}: no TIFF that can be read: {error.strerror}") from None
    with stream:
        if not stream.read(4).startswith(MAGIC):
            raise ImageError(f"{path}: no TIFF that can be read")
        return split_channels(read_tiff(stream, str(path), MAX_PIXELS), path)


def split_channels(scenes: list[Scene], path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    scene, *others = scenes
    if "C" in scene.axes:
        count, step = scene.shape[scene.axes.index("C")], math.prod(scene.shape[scene.axes.index("C") + 1 :])
        numbers = [number // step % count for number in range(math.prod(scene.shape))]
    elif scene.samples == 1 and scene.axes == "Q" and scene.shape[0] % 2 == 0:
        count, numbers = 2, [2 * number // scene.shape[0] for number in range(scene.shape[0])]
    else:  # interleaved, or one channel
        count, numbers = scene.samples, [0] * math.prod(scene.shape)
    if others or count != 2 or (scene.samples > 1 and "C" in scene.axes) or set(scene.axes) & set("TP"):
        held = describe(scenes) or f"one image of {scene.samples} channels"
        raise ImageError(f"{path}: expected two channels of one field, got {held}")
    nucleus = nuclear_channel(scene, path)
    images: dict[int, np.ndarray] = {}
    for plane, number in enumerate(numbers):
        pixels = scene.read(plane)
        parts = enumerate(np.moveaxis(pixels, 2, 0)) if pixels.ndim == 3 else [(number, pixels)]
        for channel, part in parts:
            images[channel] = np.fmax(images[channel], part) if channel in images else part
    first, second = (one_channel(images[number], None, str(path)) for number in range(2))
    return (second, first) if nucleus else (first, second)


def nuclear_channel(scene: Scene, path: str | Path) -> int:
    """Which of two channels shows the nucleus."""
    names = scene.channels if len(scene.channels) == 2 else ("", "")
    nuclear = [number for number, name in enumerate(names) if NUCLEAR.search(name)]
    if len(nuclear) == 1:
        return nuclear[0]
    if all(NAMELESS.fullmatch(name.strip()) for name in names):
        return 0
    raise ImageError(
        f"{path}: its channels are named {names[0]!r} and {names[1]!r}, from which the nucleus can't be told: name it "
        "DAPI or Hoechst in the metadata"
    )
