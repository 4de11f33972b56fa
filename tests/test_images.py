"""One reader for files of every kind, made on the spot: what they hold, and what is said where that leaves a choice."""

import base64
import gzip
import io
import struct
import time
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from protloc.images import read_image, read_two_channels

generator = np.random.default_rng(0)
GREY = generator.integers(200, 4000, (40, 56)).astype(np.uint16)  # 12 bit in 16
COLOURS = np.stack([GREY // 3, GREY // 2, GREY], axis=2)
COLOURS[5:9, 5:9] = (4000, 10, 10)  # or all three would be one colour
STACK = generator.integers(0, 60_000, (3, 4, 2, 40, 56)).astype(np.uint16)  # of time points, slices and channels


def tiff(image: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def pillow(image: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def check(source, expected: np.ndarray, **choice) -> None:
    pixels = read_image(source, **choice).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, expected.astype(np.float32), rtol=1e-3)


def test_where_an_image_comes_from(tmp_path):
    data = pillow((GREY >> 4).astype(np.uint8), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    pixels = GREY >> 4
    for source in (
        path,
        str(path),
        data,
        bytearray(data),
        io.BytesIO(data),
        gzip.compress(data),
        url,
        Image.open(path),
    ):
        check(source, pixels)
    for source in ({"bytes": data, "path": None}, {"bytes": None, "path": str(path)}, pixels, pixels.tolist()):
        check(source, pixels)
    np.testing.assert_array_equal(np.asarray(read_image(path)), pixels)
    (tmp_path / "b.txt").write_bytes(tiff(GREY))  # a file is what it holds, not what it is called
    check(tmp_path / "b.txt", GREY)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int16", "float16", "float32", "float64"])
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"tile": (16, 32)}], ids=str)
def test_depths(dtype, options):
    pixels = (GREY / 20).astype(dtype)
    check(tiff(pixels, **options), pixels)


@pytest.mark.parametrize("name", ["lzw", "zlib", "zstd", "lzma", "packbits", "jpeg2000", "png", "jpegxl", "lerc"])
@pytest.mark.parametrize("layout", [{}, {"tile": (16, 32)}, {"rowsperstrip": 7}], ids=str)
def test_compressions(name, layout):
    data = tiff(GREY, compression=name, **layout)
    check(data, GREY)
    for end in (len(data) // 2, len(data) - 1):  # never what is left of it, with zeros for the rest
        with pytest.raises(ValueError, match="the image"):
            read_image(data[:end])


@pytest.mark.parametrize(
    "options", [{}, {"imagej": True}, {"ome": True}, {"rowsperstrip": 3}, {"tile": (16, 16)}], ids=str
)
def test_every_cut_is_found(options):
    data = tiff(GREY, **options)
    for end in range(0, len(data), 97):
        with pytest.raises(ValueError, match=r"^the image: .+") as error:
            read_image(data[:end])
        assert "\n" not in str(error.value)


def test_white_as_zero():
    """Whatever the depth: what is bright is large."""
    for dtype, white in (("uint8", 255), ("uint16", 65_535)):
        pixels = (GREY >> 4).astype(dtype)
        for compression in (None, "zlib"):
            check(tiff(pixels, photometric="miniswhite", compression=compression), white - pixels.astype(float))
    pixels = GREY.astype(np.float32)
    check(tiff(pixels, photometric="miniswhite"), pixels.max() + pixels.min() - pixels)


@pytest.mark.parametrize("layout", [{}, {"compression": "zlib"}, {"tile": (16, 16)}], ids=str)
def test_colours_of_16_bit(layout):
    """Interleaved or plane by plane; none of their grey levels is lost."""
    for data in (
        tiff(COLOURS, photometric="rgb", **layout),
        tiff(np.moveaxis(COLOURS, 2, 0), photometric="rgb", planarconfig="separate", **layout),
    ):
        for number, colour in enumerate(("red", "green", "blue")):
            check(data, COLOURS[..., number], channel=colour)
            check(data, COLOURS[..., number], channel=number)
        with pytest.raises(ValueError, match=r"in colour: say which channel holds the nucleus \(red, green, blue\)"):
            read_image(data)
        with pytest.raises(ValueError, match="channel must be one of red, green, blue, got 'dapi'"):
            read_image(data, channel="dapi")


def test_colours_elsewhere():
    check(imagecodecs.png_encode(COLOURS), COLOURS[..., 2], channel="blue")
    check(imagecodecs.jpeg2k_encode(COLOURS, level=0), COLOURS[..., 2], channel="blue")
    eight = (COLOURS >> 4).astype(np.uint8)
    for kind in ("PNG", "BMP", "PPM"):
        check(pillow(eight, kind), eight[..., 1], channel="green")
    check(eight, eight[..., 1], channel="green")
    check(Image.fromarray(eight), eight[..., 1], channel="green")
    shades = np.repeat(eight[..., :1], 3, axis=2)
    check(pillow(shades, "PNG"), shades[..., 0])


@pytest.mark.parametrize("opaque", [False, True])
def test_alpha_is_no_channel(opaque):
    alpha = np.where(opaque, 65_535, GREY).astype(np.uint16)
    pair = np.stack([GREY, alpha], axis=2)
    check(tiff(pair, photometric="minisblack", planarconfig="contig", extrasamples=["unassalpha"]), GREY)
    check(imagecodecs.png_encode(pair), GREY)
    check(pillow((pair >> 4).astype(np.uint8), "PNG"), GREY >> 4)
    four = np.concatenate([COLOURS, alpha[..., None]], axis=2)
    check(tiff(four, photometric="rgb", extrasamples=["unassalpha"]), GREY // 2 * 1.0 * 0 + COLOURS[..., 1], channel=1)


def test_a_picture_in_one_colour():
    """As the Human Protein Atlas serves JPEGs, and ImageJ saves a channel with its colours."""
    smooth = np.linspace(0, 250, 64 * 64).reshape(64, 64).astype(np.uint8)
    for number in range(3):
        picture = np.zeros((64, 64, 3), np.uint8)
        picture[..., number] = smooth
        assert np.abs(read_image(pillow(picture, "JPEG", quality=85)).pixels - smooth).max() < 12
        check(pillow(picture, "PNG"), smooth)
    blue = np.zeros((3, 256), np.uint16)
    blue[2] = np.arange(256) * 257
    check(tiff(smooth, photometric="palette", colormap=blue), smooth * 257.0)
    faint = np.stack([smooth * 0, smooth, smooth[::-1] // 8], axis=2)
    with pytest.raises(ValueError, match="is in colour"):
        read_image(pillow(faint, "PNG"))


def test_interleaved_channels():
    data = tiff(np.stack([GREY, GREY // 2], axis=2), photometric="minisblack", planarconfig="contig")
    check(data, GREY // 2, channel=1)
    with pytest.raises(ValueError, match=r"holds 2 channels: say which channel holds the nucleus \(0 to 1\)"):
        read_image(data)


@pytest.mark.parametrize(
    ("kind", "axes", "options"),
    [
        ("imagej", "TZCYX", {}),
        ("ome", "TZCYX", {}),
        ("ome", "CTZYX", {"compression": "zlib"}),
        ("ome", "ZCTYX", {"tile": (16, 16)}),
    ],
)
def test_hyperstacks(kind, axes, options):
    image = np.moveaxis(STACK, (0, 1, 2), [axes.index(axis) for axis in "TZC"])
    data = tiff(image, metadata={"axes": axes}, **{kind: True}, **options)
    planes = image.reshape(-1, 40, 56)
    assert read_image(data, page=0).pages == 24
    for page in (0, 7, 23):
        check(data, planes[page], page=page)
    check(data, np.take(image, 1, axis=axes.index("C")).reshape(-1, 40, 56)[5], channel=1, page=5)
    with pytest.raises(
        ValueError, match=r"3 time points.* and only the slices of one stack are projected: say which by page"
    ):
        read_image(data, channel=1, project="max")
    with pytest.raises(ValueError, match=r"has no page 24; it has 24, counted from 0"):
        read_image(data, page=24)
    one = np.take(image, [2], axis=axes.index("T"))
    data = tiff(one, metadata={"axes": axes}, **{kind: True}, **options)
    check(data, STACK[2, :, 1].max(axis=0), channel=1, project="max")
    with pytest.raises(
        ValueError, match=r"4 slices.*: say which by page \(0 to 3\) or project \(max, over the slices\)"
    ):
        read_image(data, channel=1)


def test_a_hyperstack_of_one_directory():
    """As ImageJ writes files over 4 GB: pages are planes, not directories."""
    data = bytearray(tiff(np.stack([GREY, GREY // 2]), imagej=True, metadata={"axes": "CYX"}))
    (directory,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, directory)
    struct.pack_into("<I", data, directory + 2 + 12 * tags, 0)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        assert len(file.pages) == 1
    for choice in ({"page": 1}, {"channel": 1}, {"channel": "1"}):
        check(bytes(data), GREY // 2, **choice)


def test_names_and_scenes():
    um = {"PhysicalSizeX": 160.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 160.0, "PhysicalSizeYUnit": "nm"}
    metadata = {"axes": "CYX", "Channel": {"Name": ["GFP", "Hoechst 33342"]}, **um}
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=True) as writer:
        writer.write(STACK[0, 0], metadata=metadata)
    picture = read_image(buffer.getvalue(), channel="hoechst 33342")
    np.testing.assert_array_equal(picture.pixels, STACK[0, 0, 1])
    assert picture.channels == ("GFP", "Hoechst 33342") and picture.um_per_px == pytest.approx(0.16)
    with pytest.raises(
        ValueError, match=r"2 channels \(GFP, Hoechst 33342\): say which by channel \(a name or 0 to 1\)"
    ):
        read_image(buffer.getvalue())
    with pytest.raises(ValueError, match="channel must be one of GFP, Hoechst 33342, got 'blue'"):
        read_image(buffer.getvalue(), channel="blue")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=True) as writer:
        for scene in range(2):
            writer.write(STACK[scene, 0], metadata={"axes": "CYX"})
    with pytest.raises(ValueError, match="holds 2 scenes of 2 channels: say which by channel"):
        read_image(buffer.getvalue())
    check(buffer.getvalue(), STACK[1, 0, 1], channel=1, page=1)
    labels = {"axes": "CYX", "Labels": ["DAPI", "EGFP"], "unit": "um"}
    data = tiff(STACK[0, 0], imagej=True, metadata=labels, resolution=(1 / 0.108, 1 / 0.108))
    picture = read_image(data, channel="egfp")
    np.testing.assert_array_equal(picture.pixels, STACK[0, 0, 1])
    assert picture.um_per_px == pytest.approx(0.108)


def test_the_size_of_a_pixel():
    microscope, printer = 1e4 / 0.206, 300
    assert read_image(tiff(GREY, resolution=(microscope,) * 2, resolutionunit="CENTIMETER")).um_per_px == pytest.approx(
        0.206
    )
    assert read_image(tiff(GREY, resolution=(printer,) * 2, resolutionunit="INCH")).um_per_px is None
    assert read_image(tiff(GREY, resolution=(microscope, 2 * microscope), resolutionunit=3)).um_per_px is None
    eight = (GREY >> 4).astype(np.uint8)
    assert read_image(pillow(eight, "PNG", dpi=(25_400 / 0.2,) * 2)).um_per_px == pytest.approx(0.2, rel=1e-3)
    assert read_image(pillow(eight, "PNG", dpi=(96, 96))).um_per_px is None and read_image(GREY).um_per_px is None


def test_pyramids_are_one_image():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, ome=True) as writer:
        writer.write(STACK[0, 0], subifds=1, tile=(16, 16), metadata={"axes": "CYX"})
        writer.write(STACK[0, 0, :, ::2, ::2], subfiletype=1, tile=(16, 16))
    check(buffer.getvalue(), STACK[0, 0, 1], channel=1)
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for step in (1, 2, 4):
            writer.write(GREY[::step, ::step], subfiletype=int(step > 1), metadata=None)
    check(buffer.getvalue(), GREY)


def test_pages_without_metadata():
    data = tiff(STACK[0, :, 0], photometric="minisblack", metadata=None, compression="lzw")
    check(data, STACK[0, 2, 0], page=2)
    check(data, STACK[0, 2, 0], channel=2)
    check(data, STACK[0, :, 0].max(axis=0), project="max")
    with pytest.raises(
        ValueError, match=r"holds 4 pages: say which by channel \(0 to 3\) or page \(0 to 3\) or project"
    ):
        read_image(data)
    frames = [Image.fromarray(page.astype(np.uint8)) for page in STACK[0, :, 0]]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="holds several pages: say which by page"):
        read_image(buffer.getvalue())
    with pytest.raises(ValueError, match="has no page 9"):
        read_image(buffer.getvalue(), page=9)
    assert read_image(buffer.getvalue(), page=2).pixels.shape == (40, 56)


def test_an_open_image_is_read_where_it_stands():
    data = tiff(STACK[0, :, 0], photometric="minisblack")
    image = Image.open(io.BytesIO(data))
    with pytest.raises(ValueError, match="holds several pages"):
        read_image(image)
    image.seek(2)
    check(image, STACK[0, 2, 0])
    for wrong in (
        tiff(COLOURS, photometric="rgb"),
        tiff(GREY, photometric="miniswhite"),
        imagecodecs.png_encode(COLOURS),
    ):
        with pytest.raises(ValueError, match="Pillow changes the values of this file: give its path or bytes"):
            read_image(Image.open(io.BytesIO(wrong)), channel=0)


def test_pixels_that_are_no_numbers(caplog):
    pixels = GREY.astype(np.float32)
    pixels[3, :4] = np.nan, np.inf, -np.inf, np.nan
    for source in (tiff(pixels), pixels, tiff(pixels.astype(np.float64))):
        found = read_image(source).pixels
        assert (found[3, :4] == np.median(pixels[np.isfinite(pixels)])).all() and np.isfinite(found).all()
        np.testing.assert_array_equal(np.delete(found, 3, axis=0), np.delete(pixels, 3, axis=0))
    assert "4 pixels are NaN or infinite: they get the median of the others" in caplog.text
    pixels[:2] = np.nan
    for source in (tiff(pixels), pixels):
        with pytest.raises(ValueError, match=r"116 pixels are NaN or infinite, 5\.2%: cut them off"):
            read_image(source)


def directories(pages: int, tags: list[tuple[int, int, int, int]]) -> bytes:
    """A TIFF of tiny pages; `tags` are added to each: number, type, count and value."""
    data = bytearray(b"II*\0" + struct.pack("<I", 8))
    for page in range(pages):
        own = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
        end = len(data) + 2 + 12 * (len(own) + 3 + len(tags)) + 4
        own += [(273, 4, 1, end), (278, 4, 1, 8), (279, 4, 1, 64), *tags]
        data += struct.pack("<H", len(own)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(own))
        data += struct.pack("<I", end + 64 if page < pages - 1 else 0) + bytes(range(64))
    return bytes(data)


def test_directories_that_would_take_minutes():
    start = time.monotonic()
    check(directories(3000, []), np.arange(64).reshape(8, 8), page=2999)
    circle = bytearray(directories(3, []))
    struct.pack_into("<I", circle, len(circle) - 68, 8)
    large = [(40_000 + number, 4, 1_000_000, 8) for number in range(100)]
    for data, said in (
        (directories(60_000, []), "has more than 20,000 pages: save the one to read as a file of its own"),
        (directories(1, large) + bytes(5_000_000), "its TIFF directories are damaged: 1,000,000 values of tag 40001"),
        (directories(1, [(40_000, 3, 1, 0)] * 5000), "its TIFF directories are damaged: 5,009 tags of a page"),
        (
            directories(1, [(330, 4, 9999, 8)]) + bytes(100_000),
            "its TIFF directories are damaged: 9,999 values of tag 330",
        ),
        (circle, "its TIFF directories are damaged: a page comes after itself"),
        (tiff(GREY, ome=True).replace(b'SizeZ="1"', b'SizeZ="99999999"'), "metadata of 99,999,999 planes"),
        (tiff(GREY, imagej=True).replace(b"images=1", b"images=999999"), "metadata of 999,999 planes|no image"),
    ):
        with pytest.raises(ValueError, match=said):
            read_image(data)
    assert time.monotonic() - start < 10


def png_of(width: int, height: int) -> bytes:
    """A small file that says it is large."""
    content = bytearray(pillow((GREY >> 4).astype(np.uint8), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


BAD = {
    "empty": (b"", "no image that can be read: the file is empty"),
    "text": (b"the nucleus is in the other folder", "no image that can be read: it is none of PNG, JPEG, TIFF"),
    "cut PNG": (pillow((GREY >> 4).astype(np.uint8), "PNG")[:200], "the image is cut off or damaged"),
    "cut gzip": (gzip.compress(tiff(GREY))[:-30], "the gzipped file is cut off or damaged"),
    "large PNG": (png_of(9000, 8000), "9000 x 8000 pixels are more than 64,000,000: cut out a part of it"),
    "bomb": (png_of(50_000, 50_000), "has more than 64,000,000 pixels: cut out a part of it"),
    "large TIFF": (tiff(np.zeros((9000, 9000), np.uint8), compression="zlib"), "9000 x 9000 pixels are more than"),
    "CMYK": (tiff(np.zeros((8, 8, 4), np.uint8), photometric="separated"), "colours of the kind SEPARATED: save it as"),
    "complex": (tiff(np.zeros((8, 8), np.complex64)), "values of type complex64 are no intensities"),
    "CZI": (b"ZISRAWFILE" + bytes(50), "is a Zeiss CZI file: pip install protloc\\[microscopes\\] to read it, or save"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "is an HDF5 file \\(Imaris, ilastik\\), which is not read: save the"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "it is none of PNG"),
    "no pixels": (np.zeros((0, 5)), "expected one channel of shape \\(height, width\\), got \\(0, 5\\)"),
    "a stack": (np.zeros((4, 5, 6)), "expected one channel of shape \\(height, width\\), got \\(4, 5, 6\\)"),
    "words": (np.array([["a", "b"]]), "values of type <U1 are no intensities"),
    "huge array": (np.zeros((9000, 8000), bool), "8000 x 9000 pixels are more than 64,000,000"),
    "no base64": ("data:image/png,abc", "begins no data URL of an image in base64"),
}


@pytest.mark.parametrize(("source", "message"), BAD.values(), ids=BAD.keys())
def test_bad_images(source, message):
    with pytest.raises(ValueError, match=message) as error:
        read_image(source)
    assert "\n" not in str(error.value)


def test_bad_choices(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(GREY))
    for choice, said in (
        ({"channel": "dapi"}, r"a\.tif: channel must be one of 0, got 'dapi'"),
        ({"channel": 1}, r"a\.tif: channel must be one of 0, got 1"),
        ({"page": 1}, r"a\.tif: has no page 1; it has 1, counted from 0"),
        ({"page": -1}, r"a\.tif: has no page -1"),
        ({"project": "mean"}, "project must be 'max', got 'mean'"),
        ({"formats": ["PNG"]}, r"a\.tif: no image that can be read: it is none of PNG"),
        ({"max_pixels": 100}, r"a\.tif: 56 x 40 pixels are more than 100: cut out a part of it"),
    ):
        with pytest.raises(ValueError, match=said):
            read_image(tmp_path / "a.tif", **choice)
    check(tmp_path / "a.tif", GREY, channel="blue")  # a grey image has no colours
    check(tmp_path / "a.tif", GREY, channel="0", page=0, project="max")
    for path, said in ((tmp_path / "none.tif", "there is no such file"), (tmp_path, "no image that can be read: Is a")):
        with pytest.raises(ValueError, match=said):
            read_image(path)


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((2, 30, 40), {}),  # OpenCell's projection
        ((8, 30, 40), {}),  # a stack without metadata: four planes of the nucleus, four of the protein
        ((2, 30, 40), {"compression": "lzw"}),
        ((2, 30, 40), {"compression": "zstd"}),
        ((4, 2, 30, 40), {"imagej": True, "metadata": {"axes": "ZCYX"}}),
        ((2, 4, 30, 40), {"ome": True, "metadata": {"axes": "CZYX"}}),
        ((2, 30, 40), {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": ["DAPI", "eGFP"]}}}),
        ((2, 30, 40), {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": ["Channel:0", "Channel:1"]}}}),
    ],
    ids=str,
)
def test_two_channels(tmp_path, shape, options):
    image = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    tifffile.imwrite(tmp_path / "field.tif", image, photometric="minisblack", **options)
    nucleus, protein = read_two_channels(tmp_path / "field.tif")
    stack = image.swapaxes(0, 1) if "imagej" in options else image.reshape(2, -1, 30, 40)
    assert np.array_equal(nucleus, stack[0].max(axis=0)) and np.array_equal(protein, stack[1].max(axis=0))


def test_two_channels_in_other_layouts(tmp_path):
    nucleus, protein = STACK[0, 0]
    for name, options in {
        "ome": {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": ["mNeonGreen", "Hoechst 33342"]}}},
        "imagej": {"imagej": True, "metadata": {"axes": "CYX", "Labels": ["c:1/2 - GFP", "c:2/2 - DAPI"]}},
    }.items():
        tifffile.imwrite(tmp_path / f"{name}.tif", np.stack([protein, nucleus]), **options)
        found = read_two_channels(tmp_path / f"{name}.tif")
        assert np.array_equal(found[0], nucleus) and np.array_equal(found[1], protein), name
    interleaved = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(tmp_path / "both.tif", np.stack([nucleus, protein], axis=2), **interleaved)
    found = read_two_channels(tmp_path / "both.tif")
    assert np.array_equal(found[0], nucleus) and np.array_equal(found[1], protein)
    with tifffile.TiffWriter(tmp_path / "single.tif") as writer:  # each page as an image of its own
        for channel in (0, 1):
            for plane in STACK[0, :, channel]:
                writer.write(plane)
    found = read_two_channels(tmp_path / "single.tif")
    assert np.array_equal(found, STACK[0].max(axis=0))


ODD = {
    "three": (np.zeros((3, 8, 8), np.uint16), {"photometric": "minisblack"}, "got 3 pages"),
    "rgb": (np.zeros((2, 8, 8, 3), np.uint8), {"photometric": "rgb"}, "got 2 pages"),
    "four": (np.zeros((4, 8, 8), np.uint16), {"ome": True, "metadata": {"axes": "CYX"}}, "got 4 channels"),
    "slices": (np.zeros((6, 8, 8), np.uint16), {"imagej": True, "metadata": {"axes": "ZYX"}}, "got 6 slices"),
    "times": (np.zeros((2, 8, 8), np.uint16), {"imagej": True, "metadata": {"axes": "TYX"}}, "got 2 time points"),
    "film": (
        np.zeros((3, 2, 8, 8), np.uint16),
        {"ome": True, "metadata": {"axes": "TCYX"}},
        "got 3 time points x 2 chan",
    ),
    "one": (np.zeros((8, 8), np.uint16), {}, "got one image of 1 channels"),
}


@pytest.mark.parametrize(("image", "options", "said"), ODD.values(), ids=ODD.keys())
def test_what_is_no_pair(tmp_path, image, options, said):
    tifffile.imwrite(tmp_path / "odd.tif", image, **options)
    with pytest.raises(ValueError, match=rf"odd\.tif: expected two channels of one field, {said}"):
        read_two_channels(tmp_path / "odd.tif")


def test_two_channels_errors(tmp_path):
    path = tmp_path / "field.tif"
    for names, said in (
        (["GFP", "mCherry"], "'GFP' and 'mCherry', from which"),
        (["DAPI", "Hoechst"], "from which the"),
    ):
        tifffile.imwrite(path, STACK[0, 0], ome=True, metadata={"axes": "CYX", "Channel": {"Name": names}})
        with pytest.raises(ValueError, match=rf"field\.tif: its channels are named {said}|{said}"):
            read_two_channels(path)
    tifffile.imwrite(path, np.full((2, 8, 8), np.nan, dtype=np.float32))
    with pytest.raises(ValueError, match=r"field\.tif: 64 pixels are NaN"):
        read_two_channels(path)
    path.write_text("no image")
    with pytest.raises(ValueError, match=r"field\.tif: no TIFF that can be read"):
        read_two_channels(path)
    path.write_bytes(tiff(np.ones((2, 64, 64), np.uint16))[:9000])
    with pytest.raises(ValueError, match=r"field\.tif"):
        read_two_channels(path)
    with pytest.raises(ValueError, match=r"none\.tif: no TIFF that can be read"):
        read_two_channels(tmp_path / "none.tif")


def test_real_files(data_dir):
    nucleus, protein = read_two_channels(data_dir / "opencell" / "A1_1_ATL2__mock.ome.tif")
    assert nucleus.shape == protein.shape == (103, 103) and nucleus.max() > 1000
    fields = sorted((data_dir / "opencell" / "nuclei").glob("*.tif*"))
    assert len(fields) >= 8 and all(read_image(path).pixels.shape == (1024, 1024) for path in fields)
