"""The protein of an image, its sequence, structure and split, for the image builders."""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets_scripts.download import RemoteFile, fetch_some
from protloc.sequences import clean_sequence, open_text, read_fasta, read_lines
from protloc.tables import read_csv, read_exclusions, sha1

MAX_LENGTH = 2700  # residues; deepGPS, "Image data": AlphaFold cuts longer proteins into pieces
UNIPROT_HUMAN = RemoteFile(
    "https://rest.uniprot.org/uniprotkb/stream?compressed=true&format=fasta&query=proteome:UP000005640+AND+reviewed:true",
    "uniprot_human.fasta.gz",
)
ALPHAFOLD = "https://alphafold.ebi.ac.uk/api/prediction/{}"


@dataclass(frozen=True)
class Protein:
    gene: str = ""
    uniprot_id: str = ""
    sequence: str = ""


class Proteins:
    """
    Sequences by gene name, UniProt accession and Ensembl gene, from tables (columns `sequence` and any of `uniprot_id`,
    `uniprot`, `ensg_id`, `ensg`, `target_name`, `gene`) and UniProt's FASTA files. The first of a name counts.
    """

    def __init__(self, paths: Iterable[Path]):
        self.by_name: dict[str, Protein] = {}
        for path in paths:
            for names, protein in self.read(path):
                for name in filter(None, names):
                    self.by_name.setdefault(name, protein)

    @staticmethod
    def read(path: Path) -> Iterator[tuple[list[str], Protein]]:
        _, first = next(read_lines(open_text(path), str(path)), (0, ""))
        if first.startswith(">"):
            for header, sequence in read_fasta(path, full_header=True):
                name, *words = header.split()
                parts = name.split("|")  # sp|P12345|NAME_HUMAN
                accession = parts[1] if len(parts) == 3 else name
                gene = next((word[3:] for word in words if word.startswith("GN=")), "")
                yield [gene, accession], Protein(gene, accession, sequence)
        else:
            for place, row in read_csv(path, ["sequence"]):
                gene = row.get("target_name") or row.get("gene") or ""
                accession = row.get("uniprot_id") or row.get("uniprot") or ""
                ensembl = row.get("ensg_id") or row.get("ensg") or ""
                try:
                    sequence = clean_sequence(row["sequence"])
                except ValueError as error:
                    raise ValueError(f"{place}: {error}") from None
                yield [gene, accession, ensembl], Protein(gene, accession, sequence)

    def find(self, *names: str) -> Protein | None:
        return next((self.by_name[name] for name in names if name in self.by_name), None)


