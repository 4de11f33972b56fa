"""The OpenCell and HPA builders on small fields: simulated images in the published layouts, and the real ones."""

import argparse
import csv
import functools
import gzip
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from datasets import load_dataset
from PIL import Image

from datasets_scripts import build_hpa, build_opencell, proteins
from datasets_scripts.build_hpa import read_antibodies, read_labels, three_splits
from datasets_scripts.build_opencell import major_localizations, pixel_size, read_annotations
from datasets_scripts.dictionary import find_bar, read_composite
from datasets_scripts.download import RemoteFile
from datasets_scripts.proteins import Protein, Proteins, clusters, ramp, ramp_split, split_proteins
from protloc.microscopy import simulate
from protloc.tables import sha1
from protloc.taxonomy import HPA_LOCATIONS, OPENCELL_CATEGORIES
from tests.helpers import ROOT

PROTEINS = {  # gene: category
    "AAA1": "cytoplasmic",
    "BBB2": "nucleoplasm",
    "CCC3": "vesicles",
    "DDD4": "cytoplasmic",
    "EEE5": "golgi",
}


def sequence(number: int) -> str:
    return "M" + "ACDEFGHIKLMNPQRSTVWY"[number] * 30


@pytest.fixture(scope="module")
def opencell(tmp_path_factory) -> Path:
    """Two fields of each protein as OpenCell publishes them, one of them without nuclei, and one that is damaged."""
    folder = tmp_path_factory.mktemp("opencell")
    with open(folder / "annotations.csv", "w") as annotations, open(folder / "targets.csv", "w") as targets:
        annotations.write("ensg_id,target_name,annotations_grade_3,annotations_grade_2,annotations_grade_1\n")
        targets.write("target_name,uniprot_id,ensg_id,sequence\n")
        for number, (gene, category) in enumerate(PROTEINS.items()):
            ensembl = f"ENSG{number:011d}"
            annotations.write(f"{ensembl},{gene},{category},,nucleoplasm\n")
            targets.write(f"{gene},P{number:05d},{ensembl},{sequence(number)}\n")
            (folder / "images" / gene).mkdir(parents=True)
            for copy in range(2):
                field = simulate(category, size=600, seed=10 * number + copy, cells=0 if number == copy == 1 else 12)
                name = f"OC-FOV_{gene}_{ensembl}_CID{number:06d}_FID{copy:08d}{number}_proj.tif"
                tifffile.imwrite(folder / "images" / gene / name, np.stack([field.nucleus, field.protein]))
        annotations.write("ENSG00000000099,ZZZ9,er,,\n")
    damaged = folder / "images" / "AAA1" / "OC-FOV_AAA1_ENSG00000000000_CID000000_FID99999999_proj.tif"
    damaged.write_bytes(b"II*\0 cut off")
    return folder


def opencell_arguments(folder: Path, out: Path) -> list[str]:
    tables = ["--annotations", str(folder / "annotations.csv"), "--sequences", str(folder / "targets.csv")]
    script = "datasets_scripts.build_opencell"
    return [script, *tables, "--images", str(folder / "images"), "--out", str(out), "--processes", "1"]


