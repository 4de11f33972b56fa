"""Segmentation, crops and reading of microscope fields, on simulated and (where present) real images."""

import numpy as np
import pytest
import tifffile
from PIL import Image

from protloc.metrics import match_instances
from protloc.microscopy import normalize, nucleus_crops, read_two_channels, rescale, segment_nuclei, simulate


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


def test_segmentation_is_deterministic_and_unit_free(field):
    labels = segment_nuclei(field.nucleus)
    assert np.array_equal(labels, segment_nuclei(field.nucleus))
    assert match_instances(labels, segment_nuclei(field.nucleus.astype(np.float32) * 3))["average_precision"] == 1
    assert set(np.unique(labels)) == set(range(labels.max() + 1))


def test_noise_holds_no_nucleus():
    noise = np.random.default_rng(0).normal(500, 20, (400, 400))
    labels = segment_nuclei(noise)
    assert nucleus_crops(normalize(noise), normalize(noise), labels) == []


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
    assert (padded[0].nucleus[:44] == 0).all() and (padded[0].nucleus[:, 174:] == 0).all()
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


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 30, 40), {}),  # OpenCell's projection
        ((8, 30, 40), {}),  # a stack without metadata: four planes of the nucleus, four of the protein
        ((4, 2, 30, 40), {"imagej": True, "metadata": {"axes": "ZCYX"}}),
        ((2, 4, 30, 40), {"ome": True, "metadata": {"axes": "CZYX"}}),
    ],
)
def test_two_channels(tmp_path, shape, options):
    image = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    tifffile.imwrite(tmp_path / "field.tif", image, **options)
    nucleus, protein = read_two_channels(tmp_path / "field.tif")
    stack = image.swapaxes(0, 1) if "imagej" in options else image.reshape(2, -1, 30, 40)
    assert np.array_equal(nucleus, stack[0].max(axis=0)) and np.array_equal(protein, stack[1].max(axis=0))


def test_two_channels_errors(tmp_path):
    tifffile.imwrite(tmp_path / "three.tif", np.zeros((3, 8, 8), dtype=np.uint16), photometric="minisblack")
    with pytest.raises(ValueError, match=r"three\.tif: expected two channels"):
        read_two_channels(tmp_path / "three.tif")
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((2, 8, 8, 3), dtype=np.uint8), photometric="rgb")
    with pytest.raises(ValueError, match=r"rgb\.tif: expected two channels"):
        read_two_channels(tmp_path / "rgb.tif")
    tifffile.imwrite(tmp_path / "four.tif", np.zeros((4, 8, 8), dtype=np.uint16), ome=True, metadata={"axes": "CYX"})
    with pytest.raises(ValueError, match=r"four\.tif: expected two channels"):
        read_two_channels(tmp_path / "four.tif")
    tifffile.imwrite(tmp_path / "nan.tif", np.full((2, 8, 8), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match=r"nan\.tif: the image: 64 pixels are NaN"):
        read_two_channels(tmp_path / "nan.tif")
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.tif: no TIFF that can be read"):
        read_two_channels(tmp_path / "text.tif")
    tifffile.imwrite(tmp_path / "whole.tif", np.ones((2, 64, 64), dtype=np.uint16))
    (tmp_path / "cut.tif").write_bytes((tmp_path / "whole.tif").read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"cut\.tif"):
        read_two_channels(tmp_path / "cut.tif")
    with pytest.raises(ValueError, match=r"none\.tif"):
        read_two_channels(tmp_path / "none.tif")


def test_real_stack_and_fields(data_dir):
    nucleus, protein = read_two_channels(data_dir / "opencell" / "A1_1_ATL2__mock.ome.tif")
    assert nucleus.shape == protein.shape == (103, 103) and nucleus.max() > 1000
    fields = data_dir / "opencell" / "nuclei"
    counts = {
        name: segment_nuclei(np.asarray(Image.open(fields / f"hoechst_{name}.tif"))).max()
        for name in ("good-1", "sparse-1", "no-nuclei-1", "overconfluent-1")
    }
    assert counts["no-nuclei-1"] == 0
    assert counts["sparse-1"] < counts["good-1"] < counts["overconfluent-1"]
