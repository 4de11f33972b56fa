"""Simulated microscope images of OpenCell's 17 localization categories, for tests and demonstrations."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

NUCLEUS_AXES = (12.0, 9.0)  # um, of HEK293T
CYTOPLASM = 6.0  # um from the nucleus to the border of the cell
POINT_SPREAD = 0.13  # um, standard deviation: a confocal microscope with an oil objective
PHOTONS = 400  # in a pixel where a pattern is 1
BACKGROUND_PHOTONS = 4
READ_NOISE = 2.0  # electrons
GAIN = 5.0  # counts per electron
OFFSET = 200  # counts


class Simulation(NamedTuple):
    """A simulated field: arrays of shape `(size, size)`."""

    nucleus: np.ndarray  # uint16, the DNA stain in camera counts
    protein: np.ndarray  # uint16, the tagged protein in camera counts
    labels: np.ndarray  # int32, the true nucleus of each cell: 1 to n, background 0


def simulate(category: str, size: int = 208, um_per_px: float = 0.206, seed: int = 0, cells: int = 1) -> Simulation:
    """
    Draw a protein of one localization category in simulated cells, as recorded by a camera: blurred and noisy.

    Args:
        category (`str`): One of OpenCell's 17 categories, the keys of `PATTERNS`.
        size (`int`): Side of the square field in pixels.
        um_per_px (`float`): Pixel size; structures have their size in um.
        seed (`int`): The same arguments give the same images.
        cells (`int`): Number of cells. One cell is at the centre. More are spread over the field, whose edge cuts some
            of them, as in a real field; their nuclei don't touch, and there are fewer if not all fit. 0 gives an empty
            field.

    Returns:
        `Simulation`: `nucleus` and `protein`, uint16, and `labels`, int32, each of shape `(size, size)`.

    Raises:
        ValueError: In one sentence, for an unknown category.
    """
    if category not in PATTERNS:
        raise ValueError(f"{category!r} is no localization category: choose one of {', '.join(PATTERNS)}")
    generator = np.random.default_rng(seed)
    field = _Field(_nuclei(size, um_per_px, cells, generator), um_per_px, generator)
    chromatin, protein = field.chromatin + 0.03 * field.cytoplasm, PATTERNS[category](field)
    return Simulation(field.photograph(chromatin), field.photograph(protein), field.nuclei)


def simulate_protein(
    category: str, nuclei: np.ndarray, um_per_px: float = 0.206, seed: int = 0, cytoplasm: float = CYTOPLASM
) -> np.ndarray:
    """
    Draw a protein of one localization category in simulated cells around given nuclei, such as those of a real field.

    Args:
        category (`str`): A key of `PATTERNS`.
        nuclei (`np.ndarray` of shape `(H, W)`): Labels 1 to n, from `segment_nuclei`.
        um_per_px (`float`): Pixel size.
        seed (`int`): The same arguments give the same image.
        cytoplasm (`float`): Distance from the nucleus to the border of the cell, in um.

    Returns:
        `np.ndarray` of shape `(H, W)`: uint16 camera counts.
    """
    generator = np.random.default_rng(seed)
    field = _Field(nuclei, um_per_px, generator, cytoplasm)
    return field.photograph(PATTERNS[category](field))


def brightness(counts: np.ndarray) -> np.ndarray:
    """Camera counts `(H, W)` as parts of a pattern's brightness, float32 in [0, 1]: 0 where there is no protein."""
    photons = (counts.astype(np.float32) - OFFSET) / GAIN - BACKGROUND_PHOTONS
    return np.clip(photons / PHOTONS, 0, 1)


