"""Simulated images: what each localization category must show, where, and the camera that records it."""

import csv

import numpy as np
import pytest
from scipy import ndimage

from protloc.simulation import GAIN, PATTERNS, simulate

NUCLEAR = ["chromatin", "nuclear_punctae", "nucleolus_fc_dfc", "nucleolus_gc", "nucleoplasm"]
CYTOPLASMIC = sorted(PATTERNS.keys() - {*NUCLEAR, "nuclear_membrane"})


def signal(image):
    """The counts `(208, 208)` above the background, which the corner of a field with one cell shows."""
    return image - image[:25, :25].mean()


def from_nucleus(labels, um_per_px=0.206):
    """Distance to the edge of the nucleus in um, negative inside."""
    outside, inside = ndimage.distance_transform_edt(labels == 0), ndimage.distance_transform_edt(labels > 0)
    return (outside - inside) * um_per_px


def test_the_categories_are_those_of_opencell(data_dir):
    with open(data_dir / "opencell" / "opencell_annotations_flat.csv", newline="") as table:
        assert {row["annotation_name"] for row in csv.DictReader(table)} == set(PATTERNS)


@pytest.mark.parametrize("category", sorted(PATTERNS))
def test_every_category(category):
    simulation = simulate(category, seed=1)
    for image in (simulation.nucleus, simulation.protein):
        assert image.shape == (208, 208) and image.dtype == np.uint16
        assert image.min() > 100 and np.median(image[:20, :20]) < 300 and 1000 < image.max() < 65535
    assert simulation.labels.shape == (208, 208) and simulation.labels.dtype == np.int32
    for again, before in zip(simulate(category, seed=1), simulation, strict=True):
        np.testing.assert_array_equal(again, before)
    for other, before in zip(simulate(category, seed=2), simulation, strict=True):
        assert (other != before).any()


@pytest.mark.parametrize("category", sorted(PATTERNS))
def test_inside_or_outside_the_nucleus(category):
    simulation = simulate(category, seed=3)
    bright = signal(simulation.protein)
    inside = bright[simulation.labels > 0].sum() / bright.sum()
    if category in NUCLEAR:
        assert inside > 0.8
    elif category in CYTOPLASMIC:
        assert inside < 0.25
    else:
        assert 0.3 < inside < 0.9  # the nuclear membrane, on the edge


def test_one_nucleus_at_the_centre():
    nucleus, _, labels = simulate("er")
    assert np.unique(labels).tolist() == [0, 1]
    assert ndimage.label(labels, np.ones((3, 3)))[1] == 1
    np.testing.assert_allclose(ndimage.center_of_mass(labels), 103.5, atol=4)
    assert signal(nucleus)[labels > 0].mean() > 10 * signal(nucleus)[labels == 0].mean()


def test_nuclear_membrane_is_a_rim():
    _, protein, labels = simulate("nuclear_membrane")
    distance = from_nucleus(labels)
    rim, core = signal(protein)[abs(distance) < 0.3].mean(), signal(protein)[distance < -1.5].mean()
    assert rim > 4 * core > 0


def test_membrane_is_brightest_far_from_the_nucleus():
    _, protein, labels = simulate("membrane")
    distance = from_nucleus(labels)
    means = [signal(protein)[(distance >= low) & (distance < low + 1)].mean() for low in range(12)]
    assert np.argmax(means) >= 3
    assert np.percentile(distance[protein > protein.max() / 2], 5) > 2.5


