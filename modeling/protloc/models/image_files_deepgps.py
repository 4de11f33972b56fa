"""
Images as microscopes and people leave them -> one channel of one plane, and what the file says of it.

What a file's metadata say decides; where they leave a choice, it has to be made, and is never guessed. TIFF is read by
`tiff_files_deepgps`, everything else by Pillow; formats of microscope vendors by bioio's readers where installed.
"""

import base64
import binascii
import gzip
import io
import itertools
import logging
import re
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .tiff_files_deepgps import MAGIC as TIFF_MAGIC
from .tiff_files_deepgps import MAX_PLANES, ImageError, Scene, check_size, explained, read_tiff, square, to_um

try:
    import imagecodecs
except ImportError:
    imagecodecs = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

COLOURS = ["red", "green", "blue"]
FORMATS = ["PNG", "JPEG", "TIFF", "BMP", "GIF", "JPEG2000", "PPM", "WEBP"]  # every other decoder is one more way in
MAX_PIXELS = 64_000_000
MAX_UNPACKED = 256_000_000  # bytes of a gzipped file
MOST_UNUSABLE = 0.01  # share of pixels that may be NaN or infinite
VENDORS = {b"ZISRAWFILE": "Zeiss CZI", b"\xda\xce\xbe\n": "Nikon ND2", b"\x70\0\0\0": "Leica LIF"}
OTHERS = {  # place and first bytes of what is named, and not read
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"): "an Olympus OIB or Zeiss ZVI file",
    (0, b"\x89HDF\r\n\x1a\n"): "an HDF5 file (Imaris, ilastik)",
    (0, b"\x93NUMPY"): "a NumPy file",
    (0, b"SIMPLE  ="): "a FITS file",
    (0, b"%PDF"): "a PDF",
    (0, b"PK\3\4"): "a ZIP archive",
    (4, b"ftyp"): "an AVIF, HEIC or video file",
}
AXES = {"T": "time points", "Z": "slices", "C": "channels", "Q": "pages", "P": "planes"}


@dataclass(frozen=True)
class Picture:
    """
    One channel of an image; `np.asarray` gives its pixels.

    Attributes:
        pixels (`np.ndarray`): float32 of shape `(H, W)`, in the file's own unit.
        um_per_px (`float` or `None`): Pixel size in micrometres, `None` if the file doesn't give it.
        channels (`tuple[str, ...]`): Names of the file's channels, if it has any.
        pages (`int`): Number of planes in the file, over all channels, slices, time points and scenes.
    """

    pixels: np.ndarray
    um_per_px: float | None = None
    channels: tuple[str, ...] = ()
    pages: int = 1

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.pixels, dtype=dtype, copy=copy)


def read_image(
    source: Any,
    channel: str | int | None = None,
    page: int | None = None,
    project: str | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = FORMATS,
) -> Picture:
    """
    One channel of an image.

    Args:
        source: A file (`str`, `Path`, `bytes`, an open binary file, a data URL, or `{"bytes", "path"}` as in
            `datasets`; also gzipped), an open `PIL.Image.Image`, or an array `(H, W)` or `(H, W, channels)`.
        channel (`str` or `int`, *optional*): Name or number (from 0) of a channel; `"red"`, `"green"` or `"blue"` for
            colours. Required if there are several; a grey image has no colours and is used as it is.
        page (`int`, *optional*): Number of the plane (of that channel, if one is given) in file order, from 0.
        project (`str`, *optional*): `"max"` for the maximum over the slices of a stack.
        max_pixels (`int`): Larger images are refused before they are decoded.
        formats: The formats of `FORMATS` to accept.

    Returns:
        `Picture`: The pixels; if at most 1 % are NaN or infinite, they are replaced by the median.

    Raises:
        ValueError: In one sentence, for a missing, unreadable, truncated, empty or huge file, for several planes or
            colours without a selection, for a missing channel or page, and for values that are not intensities.
    """
    name = "the image"
    if project not in (None, "max"):
        raise ImageError(f"project must be 'max', got {project!r}")
    if isinstance(source, dict):
        source = source["bytes"] if source.get("bytes") is not None else source.get("path")
    if isinstance(source, str) and source.startswith("data:"):
        source = decode_data_url(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    if isinstance(source, (str, Path)):
        name = str(source)
        try:
            stream = open(source, "rb")
        except FileNotFoundError:
            raise ImageError(f"{name}: there is no such file") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ImageError(f"{name}: no image that can be read: {reason}") from None
        with stream:
            return read_stream(stream, name, channel, page, project, max_pixels, formats)
    if hasattr(source, "read"):
        return read_stream(source, name, channel, page, project, max_pixels, formats)
    if isinstance(source, Image.Image):
        return decode(source, name, channel, page, project, max_pixels)
    pixels = np.asarray(source)
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        pixels = pixels[..., :3]  # the fourth says how opaque a pixel is
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] > 3) or not pixels.size:
        raise ImageError(f"{name}: expected one channel of shape (height, width), got {pixels.shape}")
    check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    check_page(page, 1, name)
    return Picture(one_channel(pixels, channel, name))