@pytest.fixture(scope="module")
def built(opencell, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("built") / "opencell"
    arguments = opencell_arguments(opencell, out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        build_opencell.main()
    return out


def test_opencell(built):
    dataset = load_dataset(str(built), "all")
    rows = [row for split in dataset.values() for row in split]
    assert {row["gene"] for row in rows} == set(PROTEINS)
    for row in rows:
        number = list(PROTEINS).index(row["gene"])
        assert row["nucleus"].size == row["protein"].size == (208, 208) and row["nucleus"].mode.startswith("I")
        assert [OPENCELL_CATEGORIES[i] for i in row["labels"]] == [PROTEINS[row["gene"]]]
        assert (row["sequence"], row["uniprot_id"]) == (sequence(number), f"P{number:05d}")
        assert (row["grade"], row["cell_line"]) == (3, "HEK293T")
        left, top, right, bottom = row["crop_box"]
        assert (right - left, bottom - top) == (208, 208) and min(left, top) >= 0 and max(right, bottom) <= 600
    assert len({(row["field_id"], *row["crop_box"]) for row in rows}) == len(rows)
    by_split = {name: {row["gene"] for row in split} for name, split in dataset.items()}
    assert not by_split["train"] & by_split.get("test", set())
    single = load_dataset(str(built), "single-2")
    assert {row["gene"] for split in single.values() for row in split} == {"AAA1", "BBB2", "DDD4"}
    four = load_dataset(str(built), "single-4", streaming=True)
    assert next(iter(four["train"]))["protein"].size == (208, 208)


def test_protein_lies_where_its_label_says(built):
    """The mean of the protein over the middle of the crop, which is nucleus, against that around it."""
    for row in load_dataset(str(built), "single-2", split="train"):
        protein = np.asarray(row["protein"], dtype=float)
        middle, around = protein[94:114, 94:114].mean(), protein[60:148, 60:148].mean()
        assert (middle > around) == (row["gene"] == "BBB2"), row["gene"]


def test_lists_and_card(built):
    with open(built / "fields.csv") as handle:
        fields = list(csv.DictReader(handle))
    assert len(fields) == 11
    assert [row["field_id"] for row in fields if row["reason"]] == ["FID99999999"]
    assert sum(row["nuclei"] == "0" and not row["reason"] for row in fields) == 1
    with open(built / "unmatched.csv") as handle:
        assert [row["name"] for row in csv.DictReader(handle)] == ["ZZZ9"]
    card = (built / "README.md").read_text()
    crops = sum(int(row["crops"]) for row in fields)
    assert f"| crops | {crops} |" in card and "| unreadable | 1 |" in card and "| without nuclei | 1 |" in card
    measured = json.loads((ROOT / "model_cards" / "nuclei.json").read_text())
    assert f"an F1 of {measured['f1_50']:.3f}" in card
    for name in ("overlays.png", "montage.png"):
        assert Image.open(built / name).width > 400
    assert list(built.parent.iterdir()) == [built]


@pytest.mark.slow
def test_two_processes_build_the_same(opencell, built, tmp_path):
    command = [sys.executable, "-m", *opencell_arguments(opencell, tmp_path / "again"), "--processes", "2"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "1 fields can't be read" in result.stderr
    for path in sorted((built / "data").iterdir()):
        assert pq.read_table(path).equals(pq.read_table(tmp_path / "again" / "data" / path.name))


def test_killed_and_started_again(opencell, built, tmp_path, run_script):
    """Killed when some fields are done: the rest is added, nothing is lost or doubled."""
    out = tmp_path / "out"
    arguments = opencell_arguments(opencell, out)
    process = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.DEVNULL, cwd=ROOT)
    while len(list((tmp_path / "out.fields").glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not out.exists()

    code, _, error = run_script(*arguments)
    assert code == 0, error
    for path in sorted((built / "data").iterdir()):
        assert pq.read_table(path).equals(pq.read_table(out / "data" / path.name))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--images", "nowhere"], "no image belongs to a protein of the build"),
        (["--annotations", "nowhere.csv"], "nowhere.csv"),
        (["--cluster-identity", "0.3"], "needs MMseqs2"),
        (["--push-to-hub", "me/data"], "you are not logged in to the Hub"),
    ],
)
def test_bad_input(opencell, tmp_path, run_script, options, message):
    if options[0] == "--cluster-identity" and shutil.which("mmseqs"):
        pytest.skip("MMseqs2 is installed")
    code, _, error = run_script(*opencell_arguments(opencell, tmp_path / "out"), *options)
    assert code == 2 and message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--size", "0", "'0' is not a positive number"),
        ("--um-per-px", "-1", "must be above 0, got -1"),
        ("--fields-um-per-px", "nan", "must be above 0, got nan"),
        ("--limit", "0", "'0' is not a positive number"),
        ("--max-overlap", "1.5", "must be above 0 and at most 1, got 1.5"),
        ("--segmenter", "stardist", "needs the package stardist"),
    ],
)
def test_bad_numbers(opencell, tmp_path, run_script, option, value, message):
    code, _, error = run_script(*opencell_arguments(opencell, tmp_path / "out"), option, value)
    assert code == 2 and message in error


def test_a_failed_build_leaves_the_last_one(opencell, tmp_path, run_script):
    out = tmp_path / "out"
    arguments = [*opencell_arguments(opencell, out), "--limit", "2"]
    assert run_script(*arguments)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code, _, error = run_script(*arguments, "--size", "2000")
    assert code == 2 and "holds a whole nucleus of the right size" in error
    assert all(path.read_bytes() == content for path, content in before.items())
    assert run_script(*arguments)[0] == 0
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_files_of_others_stay(opencell, tmp_path, run_script):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").write_text("mine")
    code, _, error = run_script(*opencell_arguments(opencell, tmp_path))
    assert code == 2 and "mine.txt, which no build made" in error
    assert (tmp_path / "data" / "mine.txt").read_text() == "mine"


