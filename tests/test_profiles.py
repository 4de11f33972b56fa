"""PSI-BLAST profiles as psiblast writes them, and what is said of others."""

import gzip

import numpy as np
import pytest

from protloc.models.residue_features import BLOSUM62
from protloc.profiles import protein_profile, read_pssm
from protloc.sequences import SequenceError
from tests.helpers import write_pssm


def test_reads_a_matrix(tmp_path):
    sequence, profile = read_pssm(write_pssm(tmp_path / "a.pssm", "MKWX"))
    assert sequence == "MKWX"
    assert profile.shape == (4, 20) and profile.dtype == np.float32
    np.testing.assert_allclose(profile[2], 1 / (1 + np.exp(-np.array(BLOSUM62["W"]))), rtol=1e-6)
    assert (profile > 0).all() and (profile < 1).all()


def test_gzipped(tmp_path):
    plain = write_pssm(tmp_path / "plain", "MKW")
    (tmp_path / "a.pssm.gz").write_bytes(gzip.compress(plain.read_bytes()))
    np.testing.assert_array_equal(protein_profile(tmp_path, "a", "MKW"), read_pssm(plain)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "no PSSM as psiblast"),
        (lambda text: ">a\nMKW\n", "no PSSM as psiblast"),
        (lambda text: text.replace("    2 K", "    3 K"), "line 5: expected position 2 with 20 scores"),
        (lambda text: text.replace("    2 K  -1", "    2 K nan"), "line 5: 'nan .*' are not 20 finite scores"),
        (lambda text: text.replace("    2 K  -1", "    2 K inf"), "line 5: 'inf .*' are not 20 finite scores"),
        (lambda text: text.replace("    2 K", "    2 -"), "line 5: '-' at position 2 is no residue"),
        (lambda text: text.replace("    2 K  -1", "    2 K   ?"), "line 5: '\\? .*' are not 20 scores"),
    ],
)
def test_bad_files(tmp_path, change, message):
    path = write_pssm(tmp_path / "a.pssm", "MKW")
    path.write_text(change(path.read_text()))
    with pytest.raises(SequenceError, match=message):
        read_pssm(path)


def test_ambiguous_residues_are_read_as_in_sequences(tmp_path):
    write_pssm(tmp_path / "a.pssm", "MKJ")
    assert protein_profile(tmp_path, "a", "MKX").shape == (3, 20)


@pytest.mark.parametrize(("sequence", "message"), [("MKWW", "3 residues, not 4"), ("MRW", "K at position 2, not R")])
def test_another_protein(tmp_path, sequence, message):
    write_pssm(tmp_path / "a.pssm", "MKW")
    with pytest.raises(SequenceError, match=f"is of another sequence than 'a': {message}"):
        protein_profile(tmp_path, "a", sequence)
    with pytest.raises(SequenceError, match="No such file"):
        protein_profile(tmp_path, "b", sequence)
