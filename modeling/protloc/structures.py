"""Protein structures (PDB, mmCIF, plain or gzipped) as point clouds."""

import gzip
import hashlib
import logging
import math
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .files import file_digest
from .loading import NEED_IMAGES
from .text_files import SequenceError

try:
    import gemmi
except ImportError:
    raise ImportError(NEED_IMAGES) from None

logger = logging.getLogger(__name__)

ELEMENTS = ["C", "O", "N"]  # the channels behind the three coordinates
MAX_BYTES = 256_000_000  # unpacked; the largest structure of the PDB has some 200 MB
MAX_COORDINATE = 1e5  # angstrom
MIN_IDENTITY = 0.8  # of a chain and the sequence that it should have

# Names of protonation states and terminal residues in AMBER, CHARMM and GROMACS
STATES = {"HID": "HIS", "HIE": "HIS", "HIP": "HIS", "HSD": "HIS", "HSE": "HIS", "HSP": "HIS", "CYX": "CYS"}
STATES |= {"CYM": "CYS", "CYN": "CYS", "ASH": "ASP", "GLH": "GLU", "LYN": "LYS", "LYP": "LYS", "LSN": "LYS"}
AMINO_ACIDS = gemmi.expand_one_letter_sequence("ACDEFGHIKLMNPQRSTVWY", gemmi.ResidueKind.AA)
LONG_NAMES = {end + name: name for name in [*AMINO_ACIDS, *STATES] for end in "NC"}
LONG_NAMES |= {f"HIS{state}": "HIS" for state in "ABDEHP12"} | {
    f"{name}H": name for name in ("ASP", "CYS", "GLU", "LYS")
}
LONG_NAMES |= {"CYS1": "CYS", "CYS2": "CYS", "LYSN": "LYS", "ARGN": "ARG", "ASPP": "ASP", "GLUP": "GLU"}
# The fourth letter stands where PDB leaves a blank
LONG_NAME = re.compile(rf"^((?:ATOM  |HETATM).{{11}})({'|'.join(LONG_NAMES)})", re.M)


class Atom(NamedTuple):
    name: str
    element: str
    position: list[float]  # angstrom
    plddt: float
    residue: str  # name and number


class Chain(NamedTuple):
    """A protein chain as it was seen, without hydrogens."""

    sequence: str
    atoms: list[Atom]


def point_cloud(
    path: str | Path,
    num_points: int = 2048,
    seed: int = 0,
    min_plddt: float | None = None,
    chain: str | None = None,
    sequence: str | None = None,
) -> np.ndarray:
    """
    Sample atoms of a protein (deepGPS, "Structure": coordinates and C / O / N channels).

    Hydrogens, water, ligands and alternative conformers are left out; of several models the first is read. A warning
    says where a file has several chains and none is chosen, holds residues that nothing is known of, CA atoms only, or
    no end.

    Args:
        path (`str` or `Path`): PDB or mmCIF file, also gzipped; told apart by content.
        num_points (`int`): Atoms to sample: without repetition where there are enough, else every atom and then some
            again (which changes nothing for a model that takes the maximum over points, as PointNet does).
        seed (`int`): Of the sample.
        min_plddt (`float`, *optional*): Leave out residues that AlphaFold is less sure of; it writes this confidence
            (0-100) in place of the B factor, so give it for AlphaFold models only.
        chain (`str`, *optional*): The one to read, by its name; `"1"`, `"2"`, ... where they have none.
        sequence (`str`, *optional*): Of the protein: the chain that fits it best is read, all with a warning if none
            does.

    Returns:
        `np.ndarray`: float32 of shape `(num_points, 6)`: x, y, z centred on the mean and divided by the largest
        distance from it, then 0 / 1 for carbon, oxygen and nitrogen (a sulphur has none).

    Raises:
        ValueError: In one sentence, for a missing, unreadable or cut-off file, one without protein atoms or without
            the chain, and coordinates that are no numbers.
    """
    if num_points < 1:
        raise ValueError(f"num_points must be 1 or more, got {num_points}")
    chains = choose(path, read_chains(path), chain, sequence)
    atoms = [atom for part in chains for atom in part.atoms if min_plddt is None or atom.plddt >= min_plddt]
    if not atoms:
        raise ValueError(f"{path}: no residue has a pLDDT of {min_plddt:g} or more")
    positions, elements = np.array([atom.position for atom in atoms]), np.array([atom.element for atom in atoms])
    wrong = ~(np.abs(positions) < MAX_COORDINATE).all(axis=1)
    if wrong.any():
        first = atoms[int(np.argmax(wrong))]
        raise ValueError(
            f"{path}: {int(wrong.sum())} of {len(atoms)} atoms have no usable coordinates, {first.name} of "
            f"{first.residue} first: mend the file"
        )
    if {atom.name for atom in atoms} == {"CA"}:
        logger.warning("%s holds CA atoms only: the cloud is the trace of the main chain", path)
    generator = np.random.default_rng(seed)
    rounds = math.ceil(num_points / len(positions))
    order = np.concatenate([generator.permutation(len(positions)) for _ in range(rounds)])[:num_points]
    coordinates = positions[order] - positions.mean(axis=0)
    size = np.linalg.norm(positions - positions.mean(axis=0), axis=1).max()
    coordinates /= max(size, 1.0)  # a single atom stays where it is
    channels = elements[order, None] == np.array(ELEMENTS)
    return np.concatenate([coordinates, channels], axis=1).astype(np.float32)


