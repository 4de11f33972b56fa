"""Nucleus images of every kind, made on the spot, and what is said of bad ones."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

from protloc.models.image_processing_deepgps import DeepGPSImageProcessor, normalize, read_image
from tests.helpers import run_without_protloc

PIXELS = np.random.default_rng(0).integers(0, 200, (20, 30)).astype(np.uint8)


def png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("a.png", PIXELS),
        ("a.png", PIXELS.astype(np.uint16) * 200),
        ("a.tif", PIXELS),
        ("a.tif", PIXELS.astype(np.uint16) * 200),
        ("a.tif", PIXELS.astype(np.float32) / 7),
        ("a.png", np.repeat(PIXELS[..., None], 3, axis=2)),  # grey, stored as colours
    ],
)
def test_files_arrays_and_pictures(tmp_path, name, pixels):
    Image.fromarray(pixels).save(tmp_path / name)
    expected = pixels if pixels.ndim == 2 else pixels[..., 0]
    for source in (tmp_path / name, str(tmp_path / name), Image.open(tmp_path / name), pixels):
        image = read_image(source)
        assert image.dtype == np.float32
        np.testing.assert_array_equal(image, expected.astype(np.float32))


def test_channels():
    colours = np.stack([PIXELS, PIXELS // 2, PIXELS // 3], axis=2)
    np.testing.assert_array_equal(read_image(colours, channel="blue"), PIXELS // 3)
    np.testing.assert_array_equal(read_image(Image.fromarray(colours), channel="green"), PIXELS // 2)
    with pytest.raises(ValueError, match="is in colour: say which channel holds the nucleus"):
        read_image(colours)
    with pytest.raises(ValueError, match="one of red, green, blue, got 'dapi'"):
        read_image(colours, channel="dapi")


def test_pages(tmp_path):
    pages = [Image.fromarray(PIXELS // (i + 1)) for i in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(tmp_path / "stack.tif", page=2), PIXELS // 3)
    with pytest.raises(ValueError, match="has no page 3; it has 3, counted from 0"):
        read_image(tmp_path / "stack.tif", page=3)


BAD = {
    "missing": (lambda path: path, "there is no such file"),
    "empty file": (lambda path: (path.write_bytes(b"") and path) or path, "no image that can be read"),
    "text": (lambda path: path.write_text("nucleus") and path, "no image that can be read"),
    "cut off": (lambda path: path.write_bytes(png(PIXELS)[:200]) and path, "cut off or damaged"),
    "no pixels": (lambda path: np.zeros((0, 5)), "expected one channel"),
    "a stack": (lambda path: np.zeros((4, 5, 6)), "expected one channel"),
    "NaN": (lambda path: np.where(PIXELS > 100, np.nan, PIXELS), "pixels are NaN or infinite"),
    "words": (lambda path: np.array([["a", "b"]]), "are no intensities"),
    "huge": (lambda path: Image.new("L", (9000, 9000)), "9000 x 9000 pixels are more than 64,000,000"),
}


@pytest.mark.parametrize(("make", "message"), BAD.values(), ids=BAD.keys())
def test_bad_images(tmp_path, make, message):
    with pytest.raises(ValueError, match=message) as error:
        read_image(make(tmp_path / "a.png"))
    assert "\n" not in str(error.value)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """A small file that says it is 50,000 pixels wide and high."""
    content = bytearray(png(PIXELS))
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(ValueError, match="pixels"):
        read_image(tmp_path / "bomb.png")


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
import sys, numpy
from transformers import AutoImageProcessor
processor = AutoImageProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
print(processor.low, float(processor(numpy.arange(600).reshape(20, 30))["nucleus"].mean()))
"""


def test_round_trip_and_remote_code(tmp_path):
    processor = DeepGPSImageProcessor(low=2.0)
    processor.save_pretrained(tmp_path / "saved")
    loaded = DeepGPSImageProcessor.from_pretrained(tmp_path / "saved")
    assert loaded.to_dict() == processor.to_dict()
    low, mean = run_without_protloc(REMOTE_SCRIPT, tmp_path / "saved", cache=tmp_path).split()[-2:]
    expected = processor(np.arange(600).reshape(20, 30))["nucleus"].mean().item()
    assert float(low) == 2 and float(mean) == pytest.approx(expected)


def test_real_microscopy(data_dir):
    fields = sorted((data_dir / "opencell" / "nuclei").glob("*.tif*"))
    for path in fields:
        image = normalize(read_image(path))
        assert image.ndim == 2 and 0 < image.mean() < 0.9
    assert len(fields) >= 8
