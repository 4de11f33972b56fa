"""A protein's text -> the windows that DeepLoc reads, and their predictions -> one for the protein."""

from collections.abc import Sequence
from typing import Any

import torch

from .configuration_deeploc import SORTING_SIGNALS, DeepLocConfig
from .protein_sequence import clean_sequence, sequence_items, split_windows, tokenize, warned, window_text
from .segments_deeploc import find_segments


class WindowsMixin:
    """What [`DeepLocForSequenceClassification`] does before and after its `forward`."""

    config: DeepLocConfig

    # For the pipeline, which is copied with the weights and imports nothing of ours.
    sequence_items = staticmethod(sequence_items)
    warned = staticmethod(warned)
    find_segments = staticmethod(find_segments)

    def prepare_sequence(self, text: Any) -> tuple[str, list[list[slice]]]:
        """
        Clean a sequence and apply the configuration's length policy.

        Returns:
            `tuple[str, list[list[slice]]]`: The whole sequence, and its windows, each composed of slices.

        Raises:
            ValueError: If the text is not a protein sequence, or too long with the policy `"error"`.
        """
        whole = clean_sequence(text)
        return whole, split_windows(len(whole), self.config.max_length, self.config.length_policy)

    def window_text(self, whole: str, window: list[slice]) -> str:
        """The tokenizer's input for one window of a sequence."""
        return window_text(whole, window, self.config.spaced_residues)

    def tokenize(self, whole: str, windows: Sequence[list[slice]], tokenizer: Any) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` `(windows, tokens)` of windows of one sequence."""
        return tokenize([self.window_text(whole, window) for window in windows], tokenizer)

    @staticmethod
    def merge_windows(
        length: int, windows: Sequence[list[slice]], outputs: Sequence[dict[str, torch.Tensor]]
    ) -> dict[str, torch.Tensor]:
        """
        Average the outputs of a protein's windows.

        Args:
            length (`int`): Number of residues of the protein.
            windows (`Sequence[list[slice]]`): From `prepare_sequence`.
            outputs (`Sequence[dict[str, torch.Tensor]]`): For each window, without the batch: `logits (num_labels,)`,
                `membrane_logits ()` and other heads' logits, and optionally `attention (residues of the window,)` and
                the probabilities `residue_signals (residues of the window, 10)`.

        Returns:
            `dict[str, torch.Tensor]`: The same names, with `attention (length,)` and `residue_signals (length, 10)`.
            Residues outside all windows have attention 0 and no signal.

        Raises:
            ValueError: If a number is NaN or infinite.
        """
        heads = [name for name in outputs[0] if name not in ("attention", "residue_signals")]
        merged = {name: torch.stack([output[name] for output in outputs]).mean(dim=0) for name in heads}
        positions = [torch.cat([torch.arange(piece.start, piece.stop) for piece in window]) for window in windows]
        if "attention" in outputs[0]:
            merged["attention"] = torch.zeros(length)
            for place, output in zip(positions, outputs, strict=True):
                merged["attention"][place] += output["attention"].float().cpu() / len(windows)
        if "residue_signals" in outputs[0]:
            total, counts = torch.zeros(length, 1 + len(SORTING_SIGNALS)), torch.zeros(length, 1)
            for place, output in zip(positions, outputs, strict=True):
                total[place] += output["residue_signals"].float().cpu()
                counts[place] += 1
            total[counts[:, 0] == 0, 0] = 1
            merged["residue_signals"] = total / counts.clamp(min=1)
        if not all(values.isfinite().all() for values in merged.values()):
            raise ValueError("the model answers with NaN or infinite numbers: its weights or its inputs are damaged")
        return merged
