"""Scores of drawn images, on images whose score is known."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import disk

from protloc.image_metrics import DrawingTraces, Regions, find_regions, image_scores, nuclear_ratio

SIDE = 176


def round_mask(radius):
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[disk((SIDE / 2, SIDE / 2), radius)] = True
    return mask


REGIONS = Regions(round_mask(30), round_mask(55) & ~round_mask(35), round_mask(70))
REAL = np.where(round_mask(30), 0.8, 0.1) + np.random.default_rng(0).normal(0, 0.02, (SIDE, SIDE))


def test_the_same_image():
    scores = image_scores(REAL, REAL, REGIONS)
    assert scores["psnr"] == np.inf and scores["ratio_error"] == 0 and scores["iou"] == 1
    assert [scores[name] for name in ("ssim", "ms_ssim", "pearson")] == pytest.approx([1, 1, 1])


def test_known_differences():
    brighter = image_scores(REAL + 0.1, REAL, REGIONS)
    assert brighter["psnr"] == pytest.approx(20, abs=1e-3) and brighter["pearson"] == pytest.approx(1)
    inverse = image_scores(1 - REAL, REAL, REGIONS)
    assert inverse["pearson"] == pytest.approx(-1) and inverse["iou"] < 0.001
    assert inverse["ratio"] == pytest.approx(0.2 / 0.9, rel=0.02)
    assert inverse["ratio_error"] == pytest.approx(np.log2(8 / (0.2 / 0.9)), rel=0.02)
    black = image_scores(np.zeros_like(REAL), REAL, REGIONS)
    assert black["pearson"] == 0 and black["ratio"] == pytest.approx(1) and black["iou"] == 0


def test_regions_of_a_cell():
    nucleus = np.where(round_mask(45), 0.9, 0.0) + np.random.default_rng(1).uniform(0, 0.02, (SIDE, SIDE))
    protein = np.where(round_mask(65) & ~round_mask(45), 0.5, 0.0)
    regions = find_regions(nucleus, protein)
    overlap = (regions.nuclei & round_mask(45)).sum() / (regions.nuclei | round_mask(45)).sum()
    assert overlap > 0.85
    assert not (regions.cytoplasm & regions.nuclei).any() and (regions.cytoplasm <= regions.cells).all()
    assert nuclear_ratio(protein, regions) < 0.3
    assert find_regions(nucleus).cells.all()
    nothing = Regions(*[np.zeros((SIDE, SIDE), dtype=bool)] * 3)
    assert np.isnan(nuclear_ratio(protein, nothing))


def traces(images):
    found = DrawingTraces()
    for image in images:
        found.add(image)
    return found.scores()


@pytest.mark.parametrize("shape", [(176, 176), (150, 209)])
def test_a_grid_and_a_frame_are_seen(shape):
    rng = np.random.default_rng(0)
    images = [0.3 + 0.1 * ndimage.gaussian_filter(rng.normal(size=shape), 1) for _ in range(8)]
    clean = traces(images)
    assert clean["grid"] < 2.5 and clean["frame"] < 0.02
    rows, columns = np.indices(shape)
    for pattern in (rows % 4 == 0, columns % 4 == 0, (rows + columns) % 4 == 0, (rows + columns) % 2 == 0):
        assert traces([image + 0.02 * pattern for image in images])["grid"] > 10
    framed = [image.copy() for image in images]
    for image in framed:
        image[:, -1] += 0.15
    assert traces(framed)["frame"] == pytest.approx(0.15 / 0.3, rel=0.1)
    assert traces(framed)["grid"] == pytest.approx(clean["grid"], rel=0.2)


def test_black_images_have_neither():
    assert traces([np.zeros((64, 64))]) == {"grid": 0, "frame": 0}
