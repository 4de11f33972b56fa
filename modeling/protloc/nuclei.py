"""The built-in segmenter of nuclei: a small U-Net, trained by `training/nuclei/train.py`, and a watershed."""

import itertools
from functools import cache
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy import ndimage
from sklearn.metrics.cluster import contingency_matrix
from torch import nn
from torch.nn import functional as F

from . import ASSETS
from .loading import NEED_IMAGES

try:
    from skimage.morphology import h_maxima, remove_small_holes
    from skimage.segmentation import expand_labels, watershed
except ImportError:
    raise ImportError(NEED_IMAGES) from None

UM_PER_PX = 0.8  # what the network reads; nuclei are some 12 to 20 pixels wide
WEIGHTS = ASSETS / "nuclei" / "model.safetensors"
PROMINENCE = 0.1  # of a maximum of the depth that is a nucleus of its own
MIN_DEPTH = 0.3  # of such a maximum
MIN_AREA = 20  # in pixels of UM_PER_PX; smaller regions are noise
MAX_HOLE = 60  # in the same pixels; nucleoli may look empty
TILE = 1024  # of the same pixels, read at once
NUCLEUS_UM = 14.0  # usual diameter of a nucleus of cultured cells, where nothing says how large a pixel is
SCALES = np.geomspace(0.06, 1.4, 14)  # pixels of the network per pixel: where nuclei of unknown size are looked for
LOOKED_AT = 512  # side, in pixels of the network, of the middle of an image that is looked at for that
MEASURED = 7, 45  # diameters in pixels of the network that it can tell
AGREEMENT = 0.15  # of two scales on the diameter of nuclei, as the logarithm of their ratio
AGREED = 3  # scales that must at least agree: noise has another size at each
IOU_THRESHOLDS = np.arange(0.5, 1, 0.05)
MARGIN = 96  # around a tile: more than the network sees of a pixel's surroundings


def block(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    )


class NucleusNet(nn.Module):
    """
    Where nuclei are, and how deep in one: 0 at its rim, 1 at its middle.

    Args:
        channels: Of each level of the U-Net, from the full resolution down.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 64)):
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(block(before, now), block(now, now))
            for before, now in zip([1, *channels], channels, strict=False)
        )
        self.project = nn.ModuleList(nn.Conv2d(below, now, 1) for now, below in itertools.pairwise(channels))
        self.up = nn.ModuleList(block(now, now) for now in channels[:-1])
        self.head = nn.Conv2d(channels[0], 2, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`(batch, 1, H, W)` in [0, 1], sides that divide by 8 -> logits `(batch, 2, H, W)` of place and depth."""
        skips: list[torch.Tensor] = []
        for level in self.down:
            image = level(F.max_pool2d(image, 2) if skips else image)
            skips.append(image)
        for level, project, skip in reversed(list(zip(self.up, self.project, skips, strict=False))):
            image = level(skip + F.interpolate(project(image), scale_factor=2, mode="nearest"))
        return self.head(image)


@cache
def pretrained() -> NucleusNet:
    model = NucleusNet()
    model.load_state_dict({name: weight.float() for name, weight in load_file(WEIGHTS).items()})
    return model.eval()


