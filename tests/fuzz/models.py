"""
Model folders, of which one file is damaged: a case is the name of the file in a line, and what is in it.

What loads has to answer, with numbers that are finite, or to refuse in one sentence.
"""

import contextlib
import functools
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, EsmConfig, EsmModel, pipeline
from transformers.utils import logging

from protloc import ASSETS, DeepGPSImageProcessor, DeepGPSProcessor, drawing
from protloc.embedding import Encoder
from protloc.loading import load_model
from protloc.prediction import predict
from tests.fuzz.mutations import check_sentence
from tests.helpers import TINY_ESM, tiny_deepgps, tiny_deeploc

SEQUENCE = "MKTAYIAKQR"


@functools.cache
def whole(kind: str) -> tempfile.TemporaryDirectory:
    """A small model of each kind, as `save_pretrained` leaves it."""
    torch.set_num_threads(1)  # a fork has no threads
    logging.disable_progress_bar()
    folder = tempfile.TemporaryDirectory()
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "deeploc")
    if kind == "deeploc":
        pipeline("protein-localization", model=tiny_deeploc(), tokenizer=tokenizer).save_pretrained(folder.name)
    elif kind == "deepgps":
        nucleus = DeepGPSImageProcessor.from_pretrained(ASSETS / "deepgps").default_nucleus
        processor = DeepGPSProcessor(tokenizer, DeepGPSImageProcessor(default_nucleus=nucleus))
        model = tiny_deepgps(objective="diffusion", num_inference_steps=1)
        pipeline("protein-imaging", model=model, processor=processor).save_pretrained(folder.name)
    else:
        EsmModel(EsmConfig(**TINY_ESM)).save_pretrained(folder.name)
        tokenizer.save_pretrained(folder.name)
    return folder


def files(kind: str) -> list[bytes]:
    """Text more often than weights, of which all but the header are numbers."""
    root = Path(whole(kind).name)
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".json", ".txt", ".safetensors"))
    again = [path for path in paths if path.name in ("config.json", "tokenizer_config.json")]
    return [f"{path.relative_to(root)}\n".encode() + path.read_bytes() for path in paths + again * 2]


@contextlib.contextmanager
def damaged(kind: str, case: Path) -> Iterator[Path]:
    """The folder with the file of a case in it."""
    source = Path(whole(kind).name)
    name, _, content = case.read_bytes().partition(b"\n")
    known = {str(path.relative_to(source)): path for path in source.rglob("*") if path.is_file()}
    if (text := name.decode(errors="replace")) not in known:
        raise ValueError("no file of the folder")
    with tempfile.TemporaryDirectory() as folder:
        for other, path in known.items():
            there = Path(folder) / other
            there.parent.mkdir(exist_ok=True)
            if other == text:
                there.write_bytes(content)
            else:
                there.symlink_to(path)
        yield Path(folder)


def loaded(load: Any, folder: Path) -> Any:
    try:
        return load(str(folder))
    except ValueError as error:
        check_sentence(error, f"cannot load the model {str(folder)!r}: ")
        raise


def deeploc() -> list[bytes]:
    return files("deeploc")


def try_deeploc(case: Path) -> None:
    with damaged("deeploc", case) as folder:
        model, tokenizer = loaded(load_model, folder)
        try:
            (row,) = predict([("a", SEQUENCE)], model, tokenizer)
        except ValueError as error:
            check_sentence(error, "")
            raise
    assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), row


def deepgps() -> list[bytes]:
    return files("deepgps")


def try_deepgps(case: Path) -> None:
    with damaged("deepgps", case) as folder:
        model, processor = loaded(drawing.load_model, folder)
        try:
            nucleus = processor.image_processor([None])["nucleus"][..., :32, :32]
            (drawn,) = drawing.draw([("a", SEQUENCE)], nucleus, model, processor)
        except ValueError as error:
            check_sentence(error, "")
            raise
    assert drawn["image"].shape == (32, 32)


def encoder() -> list[bytes]:
    return files("encoder")


def try_encoder(case: Path) -> None:
    with damaged("encoder", case) as folder:
        read = loaded(Encoder, folder)
        try:
            [(_, states)] = read.states([SEQUENCE])
        except ValueError as error:
            check_sentence(error, "")
            raise
    assert states.isfinite().all() and len(states) == len(SEQUENCE)
