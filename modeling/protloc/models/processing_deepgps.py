"""A protein and a nucleus -> the input tensors of deepGPS."""

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .protein_sequence import clean_sequence, sequence_items, tokenize, warned


class DeepGPSProcessor(ProcessorMixin):
    """
    Tokenizer and image processor of deepGPS in one.

    Args:
        tokenizer: The sequence encoder's tokenizer.
        image_processor ([`DeepGPSImageProcessor`])
    """

    warned = staticmethod(warned)  # for the pipeline, which is copied with the weights and imports nothing of ours

    def __init__(self, tokenizer=None, image_processor=None, **kwargs):
        super().__init__(tokenizer=tokenizer, image_processor=image_processor, **kwargs)

    def __call__(
        self,
        text: Any = None,
        images: Any = None,
        structure: np.ndarray | list[np.ndarray] | None = None,
        return_tensors: str | None = "pt",
        channel: str | int | None = None,
        page: int | None = None,
        project: str | None = None,
    ) -> BatchFeature:
        """
        Args:
            text (`str` or `list[str]`, *optional*): Sequences in one-letter codes; lower case, gaps and a trailing `*`
                are accepted. Can be any iterable of them, and Biopython's `Seq` and `SeqRecord`.
            images (*optional*): Nuclei: an image (PIL, array, path, bytes or data URL) at OpenCell's 0.206 um per
                pixel, as in training. One for all proteins, or a list with one for each; `None` stands for the default
                nucleus.
            structure (*optional*): A point cloud `(points, 6)` from `protloc.structures.point_cloud`, or a list.
            return_tensors (`str`): Only `"pt"`, for torch, is supported; `None` means the same.
            channel, page, project: Selection from the nucleus's file, as for `read_image`.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(batch, length)`, `nucleus` `(batch, 1, H, W)`, and
            `structure` `(batch, points, 6)` if given, as torch tensors.

        Raises:
            ValueError: For text that is not a sequence, a bad image, and lists of different lengths.
        """
        if return_tensors not in ("pt", None):
            raise ValueError(f"deepGPS reads torch tensors: return_tensors must be 'pt', got {return_tensors!r}")
        sequences = [] if text is None else sequence_items(text)
        clouds = [structure] if isinstance(structure, np.ndarray) else list(structure or [])
        if sequences and clouds and len(sequences) != len(clouds):
            raise ValueError(f"{len(sequences)} sequences and {len(clouds)} structures: give one for each protein")
        proteins = max(len(sequences), len(clouds))
        if proteins == 0:
            raise ValueError("give a sequence, a structure, or both")
        nuclei = list(images) if isinstance(images, (list, tuple)) else [images] * proteins
        if len(nuclei) != proteins:
            raise ValueError(f"{proteins} proteins and {len(nuclei)} nuclei: give one for all, or one for each")

        inputs = dict(self.image_processor(nuclei, channel=channel, page=page, project=project))
        if sequences:
            inputs |= self.tokenize(sequences)
        if clouds:
            inputs["structure"] = torch.stack([torch.as_tensor(cloud, dtype=torch.float32) for cloud in clouds])
        return BatchFeature(inputs)

    def tokenize(self, sequences: list[str]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` `(batch, length)`; `ValueError` for a text that is no sequence."""
        return tokenize([clean_sequence(text) for text in sequences], self.tokenizer)


DeepGPSProcessor.register_for_auto_class()