def structure_files(folder: str | Path) -> dict[str, Path]:
    """
    Files of a folder by each part of their names: `AF-P04637-F1-model_v6.pdb.gz` is found as `P04637`, and not by what
    all of AlphaFold's names share.
    """
    files: dict[str, Path] = {}
    for path in filter(Path.is_file, sorted(Path(folder).iterdir())):
        name = path.name.split(".")[0]
        parts = re.split(r"[-_]", re.sub(r"^AF-|-F\d+-model_v\d+$", "", name))
        for part in [name, *parts]:
            files.setdefault(part, path)
    return files


class Structures:
    """
    The structures of proteins, as the command line names them.

    Args:
        source (`Path`): A PDB or mmCIF file for all proteins, or a folder of files with the ids in their names.
        chain (`str`, *optional*): As for `point_cloud`; by default the chain that fits a protein's sequence.

    Raises:
        ValueError: If there is no such file or folder.
    """

    def __init__(self, source: Path, chain: str | None = None):
        if not source.exists():
            raise ValueError(f"{source}: there is no such file or folder")
        self.source, self.chain = source, chain
        self.files = structure_files(source) if source.is_dir() else {}
        self.cloud = lru_cache(maxsize=1000)(self._read_cloud)  # what is checked first is read once

    @property
    def digest(self) -> str:
        digest = hashlib.sha1()
        for path in sorted(set(self.files.values())) or [self.source]:
            digest.update(f"{path.name} {file_digest(path)}".encode())
        return digest.hexdigest()[:12]

    def _read_cloud(self, protein_id: str, sequence: str) -> np.ndarray:
        """`point_cloud` of one protein; `SequenceError` if it has none, or one that can't be read."""
        found = [self.files[name] for name in (protein_id, *protein_id.split("|")) if name in self.files]
        if self.files and not found:
            raise SequenceError(str(self.source), "no file has this id in its name", protein_id)
        path = found[0] if found else self.source
        try:
            return point_cloud(path, chain=self.chain, sequence=sequence)
        except ValueError as error:
            raise SequenceError(str(path), str(error).removeprefix(f"{path}: "), protein_id) from None


def choose(path: str | Path, chains: dict[str, Chain], chain: str | None, sequence: str | None) -> list[Chain]:
    """The chains to read."""
    if chain is not None:
        if chain not in chains:
            raise ValueError(f"{path}: has no protein chain {chain!r}; it has {', '.join(chains)}")
        return [chains[chain]]
    if sequence is not None:
        matches = {name: count_matches(part.sequence, sequence) for name, part in chains.items()}
        fit = [name for name, part in chains.items() if matches[name] >= MIN_IDENTITY * len(part.sequence)]
        if fit:
            return [chains[max(fit, key=lambda name: matches[name])]]
        logger.warning("%s: no chain has the residues of the sequence", path)
    if len(chains) > 1:
        sizes = ", ".join(f"{name} ({len(part.sequence)} residues)" for name, part in list(chains.items())[:8])
        logger.warning("%s holds %d protein chains, read as one: %s; choose one of them", path, len(chains), sizes)
    return list(chains.values())


def count_matches(observed: str, sequence: str) -> int:
    """Residues of a chain that a sequence has at their place; what the structure lacks doesn't count."""
    return gemmi.align_string_sequences(list(sequence.upper()), list(observed), []).match_count