def _nuclei(size: int, um_per_px: float, cells: int, generator: np.random.Generator) -> np.ndarray:
    """Irregular ellipses that don't touch, int32 labels `(size, size)`."""
    labels = np.zeros((size, size), np.int32)
    taken = np.zeros((size, size), bool)  # by nuclei and the gap around them
    reach = int(9 / um_per_px) + 3
    placed = 0
    for _ in range(20 * cells):
        centre = generator.uniform(0, size, 2) if cells > 1 else np.full(2, (size - 1) / 2)
        if placed == cells or taken[tuple(centre.astype(int))]:
            continue
        axes = np.array(NUCLEUS_AXES) / 2 * generator.normal(1, 0.07, 2).clip(0.85, 1.15)
        turn, *phases = generator.uniform(0, 2 * np.pi, 4)
        low = (centre.astype(int) - reach).clip(0)
        window = slice(low[0], int(centre[0]) + reach), slice(low[1], int(centre[1]) + reach)
        y, x = (np.indices(labels[window].shape) + (low - centre)[:, None, None]) * um_per_px
        angle = np.arctan2(y, x) - turn
        radius = 1 / np.hypot(np.cos(angle) / axes[0], np.sin(angle) / axes[1])
        for wave, phase in zip((2, 3, 4), phases, strict=True):
            radius *= 1 + 0.035 * np.cos(wave * angle + phase)
        nucleus = np.hypot(y, x) < radius
        if not taken[window][nucleus].any():
            placed += 1
            labels[window][nucleus] = placed
            taken[window] |= np.hypot(y, x) < radius + 0.8 + 2 * um_per_px
    return labels


