"""TIFF of every kind (OME, ImageJ, LSM; any compression, layout and depth) as planes, by tifffile and imagecodecs."""

import logging
import math
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

import numpy as np

try:
    import tifffile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it says of damaged files, errors say too
except ImportError:
    tifffile = None  # type: ignore[assignment]

MAX_PLANES = 20_000
MAX_TAGS = 4_096  # of a page; files of microscopes have some 20
MAX_LEVELS = 64  # of a pyramid
NEEDED = {258, 270, 273, 279, 320, 324, 325, 330, 34412, 50838, 50839}  # without these tags a file is another one
LARGEST_UM_PER_PX = 10  # what is larger is the resolution of a printer or a screen
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
GIVE_RGB = (6, 7, 33003, 33004, 33005, 33007, 34712, 34892, 50001, 50002)  # compressions, for YCbCr
TO_UM = {"Å": 1e-4, "nm": 1e-3, "µm": 1, "um": 1, "micron": 1, "mm": 1e3, "cm": 1e4, "m": 1e6, "inch": 25400}


class ImageError(ValueError):
    """Why an image can't be read, in one sentence."""


@dataclass(frozen=True)
class Scene:
    """Planes of one shape, numbered along their axes; several scenes only where a file has several fields."""

    axes: str  # of the planes: T time, Z slices, C channels, Q pages of which nothing is known, P all else
    shape: tuple[int, ...]
    samples: int  # of a pixel
    channels: tuple[str, ...]
    um_per_px: float | None
    read: Callable[[int], np.ndarray]  # number of a plane -> (H, W) or (H, W, samples)


@contextmanager
def explained(name: str, what: str) -> Iterator[None]:
    """Decoders of damaged files fail in every way: one sentence for all of them."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ImageError(f"{name}: {what}: {reason[:150]}") from None


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width} x {height} pixels are more than {max_pixels:,}: cut out a part of it")


def read_tiff(stream: Any, name: str, max_pixels: int) -> list[Scene]:
    """
    The scenes of an open TIFF; what an OME-TIFF says of planes in other files is left out.

    Raises:
        ValueError: In one sentence, if it can't be read.
    """
    if tifffile is None:
        raise ImageError(f"{name}: TIFF files need tifffile: pip install tifffile imagecodecs, or give a PNG file")
    with explained(name, "no image that can be read: its TIFF directories are damaged"):
        check_directories(stream, name)
        file = tifffile.TiffFile(stream, _multifile=False)
        scenes = list(find_scenes(file, name, max_pixels))
        if not (file.is_ome or file.is_lsm):
            scenes = merge(scenes)
    if not scenes:
        raise ImageError(f"{name}: no image that can be read: the TIFF holds none")
    return scenes


def check_directories(stream: Any, name: str) -> None:
    """
    An error for a file whose directories alone would keep a parser busy: very many pages or tags, or tags that claim
    more than the file holds.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    start = stream.read(16)
    order = "<" if start.startswith(b"II") else ">"
    counter, entry, link = ("Q", "HHQQ", "Q") if b"+" in start[2:4] else ("H", "HHII", "I")
    entry_bytes, link_bytes = struct.calcsize(order + entry), struct.calcsize(link)
    (offset,) = struct.unpack_from(order + link, start, link_bytes)
    seen: set[int] = set()
    tags, values_bytes, numbers_bytes = 0, 0, 0  # of all pages
    while 0 < offset < size:  # tifffile, too, ends at a link that leads nowhere
        if offset in seen:
            raise ValueError("a page comes after itself")
        seen.add(offset)
        if len(seen) > MAX_PLANES:
            raise ImageError(f"{name}: has more than {MAX_PLANES:,} pages: save the one to read as a file of its own")
        stream.seek(offset)
        (count,) = struct.unpack(order + counter, stream.read(struct.calcsize(counter)))
        tags += count
        if count > MAX_TAGS or tags * entry_bytes > size:  # directories that overlap
            raise ValueError(f"{count:,} tags of a page")
        entries = stream.read(count * entry_bytes)
        (offset,) = struct.unpack(order + link, stream.read(link_bytes))
        for tag, kind, values, place in struct.iter_unpack(order + entry, entries):
            length = values * TYPE_BYTES.get(kind, 1)
            values_bytes += length
            numbers_bytes += length if kind not in (1, 2, 7) else 0
            too_much = max(length, numbers_bytes) > size or values_bytes > 4 * size
            if too_much or (tag == 330 and values > MAX_LEVELS):
                raise ValueError(f"{values:,} values of tag {tag}")
            if tag in NEEDED and length > link_bytes and place + length > size:
                raise ValueError(f"the values of tag {tag} end behind the end of the file")
            if tag == 270 and length > link_bytes:
                stream.seek(place)
                check_description(stream.read(length))
    stream.seek(0)


