"""Point clouds of made structures, worked out by hand, and of real ones where the data are at hand."""

import gzip

import gemmi
import numpy as np
import pytest

from protloc.structures import point_cloud, structure_files

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


def pdb(chains: dict[str, str], ter: str = "TER\n", end: str = "END\n") -> str:
    """Chains as a PDB file, four atoms a residue; `chains` gives sequences by name."""
    generator = np.random.default_rng(0)
    lines = []
    for chain, sequence in chains.items():
        for number, residue in enumerate(gemmi.expand_one_letter_sequence(sequence, gemmi.ResidueKind.AA), 1):
            for name, element in BACKBONE[:4]:
                x, y, z = generator.normal(0, 10, 3)
                place = f"{x:8.3f}{y:8.3f}{z:8.3f}  1.00 80.00"
                head = f"ATOM  {len(lines) + 1:5} {name:<4} {residue} {chain[:1]}{number:4}"
                lines.append(f"{head}    {place}          {element:>2}\n")
        lines.append(ter)
    return "".join(lines) + end


FIRST, SECOND = "MKVLAHHCDEFW", "GGSTPPNQRIYKLMV"


@pytest.mark.parametrize("names", ["AB", "  "])
def test_a_complex(tmp_path, names, caplog):
    """Chains are told apart by name or, in files of AMBER, by where they end."""
    path = tmp_path / "complex.pdb"
    both = pdb({f"{names[0]}1": FIRST, f"{names[1]}2": SECOND})
    path.write_text(both)
    point_cloud(path)
    first, second = ("A", "B") if names == "AB" else ("1", "2")
    assert f"holds 2 protein chains, read as one: {first} (12 residues), {second} (15 residues)" in caplog.text
    caplog.clear()
    clouds = {name: point_cloud(path, 200, chain=name) for name in (first, second)}
    assert [len(np.unique(cloud, axis=0)) for cloud in clouds.values()] == [4 * 12, 4 * 15]
    longer = "MAAAAAAAAA" + SECOND.replace("TPP", "") + "GGGGGG"  # of which the structure has a part
    np.testing.assert_array_equal(point_cloud(path, 200, sequence=longer), clouds[second])
    np.testing.assert_array_equal(point_cloud(path, 200, sequence=FIRST.lower()), clouds[first])
    assert not caplog.text
    point_cloud(path, sequence="WWWWWWWWWWWWWWWWW")
    assert "no chain has the residues of the sequence" in caplog.text and "holds 2 protein chains" in caplog.text
    with pytest.raises(ValueError, match=rf"complex\.pdb: has no protein chain 'C'; it has {first}, {second}"):
        point_cloud(path, chain="C")


@pytest.mark.parametrize(
    ("standard", "names"),
    [
        ("HIS", ["HID", "HIE", "HIP", "HSD", "HSE", "HSP", "HISD", "HISE", "HISA", "HISH"]),
        ("CYS", ["CYX", "CYM", "CYS2", "CYSH"]),
        ("ASP", ["ASH", "ASPP", "ASPH"]),
        ("LYS", ["LYN", "LYP", "LYSH"]),
        ("MET", ["NMET", "CMET"]),
        ("TRP", ["XXW"]),  # by its main chain
    ],
)
def test_names_of_force_fields(tmp_path, standard, names, caplog):
    path = tmp_path / "a.pdb"
    path.write_text(pdb({"A": FIRST}))
    expected = point_cloud(path, sequence=FIRST)
    for name in names:
        path.write_text(pdb({"A": FIRST}).replace(f"{standard} A", f"{name:<4}A"))
        np.testing.assert_array_equal(point_cloud(path, sequence=FIRST), expected)
    assert not caplog.text


def test_what_is_left_out_is_said(tmp_path, caplog):
    path = tmp_path / "a.pdb"
    path.write_text(pdb({"A": FIRST}).replace("TRP A", "POP A").replace(" CA  POP", " C2  POP"))
    assert len(np.unique(point_cloud(path, 200), axis=0)) == 4 * (len(FIRST) - 1)
    assert "1 residues that are no amino acids are left out: POP" in caplog.text
    caplog.clear()
    water = "ATOM     99  OH2 TIP3A  99       1.000   1.000   1.000  1.00 99.00           O\n"
    path.write_text(pdb({"A": FIRST}, end=water + "END\n"))
    point_cloud(path, 200)
    assert not caplog.text


