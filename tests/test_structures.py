"""Point clouds of made structures, worked out by hand, and of real ones where the data are at hand."""

import gzip

import gemmi
import numpy as np
import pytest

from protloc.structures import point_cloud

PDB_ATOM = (
    "ATOM  {serial:5} {name:<4} {residue} A{number:4}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00{b:6.2f}          {element:>2}\n"
)
BACKBONE = [(" N", "N"), (" CA", "C"), (" C", "C"), (" O", "O"), (" H", "H")]


def write_pdb(path, residues=8, names=BACKBONE, seed=0):
    """A made protein: random places, the B factor 10 times the residue's number."""
    generator = np.random.default_rng(seed)
    lines = []
    for number in range(1, residues + 1):
        for name, element in names:
            x, y, z = generator.normal(0, 10, 3)
            place = f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00{10 * number:6.2f}"
            lines.append(f"ATOM  {len(lines) + 1:5} {name:<4} CYS A{number:4}    {place}          {element:>2}\n")
    lines.append("HETATM  999  O   HOH A 999       0.000   0.000   0.000  1.00 99.00           O\n")
    path.write_text("".join(lines) + "END\n")
    return path


def test_atoms_and_scale(tmp_path):
    cloud = point_cloud(write_pdb(tmp_path / "a.pdb"), num_points=32)
    assert cloud.shape == (32, 6) and cloud.dtype == np.float32
    np.testing.assert_allclose(cloud[:, :3].mean(axis=0), 0, atol=1e-5)
    assert np.linalg.norm(cloud[:, :3], axis=1).max() == pytest.approx(1)
    assert cloud[:, 3:].sum(axis=0).tolist() == [16, 8, 8]  # C, O, N; no hydrogen and no water
    assert len(np.unique(cloud, axis=0)) == 32


def test_a_small_protein_repeats_and_a_large_one_is_sampled(tmp_path):
    path = write_pdb(tmp_path / "a.pdb")
    whole = {tuple(point) for point in point_cloud(path, 32)}
    more = point_cloud(path, 100)
    assert more.shape == (100, 6) and {tuple(point) for point in more} == whole
    fewer = point_cloud(path, 10)
    assert len({tuple(point) for point in fewer} & whole) == 10
    assert point_cloud(path, 10).tolist() == fewer.tolist()
    assert point_cloud(path, 10, seed=1).tolist() != fewer.tolist()


def test_formats_agree(tmp_path):
    path = write_pdb(tmp_path / "a.pdb")
    expected = point_cloud(path)
    gemmi.read_structure(str(path)).make_mmcif_document().write_file(str(tmp_path / "a.cif"))
    for name in ("a.pdb", "a.cif"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    for name in ("a.cif", "a.pdb.gz", "a.cif.gz"):
        np.testing.assert_allclose(point_cloud(tmp_path / name), expected, atol=1e-5)


def test_unsure_residues_are_left_out(tmp_path):
    path = write_pdb(tmp_path / "a.pdb")
    assert len(np.unique(point_cloud(path, 100, min_plddt=50), axis=0)) == 4 * 4
    with pytest.raises(ValueError, match="no residue has a pLDDT of 90 or more"):
        point_cloud(path, min_plddt=90)


def test_ca_only_is_said(tmp_path, caplog):
    cloud = point_cloud(write_pdb(tmp_path / "a.pdb", names=[(" CA", "C")]), 8)
    assert cloud[:, 3:].tolist() == [[1, 0, 0]] * 8
    assert "holds CA atoms only" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file"),
        (b"", "holds no atom of a protein|no PDB or mmCIF file"),
        (b"hello\n", "holds no atom of a protein|no PDB or mmCIF file"),
        (b"data_x\nloop_\n_atom_site.id\n", "no PDB or mmCIF file|holds no atom of a protein"),
        (
            b"HETATM    1  O   HOH A   1       0.000   0.000   0.000  1.00 99.00           O\n",
            "holds no atom of a protein",
        ),
        (gzip.compress(b"ATOM" * 1000)[:30], "no PDB or mmCIF file"),
        (bytes(range(256)) * 10, "no PDB or mmCIF file|holds no atom"),
    ],
)
def test_bad_files(tmp_path, content, message):
    path = tmp_path / ("a.pdb.gz" if content and content[:2] == b"\x1f\x8b" else "a.pdb")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        point_cloud(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_real_structures(data_dir):
    paths = sorted((data_dir / "structures").glob("*.pdb.gz"))
    assert len(paths) > 40
    for path in paths:
        cloud = point_cloud(path)
        assert cloud.shape == (2048, 6) and np.isfinite(cloud).all()
        assert cloud[:, 3].mean() > 0.5  # carbon
