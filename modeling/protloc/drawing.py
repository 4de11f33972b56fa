"""Records and a nucleus -> what each protein looks like in that cell."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel

from . import ASSETS
from .batching import token_budget_batches
from .loading import check_finite, check_tokenizer, choose_device, model_path, naming

DEFAULT_MODEL = ASSETS / "deepgps"
_PIXELS = 8 * 208**2  # drawn at once
_CHUNK = 64  # records that are sorted by length together


def load_model(
    model: str | Path = DEFAULT_MODEL, device: str = "auto", dtype: str = "float32"
) -> tuple[PreTrainedModel, Any]:
    """
    A deepGPS ready to draw, and its processor.

    Args:
        model (`str` or `Path`): Folder or Hub name.
        device, dtype (`str`): As for `protloc.loading.load_model`.

    Raises:
        ValueError: In one sentence, if it can't be loaded, is of another kind, or reads structures.
    """
    device, torch_dtype = choose_device(device, dtype)
    with naming(model):
        config = AutoConfig.from_pretrained(model_path(model), trust_remote_code=False)
        if config.model_type != "deepgps":
            raise ValueError(f"it is a {config.model_type} model, and only a deepgps model draws")
        if "structure" in config.inputs:
            raise ValueError("it reads structures, which records of sequences don't have: use the pipeline")
        loaded = AutoModel.from_pretrained(model_path(model), dtype=torch_dtype, trust_remote_code=False)
        check_finite(loaded)
        processor = AutoProcessor.from_pretrained(model_path(model), trust_remote_code=False)
        check_tokenizer(processor.tokenizer, config.backbone_config.vocab_size)
        return loaded.to(device).eval(), processor


@torch.inference_mode()
def draw(
    records: Iterable[tuple[str, str]],
    nucleus: torch.Tensor,
    model: Any,
    processor: Any,
    max_tokens_per_batch: int = 16_384,
    num_samples: int = 1,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """
    Draw proteins as they come, in their order, in bounded memory.

    Args:
        records: Pairs of id and sequence.
        nucleus (`torch.Tensor` of shape `(1, 1, H, W)`): As the processor gives it.
        model, processor: As `load_model` gives them.
        max_tokens_per_batch (`int`): Of sequences that are encoded at once, padding included.
        num_samples (`int`), seed (`int`): For diffusion; a protein's noise doesn't depend on the others.

    Yields:
        `dict`: `protein_id`, `label` and `scores` (by label; empty without a label head), and `image` and
        `uncertainty`, float32 of shape `(H, W)` in [0, 1].
    """
    nucleus = nucleus.to(model.device)
    at_once = max(1, _PIXELS // nucleus.numel())
    iterator = iter(records)
    while chunk := list(islice(iterator, _CHUNK)):
        drawn: list[dict[str, Any]] = [{}] * len(chunk)
        for part in token_budget_batches([len(sequence) for _, sequence in chunk], max_tokens_per_batch):
            tokens = processor.tokenize([chunk[i][1] for i in part])
            inputs = {name: tensor.to(model.device) for name, tensor in tokens.items()}
            mask = inputs["attention_mask"].bool()
            states = model.encode_sequence(inputs["input_ids"], inputs["attention_mask"])
            for start in range(0, len(part), at_once):
                rows = slice(start, start + at_once)
                length = int(mask[rows].sum(dim=1).max()) - 2
                outputs = model.generate(
                    nucleus.expand(len(part[rows]), -1, -1, -1),
                    residue_embeddings=states[rows, 1 : length + 1],  # the residues
                    residue_mask=mask[rows, 2 : length + 2],
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


def save_image(image: np.ndarray, path: Path) -> None:
    """Write an image `(H, W)` in [0, 1] as `path` with `.png` (8 bit) and with `.tif` (16 bit)."""
    pixels = np.clip(image, 0, 1)
    Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(path.with_name(path.name + ".png"))
    Image.fromarray(np.round(pixels * 65535).astype(np.uint16)).save(path.with_name(path.name + ".tif"))
