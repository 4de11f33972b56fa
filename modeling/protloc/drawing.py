"""Records and a nucleus -> an image of each protein in that cell."""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel

from . import ASSETS
from .batching import token_budget_batches
from .images import Picture, read_image
from .loading import check_finite, check_tokenizer, choose_device, model_path, naming
from .microscopy import MAX_UM_PER_PX, MIN_UM_PER_PX, OPENCELL_UM_PER_PX, normalize, nucleus_found, rescale
from .models.image_processing_deepgps import MAX_DRAWN_PIXELS
from .models.protein_sequence import clean_sequence
from .nuclei import NUCLEUS_UM, estimate_um_per_px

logger = logging.getLogger(__name__)

DEFAULT_MODEL = ASSETS / "deepgps"
NEAR = 1.4  # factor between pixel sizes at which nuclei of one size or the other are both common
_PIXELS = 8 * 208**2  # drawn at once
_CHUNK = 64  # records that are sorted by length together


def load_model(
    model: str | Path = DEFAULT_MODEL, device: str = "auto", dtype: str = "float32", structures: bool = False
) -> tuple[PreTrainedModel, Any]:
    """
    A deepGPS in evaluation mode, and its processor.

    Args:
        model (`str` or `Path`): Folder or Hub name.
        device, dtype (`str`): As for `protloc.loading.load_model`.
        structures (`bool`): Whether structures of the proteins are given.

    Raises:
        ValueError: In one sentence, if the model can't be loaded, is of another kind, or if it reads structures but
            none are given, or the reverse.
    """
    device, torch_dtype = choose_device(device, dtype)
    with naming(model):
        config = AutoConfig.from_pretrained(model_path(model), trust_remote_code=False)
        if config.model_type != "deepgps":
            raise ValueError(f"it is a {config.model_type} model, and only a deepgps model draws")
        if "structure" in config.inputs and not structures:
            raise ValueError("it reads structures: name them with --structure, or use the pipeline")
        if structures and "structure" not in config.inputs:
            raise ValueError("it reads no structures: leave --structure out")
        loaded = AutoModel.from_pretrained(model_path(model), dtype=torch_dtype, trust_remote_code=False)
        check_finite(loaded)
        processor = AutoProcessor.from_pretrained(model_path(model), trust_remote_code=False)
        check_tokenizer(processor.tokenizer, config.backbone_config.vocab_size)
        return loaded.to(device).eval(), processor


@dataclass(frozen=True)
class Nucleus:
    """
    The nucleus that proteins are drawn on.

    Attributes:
        name (`str`): Name of its file, or `"default"`.
        pixels (`torch.Tensor` of shape `(1, 1, H, W)`): In [0, 1], of 0.206 um.
        found (`bool`): Whether a nucleus is found in the image.
    """

    name: str
    pixels: torch.Tensor
    found: bool

    @property
    def digest(self) -> str:
        return hashlib.sha1(self.pixels.numpy().tobytes()).hexdigest()[:12]


def read_nucleus(
    name: str,
    processor: Any,
    channel: str | int | None = None,
    page: int | None = None,
    project: str | None = None,
    um_per_px: float | None = None,
) -> Nucleus:
    """
    A nucleus to draw on, at the pixel size of the training images; warns if no nucleus is found.

    Args:
        name (`str`): A file, or `"default"`.
        processor: From `load_model`.
        channel, page, project: As for `read_image`.
        um_per_px (`float`, *optional*): Pixel size of the file in micrometres. By default from the file's metadata, or
            else by `guess_pixel_size`.

    Raises:
        ValueError: In one sentence, as `read_image`, and for an invalid pixel size and images that are too large.
    """
    if name == "default":
        picture = Picture(np.asarray(processor.image_processor.default_image(), dtype=np.float32))
    else:
        picture = read_image(name, channel, page, project)
    size = um_per_px or picture.um_per_px
    if um_per_px is None and size is not None and not MIN_UM_PER_PX <= size <= MAX_UM_PER_PX:
        size = None  # of a print, not of a microscope
    if size is None:
        size = OPENCELL_UM_PER_PX if name == "default" else guess_pixel_size(name, picture.pixels)
    if not MIN_UM_PER_PX <= size <= MAX_UM_PER_PX:
        raise ValueError(f"the pixel size must be from {MIN_UM_PER_PX} to {MAX_UM_PER_PX} micrometres, got {size}")
    pixels = picture.pixels.size * (size / OPENCELL_UM_PER_PX) ** 2
    if pixels > MAX_DRAWN_PIXELS:
        raise ValueError(
            f"{name}: {picture.pixels.shape[1]} x {picture.pixels.shape[0]} pixels of {size:g} um are "
            f"{pixels:,.0f} of {OPENCELL_UM_PER_PX} um, at most {MAX_DRAWN_PIXELS:,} are drawn: cut out a part of it"
        )
    if abs(size / OPENCELL_UM_PER_PX - 1) > 0.02:
        logger.warning("%s: its pixels of %.3g um are made %s um", name, size, OPENCELL_UM_PER_PX)
    else:
        size = OPENCELL_UM_PER_PX
    scaled = rescale(picture.pixels, size, OPENCELL_UM_PER_PX)
    found = nucleus_found(scaled, OPENCELL_UM_PER_PX)
    if not found:
        logger.warning(
            "%s: what is drawn on it means little: give a picture of a nuclear stain, and if it is one, its channel "
            "(--nucleus-channel) and pixel size (--nucleus-um-per-px)",
            name,
        )
    return Nucleus(name, processor.image_processor(scaled)["nucleus"], found)