def separate(place: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Probabilities of place and depth, both `(H, W)` -> int32 labels `(H, W)`."""
    maxima = h_maxima(depth, PROMINENCE).astype(bool) & (depth > MIN_DEPTH)
    cores, _ = ndimage.label(maxima, np.ones((3, 3)))
    labels = watershed(-depth, cores, mask=place > 0.5)
    areas = np.bincount(labels.ravel())
    kept = areas >= MIN_AREA
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0)
    return numbers[labels].astype(np.int32)


def read_tiles(model: NucleusNet, image: torch.Tensor) -> torch.Tensor:
    """Probabilities `(2, H, W)` of an image `(1, 1, H, W)`, as if it were read at once, in the memory of a tile."""
    maps = torch.empty(2, *image.shape[2:])
    for top in range(0, image.shape[2], TILE):
        for left in range(0, image.shape[3], TILE):
            above, before = max(0, top - MARGIN), max(0, left - MARGIN)
            window = image[..., above : top + TILE + MARGIN, before : left + TILE + MARGIN]
            logits = model(window.contiguous(memory_format=torch.channels_last))[0, :, top - above :, left - before :]
            tile = maps[:, top : top + TILE, left : left + TILE]
            tile.copy_(logits[:, : tile.shape[1], : tile.shape[2]].sigmoid())
    return maps


@torch.inference_mode()
def segment(image: np.ndarray, um_per_px: float | None, model: NucleusNet | None = None) -> np.ndarray:
    """
    Args:
        image (`np.ndarray` of shape `(H, W)`): Normalized nuclei.
        um_per_px (`float` or `None`): Size of a pixel in micrometres. `None` means that it is not known: the image is
            read such that its nuclei have their usual size, somewhat enlarged at most.

    Returns:
        `np.ndarray`: int32 labels of shape `(H, W)`, 0 for the background.
    """
    model = model or pretrained()
    if um_per_px is None:
        estimate = estimate_um_per_px(image, model=model)
        if estimate is None:
            return np.zeros(image.shape, np.int32)
        um_per_px = min(estimate, float(SCALES[-1]) * UM_PER_PX)
    sides = [max(1, round(side * um_per_px / UM_PER_PX)) for side in image.shape]
    batch = torch.from_numpy(image)[None, None].sqrt()  # for the sake of dim nuclei beside bright ones
    batch = F.interpolate(batch, sides, mode="bilinear", antialias=True)
    batch = F.pad(batch, (0, -sides[1] % 8, 0, -sides[0] % 8), mode="replicate")
    place, depth = read_tiles(model, batch)[:, : sides[0], : sides[1]].numpy()
    place[remove_small_holes(place > 0.5, max_size=MAX_HOLE) & (place <= 0.5)] = 1
    labels = torch.from_numpy(expand_labels(separate(place, depth)))
    labels = F.interpolate(labels[None, None].float(), image.shape, mode="nearest-exact")[0, 0]
    outlines = F.interpolate(torch.from_numpy(place)[None, None], image.shape, mode="bilinear")[0, 0]
    return labels.where(outlines > 0.5, 0).int().numpy()


def estimate_um_per_px(
    image: np.ndarray, nucleus_um: float = NUCLEUS_UM, model: NucleusNet | None = None
) -> float | None:
    """
    The pixel size at which the usual nucleus of an image has a certain diameter.

    The image is read at many scales, and the diameter counts on which most of them agree: at too coarse a scale
    neighbours merge, and at too fine a one nuclei fall into pieces, each time to a diameter that no other scale finds.

    Args:
        image (`np.ndarray` of shape `(H, W)`): Normalized nuclei.
        nucleus_um (`float`): The diameter in micrometres.

    Returns:
        `float` or `None`: Micrometres; `None` if no nucleus is seen.
    """
    found: list[float] = []
    for scale in SCALES:
        side = round(LOOKED_AT / scale)
        top, left = (max(0, (length - side) // 2) for length in image.shape)
        middle = np.ascontiguousarray(image[top : top + side, left : left + side])
        areas = np.sort(np.bincount(segment(middle, scale * UM_PER_PX, model).ravel())[1:])
        if areas.any():
            # Half of all that is nucleus lies in larger ones: specks count little.
            usual = areas[np.searchsorted(areas.cumsum(), areas.sum() / 2)]
            diameter = 2 * np.sqrt(usual / np.pi)
            if MEASURED[0] <= diameter * scale <= MEASURED[1]:
                found.append(np.log(diameter))
    logarithms = np.array(found)
    agree = abs(logarithms[:, None] - logarithms) < AGREEMENT
    supported = agree.sum(axis=1)
    if not (supported >= AGREED).any():
        return None
    best = np.flatnonzero(supported == supported.max())[-1]  # of several, that of the finest scale
    return float(nucleus_um / np.exp(np.median(logarithms[agree[best]])))


def match_instances(true: np.ndarray, found: np.ndarray) -> dict[str, Any]:
    """
    How well found nuclei agree with the labelled ones of an image (as the Data Science Bowl 2018 scored them).

    Args:
        true, found (`np.ndarray` of shape `(H, W)`): Labels of regions, 0 for the background.

    Returns:
        `dict`: `true` and `found`, numbers of regions; `matched`, for each of `IOU_THRESHOLDS` the number of pairs
        whose intersection over union is above it; `average_precision`, matched / (true + found - matched), their mean
        over the thresholds (1 for an image without nuclei in which none was found).
    """
    (true_numbers, true), (found_numbers, found) = (
        np.unique(labels, return_inverse=True) for labels in (np.ravel(true), np.ravel(found))
    )
    overlaps = contingency_matrix(true, found).astype(float)
    unions = overlaps.sum(1, keepdims=True) + overlaps.sum(0, keepdims=True) - overlaps
    shares = (overlaps / unions)[np.ix_(true_numbers > 0, found_numbers > 0)]
    # Above one half, a region can match only one other.
    matched = [int((shares > threshold).sum()) for threshold in IOU_THRESHOLDS]
    total = sum(shares.shape)
    precisions = [count / (total - count) if total else 1.0 for count in matched]
    return {
        "true": shares.shape[0],
        "found": shares.shape[1],
        "matched": matched,
        "average_precision": float(np.mean(precisions)),
    }