class _Field:
    """What patterns are drawn on: maps `(size, size)` of cells around given nuclei, distances in um."""

    def __init__(
        self, nuclei: np.ndarray, um_per_px: float, generator: np.random.Generator, cytoplasm: float = CYTOPLASM
    ):
        self.nuclei, self.um_per_px, self.generator = nuclei, um_per_px, generator
        outside, nearest = ndimage.distance_transform_edt(nuclei == 0, return_indices=True)
        self.from_nucleus = (outside - ndimage.distance_transform_edt(nuclei > 0)) * um_per_px  # negative inside
        extent = cytoplasm * (1 + 0.25 * self.noise(cytoplasm / 2).clip(-2, 2))
        self.cells = np.where(self.from_nucleus < extent, nuclei[tuple(nearest)], 0)  # neighbours meet half way
        self.cytoplasm = (self.cells > 0) & (nuclei == 0)
        lowest, highest = ndimage.minimum_filter(self.cells, 3), ndimage.maximum_filter(self.cells, 3)
        self.border = (self.cells > 0) & (lowest != highest)
        self.contact = self.border & (lowest > 0)  # no background nearby, so another cell is
        self.from_border = ndimage.distance_transform_edt((self.cells > 0) & ~self.border) * um_per_px
        # Nucleoli are the peaks of a random field deep in each nucleus. Its pole is the place beside it where a cell
        # has the centrosome and the Golgi apparatus.
        peaks = self.noise(0.75) - 0.5 * self.from_nucleus.clip(-2)
        off_pole = abs(self.from_nucleus - 1.2) + generator.random(nuclei.shape)
        nucleoli = np.zeros(nuclei.shape, bool)
        self.poles = np.zeros((nuclei.max() + 1, 2), int)  # pixels; row 0 is the background
        for label, window in enumerate(ndimage.find_objects(self.cells), start=1):
            if window is None:  # a number that no nucleus has
                continue
            core = (nuclei[window] == label) & (self.from_nucleus[window] < -0.7)
            if core.any():  # which a sliver at the border has not
                nucleoli[window] |= core & (peaks[window] > np.quantile(peaks[window][core], 0.82))
            choice = np.where(self.cells[window] == label, off_pole[window], np.inf)
            pole = np.unravel_index(choice.argmin(), choice.shape)
            self.poles[label] = window[0].start + pole[0], window[1].start + pole[1]
        self.nucleoli = self.blur(nucleoli, 0.15)
        self.to_pole = self.poles[self.cells] - np.moveaxis(np.indices(nuclei.shape), 0, -1)  # (size, size, 2), pixels
        self.from_pole = np.hypot(self.to_pole[..., 0], self.to_pole[..., 1]) * um_per_px
        rim = np.exp(-(((self.from_nucleus + 0.3) / 0.3) ** 2))
        texture = (0.45 + 0.13 * self.noise(0.3) + 0.07 * self.noise(0.8) + 0.15 * rim).clip(0.15)
        self.chromatin = (nuclei > 0) * texture * (1 - 0.7 * self.nucleoli)
        grain = self.noise(0.5)
        self.nucleoplasm = (nuclei > 0) * (0.7 + 0.08 * grain) * (1 - 0.75 * self.nucleoli)
        # The cytosol is thick near the nucleus, thin at the border, and has holes, the vacuoles.
        thickness = np.exp(-self.from_nucleus / 8) * (1 - np.exp(-self.from_border / 0.7))
        self.cytosol = self.cytoplasm * thickness * np.where(grain < 2.3, 0.85 - 0.06 * grain, 0)

    def photograph(self, pattern: np.ndarray) -> np.ndarray:
        """A brightness `(H, W)` as a camera records it: uint16 counts."""
        brightness = self.generator.lognormal(0, 0.15, len(self.poles))  # cells differ in stain and in expression
        brightness[0] = 0  # outside them there is none
        photons = BACKGROUND_PHOTONS + PHOTONS * self.blur(pattern * brightness[self.cells], POINT_SPREAD)
        electrons = self.generator.poisson(photons) + self.generator.normal(0, READ_NOISE, photons.shape)
        return (OFFSET + GAIN * electrons).clip(0, 65535).astype(np.uint16)

    def blur(self, image: np.ndarray, um: float) -> np.ndarray:
        return ndimage.gaussian_filter(np.asarray(image, float), um / self.um_per_px)

    def noise(self, um: float) -> np.ndarray:
        """A random field of mean 0 and standard deviation 1, smooth over `um`."""
        field = self.blur(self.generator.standard_normal(self.nuclei.shape), um)
        return (field - field.mean()) / field.std()

    def points(self, weight: np.ndarray, per_um2: float) -> np.ndarray:
        """Random pixels `(n, 2)`, `per_um2` of them where `weight` is 1, stratified so that each cell has its share."""
        order = np.argsort(self.cells, axis=None, kind="stable")
        cumulative = np.cumsum(weight.ravel()[order], dtype=float)
        count = round(cumulative[-1] * self.um_per_px**2 * per_um2)
        strata = (np.arange(count) + self.generator.random(count)) / max(count, 1)
        chosen = order[np.searchsorted(cumulative, strata * cumulative[-1])]
        return np.stack(np.unravel_index(chosen, weight.shape), axis=1)

    def dots(self, points: np.ndarray, um: float) -> np.ndarray:
        """Gaussian spots of standard deviation `um`, about 1 high."""
        image = np.zeros(self.nuclei.shape)
        image[tuple(points.T)] = self.generator.lognormal(0, 0.3, len(points))
        return self.blur(image, um) * max(1, 2 * np.pi * (um / self.um_per_px) ** 2)

    def threads(self, starts: np.ndarray, angles: np.ndarray, um: float, curl: float, width: float) -> np.ndarray:
        """Walks about `um` long within a cell, which turn by `curl` radian per root um; `width` as in `dots`."""
        step = 0.5  # pixels, so that a thread has no holes
        count = int(1.5 * um / self.um_per_px / step)
        turns = self.generator.normal(0, curl * np.sqrt(step * self.um_per_px), (len(starts), count))
        headings = angles[:, None] + turns.cumsum(axis=1)
        path = starts[:, None] + step * np.stack([np.sin(headings), np.cos(headings)], axis=-1).cumsum(axis=1)
        pixels = path.round().astype(int).clip(0, np.array(self.cells.shape) - 1)  # (threads, count, 2)
        alive = self.cells[pixels[..., 0], pixels[..., 1]] == self.cells[tuple(starts.T)][:, None]
        alive &= (abs(pixels - path) < 1).all(axis=-1)  # not clipped
        alive &= np.arange(count) < self.generator.uniform(count / 3, count, len(starts))[:, None]
        image = np.zeros(self.nuclei.shape)
        image[tuple(pixels[np.logical_and.accumulate(alive, axis=1)].T)] = 1
        return self.blur(image, width) * max(1, np.sqrt(2 * np.pi) * width / self.um_per_px)


def _er(field: _Field) -> np.ndarray:
    network = np.exp(-((field.noise(0.3) / 0.4) ** 2))  # a random field is near 0 on a net of thin lines
    envelope = 0.6 * np.exp(-((field.from_nucleus / 0.3) ** 2))
    return field.cytoplasm * (0.25 + 0.75 * network) * np.exp(-field.from_nucleus / 4) + envelope


def _mitochondria(field: _Field) -> np.ndarray:
    starts = field.points(field.cytosol * np.exp(-field.from_nucleus / 6), 0.8)
    angles = field.generator.uniform(0, 2 * np.pi, len(starts))
    return field.cytoplasm * field.threads(starts, angles, 3, 0.6, 0.15) + 0.04 * field.cytosol


