"""A protein and a nucleus as people have them -> the tensors that deepGPS reads."""

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .protein_sequence import clean_sequence, sequence_items, tokenize, warned


class DeepGPSProcessor(ProcessorMixin):
    """
    Tokenizer and image processor of deepGPS in one.

    Args:
        tokenizer: Of the sequence encoder.
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
            text (`str` or `list[str]`, *optional*): Sequences: one-letter codes; lower case, gaps and a trailing `*`
                are fine. Any iterable of them is taken, and Biopython's `Seq` and `SeqRecord`.
            images (*optional*): Nuclei: an image (PIL, array, path, bytes or data URL), of OpenCell's 0.206 um a pixel,
                as the model learnt them; one for all proteins or a list with one for each; the default where it is
                `None`.
            structure (*optional*): A point cloud `(points, 6)`, as `protloc.structures.point_cloud` gives, or a list.
            return_tensors (`str`): `"pt"`, for torch, is the only one; `None` means it too.
            channel, page, project: Of the nucleus's file, as for `read_image`.

        Returns:
            `BatchFeature`: `input_ids` and `attention_mask` `(batch, length)`, `nucleus` `(batch, 1, H, W)`, and
            `structure` `(batch, points, 6)` if given, as torch tensors.

        Raises:
            ValueError: For a text that is no sequence, a bad image, and lists of different lengths.
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
