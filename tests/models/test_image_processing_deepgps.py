"""The stretch of nuclei, with and without debris, and the image processor; for files see `tests/test_images.py`."""

import base64
import io

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from protloc.microscopy import simulate
from protloc.models.image_processing_deepgps import DeepGPSImageProcessor, normalize
from tests.helpers import run_without_protloc

PIXELS = np.random.default_rng(0).integers(0, 200, (20, 30)).astype(np.uint8)


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_normalize():
    image = np.arange(1000, dtype=np.uint16).reshape(20, 50) * 60
    result = normalize(image)
    assert result.dtype == np.float32 and result.min() == 0 and result.max() == 1
    bottom, top = np.percentile(image, [1, 99.8])
    np.testing.assert_allclose(result, np.clip((image - bottom) / (top - bottom), 0, 1), atol=1e-6)
    one_spot = np.zeros((100, 100))
    one_spot[3, 4] = 7
    assert normalize(one_spot)[3, 4] == 1 and normalize(one_spot).sum() == 1
    with pytest.raises(ValueError, match="the image is empty: all of its pixels are 0"):
        normalize(np.zeros((5, 5)))


def disc(image: np.ndarray, row: int, column: int, radius: float, value: float) -> None:
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    image[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = value


def make_debris(kind: str, image: np.ndarray, top: float) -> None:
    """Something bright over 0.2 % to 1 % of a field, as real fields have it."""
    side = image.shape[0]
    if kind == "speck":
        disc(image, side // 2, side // 2, 0.0255 * side, 65535)
    elif kind == "scale bar":
        image[-30:-22, -side // 2 : -20] = 65535
        for start in range(20, 100, 25):  # and its text
            image[-60:-40, -start - 12 : -start] = 65535
    elif kind == "dead cells":
        for place in (0.2, 0.5, 0.8):
            disc(image, round(place * side), round(place * side), 0.02 * side, 5 * top)


@pytest.mark.parametrize("kind", ["speck", "scale bar", "dead cells"])
def test_debris_does_not_dim_the_nuclei(kind, caplog):
    field = simulate("cytoplasmic", size=800, seed=1, cells=25)
    image = field.nucleus.astype(np.float32)
    clean = normalize(image)
    assert not caplog.text
    dirty = image.copy()
    make_debris(kind, dirty, float(np.percentile(image, 99.8)))
    untouched = (dirty == image) & (field.labels > 0)
    assert normalize(dirty, robust=False)[untouched].mean() < 0.3 * clean[untouched].mean()
    assert normalize(dirty)[untouched].mean() == pytest.approx(clean[untouched].mean(), rel=0.1)
    assert "outshine all else, as debris or a scale bar does, around row" in caplog.text


@pytest.mark.parametrize("nuclei", [1, 2])
@pytest.mark.parametrize("shading", [0, 0.2])
def test_the_texture_of_a_lone_nucleus_survives(nuclei, shading, caplog):
    """In a field of which it is a thousandth, the percentile lies in the noise."""
    cell = simulate("chromatin", seed=2)
    own = cell.labels == cell.labels[104, 104]
    noise = np.random.default_rng(0).poisson(400, (1500, 1500)) * np.linspace(1 - shading, 1 + shading, 1500)
    field = noise.astype(np.float32)
    for corner in range(200, 200 + 600 * nuclei, 600):
        field[corner : corner + 208, corner : corner + 208][own] = 1000 + cell.nucleus[own] * 1.0
    inside = field > 900
    assert (normalize(field, robust=False)[inside] >= 1).mean() > 0.3
    stretched = normalize(field)
    assert (stretched[inside] >= 1).mean() < 0.05 and stretched[~inside].mean() < 0.1
    assert "nearly all of the image is background" in caplog.text


def test_normalize_leaves_ordinary_fields_and_proteins_alone(caplog):
    field = simulate("golgi", size=600, seed=4, cells=20)
    for image, robust in ((field.nucleus, True), (field.protein, False)):
        bottom, top = np.percentile(image, [1, 99.8])
        expected = np.clip((image - bottom) / (top - bottom), 0, 1)
        np.testing.assert_allclose(normalize(image, robust=robust), expected, atol=1e-5)
    noise = np.random.default_rng(0).normal(500, 20, (300, 300))
    np.testing.assert_array_equal(normalize(noise), normalize(noise, robust=False))
    assert not caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_normalize_refuses_what_is_no_number(value):
    image = np.arange(64.0 * 64).reshape(64, 64)
    image[3, 4] = value
    with pytest.raises(ValueError, match=r"1 of 4,096 pixels are NaN or infinite: fill them, or cut them off"):
        normalize(image)


def test_a_negative_is_said(caplog):
    field = simulate("cytoplasmic", size=300, seed=1, cells=5).nucleus.astype(np.float32)
    DeepGPSImageProcessor()(field)
    assert "inverted" not in caplog.text
    DeepGPSImageProcessor()(field.max() - field)
    assert "looks inverted, with dark nuclei on a bright ground" in caplog.text


def test_files_bytes_and_choices(tmp_path):
    stack = np.stack([PIXELS, PIXELS[::-1]])
    tifffile.imwrite(tmp_path / "two.tif", stack, imagej=True, metadata={"axes": "CYX"})
    processor = DeepGPSImageProcessor()
    expected = processor(PIXELS[::-1])["nucleus"]
    for source in (tmp_path / "two.tif", (tmp_path / "two.tif").read_bytes()):
        torch.testing.assert_close(processor(source, channel=1)["nucleus"], expected)
        torch.testing.assert_close(processor(source, page=1)["nucleus"], expected)
        with pytest.raises(ValueError, match=r"holds 2 channels: say which by channel \(0 to 1\) or page \(0 to 1\)"):
            processor(source)
    torch.testing.assert_close(processor(tmp_path / "two.tif", project="max", channel=1)["nucleus"], expected)
    with pytest.raises(ValueError, match="3000 x 2000 pixels are more than 4,194,304: cut out a part of it"):
        processor(np.zeros((2000, 3000)))


def test_preprocess_and_back():
    processor = DeepGPSImageProcessor()
    inputs = processor([PIXELS, PIXELS // 2])
    assert inputs["nucleus"].shape == (2, 1, 20, 30) and inputs["nucleus"].dtype == torch.float32
    np.testing.assert_array_equal(inputs["nucleus"][0, 0].numpy(), normalize(PIXELS))
    (picture,) = processor.postprocess(torch.tensor([[[[0.0, 0.5], [1.0, 2.0]]]]))
    assert picture.mode == "L" and np.asarray(picture).tolist() == [[0, 128], [255, 255]]
    with pytest.raises(ValueError, match=r"must have one size, got \(20, 29\) and \(20, 30\)"):
        processor([PIXELS, PIXELS[:, :29]])


def test_the_default_nucleus():
    processor = DeepGPSImageProcessor(default_nucleus=base64.b64encode(png(PIXELS)).decode())
    torch.testing.assert_close(processor(None)["nucleus"], processor(PIXELS)["nucleus"])
    with pytest.raises(ValueError, match="without a default nucleus"):
        DeepGPSImageProcessor()(None)


REMOTE_SCRIPT = """
import sys
from transformers import AutoImageProcessor
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(processor.low, float(processor(sys.argv[1] + "/two.tif", channel="dapi")["nucleus"].mean()))
"""


def test_round_trip_and_remote_code(tmp_path):
    processor = DeepGPSImageProcessor(low=2.0)
    processor.save_pretrained(tmp_path / "saved")
    loaded = DeepGPSImageProcessor.from_pretrained(tmp_path / "saved")
    names = {"axes": "CYX", "Channel": {"Name": ["GFP", "DAPI"]}}
    tifffile.imwrite(tmp_path / "saved" / "two.tif", np.stack([PIXELS[::-1], PIXELS]), ome=True, metadata=names)
    assert loaded.to_dict() == processor.to_dict()
    low, mean = run_without_protloc(REMOTE_SCRIPT, tmp_path / "saved", cache=tmp_path).split()[-2:]
    expected = processor(PIXELS)["nucleus"].mean().item()
    assert float(low) == 2 and float(mean) == pytest.approx(expected)
