"""Where sorting signals begin and end: segments of residues from their probabilities."""

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
        probabilities (`torch.Tensor` of shape `(length, 10)`): Of each residue: of no signal, and of each in the order
            of `SORTING_SIGNALS`.

    Returns:
        `list[dict]`: From the first residue to the last: `type`, `start` and `end` (residues, the first is 1, both
        included) and `probability`, the mean over the segment.
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