def check_description(text: bytes) -> None:
    """An error for OME or ImageJ metadata of more planes than are read."""
    counts = [int(count) for count in re.findall(rb"^(?:images|channels|slices|frames)=(\d{1,18})", text, re.M)]
    for pixels in re.findall(rb"<(?:\w+:)?Pixels\s[^>]*>", text):
        sizes = re.findall(rb"""Size[CZT]\s*=\s*["']\s*(\d{1,18})""", pixels)
        counts.append(math.prod(map(int, sizes)))
    counts += map(int, re.findall(rb"""(?:PlaneCount|NumPlanes|First[CZT])\s*=\s*["']\s*(\d{1,18})""", text))
    if max(counts, default=0) > MAX_PLANES:
        raise ValueError(f"metadata of {max(counts):,} planes, and {MAX_PLANES:,} are the most")


def find_scenes(file: Any, name: str, max_pixels: int) -> Iterator[Scene]:
    found = [series for series in file.series if not series.keyframe.is_reduced] or list(file.series)
    ome = read_ome(file.ome_metadata) if file.is_ome else []
    for number, series in enumerate(found):
        axes, shape = series.axes, tuple(series.shape)
        inner = next((end for end in ("SYX", "YXS", "YX") if axes.endswith(end)), "")
        if not inner or 0 in shape:
            raise ImageError(f"{name}: expected one channel of shape (height, width), got {shape} with axes {axes}")
        unknown = "P" if file.is_ome else "Q"
        outer = "".join(axis if axis in "TZC" else unknown if axis in "QI" else "P" for axis in axes[: -len(inner)])
        shape, plane = shape[: len(outer)], shape[len(outer) :]
        width, height = plane[inner.index("X")], plane[inner.index("Y")]
        samples = plane[inner.index("S")] if "S" in inner else 1
        check_size(width, height * max(1, samples // 4), name, max_pixels)
        if math.prod(shape) > MAX_PLANES:
            raise ImageError(f"{name}: has more than {MAX_PLANES:,} planes: save the one to read as a file of its own")
        channels, um_per_px = ome[number] if len(ome) == len(found) else ((), None)
        if file.is_imagej and "C" in outer:
            channels = imagej_labels((file.imagej_metadata or {}).get("Labels"), outer, shape)
        if file.is_lsm:
            channels = tuple(map(str, (file.lsm_metadata or {}).get("ChannelColors", {}).get("ColorNames", ())))

        def read(index: int, series=series, inner=inner, plane=plane) -> np.ndarray:
            with explained(name, "the image is cut off or damaged"):
                return read_plane(file, series, index, inner, plane)

        yield Scene(outer, shape, samples, channels, um_per_px or pixel_size(file, series.keyframe), read)


def merge(scenes: list[Scene]) -> list[Scene]:
    """Pages of which each was written as an image of its own are one stack where they are alike."""
    if len(scenes) < 2 or len({(scene.axes, scene.shape, scene.samples) for scene in scenes}) > 1:
        return scenes
    first = scenes[0]
    planes = math.prod(first.shape)

    def read(number: int) -> np.ndarray:
        return scenes[number // planes].read(number % planes)

    return [replace(first, axes="Q" + first.axes, shape=(len(scenes), *first.shape), read=read)]


def read_plane(file: Any, series: Any, number: int, inner: str, shape: tuple[int, ...]) -> np.ndarray:
    """`(H, W)` or `(H, W, samples)`: more light, larger number."""
    samples = math.prod(shape)
    if series.dataoffset is not None:  # of all planes, one behind the other, whether or not each has a directory
        page, kind = series.keyframe, np.dtype(file.byteorder + series.dtype.char)
        start = series.dataoffset + number * samples * kind.itemsize
        pixels = file.filehandle.read_array(kind, samples, start)
    else:
        per_page = max(1, series.keyframe.size // samples)
        page = series[number // per_page]
        if page is None:
            raise ValueError("this plane is missing, or in another file")
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if max(ends, default=0) > file.filehandle.size:
            raise ValueError("its pixels lie beyond its end")
        pixels = page.asarray(maxworkers=1).reshape(per_page, samples)[number % per_page]
    pixels = pixels.reshape(shape)
    if inner == "SYX":
        pixels = np.moveaxis(pixels, 0, 2)

    page = page.keyframe
    photometric = int(page.photometric)
    if photometric == 0:  # white is 0
        if pixels.dtype.kind in "bu":
            return (1 << page.bitspersample) - 1 - pixels.astype(np.int64)
        return np.fmax.reduce(pixels, axis=None) + np.fmin.reduce(pixels, axis=None) - pixels
    if photometric == 3:  # numbers of colours in a table
        return page.colormap.T[np.minimum(pixels, page.colormap.shape[1] - 1)]
    if photometric not in (1, 2, 6) or (photometric == 6 and page.compression not in GIVE_RGB):
        raise ValueError(
            f"colours of the kind {getattr(page.photometric, 'name', photometric)}: save it as grey or RGB"
        )
    if pixels.ndim == 3 and any(int(kind) in (1, 2) for kind in page.extrasamples):
        return pixels[..., : -len(page.extrasamples)]  # how opaque a pixel is
    return pixels


def read_ome(xml: str) -> list[tuple[tuple[str, ...], float | None]]:
    """Names of the channels and size of a pixel, of each scene."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []  # tifffile, too, takes the pages then
    found = []
    for pixels in root.iter():
        if pixels.tag.endswith("Pixels"):
            channels = [part for part in pixels if part.tag.endswith("Channel")]
            names = tuple(channel.get("Name") or channel.get("Fluor") or "" for channel in channels)
            units = [(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"]
            found.append((names, square(*(to_um(*unit) for unit in units))))
    return found


def imagej_labels(labels: Any, axes: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the channels: ImageJ labels every plane, or gives as many labels as there are channels."""
    count, step = shape[axes.index("C")], math.prod(shape[axes.index("C") + 1 :])
    if not isinstance(labels, (list, tuple)) or len(labels) not in (count, math.prod(shape)):
        return ()
    return tuple(map(str, labels if len(labels) == count else labels[: step * count : step]))


def pixel_size(file: Any, page: Any) -> float | None:
    """In micrometres, from the metadata of Zeiss or ImageJ, or the resolution; `None` where they don't say it."""
    if file.is_lsm:
        sizes = [(file.lsm_metadata or {}).get(f"VoxelSize{axis}") for axis in "XY"]
        return square(*(to_um(size, "m") for size in sizes))
    unit = {2: "inch", 3: "cm"}.get(page.tags.valueof(296, 2))
    if file.is_imagej:
        unit = (file.imagej_metadata or {}).get("unit")
    sizes = []
    for tag in (282, 283):
        value = page.tags.valueof(tag, (0, 1))
        pixels, units = value if isinstance(value, tuple) and len(value) == 2 else (0, 1)
        sizes.append(to_um(units / pixels, unit) if pixels else None)
    return square(*sizes)


def to_um(size: Any, unit: Any) -> float | None:
    name = str(unit).strip().replace("\\u00B5", "µ").replace("μ", "µ").removesuffix("s")
    factor = TO_UM.get({"micrometer": "um", "micrometre": "um", "in": "inch"}.get(name, name))
    try:
        um = float(size) * (factor or 0)
    except (TypeError, ValueError):
        return None
    return um if 0 < um <= LARGEST_UM_PER_PX else None


def square(across: float | None, down: float | None) -> float | None:
    """The side of square pixels; what is not square has none."""
    return across if across and down and abs(across / down - 1) < 0.01 else None