@pytest.mark.parametrize("number", ["nan", "inf", "-nan", "9999999."])
def test_coordinates_that_are_none(tmp_path, number):
    path = tmp_path / "a.pdb"
    lines = pdb({"A": FIRST}).splitlines()
    lines[5] = f"{lines[5][:30]}{number:>8}{lines[5][38:]}"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"a\.pdb: 1 of 48 atoms have no usable coordinates, CA of LYS 2 first"):
        point_cloud(path)
    text = gemmi.read_pdb_string(pdb({"A": FIRST})).make_mmcif_document().as_string()
    path.write_text(text.replace(f" {float(lines[4][30:38]):g} ", " ? ", 1))
    with pytest.raises(ValueError, match="atoms have no usable coordinates"):
        point_cloud(path)


def test_files_that_are_cut(tmp_path, caplog):
    path, whole = tmp_path / "a.pdb", pdb({"A": FIRST})
    lines = whole.splitlines(keepends=True)
    for cut in ("".join(lines[:20]), "".join(lines[:20]).rstrip()):  # between two atoms
        path.write_text(cut)
        point_cloud(path)
        assert "a.pdb has no end: is it cut off?" in caplog.text
        caplog.clear()
    for columns in (20, 40, 57, 70):
        path.write_text("".join(lines[:20]) + lines[20][:columns])
        with pytest.raises(ValueError, match=r"a\.pdb: is cut off within the record 'ATOM     21"):
            point_cloud(path)
    path.write_bytes(gzip.compress(whole.encode())[:-40])
    with pytest.raises(ValueError, match=r"a\.pdb: no PDB or mmCIF file that can be read: Compressed file ended"):
        point_cloud(path)
    for complete in (pdb({"A": FIRST}, end=""), pdb({"A": FIRST}, ter="", end="END")):
        path.write_text(complete)
        point_cloud(path)
    text = "#\n" + gemmi.read_pdb_string(whole).make_mmcif_document().as_string().rstrip()
    path.write_text(text + "\n#\n")
    point_cloud(path)
    assert not caplog.text
    path.write_text(text)
    point_cloud(path)
    assert "has no end" in caplog.text


def test_encodings(tmp_path):
    path, text = tmp_path / "a.pdb", pdb({"A": FIRST})
    path.write_text(text)
    expected = point_cloud(path)
    plain = text.encode()
    umlaut = ("REMARK   1 K\u00f6ln\n" + text).encode("latin-1")
    for data in (
        b"\xef\xbb\xbf" + plain,
        text.encode("utf-16"),
        gzip.compress(plain),
        text.replace("\n", "\r\n").encode(),
    ):
        path.write_bytes(data)
        np.testing.assert_array_equal(point_cloud(path), expected)
    path.write_bytes(umlaut)
    np.testing.assert_array_equal(point_cloud(path), expected)
    (tmp_path / "a.pdb.gz").write_bytes(plain)  # unpacked, and still called so
    np.testing.assert_array_equal(point_cloud(tmp_path / "a.pdb.gz"), expected)
    with pytest.raises(ValueError, match="num_points must be 1 or more, got 0"):
        point_cloud(path, 0)


def test_real_structures(data_dir):
    paths = sorted((data_dir / "structures").glob("*.pdb.gz"))
    assert len(paths) > 40
    for path in paths:
        cloud = point_cloud(path)
        assert cloud.shape == (2048, 6) and np.isfinite(cloud).all()
        assert cloud[:, 3].mean() > 0.5  # carbon


def test_a_folder_s_files_are_found_by_their_ids(tmp_path):
    for name in ("AF-P04637-F1-model_v6.pdb.gz", "mine_1abc.cif"):
        (tmp_path / name).touch()
    found = structure_files(tmp_path)
    assert {name for name, path in found.items() if path.name.startswith("AF")} == {"P04637", "AF-P04637-F1-model_v6"}
    assert {"mine", "1abc", "mine_1abc"} <= set(found)  # but by nothing that all of AlphaFold's names share