def _golgi(field: _Field) -> np.ndarray:
    near = field.cytoplasm * np.exp(-((field.from_pole / 3) ** 4)) * (field.from_nucleus < 2.2)
    ribbon = np.exp(-((field.noise(0.4) / 0.5) ** 2))
    return near * ribbon + 0.5 * field.dots(field.points(near, 0.6), 0.15) + 0.03 * field.cytosol


def _centrosome(field: _Field) -> np.ndarray:
    first = field.poles[1:]
    apart = field.generator.normal(0, 0.5, first.shape) / field.um_per_px
    second = (first + apart).round().astype(int).clip(0, np.array(field.nuclei.shape) - 1)
    return field.dots(np.concatenate([first, second]), 0.22) + 0.02 * field.cytosol


def _cytoskeleton(field: _Field) -> np.ndarray:
    starts = field.points((field.cells > 0) * np.exp(-field.from_pole / 7) / (field.from_pole + 0.5), 3.5)
    y, x = -field.to_pole[tuple(starts.T)].T  # away from the centrosome
    angles = np.arctan2(y, x) + field.generator.normal(0, 0.3, len(starts))
    seen = np.where(field.cytoplasm, 0.7, 0.2)  # above and below the nucleus they are out of focus
    return seen * field.threads(starts, angles, 14, 0.12, 0.1) + 0.1 * field.cytosol


def _cell_contact(field: _Field) -> np.ndarray:
    alone = ~np.isin(field.cells, field.cells[field.contact])  # a neighbour has to be imagined
    stretch = field.contact | (alone & field.border & (field.from_pole < 8))
    return 2.5 * field.blur(stretch * (0.7 + 0.3 * field.noise(0.4)).clip(0.1), 0.2) + 0.04 * field.cytosol


def _focal_adhesions(field: _Field) -> np.ndarray:
    starts = field.points(field.cytoplasm * np.exp(-field.from_border / 1.0), 0.5)
    y, x = np.gradient(-field.from_nucleus)  # they run from the border inwards
    angles = np.arctan2(y, x)[tuple(starts.T)] + field.generator.normal(0, 0.3, len(starts))
    return field.cytoplasm * field.threads(starts, angles, 1.5, 0.1, 0.15) + 0.05 * field.cytosol


def _big_aggregates(field: _Field) -> np.ndarray:
    room = field.cytoplasm & (field.from_nucleus > 1) & (field.from_border > 1)
    blobs = field.dots(field.points(room, 0.025), 0.45)
    return 1.2 * np.tanh(2.5 * blobs) + 0.08 * field.cytosol  # as bright up to the edge, unlike vesicles


# Each draws the brightness of its protein, `(size, size)`: about 1 where it is bright
PATTERNS: dict[str, Callable[[_Field], np.ndarray]] = {
    "big_aggregates": _big_aggregates,
    "cell_contact": _cell_contact,
    "centrosome": _centrosome,
    "chromatin": lambda field: 1.3 * field.chromatin,
    "cytoplasmic": lambda field: field.cytosol + 0.08 * (field.nuclei > 0),
    "cytoskeleton": _cytoskeleton,
    "er": _er,
    "focal_adhesions": _focal_adhesions,
    "golgi": _golgi,
    "membrane": lambda field: (field.cells > 0) * np.exp(-((field.from_border / 0.25) ** 2)) + 0.08 * field.cytosol,
    "mitochondria": _mitochondria,
    "nuclear_membrane": lambda field: np.exp(-((field.from_nucleus / 0.3) ** 2)) + 0.06 * (field.nuclei > 0),
    "nuclear_punctae": lambda field: field.dots(field.points(field.nucleoplasm, 0.3), 0.16) + 0.1 * field.nucleoplasm,
    "nucleolus_fc_dfc": lambda field: field.dots(field.points(field.nucleoli, 1.2), 0.15) + 0.06 * field.nucleoplasm,
    "nucleolus_gc": lambda field: field.nucleoli + 0.1 * (field.nuclei > 0),
    "nucleoplasm": lambda field: field.nucleoplasm,
    "vesicles": lambda field: field.dots(field.points(field.cytosol, 0.8), 0.17) + 0.06 * field.cytosol,
}