def guess_pixel_size(name: str, nucleus: np.ndarray) -> float:
    """
    Micrometres of a pixel, by the size of the nuclei: OpenCell's 0.206, from which the model learnt, if that may be.
    Warns of what it takes.
    """
    size, why = estimate_um_per_px(normalize(nucleus)), f"with which its nuclei are {NUCLEUS_UM:g} um wide"
    if size is None or 1 / NEAR <= size / OPENCELL_UM_PER_PX <= NEAR:
        size, why = OPENCELL_UM_PER_PX, "as in the images that the model learnt from"
    size = float(np.clip(size, MIN_UM_PER_PX, MAX_UM_PER_PX))
    logger.warning(
        "%s does not say how large a pixel is: %.3g um are assumed, %s. If you know better, give --nucleus-um-per-px",
        *(name, size, why),
    )
    return size


@torch.inference_mode()
def draw(
    records: Iterable[tuple[str, str]],
    nucleus: torch.Tensor,
    model: Any,
    processor: Any,
    max_tokens_per_batch: int = 16_384,
    num_samples: int = 1,
    seed: int = 0,
    clouds: Callable[[str, str], np.ndarray] | None = None,
    cell_line: str | None = None,
) -> Iterator[dict[str, Any]]:
    """
    Draw a stream of proteins in their order, in bounded memory.

    Args:
        records: Pairs of id and sequence.
        nucleus (`torch.Tensor` of shape `(1, 1, H, W)`): From the processor.
        model, processor: From `load_model`.
        max_tokens_per_batch (`int`): Maximum tokens of sequences that are encoded at once, including padding.
        num_samples (`int`), seed (`int`): For diffusion; a protein's noise doesn't depend on the others.
        clouds (*optional*): For models that read structures: a function that returns the point cloud for an id and its
            sequence, such as `Structures.cloud`.
        cell_line (`str`, *optional*): One of the model's cell lines; unknown by default.

    Yields:
        `dict`: `protein_id`, `label` and `scores` (by label; empty without a label head), and `image` and
        `uncertainty`, float32 of shape `(H, W)` in [0, 1].
    """
    nucleus = nucleus.to(model.device)
    line = torch.tensor([model.config.cell_line_index(cell_line)], device=model.device)
    at_once = max(1, _PIXELS // nucleus.numel())
    iterator = iter(records)
    while chunk := list(islice(iterator, _CHUNK)):
        drawn: list[dict[str, Any]] = [{}] * len(chunk)
        for part in token_budget_batches([len(sequence) for _, sequence in chunk], max_tokens_per_batch):
            if model.reads_sequence:
                tokens = processor.tokenize([chunk[i][1] for i in part])
                inputs = {name: tensor.to(model.device) for name, tensor in tokens.items()}
                residues = model.residue_mask(inputs["input_ids"], inputs["attention_mask"])
                states = model.encode_sequence(inputs["input_ids"], inputs["attention_mask"])
            for start in range(0, len(part), at_once):
                rows = slice(start, start + at_once)
                known: dict[str, torch.Tensor] = {}
                if model.reads_sequence:
                    known |= {"residue_embeddings": states[rows], "residue_mask": residues[rows]}
                if clouds is not None:
                    found = [clouds(chunk[i][0], clean_sequence(chunk[i][1])) for i in part[rows]]
                    known["structure"] = torch.tensor(np.stack(found)).to(model.device)
                outputs = model.generate(
                    nucleus.expand(len(part[rows]), -1, -1, -1),
                    **known,
                    cell_line=line.expand(len(part[rows])),
                    num_samples=num_samples,
                    generator=torch.Generator().manual_seed(seed),
                )
                for row, i in enumerate(part[rows]):
                    label, scores = model.name_labels(outputs.logits[row]) if model.config.classify else ("", {})
                    drawn[i] = {
                        "protein_id": chunk[i][0],
                        "label": label,
                        "scores": scores,
                        "image": outputs.protein_image[row, 0].float().cpu().numpy(),
                        "uncertainty": outputs.uncertainty[row, 0].float().cpu().numpy(),
                    }
        yield from drawn


def save_image(image: np.ndarray, path: Path, description: str, um_per_px: float = OPENCELL_UM_PER_PX) -> None:
    """
    Write an image `(H, W)` in [0, 1] as `path` with `.png` (8 bit) and with `.tif` (16 bit, in ImageJ's format), both
    with a description and the pixel size.
    """
    pixels = np.clip(image, 0, 1)
    text = PngInfo()
    text.add_itxt("Description", description)
    dpi = (25400 / um_per_px,) * 2
    Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(f"{path}.png", pnginfo=text, dpi=dpi)
    tifffile.imwrite(
        f"{path}.tif",
        np.round(pixels * 65535).astype(np.uint16),
        imagej=True,
        resolution=(1 / um_per_px,) * 2,
        metadata={"unit": "um", "Info": description.encode("ascii", "backslashreplace").decode()},
    )
