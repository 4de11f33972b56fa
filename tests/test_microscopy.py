"""Segmentation and crops of microscope fields, on simulated and (where present) real images."""

import numpy as np
import pytest
import torch

from protloc import nuclei
from protloc.images import read_image
from protloc.microscopy import normalize, nucleus_crops, nucleus_found, rescale, segment_nuclei, simulate
from protloc.nuclei import estimate_um_per_px, match_instances
from protloc.simulation import NUCLEUS_AXES


@pytest.fixture(scope="module")
def field():
    return simulate("nucleoplasm", size=600, seed=3, cells=25)


@pytest.mark.parametrize("um_per_px", [0.1, 0.206, 0.4])
def test_segmentation_finds_simulated_nuclei(um_per_px):
    field = simulate("cytoplasmic", size=round(120 / um_per_px), um_per_px=um_per_px, seed=1, cells=20)
    labels = segment_nuclei(field.nucleus, um_per_px)
    assert labels.dtype == np.int32 and labels.shape == field.nucleus.shape
    match = match_instances(field.labels, labels)
    assert 2 * match["matched"][0] / (match["true"] + match["found"]) > 0.9


@pytest.mark.parametrize("um_per_px", [0.1, 0.206, 0.4])
def test_segmentation_without_the_size_of_a_pixel(um_per_px):
    field = simulate("cytoplasmic", size=round(80 / um_per_px), um_per_px=um_per_px, seed=1, cells=12)
    match = match_instances(field.labels, segment_nuclei(field.nucleus))
    assert 2 * match["matched"][0] / (match["true"] + match["found"]) > 0.7
    usual = np.sqrt(np.prod(NUCLEUS_AXES))  # of an ellipse
    assert estimate_um_per_px(normalize(field.nucleus), usual) == pytest.approx(um_per_px, rel=0.12)


def test_no_size_without_nuclei():
    assert estimate_um_per_px(normalize(simulate("cytoplasmic", size=200, cells=0).nucleus)) is None


def test_segmentation_is_deterministic_and_unit_free(field):
    labels = segment_nuclei(field.nucleus, 0.206)
    assert np.array_equal(labels, segment_nuclei(field.nucleus, 0.206))
    assert (
        match_instances(labels, segment_nuclei(field.nucleus.astype(np.float32) * 3, 0.206))["average_precision"] == 1
    )
    assert set(np.unique(labels)) == set(range(labels.max() + 1))


def test_sizes_of_pixels_are_checked(field):
    for size in (0, -0.2, float("nan"), 50):
        with pytest.raises(ValueError, match=f"um_per_px must be from 0.02 to 4 micrometres, got {size}"):
            segment_nuclei(field.nucleus, size)


def test_noise_holds_no_nucleus(caplog):
    noise = np.random.default_rng(0).normal(500, 20, (400, 400))
    labels = segment_nuclei(noise, 0.206)
    assert nucleus_crops(normalize(noise), normalize(noise), labels) == []
    assert not nucleus_found(noise, 0.206)
    assert "no nucleus is seen in the field, at 0.206 um a pixel" in caplog.text


def test_a_negative_is_said(field, caplog):
    assert nucleus_found(field.nucleus, 0.206) and not caplog.text
    segment_nuclei(field.nucleus.max() - field.nucleus, 0.206)
    assert "looks inverted, with dark nuclei on a bright ground" in caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("share", [0, 0.3, 1])
def test_what_is_no_number_is_refused_and_never_hangs(value, share):
    image = np.full((64, 64), 400, np.float32)
    image[20:44, 20:44] = 3000
    image[np.random.default_rng(0).random(image.shape) < share] = value
    image[0, 0] = value
    with pytest.raises(ValueError, match="of 4,096 pixels are NaN or infinite"):
        segment_nuclei(image)


def test_debris_hides_no_nucleus():
    field = simulate("cytoplasmic", size=800, seed=1, cells=25)
    dirty = field.nucleus.astype(np.float32)
    dirty[380:420, 380:420] = 65535
    found = match_instances(segment_nuclei(field.nucleus, 0.206), segment_nuclei(dirty, 0.206))
    assert found["matched"][0] >= found["true"] - 2


def test_tiles_are_read_as_one(monkeypatch):
    """A large field takes the memory of a tile, and gives what it would give at once."""
    field = simulate("cytoplasmic", size=512, um_per_px=0.8, seed=1, cells=60)
    image = torch.from_numpy(normalize(field.nucleus))[None, None]
    with torch.inference_mode():
        whole = nuclei.read_tiles(nuclei.pretrained(), image[..., :512, :512])
        monkeypatch.setattr(nuclei, "TILE", 128)
        tiles = nuclei.read_tiles(nuclei.pretrained(), image[..., :512, :512])
        assert nuclei.read_tiles(nuclei.pretrained(), image[..., :400, :304]).shape == (2, 400, 304)
    torch.testing.assert_close(tiles, whole, atol=1e-5, rtol=1e-5)