def read_chains(path: str | Path) -> dict[str, Chain]:
    """Protein chains of the first model, by their names or, where they have none, numbers from 1."""
    text = read_text(path)
    is_pdb = "_atom_site." not in text
    check_end(path, text, is_pdb)
    try:
        if is_pdb:
            structure = gemmi.read_pdb_string(LONG_NAME.sub(shorten, text), split_chain_on_ter=True)
        else:
            structure = gemmi.read_structure_string(text, format=gemmi.CoorFormat.Detect)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"{path}: no PDB or mmCIF file that can be read: {first_line(error)}") from None
    chains: dict[str, list[gemmi.Residue]] = {}
    left_out: list[gemmi.Residue] = []
    nameless = 0
    for part in structure[0] if len(structure) else []:
        residues = list(part.first_conformer())
        amino_acids = [residue for residue in residues if is_amino_acid(residue)]
        left_out += [residue for residue in residues if is_unknown(residue) and not is_amino_acid(residue)]
        nameless += bool(amino_acids) and not part.name.strip()
        if amino_acids:
            chains.setdefault(part.name.strip() or str(nameless), []).extend(amino_acids)
    left_out = [residue for residue in left_out if any(atom.element.name == "C" for atom in residue)]
    if left_out:
        names = ", ".join(sorted({residue.name for residue in left_out})[:5])
        logger.warning("%s: %d residues that are no amino acids are left out: %s", path, len(left_out), names)
    found = {name: to_chain(residues) for name, residues in chains.items()}
    found = {name: chain for name, chain in found.items() if chain.atoms}
    if not found:
        raise ValueError(f"{path}: holds no atom of a protein")
    return found


def to_chain(residues: list[gemmi.Residue]) -> Chain:
    atoms = [
        Atom(atom.name, atom.element.name, atom.pos.tolist(), atom.b_iso, f"{residue.name} {residue.seqid}")
        for residue in residues
        for atom in residue.first_conformer()
        if atom.element.name not in ("H", "D")
    ]
    return Chain("".join(tabulated(residue).one_letter_code.upper().strip() or "X" for residue in residues), atoms)


def tabulated(residue: gemmi.Residue) -> gemmi.ResidueInfo:
    return gemmi.find_tabulated_residue(STATES.get(residue.name, residue.name))


def is_unknown(residue: gemmi.Residue) -> bool:
    """Part of a chain (ATOM), not a ligand (HETATM), and of a name that no dictionary has."""
    return not tabulated(residue).found() and residue.het_flag != "H"


def is_amino_acid(residue: gemmi.Residue) -> bool:
    """By its name, or by its main chain."""
    main_chain = {"N", "CA", "C"} <= {atom.name for atom in residue}
    return tabulated(residue).is_amino_acid() or (is_unknown(residue) and main_chain)


def shorten(match: re.Match) -> str:
    return f"{match[1]}{LONG_NAMES[match[2]]} "


def check_end(path: str | Path, text: str, is_pdb: bool) -> None:
    """An error for a file that is cut within an atom, a warning where the end is missing."""
    lines = text.split("\n")
    if is_pdb:
        atoms = [line.rstrip() for line in lines if line.startswith(("ATOM", "HETATM"))]
        last = lines[-1].rstrip()
        if last.startswith(("ATOM", "HETATM")) and len(last) < min(map(len, atoms[-11:-1]), default=0):
            raise ValueError(f"{path}: is cut off within the record {last[:26]!r}: fetch it again")
        ends = next((line for line in reversed(lines) if line.strip()), "")
        cut = ends.startswith("ATOM")  # not by END, TER, or what stands behind the protein
    else:
        lines = [line for line in lines if line.strip()]
        cut = "#" in lines and lines[-1].strip() != "#"  # which ends each of its parts
    if cut:
        logger.warning("%s has no end: is it cut off?", path)


def first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_text(path: str | Path) -> str:
    """A file's text, whether or not it is gzipped and whatever its name."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        with open(path, "rb") as handle:
            data = handle.read(2)
            handle.seek(0)
            data = (gzip.GzipFile(fileobj=handle) if data == b"\x1f\x8b" else handle).read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: no PDB or mmCIF file that can be read: {first_line(error)}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: has more than {MAX_BYTES // 10**6} MB: no structure of a protein")
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    text = data.decode(encoding, errors="replace").replace("\r\n", "\n")
    return text.encode("ascii", errors="replace").decode()  # PDB counts columns
