"""Sequences, profiles and lists of exclusions."""

import gzip
import tempfile
from pathlib import Path

import numpy as np

from protloc.profiles import read_pssm
from protloc.sequences import read_sequences
from protloc.tables import SHA1, read_exclusions
from tests.fuzz.mutations import check_sentence
from tests.helpers import write_pssm

MOST = 100_000  # a message quotes ids and columns as they are
FASTA = ">P1 one\nMKVAAGHC\nDEFGHIKL\n\n>sp|P2|X\nmkvaa*\n>P3\nMXUOBZ\n"
TABLE = 'id,name,sequence\nP1,"a, b",MKVAAGHC\nP2,,MKLLVAGEDL\n'


def sequences() -> list[bytes]:
    texts = [FASTA, FASTA.replace("\n", "\r\n"), TABLE, TABLE.replace("a, b", "a").replace(",", "\t")]
    plain = [text.encode() for text in [*texts, "\ufeff" + FASTA]]
    latin = FASTA.replace("one", "\xe9").encode("latin-1")
    return [*plain, latin, gzip.compress(FASTA.encode(), mtime=0), gzip.compress(TABLE.encode(), mtime=0)]


def try_sequences(path: Path) -> None:
    skipped: list[ValueError] = []
    try:
        found = list(read_sequences([path], skipped.append))
    except ValueError as error:
        check_sentence(error, path, MOST)
        raise
    for error in skipped:
        check_sentence(error, path, MOST)
    for protein_id, sequence in found:
        assert protein_id and sequence.isalpha() and sequence.isupper(), (protein_id, sequence)


def profiles() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        pssm = write_pssm(Path(folder) / "a.pssm", "MKVAAGHC").read_bytes()
    return [pssm, gzip.compress(pssm, mtime=0)]


def try_profile(path: Path) -> None:
    try:
        sequence, profile = read_pssm(path)
    except ValueError as error:
        check_sentence(error, path, MOST)
        raise
    assert profile.shape == (len(sequence), 20) and np.isfinite(profile).all()


def exclusions() -> list[bytes]:
    digests = "".join(f"P{i},{f'{i:x}' * 40},test\n" for i in range(8))
    table = f"accession,sequence_sha1,reason\n{digests}".encode()
    return [table, gzip.compress(table, mtime=0), FASTA.encode(), TABLE.encode()]


def try_exclusions(path: Path) -> None:
    try:
        ids, sums = read_exclusions([path])
    except ValueError as error:
        check_sentence(error, path, MOST)
        raise
    assert all(ids) and all(map(SHA1.fullmatch, sums))