def test_segmenter_must_be_known(field):
    with pytest.raises(ValueError, match="segmenter must be one of builtin, stardist, got 'otsu'"):
        segment_nuclei(field.nucleus, segmenter="otsu")
    with pytest.raises(ImportError, match=r"pip install protloc\[stardist\]"):
        segment_nuclei(field.nucleus, segmenter="stardist")
    with pytest.raises(ValueError, match="the image is empty"):
        segment_nuclei(np.zeros((50, 50)))


def test_crops_have_a_nucleus_at_the_centre(field):
    nucleus, protein = normalize(field.nucleus), normalize(field.protein)
    crops = nucleus_crops(nucleus, protein, field.labels)
    assert crops
    for crop in crops:
        left, top, right, bottom = crop.box
        assert (right - left, bottom - top) == (208, 208)
        assert np.array_equal(crop.nucleus, nucleus[top:bottom, left:right])
        assert np.array_equal(crop.protein, protein[top:bottom, left:right])
        assert field.labels[top + 104, left + 104] > 0
        assert 0 < crop.focus < 1 and 0 <= crop.saturation < 0.05


def circle(labels: np.ndarray, row: int, column: int, radius: float, number: int) -> None:
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]]
    labels[(rows - row) ** 2 + (columns - column) ** 2 <= radius**2] = number


def test_rules_of_size_border_window_and_overlap():
    labels = np.zeros((400, 400), dtype=np.int32)
    circle(labels, 200, 200, 20, 1)  # 1,257 pixels: the only one that fulfils all
    circle(labels, 200, 280, 17, 2)  # 908 pixels
    circle(labels, 5, 200, 30, 3)  # cut by the border
    circle(labels, 60, 330, 25, 4)  # its window leaves the field
    circle(labels, 241, 200, 20, 5)  # its window overlaps the first by 0.67
    image = np.random.default_rng(0).random((400, 400)).astype(np.float32)
    boxes = [crop.box for crop in nucleus_crops(image, image, labels)]
    assert boxes == [(96, 96, 304, 304)]
    assert len(nucleus_crops(image, image, labels, max_overlap=0.7)) == 2
    # At a pixel size 1.1 times as large, 908 pixels are 1,099 of OpenCell's.
    assert len(nucleus_crops(image, image, labels, um_per_px=0.2266, max_overlap=1)) == 3
    padded = nucleus_crops(image, image, labels, pad=True)
    assert padded[0].box == (226, -44, 434, 164)
    nucleus = padded[0].nucleus  # mirrored above and on the right
    assert (nucleus[:44] == nucleus[44:88][::-1]).all() and (nucleus[:, 174:] == nucleus[:, 140:174][:, ::-1]).all()
    with pytest.raises(ValueError, match=r"must have one shape, got \(400, 400\), \(400, 400\) and \(10, 10\)"):
        nucleus_crops(image, image, labels[:10, :10])


def test_focus_and_saturation():
    from scipy import ndimage

    field = simulate("chromatin", seed=2)
    labels = np.zeros_like(field.labels)
    circle(labels, 104, 104, 30, 1)
    sharp, dull = (
        nucleus_crops(image, np.minimum(image * 2, 1), labels)[0]
        for image in (normalize(field.nucleus), normalize(ndimage.gaussian_filter(field.nucleus.astype(float), 6)))
    )
    assert sharp.focus > 2 * dull.focus
    assert sharp.saturation == pytest.approx((normalize(field.nucleus) >= 0.5).mean())


def test_rescale():
    image = np.random.default_rng(0).random((100, 50))
    assert rescale(image, 0.08, 0.16).shape == (50, 25)
    assert rescale(image, 0.08, 0.16).mean() == pytest.approx(image.mean(), rel=0.02)
    assert np.array_equal(rescale(image, 0.2, 0.2), image.astype(np.float32))


def test_real_fields(data_dir):
    fields = data_dir / "opencell" / "nuclei"
    counts = {
        name: segment_nuclei(read_image(fields / f"hoechst_{name}.tif").pixels, 0.206).max()
        for name in ("good-1", "sparse-1", "no-nuclei-1", "overconfluent-1")
    }
    assert counts["no-nuclei-1"] == 0
    assert counts["sparse-1"] < counts["good-1"] < counts["overconfluent-1"]