def clusters(sequences: Iterable[str], identity: float | None) -> dict[str, str]:
    """Sequence -> its cluster: itself, or MMseqs2's representative at this identity."""
    unique = sorted(set(sequences))
    if identity is None:
        return {sequence: sequence for sequence in unique}
    if shutil.which("mmseqs") is None:
        raise ValueError("--cluster-identity needs MMseqs2, but there is no program 'mmseqs': install it")
    with tempfile.TemporaryDirectory() as folder:
        fasta, out = Path(folder) / "in.fasta", Path(folder) / "out"
        fasta.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(unique)), encoding="utf-8")
        command: list[str | Path] = ["mmseqs", "easy-cluster", fasta, out, Path(folder) / "tmp"]
        command += ["--min-seq-id", str(identity)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            reason = (result.stdout + result.stderr).strip().splitlines()[-1:]
            raise ValueError(f"mmseqs easy-cluster failed: {' '.join(reason)}")
        rows = (line.split() for line in Path(f"{out}_cluster.tsv").read_text(encoding="utf-8").splitlines())
        return {unique[int(member)]: unique[int(representative)] for representative, member in rows}


def ramp_split(classes: dict[str, str], cluster_of: dict[str, str], seed: int) -> dict[str, str]:
    """
    Proteins -> `train` or `test` (deepGPS, "Dataset split"): from 75 % of the largest class to 90 % of the smallest
    train, linearly between them over the classes sorted by size, and four of five of all: where the largest classes
    make it fewer, the ramp begins higher, and where the smallest make it more, it ends lower. A cluster is never on
    both sides.

    Args:
        classes (`dict`): Class of each protein.
        cluster_of (`dict`): Cluster of each protein; the class of a cluster is that of its first protein.
    """
    members: dict[str, list[str]] = defaultdict(list)
    for name in sorted(classes):
        members[cluster_of[name]].append(name)
    by_class: dict[str, list[str]] = defaultdict(list)
    for cluster, names in members.items():
        by_class[classes[names[0]]].append(cluster)
    ordered = sorted(by_class, key=lambda name: (-len(by_class[name]), name))
    sizes = np.array([len(by_class[name]) for name in ordered])
    split = {}
    for name, share in zip(ordered, ramp(sizes), strict=True):
        chosen = sorted(by_class[name])
        random.Random(f"{seed} {name}").shuffle(chosen)
        count = round(share * len(chosen))
        for i, cluster in enumerate(chosen):
            split.update(dict.fromkeys(members[cluster], "train" if i < count else "test"))
    return split


def ramp(sizes: np.ndarray) -> np.ndarray:
    """Shares of classes, the largest first, that train: linear within 75 to 90 %, and 80 % of all."""
    steps = np.linspace(0, 1, len(sizes))
    lowest, highest = 0.75, 0.9
    shares = lowest + (highest - lowest) * steps
    missing = TRAIN_SHARE * sizes.sum() - (shares * sizes).sum()
    if missing > 0:  # raise the beginning
        shares += missing / ((1 - steps) * sizes).sum() * (1 - steps)
    elif steps.any():  # lower the end
        shares += missing / (steps * sizes).sum() * steps
    return shares.clip(lowest, highest)


TRAIN_SHARE = 0.8  # deepGPS, "Dataset split": 4:1
SPLIT_RULE = (
    "Split by protein: between 75 % of the largest class and 90 % of the smallest train, linearly between them over "
    "the classes sorted by size, and four of five of all; proteins with several localizations are a class. A sequence "
    "is never on both sides."
)


def split_proteins(
    proteins: dict[str, Protein], classes: dict[str, str], args: argparse.Namespace
) -> tuple[dict[str, str], str]:
    """
    Which proteins train and which test: as the split file says, or else by `ramp_split`; those of `--exclude` test.

    Args:
        proteins, classes (`dict`): By any name; proteins of one sequence, or without one of one gene, stay together.

    Returns:
        `dict` of `train` and `test` by name, without those that the split file does not name, and what the card says.

    Raises:
        ValueError: If the split file has proteins of one sequence or cluster on both sides.
    """
    found = clusters((protein.sequence for protein in proteins.values() if protein.sequence), args.cluster_identity)
    cluster_of = {
        name: found[protein.sequence] if protein.sequence else protein.gene or name
        for name, protein in proteins.items()
    }
    if args.split_file:
        sides = read_split(args.split_file)
        decided: dict[str, str] = {}
        for name, protein in proteins.items():
            side = sides.get(protein.uniprot_id) or sides.get(protein.gene)
            if side and decided.setdefault(cluster_of[name], side) != side:
                raise ValueError(
                    f"{args.split_file}: {protein.gene or name} is to {side}, and a protein of the same sequence or "
                    "cluster is not"
                )
        split = {name: decided[cluster] for name, cluster in cluster_of.items() if cluster in decided}
        rule = f"Split by protein as in `{args.split_file.name}`."
    else:
        split, rule = ramp_split(classes, cluster_of, args.seed), SPLIT_RULE
    ids, sums = read_exclusions(args.exclude)
    tested = {cluster_of[name] for name, protein in proteins.items() if held_out(protein, ids, sums)}
    if args.exclude:
        rule += f" Proteins of {' and '.join(f'`{path.name}`' for path in args.exclude)} only test."
    return {name: "test" if cluster_of[name] in tested else side for name, side in split.items()}, rule


def held_out(protein: Protein, ids: set[str], sums: set[str]) -> bool:
    """Whether a protein is on a list of `read_exclusions`."""
    return protein.uniprot_id in ids or bool(protein.sequence and sha1(protein.sequence) in sums)


def read_split(path: Path) -> dict[str, str]:
    """Split by UniProt accession and by gene name; rows with another split than train and test are left out."""
    split = {}
    for place, row in read_csv(path, ["split"]):
        if not {"uniprot_id", "target_name"} & row.keys():
            raise ValueError(f"{place}: no column 'uniprot_id' or 'target_name'")
        if row["split"] in ("train", "test"):
            split.update({row[column]: row["split"] for column in ("uniprot_id", "target_name") if row.get(column)})
    return split


def download_structures(proteins: Iterable[Protein], folder: Path, parallel: int) -> None:
    print("AlphaFold Protein Structure Database (Varadi et al. 2024): CC BY 4.0", file=sys.stderr)
    accessions = sorted({protein.uniprot_id for protein in proteins} - {""})
    # Where a protein's model lies, and in which version, its entry says.
    entries = [RemoteFile(ALPHAFOLD.format(accession), f"entries/{accession}.json") for accession in accessions]
    missing = fetch_some(entries, folder, parallel)
    files = []
    for entry in entries:
        if entry not in missing:
            found = json.loads((folder / entry.path).read_text(encoding="utf-8"))
            files += [RemoteFile(model["cifUrl"], model["cifUrl"].rsplit("/", 1)[1]) for model in found[:1]]
    missing |= fetch_some(files, folder, parallel)
    for file, error in missing.items():  # not every protein has a model, and the crops don't need it
        print(f"{file.url}: no model ({error})", file=sys.stderr)
