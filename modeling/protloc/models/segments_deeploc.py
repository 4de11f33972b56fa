"""Segments of sorting signals, from the probabilities of residues."""

import itertools
from typing import Any

import torch

from .configuration_deeploc import SORTING_SIGNALS

# Residues of the shortest segment of each kind; shorter ones are noise. The shortest targeting signal is SKL.
SHORTEST = {"SP": 10, "TM": 10, "MT": 8, "CH": 8, "TH": 8, "NLS": 4, "NES": 4, "PTS": 3, "GPI": 5}


def find_segments(probabilities: torch.Tensor) -> list[dict[str, Any]]:
    """
    The signals of one protein.

    Args:
        probabilities (`torch.Tensor` of shape `(length, 10)`): For each residue, the probabilities of no signal and of
            each signal in the order of `SORTING_SIGNALS`.

    Returns:
        `list[dict]`: In the order of the sequence: `type`, `start` and `end` (residues, counted from 1, both included)
        and `probability`, the mean over the segment.
    """
    names = list(SORTING_SIGNALS)
    segments = []
    start = 0
    for kind, residues in itertools.groupby(probabilities.argmax(dim=-1).tolist()):
        stop = start + len(list(residues))
        if kind and stop - start >= SHORTEST[names[kind - 1]]:
            probability = probabilities[start:stop, kind].mean().item()
            segments.append(
                {"type": names[kind - 1], "start": start + 1, "end": stop, "probability": round(probability, 4)}
            )
        start = stop
    return segments