def read_stream(
    stream: Any,
    name: str,
    channel: str | int | None,
    page: int | None,
    project: str | None,
    max_pixels: int,
    formats: Collection[str],
) -> Picture:
    """An open file, told apart by its first bytes and never by its name."""
    stream.seek(0)
    start = stream.read(16)
    stream.seek(0)
    if start.startswith(b"\x1f\x8b"):
        with explained(name, "the gzipped file is cut off or damaged"):
            data = gzip.GzipFile(fileobj=stream).read(MAX_UNPACKED + 1)
        if len(data) > MAX_UNPACKED:
            raise ImageError(f"{name}: unpacks to more than {MAX_UNPACKED // 10**6} MB: unpack it first")
        stream, start = io.BytesIO(data), data[:16]
    if not start:
        raise ImageError(f"{name}: no image that can be read: the file is empty")
    if start.startswith(TIFF_MAGIC) and "TIFF" in formats:
        return choose(read_tiff(stream, name, max_pixels), name, channel, page, project)
    for magic, vendor in VENDORS.items():
        if start.startswith(magic):
            return choose(read_vendor(name, vendor, max_pixels), name, channel, page, project)
    for (place, magic), kind in OTHERS.items():
        if start[place:].startswith(magic):
            raise ImageError(f"{name}: is {kind}, which is not read: save the plane as a TIFF or PNG file")
    others = [kind for kind in formats if kind != "TIFF"]
    with explained(name, "no image that can be read"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs, whose size is looked at, and of metadata
        try:
            image = Image.open(stream, formats=others)
        except Image.DecompressionBombError:
            raise ImageError(f"{name}: has more than {max_pixels:,} pixels: cut out a part of it") from None
        except UnidentifiedImageError:
            raise ImageError(f"{name}: no image that can be read: it is none of {', '.join(formats)}") from None
    return decode(image, name, channel, page, project, max_pixels, stream)


def decode_data_url(text: str) -> bytes:
    head, _, data = text.partition(",")
    try:
        if not head.endswith(";base64"):
            raise ValueError
        return base64.b64decode("".join(data.split()), validate=True)
    except (ValueError, binascii.Error):
        raise ImageError(f"{text[:30]!r} begins no data URL of an image in base64") from None


def decode(
    image: Image.Image,
    name: str,
    channel: str | int | None,
    page: int | None,
    project: str | None,
    max_pixels: int,
    stream: Any = None,
) -> Picture:
    """An image that Pillow has opened, from the file `stream` if there is one."""
    check_size(*image.size, name, max_pixels)
    um_per_px = square(*(to_um(25400 / float(dpi), "um") if dpi else None for dpi in image.info.get("dpi", (0, 0))))
    jpeg = image.format in ("JPEG", "MPO")
    with explained(name, "the image is cut off or damaged"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_pillow(image, name, stream)
        if page is None and has_more(image):
            raise ImageError(f"{name}: holds several pages: say which by page, from 0")
        if page:
            check_page(page, MAX_PLANES, name)
            try:
                image.seek(page)
            except (EOFError, AttributeError):
                raise ImageError(f"{name}: has no page {page}, counted from 0") from None
            check_size(*image.size, name, max_pixels)
        if stream is not None and is_deep(image):
            stream.seek(0)
            pixels = (imagecodecs.png_decode if image.format == "PNG" else imagecodecs.jpeg2k_decode)(stream.read())
            if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
                pixels = pixels[..., :-1]  # how opaque a pixel is
        else:
            if image.mode in ("LA", "La"):
                image = image.convert("L")
            elif image.mode not in ("1", "L", "I", "F", "RGB") and not image.mode.startswith("I;"):
                image = image.convert("RGB")  # palettes, transparency, inks
            pixels = np.asarray(image)
    return Picture(one_channel(pixels, channel, name, noise=0.2 if jpeg else 0.02), um_per_px)


def has_more(image: Image.Image) -> bool:
    """Whether there is a second frame, without counting them, which would read all."""
    if getattr(image, "tell", lambda: 0)() != 0:
        return False  # somebody has chosen one
    try:
        image.seek(1)
    except (EOFError, AttributeError):
        return False
    image.seek(0)
    return True


def is_deep(image: Image.Image) -> bool:
    """Whether colours have, or may have, 16 bit, of which Pillow keeps 8."""
    if image.format == "JPEG2000":
        return True
    parts = [str(tile[3]) for tile in getattr(image, "tile", [])]
    grey = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;")
    return not grey and any(re.search(r";16|, \d{4,}", part) for part in parts)


def check_pillow(image: Image.Image, name: str, stream: Any) -> None:
    """An error for what Pillow would change without a word."""
    if stream is not None:
        if is_deep(image) and (image.format not in ("PNG", "JPEG2000") or imagecodecs is None):
            raise ImageError(f"{name}: colours of 16 bit in a {image.format} file are not read: save it as TIFF")
        return
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    deep = max(np.atleast_1d(tags.get(258, 8))) > 8
    inverted = tags.get(262) == 0 and image.mode not in ("1", "L")
    if inverted or (deep and image.mode in ("L", "RGB", "RGBA", "CMYK")) or (image.format == "PNG" and is_deep(image)):
        raise ImageError(f"{name}: Pillow changes the values of this file: give its path or bytes, not the open image")


def read_vendor(path: str, vendor: str, max_pixels: int) -> list[Scene]:
    """The scenes of a microscope vendor's file, by one of bioio's readers."""
    try:
        from bioio import BioImage
    except ImportError:
        raise ImageError(
            f"{path}: is a {vendor} file: pip install protloc[microscopes] to read it, or save the plane as a TIFF file"
        ) from None
    with explained(path, f"no {vendor} file that can be read (pip install protloc[microscopes])"):
        scenes = []
        for scene in BioImage(path).scenes:
            file = BioImage(path)
            file.set_scene(scene)
            check_size(file.dims.X, file.dims.Y, path, max_pixels)
            sizes = file.dims.T, file.dims.C, file.dims.Z
            axes = "".join(axis for axis, size in zip("TCZ", sizes, strict=True) if size > 1)

            def read(number: int, file=file, sizes=sizes) -> np.ndarray:
                time, channel, depth = map(int, np.unravel_index(number, sizes))
                return file.get_image_dask_data("YX", T=time, C=channel, Z=depth).compute()

            pixel = file.physical_pixel_sizes
            um_per_px = square(to_um(pixel.X, "um"), to_um(pixel.Y, "um"))
            shape = tuple(size for size in sizes if size > 1)
            scenes.append(Scene(axes, shape, 1, tuple(map(str, file.channel_names or ())), um_per_px, read))
    return scenes


def choose(scenes: list[Scene], name: str, channel: str | int | None, page: int | None, project: str | None) -> Picture:
    """The plane that is asked for, or the only one."""
    planes = [(scene, index) for scene in scenes for index in itertools.product(*map(range, scene.shape))]
    count = len(planes)
    if channel is not None:
        planes = [plane for plane in planes if is_of_channel(*plane, channel, name)]
    if page is not None:
        check_page(page, len(planes), name)
        planes = planes[page : page + 1]
    stacks = {(id(scene), *fixed_part(scene, index)) for scene, index in planes}
    if len(planes) > 1 and (project is None or len(stacks) > 1):
        only = ", and only the slices of one stack are projected" if project else ""
        way_out = ways_out(scenes, channel, len(planes), len(stacks) == 1)
        raise ImageError(f"{name}: holds {describe(scenes)}{only}: {way_out}")
    pixels = np.empty(0)
    for number, (scene, index) in enumerate(planes):
        plane = scene.read(int(np.ravel_multi_index(index, scene.shape)) if index else 0)
        pixels = np.fmax(pixels, plane) if number else plane
    scene = planes[0][0]
    left = channel if channel_axis(scene) is None else None
    return Picture(one_channel(pixels, left, name, scene.channels), scene.um_per_px, scene.channels, count)


def fixed_part(scene: Scene, index: tuple[int, ...]) -> tuple[int, ...]:
    """Where a plane stands, but for its slice: only slices are projected."""
    return tuple(number for number, axis in zip(index, scene.axes, strict=True) if axis not in "ZQ")


def channel_axis(scene: Scene) -> int | None:
    """Pages of which nothing is known may be channels, too."""
    if scene.axes == "Q" and scene.samples == 1:
        return 0
    return scene.axes.index("C") if "C" in scene.axes else None


def is_of_channel(scene: Scene, index: tuple[int, ...], channel: str | int, name: str) -> bool:
    """Colours, which lie in a plane, are left to `one_channel`."""
    axis = channel_axis(scene)
    return axis is None or index[axis] == find_channel(channel, scene.shape[axis], scene.channels, name)


def find_channel(channel: str | int, count: int, names: Collection[str], name: str) -> int:
    """The number of a channel, of `count`, that is given by its name or number."""
    wanted, known = str(channel).strip().lower(), [known.strip().lower() for known in names]
    if known.count(wanted) == 1 and known.index(wanted) < count:
        return known.index(wanted)
    if wanted.isdigit() and int(wanted) < count:
        return int(wanted)
    options = ", ".join(filter(None, names)) or (f"0 to {count - 1}" if count > 1 else "0")
    raise ImageError(f"{name}: channel must be one of {options}, got {channel!r}")


def check_page(page: int | None, pages: int, name: str) -> None:
    if page is not None and not 0 <= page < pages:
        raise ImageError(f"{name}: has no page {page}; it has {pages}, counted from 0")


def describe(scenes: list[Scene]) -> str:
    """`"2 scenes of 2 channels (GFP, Hoechst) x 5 slices"`."""
    scene = scenes[0]
    parts = [f"{size} {AXES[axis]}" for axis, size in zip(scene.axes, scene.shape, strict=True) if size > 1]
    if len(scenes) == 1 and any(scene.channels) and "C" in scene.axes:
        named = parts.index(f"{scene.shape[scene.axes.index('C')]} channels")
        parts[named] += f" ({', '.join(scene.channels[:8])})"
    return " of ".join([f"{len(scenes)} scenes"] * (len(scenes) > 1) + [" x ".join(parts)] * bool(parts))


def ways_out(scenes: list[Scene], channel: str | int | None, left: int, is_stack: bool) -> str:
    """What to say of `left` planes that are left."""
    scene, axis = scenes[0], channel_axis(scenes[0])
    ways = [f"page (0 to {left - 1})"]
    if axis is not None and channel is None:
        name = "a name or " if any(scene.channels) else ""
        ways.insert(0, f"channel ({name}0 to {scene.shape[axis] - 1})")
    if is_stack:
        ways.append("project (max, over the slices)")
    return f"say which by {' or '.join(ways)}"


def one_channel(
    pixels: np.ndarray, channel: str | int | None, name: str, names: tuple[str, ...] = (), noise: float = 0.02
) -> np.ndarray:
    """Pixels `(H, W)` or `(H, W, samples)` -> float32 `(H, W)`; `noise` is what a colour may leave in the others."""
    if pixels.ndim == 3:
        count = pixels.shape[2]
        known = names if len(names) == count else COLOURS if count == 3 else ()
        number = only_colour(pixels, noise) if channel is None else find_channel(channel, count, known, name)
        if number is None:
            kind = "is in colour" if known is COLOURS else f"holds {count} channels"
            options = ", ".join(filter(None, known)) or f"0 to {count - 1}"
            raise ImageError(f"{name}: {kind}: say which channel holds the nucleus ({options})")
        pixels = pixels[..., number]
    elif channel is not None and channel not in COLOURS:
        find_channel(channel, 1, names, name)
    if pixels.dtype.kind not in "buif":
        raise ImageError(f"{name}: values of type {pixels.dtype} are no intensities")
    with np.errstate(over="ignore"):
        pixels = pixels.astype(np.float32)
    unusable = ~np.isfinite(pixels)
    count = int(unusable.sum())
    if count > MOST_UNUSABLE * pixels.size:
        raise ImageError(f"{name}: {count:,} pixels are NaN or infinite, {count / pixels.size:.1%}: cut them off")
    if count:
        logger.warning("%s: %s pixels are NaN or infinite: they get the median of the others", name, f"{count:,}")
        pixels[unusable] = np.median(pixels[~unusable])
    return pixels


def only_colour(pixels: np.ndarray, noise: float) -> int | None:
    """The number of the colour that holds all there is: in shades of grey, or of one colour, as the atlas's JPEGs."""
    if all(np.array_equal(pixels[..., 0], pixels[..., i]) for i in range(1, pixels.shape[2])):
        return 0
    if pixels.shape[2] != 3:
        return None
    colours = [pixels[..., i].astype(np.float32) for i in range(3)]
    strongest = int(np.argmax([colour.sum() for colour in colours]))
    strength = np.percentile(colours[strongest], 99.9)
    for colour in colours:
        share = float((colour * colours[strongest]).sum() / max((colours[strongest] ** 2).sum(), 1e-12))
        if np.percentile(np.abs(colour - share * colours[strongest]), 99.9) > noise * strength:
            return None
    return strongest
