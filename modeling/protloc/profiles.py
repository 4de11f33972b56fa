"""Protein profiles: PSI-BLAST's ASCII position-specific scoring matrices (PSSM)."""

from pathlib import Path

import numpy as np
from scipy.special import expit

from .models.protein_sequence import AMINO_ACIDS, OTHER_RESIDUES, clean_sequence
from .models.residue_features import RESIDUES
from .text_files import SequenceError, open_text, read_lines

_RESIDUES = set(AMINO_ACIDS + OTHER_RESIDUES)


def read_pssm(path: str | Path) -> tuple[str, np.ndarray]:
    """
    Read what `psiblast -out_ascii_pssm` wrote, plain or gzipped.

    Args:
        path (`str` or `Path`)

    Returns:
        `tuple[str, np.ndarray]`: The sequence, and float32 of shape `(length, 20)`: log-odds scores through a logistic
        function, so in [0, 1], columns in the file's order `ARNDCQEGHILKMFPSTWYV`.

    Raises:
        SequenceError: Naming the file and the line, if there is no such file or it is no such matrix.
    """
    name = str(path)
    residues: list[str] = []
    scores: list[list[float]] = []
    header = False
    for line, text in read_lines(open_text(path), name):
        words = text.split()
        if not header:
            header = words[:20] == list(RESIDUES)
        elif words and words[0].isdigit():
            try:
                scores.append([float(word) for word in words[2:22]])
            except ValueError:
                raise SequenceError(name, f"{' '.join(words[2:22])!r} are not 20 scores", line=line) from None
            if int(words[0]) != len(scores) or len(scores[-1]) != 20:
                raise SequenceError(name, f"expected position {len(scores)} with 20 scores", line=line)
            if not np.isfinite(scores[-1]).all():
                raise SequenceError(name, f"{' '.join(words[2:22])!r} are not 20 finite scores", line=line)
            if words[1].upper() not in _RESIDUES:
                raise SequenceError(name, f"{words[1]!r} at position {len(scores)} is no residue", line=line)
            residues.append(words[1])
        elif scores:
            break  # below the matrix stand statistics
    if not scores:
        raise SequenceError(name, "no PSSM as psiblast -out_ascii_pssm writes it")
    return "".join(residues), expit(np.array(scores)).astype(np.float32)


def protein_profile(folder: Path, protein_id: str, sequence: str) -> np.ndarray:
    """
    The profile `<id>.pssm` or `<id>.pssm.gz` of one protein.

    Raises:
        SequenceError: As `read_pssm`, and if the profile is of another sequence.
    """
    path = folder / f"{protein_id}.pssm"
    if not path.exists() and path.with_name(path.name + ".gz").exists():
        path = path.with_name(path.name + ".gz")
    residues, profile = read_pssm(path)
    residues = clean_sequence(residues)  # as all sequences are: J is read as X
    if residues != sequence:
        raise SequenceError(str(path), f"is of another sequence than {protein_id!r}: {_difference(residues, sequence)}")
    return profile


def check_profile(profile: np.ndarray, length: int, protein_id: str) -> np.ndarray:
    """
    The profile that a Python program gives, as float32 `(length, 20)`.

    Raises:
        ValueError: If it has another shape, or numbers that are not finite.
    """
    found = np.asarray(profile, dtype=np.float32)
    if found.shape != (length, 20) or not np.isfinite(found).all():
        raise ValueError(
            f"the profile of {protein_id!r} must be {length} rows of 20 finite numbers: it is {found.shape}"
        )
    return found


def _difference(residues: str, sequence: str) -> str:
    if len(residues) != len(sequence):
        return f"{len(residues)} residues, not {len(sequence)}"
    position = next(i for i, (one, other) in enumerate(zip(residues, sequence, strict=True)) if one != other)
    return f"{residues[position]} at position {position + 1}, not {sequence[position]}"