def test_excluded_proteins_only_test(opencell, tmp_path, run_script):
    (tmp_path / "never.csv").write_text(
        f"accession,sequence_sha1,reason\nP00000,{sha1('a')},a\nx,{sha1(sequence(1))},b\n"
    )
    (tmp_path / "split.csv").write_text("target_name,split\n" + "".join(f"{gene},train\n" for gene in PROTEINS))
    out = tmp_path / "out"
    options = ["--exclude", tmp_path / "never.csv", "--split-file", tmp_path / "split.csv"]
    code, _, error = run_script(*opencell_arguments(opencell, out), *options)
    assert code == 0, error
    assert set(load_dataset(str(out), "all", split="test")["gene"]) == {"AAA1", "BBB2"}
    assert "Proteins of `never.csv` only test." in (out / "README.md").read_text()


def split_arguments(**given) -> argparse.Namespace:
    return argparse.Namespace(**{"split_file": None, "exclude": [], "cluster_identity": None, "seed": 0, **given})


def test_one_sequence_or_gene_is_on_one_side(tmp_path):
    same = {f"f{i}": Protein(f"G{i // 2}") for i in range(40)}  # two fields of each gene, no sequence known
    for seed in range(3):
        split, _ = split_proteins(same, dict.fromkeys(same, "a"), split_arguments(seed=seed))
        assert all(split[f"f{i}"] == split[f"f{i + 1}"] for i in range(0, 40, 2)) and len(set(split.values())) == 2
    (tmp_path / "split.csv").write_text("target_name,split\nG1,train\nG2,test\n")
    arguments = split_arguments(split_file=tmp_path / "split.csv")
    twins = {"G1": Protein("G1", "", "MKT"), "G3": Protein("G3", "", "MKT"), "G4": Protein("G4", "", "MAA")}
    assert split_proteins(twins, dict.fromkeys(twins, "a"), arguments)[0] == {"G1": "train", "G3": "train"}
    twins["G2"] = Protein("G2", "", "MKT")
    with pytest.raises(ValueError, match="G2 is to test, and a protein of the same sequence or cluster is not"):
        split_proteins(twins, dict.fromkeys(twins, "a"), arguments)


def test_split_file_wins(opencell, tmp_path, run_script):
    (tmp_path / "split.csv").write_text("target_name,split\nAAA1,test\nBBB2,train\nCCC3,too_long\nDDD4,train\n")
    out = tmp_path / "out"
    code, _, error = run_script(*opencell_arguments(opencell, out), "--split-file", tmp_path / "split.csv")
    assert code == 0, error
    dataset = load_dataset(str(out), "all")
    assert {name: set(split["gene"]) for name, split in dataset.items()} == {
        "train": {"BBB2", "DDD4"},
        "test": {"AAA1"},
    }
    assert "not in" in (out / "unmatched.csv").read_text()


def test_major_localizations():
    assert major_localizations({"er": 3, "golgi": 2, "membrane": 3}) == (["er", "membrane"], 3)
    assert major_localizations({"golgi": 2, "membrane": 1}) == (["golgi"], 2)
    assert major_localizations({"membrane": 1}) == ([], 1)


def test_categories_that_opencell_has_not(tmp_path):
    path = tmp_path / "annotations.csv"
    path.write_text("ensg_id,target_name,annotation_name,annotation_grade\nENSG1,A,lysosome,3\nENSG1,A,er,3\n")
    ((_, _, _, grades),) = read_annotations(path)
    assert major_localizations(grades) == (["er", "lysosome"], 3)


def test_real_annotations(data_dir):
    """deepGPS, "Annotation of protein localization"; its paper counts 1,301, 865, 222, 140, 132 and 78."""
    opencell = data_dir / "opencell"
    known = Proteins([opencell / "opencell_targets.csv.gz"])
    annotated = list(read_annotations(opencell / "opencell_annotations_flat.csv"))
    assert len(annotated) == 1310
    kept = [grades for gene, _, _, grades in annotated if len(known.find(gene).sequence) <= 2700]
    single = [labels[0] for labels, _ in map(major_localizations, kept) if len(labels) == 1]
    assert (len(kept), len(single)) == (1300, 863)
    assert [single.count(name) for name in OPENCELL_CATEGORIES[:4]] == [221, 140, 132, 78]


