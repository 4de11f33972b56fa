"""The readers that are tried, each with small whole files to damage."""

import gzip
import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gemmi
import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from protloc.images import read_image, read_two_channels
from protloc.microscopy import normalize
from protloc.structures import point_cloud
from tests.fuzz import models, texts
from tests.fuzz.mutations import check_sentence, mutate, mutate_file


class Reader(NamedTuple):
    name: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], None]  # `ValueError` for a file that it refuses; raises for a result that is wrong
    mutate: Callable[[bytes, list[bytes], random.Random], bytes] = mutate


def tiff(image: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def images() -> list[bytes]:
    generator = np.random.default_rng(0)
    grey = (generator.random((40, 56)) * 4000).astype(np.uint16)
    small, colours, pair = (grey >> 4).astype(np.uint8), np.stack([grey, grey // 2, grey // 3], 2), np.stack([grey] * 2)
    stack = np.stack([pair, pair // 2, pair // 3])
    um = {"PhysicalSizeX": 0.1, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.1, "PhysicalSizeYUnit": "µm"}
    found = [
        tiff(grey),
        tiff(small, photometric="miniswhite", byteorder=">"),
        tiff(grey.astype(np.float32), bigtiff=True),
        tiff(small, photometric="palette", colormap=np.arange(768, dtype=np.uint16).reshape(3, 256) * 80),
        tiff(colours, photometric="rgb", planarconfig="separate"),
        tiff(np.moveaxis(pair, 0, 2), photometric="minisblack", planarconfig="contig"),
        tiff(pair, compression="lzw", tile=(16, 16), predictor=True, photometric="minisblack"),
        tiff(stack, imagej=True, metadata={"axes": "ZCYX", "unit": "um", "Labels": ["DAPI", "GFP"] * 3}),
        tiff(stack, ome=True, metadata={"axes": "ZCYX", "Channel": {"Name": ["DAPI", "GFP"]}, **um}),
        tiff(stack, ome=True, metadata={"axes": "ZCYX"}, compression="zstd", rowsperstrip=5),
        *(tiff(grey, compression=name, tile=(16, 32)) for name in ("zlib", "jpeg2000", "packbits", "jpegxr")),
        *(tiff(small, compression=name, rowsperstrip=16) for name in ("jpeg", "png")),
        tiff(colours.astype(np.uint8), compression="jpeg", photometric="rgb", subsampling=(2, 2)),
        imagecodecs.png_encode(colours),
        imagecodecs.jpeg2k_encode(colours, level=0),
        gzip.compress(tiff(small)),
    ]
    for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "JPEG2000"):
        for image in (Image.fromarray(small), Image.fromarray(colours.astype(np.uint8))):
            buffer = io.BytesIO()
            image.save(buffer, kind)
            found.append(buffer.getvalue())
    return found


def try_image(path: Path) -> None:
    refusals = []
    for read in (read_image, lambda path: read_image(path, channel=0, page=0), read_two_channels):
        try:
            result = read(path)
        except ValueError as error:
            refusals.append(error)
            continue
        for pixels in result if isinstance(result, tuple) else (result.pixels,):
            assert pixels.ndim == 2 and pixels.dtype == np.float32 and np.isfinite(pixels).all()
            if pixels.min() < pixels.max():
                assert np.isfinite(normalize(pixels)).all()
    for error in refusals:
        check_sentence(error, path)
    if len(refusals) == 3:
        raise refusals[0]


def structures() -> list[bytes]:
    structure = gemmi.Structure()
    model, generator = gemmi.Model(1), np.random.default_rng(0)
    for name, sequence in (("A", "MKVAAGHC"), ("B", "GGSW")):
        chain = gemmi.Chain(name)
        for number, residue_name in enumerate(gemmi.expand_one_letter_sequence(sequence, gemmi.ResidueKind.AA), 1):
            residue = gemmi.Residue()
            residue.name, residue.seqid = residue_name, gemmi.SeqId(str(number))
            for atom_name in ("N", "CA", "C", "O", "CB"):
                atom = gemmi.Atom()
                atom.name, atom.element, atom.b_iso = atom_name, gemmi.Element(atom_name[0]), 80
                atom.pos = gemmi.Position(*generator.normal(0, 10, 3))
                residue.add_atom(atom)
            chain.add_residue(residue)
        model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    pdb, cif = structure.make_pdb_string().encode(), structure.make_mmcif_document().as_string().encode()
    return [pdb, cif, gzip.compress(pdb), b"\xef\xbb\xbf" + pdb.replace(b"HIS", b"HSD"), pdb.decode().encode("utf-16")]


def try_structure(path: Path) -> None:
    try:
        cloud = point_cloud(path, 64, sequence="MKVAAGHC")
    except ValueError as error:
        check_sentence(error, path)
        raise
    assert cloud.shape == (64, 6) and np.isfinite(cloud).all() and np.abs(cloud).max() <= 1.001


READERS = [
    Reader("images", images, try_image),
    Reader("structures", structures, try_structure),
    Reader("sequences", texts.sequences, texts.try_sequences),
    Reader("profiles", texts.profiles, texts.try_profile),
    Reader("exclusions", texts.exclusions, texts.try_exclusions),
    Reader("deeploc", models.deeploc, models.try_deeploc, mutate_file),
    Reader("deepgps", models.deepgps, models.try_deepgps, mutate_file),
    Reader("encoder", models.encoder, models.try_encoder, mutate_file),
]
