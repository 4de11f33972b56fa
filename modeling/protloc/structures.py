"""Protein structures (PDB, mmCIF, plain or gzipped) as point clouds."""

import logging
import math
from pathlib import Path

import gemmi
import numpy as np

logger = logging.getLogger(__name__)

ELEMENTS = ["C", "O", "N"]  # the channels behind the three coordinates


def point_cloud(path: str | Path, num_points: int = 2048, seed: int = 0, min_plddt: float | None = None) -> np.ndarray:
    """
    Sample atoms of a protein (deepGPS, "Structure": coordinates and C / O / N channels).

    Hydrogens, water, ligands and alternative conformers are left out; of several models the first is read. A file with
    CA atoms only gives the trace of its CA atoms, with a warning.

    Args:
        path (`str` or `Path`): PDB or mmCIF file, also gzipped; told apart by content.
        num_points (`int`): Atoms to sample: without repetition where there are enough, else every atom and then some
            again (which changes nothing for a model that takes the maximum over points, as PointNet does).
        seed (`int`): Of the sample.
        min_plddt (`float`, *optional*): Leave out residues that AlphaFold is less sure of; it writes this confidence
            (0-100) in place of the B factor, so give it for AlphaFold models only.

    Returns:
        `np.ndarray`: float32 of shape `(num_points, 6)`: x, y, z centred on the mean and divided by the largest
        distance from it, then 0 / 1 for carbon, oxygen and nitrogen (a sulphur has none).

    Raises:
        ValueError: In one sentence, for a missing or unreadable file, and one without protein atoms.
    """
    positions, elements, names = _atoms(path, min_plddt)
    if set(names) == {"CA"}:
        logger.warning("%s holds CA atoms only: the cloud is the trace of the main chain", path)
    generator = np.random.default_rng(seed)
    rounds = math.ceil(num_points / len(positions))
    order = np.concatenate([generator.permutation(len(positions)) for _ in range(rounds)])[:num_points]
    coordinates = positions[order] - positions.mean(axis=0)
    size = np.linalg.norm(positions - positions.mean(axis=0), axis=1).max()
    coordinates /= max(size, 1.0)  # a single atom stays where it is
    channels = np.array(elements)[order, None] == np.array(ELEMENTS)
    return np.concatenate([coordinates, channels], axis=1).astype(np.float32)


def _atoms(path: str | Path, min_plddt: float | None) -> tuple[np.ndarray, list[str], list[str]]:
    """Positions in angstrom `(atoms, 3)`, elements and atom names of the protein chains."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        structure = gemmi.read_structure(str(path), format=gemmi.CoorFormat.Detect)
    except (RuntimeError, ValueError, OSError) as error:
        raise ValueError(f"{path}: no PDB or mmCIF file that can be read: {str(error).splitlines()[0]}") from None
    positions, elements, names = [], [], []
    seen = 0
    for chain in structure[0] if len(structure) else []:
        for residue in chain.first_conformer():
            if not gemmi.find_tabulated_residue(residue.name).is_amino_acid():
                continue
            for atom in residue.first_conformer():
                seen += 1
                if atom.element.name not in ("H", "D") and (min_plddt is None or atom.b_iso >= min_plddt):
                    positions.append(atom.pos.tolist())
                    elements.append(atom.element.name)
                    names.append(atom.name)
    if not seen:
        raise ValueError(f"{path}: holds no atom of a protein")
    if not positions:
        raise ValueError(f"{path}: no residue has a pLDDT of {min_plddt:g} or more")
    return np.array(positions), elements, names