def test_nucleoli():
    stain, granular, labels = simulate("nucleolus_gc", seed=5)
    dots, nucleoplasm = simulate("nucleolus_fc_dfc", seed=5).protein, simulate("nucleoplasm", seed=5).protein
    inside = ndimage.binary_erosion(labels > 0, iterations=3)
    nucleoli = inside & (signal(granular) > signal(granular).max() / 2)
    assert 0.03 < nucleoli.sum() / inside.sum() < 0.3
    for dark in (stain, nucleoplasm):
        assert signal(dark)[nucleoli].mean() < 0.6 * signal(dark)[inside & ~nucleoli].mean()
    assert signal(dots)[nucleoli].mean() > 3 * signal(dots)[inside & ~nucleoli].mean()
    assert (signal(dots)[nucleoli] > signal(dots).max() / 3).mean() < 0.5  # they are dots, not the whole


@pytest.mark.parametrize("category", ["golgi", "centrosome"])
def test_on_one_side_of_the_nucleus(category):
    _, protein, labels = simulate(category)
    bright = signal(protein) > signal(protein).max() / 3
    assert from_nucleus(labels)[bright].max() < 4
    places = np.argwhere(bright) - np.argwhere(labels).mean(axis=0)
    assert (places @ places.mean(axis=0) > 0).all()


def test_cell_contact_needs_a_neighbour():
    _, contact, labels = simulate("cell_contact", 300, cells=9)
    membrane = simulate("membrane", 300, cells=9).protein
    distances = np.sort(np.stack([from_nucleus(labels == label) for label in range(1, labels.max() + 1)]), axis=0)
    outline = membrane > 800
    between, free = outline & (distances[1] < distances[0] + 0.5), outline & (distances[1] > distances[0] + 3)
    assert between.sum() > 200 and free.sum() > 200
    assert np.median(contact[between]) - 220 > 10 * (np.median(contact[free]) - 220)


@pytest.mark.parametrize(("size", "cells"), [(600, 40), (1024, 90)])
def test_several_cells(size, cells):
    labels = simulate("vesicles", size, cells=cells).labels
    assert np.unique(labels).tolist() == list(range(cells + 1))
    assert ndimage.label(labels, np.ones((3, 3)))[1] == cells  # so none touch, and none is in pieces
    assert labels.reshape(4, size // 4, 4, size // 4).any(axis=(1, 3)).all()  # all over the field


def test_a_full_and_an_empty_field():
    labels = simulate("er", cells=50).labels
    assert 3 <= labels.max() < 50 and np.unique(labels).tolist() == list(range(labels.max() + 1))
    nucleus, protein, labels = simulate("er", cells=0)
    assert not labels.any() and nucleus.max() < 400 and protein.max() < 400


def test_photon_noise():
    image, _, labels = simulate("nucleoplasm", size=500, um_per_px=0.03)  # so that neighbours differ by noise only
    image = image.astype(float)
    inside = ndimage.binary_erosion(labels > 0, iterations=20)[:, 1:]
    outside = ndimage.binary_erosion(labels == 0, iterations=40)[:, 1:]
    half = np.diff(image, axis=1) ** 2 / 2
    noise = half[inside].mean() - half[outside].mean()
    light = image[:, 1:][inside].mean() - image[:, 1:][outside].mean()
    assert light > 500 and noise / light == pytest.approx(GAIN, rel=0.15)


def test_sizes_are_in_um():
    coarse, fine = simulate("membrane", 104, 0.412), simulate("membrane", 416, 0.103)
    areas = [(coarse.labels > 0).sum() * 0.412**2, (fine.labels > 0).sum() * 0.103**2]  # um^2, of the same nucleus
    assert areas[0] == pytest.approx(areas[1], rel=0.03)
    assert 60 < areas[1] < 120  # about 12 x 9 um
    for simulation, um_per_px in ((coarse, 0.412), (fine, 0.103)):
        bright = np.argwhere(signal(simulation.protein) > 500)
        assert 16 < np.ptp(bright, axis=0).mean() * um_per_px < 28


def test_an_unknown_category():
    with pytest.raises(ValueError) as error:
        simulate("lysosome")
    message = str(error.value)
    assert message.startswith("'lysosome' is no localization category") and "\n" not in message
    assert all(category in message for category in PATTERNS)