def test_ramp_split():
    sizes = {"large": 400, "middle": 100, "small": 20}
    classes = {f"{name}{i}": name for name, size in sizes.items() for i in range(size)}
    split = ramp_split(classes, {sequence: sequence for sequence in classes}, seed=0)
    shares = {name: sum(split[f"{name}{i}"] == "train" for i in range(size)) / size for name, size in sizes.items()}
    assert 0.75 <= shares["large"] < shares["middle"] < shares["small"] == 0.9
    assert sum(side == "train" for side in split.values()) == pytest.approx(0.8 * len(split), abs=1.5)  # 4:1
    assert ramp(np.array([100, 100])).tolist() == pytest.approx([0.75, 0.85])
    assert split == ramp_split(classes, {sequence: sequence for sequence in classes}, seed=0)
    assert split != ramp_split(classes, {sequence: sequence for sequence in classes}, seed=1)
    pairs = {
        sequence: sequence.rstrip("0123456789") + str(int(sequence.strip("adeglmrsi")) // 2) for sequence in classes
    }
    paired = ramp_split(classes, pairs, seed=0)
    for sequence in classes:
        assert len({paired[other] for other in classes if pairs[other] == pairs[sequence]}) == 1


def test_equal_sequences_are_one_cluster():
    assert clusters(["AAA", "CCC", "AAA"], None) == {"AAA": "AAA", "CCC": "CCC"}


def test_sequences_from_fasta_and_tables(tmp_path):
    (tmp_path / "u.fasta").write_text(">sp|P12345|NAME_HUMAN Some protein OS=Homo sapiens GN=ABC1 PE=1\nMKT\n>Q1\nMM\n")
    (tmp_path / "t.tsv").write_text("uniprot\tensg\tgene\tsequence\nP9\tENSG9\tXYZ\tMAA\n")
    known = Proteins([tmp_path / "u.fasta", tmp_path / "t.tsv"])
    assert known.find("ABC1") == known.find("nothing", "P12345")
    assert known.find("ABC1").sequence == "MKT" and known.find("Q1").sequence == "MM"
    assert known.find("ENSG9").gene == "XYZ" and known.find("") is None


def test_hpa_tables(tmp_path):
    (tmp_path / "public.csv").write_text(
        "Image,Label,Cellline,in_trainset,Label_idx\n"
        'http://images.proteinatlas.org/10005/921_B9_1,"Golgi apparatus,Cytosol",U-2 OS,False,7|16\n'
    )
    (tmp_path / "atlas.tsv").write_text("Gene\tEnsembl\tAntibody\nABC1\tENSG1\tHPA010004, HPA010005\n")
    ((name, annotation),) = read_labels(tmp_path / "public.csv", read_antibodies(tmp_path / "atlas.tsv"))
    assert name == "921_B9_1" and annotation.labels == ["Golgi apparatus", "Cytosol"]
    assert annotation.cell_line == "U-2 OS" and annotation.genes == ["ENSG1", "ABC1"]
    (tmp_path / "kaggle.csv").write_text("ID,Label\nabc,16|0\n")
    ((name, annotation),) = read_labels(tmp_path / "kaggle.csv", {})
    assert (name, annotation.labels, annotation.genes) == ("abc", ["Cytosol", "Nucleoplasm"], [])
    (tmp_path / "2018.csv").write_text("Id,Target\nENSG00000000457_5624_69_H11_1,14 5\n")
    ((name, annotation),) = read_labels(tmp_path / "2018.csv", {})
    assert (name, annotation.genes) == ("69_H11_1", ["ENSG00000000457"])
    assert annotation.labels == ["Microtubules", "Nuclear bodies"]
    (tmp_path / "bad.csv").write_text("ID,Image,Label\na,b,Nowhere\n")
    with pytest.raises(ValueError, match="line 2: 'Nowhere' is no location"):
        list(read_labels(tmp_path / "bad.csv", {}))
    (tmp_path / "bad.csv").write_text("ID,Label\na,25\n")
    with pytest.raises(ValueError, match="line 2: '25' is no location"):
        list(read_labels(tmp_path / "bad.csv", {}))


class PublishedFiles(http.server.SimpleHTTPRequestHandler):
    """A folder as a web site, and its folder `microscopy/raw` also as a listing of S3."""

    def do_GET(self):
        if "list-type=2" not in self.path:
            return super().do_GET()
        root = Path(self.directory)
        keys = "".join(
            f"<Contents><Key>{path.relative_to(root)}</Key><Size>{path.stat().st_size}</Size></Contents>"
            for path in sorted((root / "microscopy" / "raw").rglob("*.tif"))
        )
        namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
        body = f'<ListBucketResult xmlns="{namespace}">{keys}</ListBucketResult>'.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(PublishedFiles, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_opencell_download(opencell, site, tmp_path, monkeypatch, capsys):
    """From nothing but the web: tables, images, AlphaFold's models, of which one is missing."""
    folder, url = site
    shutil.copytree(opencell / "images" / "AAA1", folder / "microscopy" / "raw" / "AAA1")
    (folder / "annotations.csv").write_bytes((opencell / "annotations.csv").read_bytes())
    (folder / "human.fasta").write_text(f">sp|P00000|A_HUMAN A GN=AAA1\n{sequence(0)}\n")
    monkeypatch.setattr(build_opencell, "BUCKET", url)
    names = ("annotations.csv", "human.fasta")
    monkeypatch.setattr(build_opencell, "TABLES", [RemoteFile(f"{url}/{name}", name) for name in names])
    monkeypatch.setattr(proteins, "ALPHAFOLD", url + "/prediction/{}")
    out, raw = tmp_path / "out", tmp_path / "raw"
    arguments = ["--download", "--images", raw, "--structures", tmp_path / "models", "--out", out, "--processes", "1"]
    monkeypatch.setattr(sys, "argv", ["build_opencell.py", *map(str, arguments)])
    build_opencell.main()
    error = capsys.readouterr().err
    assert (
        "registry.opendata.aws" in error
        and "CC BY-SA 4.0" in error
        and "prediction/P00000: no model (HTTP 404" in error
    )
    assert set(load_dataset(str(out), "all", split="train")["gene"]) == {"AAA1"}
    (folder / "AF-P00000-F1-model_v9.cif").write_text("model")
    (folder / "prediction").mkdir()
    (folder / "prediction" / "P00000").write_text(json.dumps([{"cifUrl": f"{url}/AF-P00000-F1-model_v9.cif"}]))
    shutil.rmtree(folder / "microscopy" / "raw" / "AAA1")  # what is there already is not asked for again
    build_opencell.main()
    assert (tmp_path / "models" / "AF-P00000-F1-model_v9.cif").read_text() == "model"


def test_hpa_download(site, tmp_path, monkeypatch, capsys):
    folder, url = site
    field = simulate("cytoplasmic", size=600, um_per_px=0.16, seed=3, cells=8)
    (folder / "10005").mkdir()
    for colour, image in (("blue", field.nucleus), ("green", field.protein)):
        tifffile.imwrite(folder / "field.tif", image)
        (folder / "10005" / f"1_A1_1_{colour}.tif.gz").write_bytes(gzip.compress((folder / "field.tif").read_bytes()))
    for name in ("proteinatlas", "subcellular_location"):
        with zipfile.ZipFile(folder / f"{name}.tsv.zip", "w") as archive:
            archive.writestr(f"{name}.tsv", "Gene\tEnsembl\tAntibody\nABC1\tENSG1\tHPA010005\n")
    (folder / "human.fasta").write_text(f">sp|P00001|A_HUMAN A GN=ABC1\n{sequence(1)}\n")
    rows = [f"{url}/10005/1_A1_1,Cytosol,U2OS,0.16", f"{url}/10005/2_A1_1,Cytosol,U-2 OS,0.16"]
    rows += [f"{url}/10005/3_A1_1,No staining,U-2 OS,"]  # refused: the first as a JPEG is there, of the other nothing
    (tmp_path / "labels.csv").write_text("\n".join(["Image,Label,Cellline,um_per_px", *rows]) + "\n")
    for colour, image in (("blue", field.nucleus), ("green", field.protein)):
        pixels = (image / image.max() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "10005" / f"2_A1_1_{colour}.jpg")
    tables = [
        RemoteFile(f"{url}/{name}.tsv.zip", f"{name}.tsv.zip") for name in ("proteinatlas", "subcellular_location")
    ]
    monkeypatch.setattr(build_hpa, "TABLES", tables)
    monkeypatch.setattr(build_hpa, "UNIPROT_HUMAN", RemoteFile(f"{url}/human.fasta", "human.fasta"))
    arguments = ["--fields", tmp_path / "raw", "--labels", tmp_path / "labels.csv", "--download", "--processes", "1"]
    arguments += ["--size", "120", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["build_hpa.py", *map(str, arguments)])
    build_hpa.main()
    build_hpa.main()  # all is there
    for name in ("1_A1_1_green.tif.gz", "subcellular_location.tsv.zip"):  # as an earlier start left them, cut off
        source = folder / ("10005" if name.endswith(".gz") else "") / name
        (tmp_path / "raw" / name).write_bytes(source.read_bytes()[:-30])
    (tmp_path / "raw" / "1_A1_1_green.tif").unlink()
    build_hpa.main()
    error = capsys.readouterr().err
    for name in ("1_A1_1_green.tif.gz", "subcellular_location.tsv.zip"):
        assert f"{name} is cut off or damaged, and is fetched again" in error
    assert (
        "3_A1_1_blue.jpg,the atlas gives neither TIFF nor JPEG (HTTP 404"
        in (tmp_path / "out/unmatched.csv").read_text()
    )
    crops = load_dataset(str(tmp_path / "out"), "u2os-single-2", split="train")
    assert set(crops["field_id"]) == {"1_A1_1", "2_A1_1"}
    row = crops[0]
    assert (row["gene"], row["uniprot_id"], row["sequence"]) == ("ABC1", "P00001", sequence(1))


def hpa_arguments(folder: Path, out: Path) -> list[str]:
    """Five fields of U-2 OS, one of another line, and one without a label."""
    (folder / "images").mkdir()
    rows = ["Image,Label,Cellline,Gene"]
    for number in range(7):
        category, label = (("cytoplasmic", "Cytosol"), ("nucleoplasm", "Nucleoplasm"))[number % 2]
        field = simulate(category, size=600, um_per_px=0.16, seed=number, cells=8)
        for colour, image in (("blue", field.nucleus), ("green", field.protein)):
            pixels = (image / image.max() * 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"f{number}_{colour}.png")
        rows.append(f"http://x/1/f{number},{label},{'A-431' if number == 5 else 'U-2 OS'},G{number}")
    (folder / "labels.csv").write_text("\n".join(rows[:-1]) + "\n")
    (folder / "sequences.csv").write_text(
        "gene,uniprot_id,sequence\n" + "".join(f"G{i},P{i:05d},{sequence(i)}\n" for i in range(7))
    )
    tables = ["--labels", str(folder / "labels.csv"), "--sequences", str(folder / "sequences.csv")]
    images = ["--fields", str(folder / "images"), "--fields-um-per-px", "0.16", "--size", "120"]
    return ["datasets_scripts.build_hpa", *images, *tables, "--out", str(out), "--processes", "1"]


def test_hpa_fields(tmp_path, run_script):
    arguments = hpa_arguments(tmp_path, tmp_path / "out")
    (tmp_path / "exclude.csv").write_text(f"accession,sequence_sha1,reason\nP00000,{sha1('a')},test\n")
    code, _, error = run_script(*arguments, "--exclude", tmp_path / "exclude.csv")
    assert code == 0, error
    dataset = load_dataset(str(tmp_path / "out"), "u2os-single-2")
    rows = [row for split in dataset.values() for row in split]
    assert {row["gene"] for row in rows} == {"G0", "G1", "G2", "G3", "G4"}
    assert "G0" in set(dataset["test"]["gene"])
    assert {HPA_LOCATIONS[i] for row in rows for i in row["labels"]} == {"Cytosol", "Nucleoplasm"}
    assert {row["cell_line"] for row in rows} == {"U-2 OS"}
    everything = load_dataset(str(tmp_path / "out"), "all")
    assert "G5" in {gene for split in everything.values() for gene in split["gene"]}
    assert "f6,no table names a label" in (tmp_path / "out" / "unmatched.csv").read_text()


def composite(path: Path, category: str, seed: int, bar: int) -> None:
    """A picture as the atlas's dictionary has them: nucleus blue, protein green, a white scale bar of `bar` pixels."""
    field = simulate(category, size=600, um_per_px=0.125, seed=seed, cells=6)
    pixels = np.zeros((600, 600, 3), np.uint8)
    for channel, image in ((2, field.nucleus), (1, field.protein)):
        pixels[..., channel] = image / image.max() * 255
    pixels[570:574, 480 : 480 + bar] = 255
    Image.fromarray(pixels).save(path, quality=95)


def test_hpa_dictionary(tmp_path, run_script):
    rows = ["file,class_id,compartment"]
    for number in range(7):
        category, name = (("golgi", "Golgi apparatus"), ("nucleoplasm", "Nucleoplasm"))[number % 2]
        composite(tmp_path / f"{number}.jpg", category, number, bar=80 if number < 6 else 0)
        rows.append(f"{number}.jpg,{number % 2},{name}")
    (tmp_path / "index.csv").write_text("\n".join(rows) + "\n")
    options = ("--size", 120, "--max-overlap", 0.9, "--processes", 1, "--out", tmp_path / "out")
    code, _, error = run_script("datasets_scripts.build_hpa", "--dictionary", tmp_path / "index.csv", *options)
    assert code == 0, error
    crops = load_dataset(str(tmp_path / "out"), "dictionary")
    sources = [set(crops[split]["source_image"]) for split in ("train", "validation", "test")]
    assert sorted(map(len, sources)) == [2, 2, 2] and len(set.union(*sources)) == 6  # a picture of either class in each
    assert "6.jpg,no scale bar is seen in the picture" in (tmp_path / "out" / "unmatched.csv").read_text()
    nucleus, protein = read_composite(tmp_path / "1.jpg")
    assert nucleus[565:579, 475:565].max() < 0.3 and protein[565:579, 475:565].max() < 0.3  # the bar is gone
    (tmp_path / "index.csv").write_text("file,compartment\n1.jpg,Moon\n")
    code, _, error = run_script("datasets_scripts.build_hpa", "--dictionary", tmp_path / "index.csv", *options)
    assert code == 2 and "'Moon' is no location of the Human Protein Atlas" in error


def test_few_sources_all_train():
    classes = {f"s{i}": "few" for i in range(2)} | {f"m{i}": "many" for i in range(30)}
    split = three_splits(classes, seed=0)
    assert {split["s0"], split["s1"]} == {"train"}
    assert Counter(split[f"m{i}"] for i in range(30)) == {"train": 16, "validation": 7, "test": 7}


@pytest.mark.parametrize("um_per_px", [0.12, 0.3])
def test_pixel_size_from_nuclei(tmp_path, um_per_px):
    field = simulate("cytoplasmic", size=400, um_per_px=um_per_px, seed=1, cells=8)
    Image.fromarray((field.nucleus / field.nucleus.max() * 255).astype(np.uint8)).save(tmp_path / "n.png")
    diameter = 2 * np.sqrt(12 * 9) / 2  # of the simulation's ellipses
    assert pixel_size(tmp_path / "n.png", diameter) == pytest.approx(um_per_px, rel=0.15)


def test_hpa_images_in_any_form(tmp_path, run_script):
    """What can't be used is listed with its reason, and the build continues."""
    arguments = hpa_arguments(tmp_path, tmp_path / "out")
    images = tmp_path / "images"
    for colour in ("blue", "green"):
        for number, name in enumerate(("f0_{}.TIF", "f1_{}.tif", "f2_{}.tif")):
            tifffile.imwrite(images / name.format(colour), np.asarray(Image.open(images / f"f{number}_{colour}.png")))
            (images / f"f{number}_{colour}.png").unlink()
        for number in (1, 2):
            path = images / f"f{number}_{colour}.tif"
            (images / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[: -1000 if number == 2 else None])
            if (number, colour) != (1, "green"):  # one of two is unpacked
                path.unlink()
        (images / f"f3_{colour}.png").unlink()
    (images / "f4_blue.png").rename(images / "f4_blue.bmp")
    code, _, error = run_script(*arguments)
    assert code == 0, error
    with open(tmp_path / "out" / "fields.csv") as handle:
        reasons = {row["field_id"]: row["reason"] for row in csv.DictReader(handle)}
    assert reasons.keys() == {"f0", "f1", "f2", "f5"} and [name for name in reasons if reasons[name]] == ["f2"]
    assert "f2_blue.tif.gz: the gzipped file is cut off or damaged" in reasons["f2"]
    unmatched = (tmp_path / "out" / "unmatched.csv").read_text()
    assert 'f3,"a table has its label, and there is no image"' in unmatched
    assert 'f4_blue.bmp,"no PNG, JPEG or TIFF file"' in unmatched


def test_hpa_gene_level_labels_only_if_asked_for(tmp_path, run_script):
    arguments = hpa_arguments(tmp_path, tmp_path / "out")
    (tmp_path / "labels.csv").write_text(
        "Image,Label,Cellline,Gene\nf0,Cytosol,U-2 OS,G0\nf1,,U-2 OS,G1\nf2,,U-2 OS,G2\n"
    )
    (tmp_path / "locations.tsv").write_text(
        "Gene\tGene name\tReliability\tMain location\tAdditional location\n"
        "ENSG1\tG1\tSupported\tNucleoplasm;Vesicles\tCytosol\nENSG2\tG2\tUncertain\tVesicles\t\n"
    )
    assert run_script(*arguments)[0] == 0
    assert "Labels are those that the tables give for the image." in (tmp_path / "out" / "README.md").read_text()
    assert "f1,no table names a label" in (tmp_path / "out" / "unmatched.csv").read_text()
    code, _, error = run_script(*arguments, "--locations", tmp_path / "locations.tsv")
    assert code == 0, error
    rows = [row for split in load_dataset(str(tmp_path / "out"), "all").values() for row in split]
    labels = {row["field_id"]: {HPA_LOCATIONS[i] for i in row["labels"]} for row in rows}
    assert labels == {"f0": {"Cytosol"}, "f1": {"Nucleoplasm", "Vesicles", "Cytosol"}}
    assert "(reliability Enhanced or Supported)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.slow
def test_real_data(data_dir, tmp_path, run_script):
    opencell, hpa = data_dir / "opencell", data_dir / "hpa"
    arguments = ["--annotations", opencell / "opencell_annotations_flat.csv", "--out", tmp_path / "opencell"]
    arguments += ["--sequences", opencell / "opencell_targets.csv.gz", "--split-file", opencell / "split.csv"]
    code, _, error = run_script("datasets_scripts.build_opencell", "--images", opencell / "pairs", *arguments)
    assert code == 0, error
    dataset = load_dataset(str(tmp_path / "opencell"), "all")
    genes = {name: set(split["gene"]) for name, split in dataset.items()}
    assert len(genes["train"] | genes["test"]) == 14 and {"NPM1", "POLR1B", "PXN"} <= genes["test"]
    card = (tmp_path / "opencell" / "README.md").read_text()
    assert "the 1300 others 863 are single-localized" in card
    assert "| cytoplasmic | 181 | 40 | 182 | 40 |" in card

    (tmp_path / "genes.csv").write_text("Image,Label,Cellline,Gene\n383_D2_1,,U-251 MG,RPL4\n")
    arguments = ["--labels", hpa / "fields" / "kaggle_train_labels.csv", tmp_path / "genes.csv"]
    arguments += ["--locations", hpa / "subcellular_location.tsv.gz", "--cells", hpa / "cells.csv"]
    arguments += ["--sequences", data_dir / "human_sequences.csv.gz", "--out", tmp_path / "hpa"]
    code, _, error = run_script("datasets_scripts.build_hpa", "--fields", hpa / "fields", *arguments)
    assert code == 0, error
    cells = load_dataset(str(tmp_path / "hpa"), "cells")
    assert len({name for split in cells.values() for name in split["field_id"]}) > 650
    assert not set(cells["train"]["source_image"]) & set(cells["test"]["source_image"])
    markers = load_dataset(str(tmp_path / "hpa"), "markers", split="train")
    assert set(markers["gene"]) == {"TUBA1A", "CALR"}
    rows = [row for split in load_dataset(str(tmp_path / "hpa"), "all").values() for row in split]
    assert len({row["field_id"] for row in rows}) == 4
    (rpl4,) = {(row["gene"], row["cell_line"], *row["labels"]) for row in rows if row["field_id"] == "383_D2_1"}
    assert rpl4[:2] == ("RPL4", "U-251 MG") and "Cytosol" in {HPA_LOCATIONS[i] for i in rpl4[2:]}


def test_only_a_bar_is_a_scale_bar():
    picture = np.zeros((600, 600, 3), np.uint8)
    picture[560:600, 480:600] = 255  # something white in the corner
    assert find_bar(picture)[1] == 0
    picture[540:544, 480:570] = 255
    mask, length = find_bar(picture)
    assert length == 90 and mask[542, 500] and not mask[590, 590]
