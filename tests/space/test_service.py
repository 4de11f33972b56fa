"""What the site makes of input, good and hostile, without its pages."""

import gzip
import io
import os
import tempfile
import zipfile

import app
import numpy as np
import pictures
import pytest
import service
from PIL import Image
from service import InputError

from protloc.sequences import read_fasta
from tests.helpers import ROOT
from training.common.cards import INSULIN, SV40_SIGNAL

NUCLEUS = ROOT / "examples" / "nucleus.tif"


def test_what_people_paste():
    assert service.read_proteins(f"  {INSULIN.lower()[:50]}\n{INSULIN[50:]}  ") == [("protein", INSULIN)]
    assert service.read_proteins(f">a b\r\n{INSULIN}\r\n>c\n{SV40_SIGNAL}*") == [("a", INSULIN), ("c", SV40_SIGNAL)]
    assert service.read_proteins(f"id,sequence\nx,{SV40_SIGNAL}") == [("x", SV40_SIGNAL)]


def test_the_examples_are_proteins_that_nobody_trained_on():
    examples = dict(read_fasta(ROOT / "spaces" / "opengps" / "examples.fasta"))
    assert examples.items() <= dict(read_fasta(ROOT / "examples" / "proteins.fasta")).items() and len(examples) == 5


def test_files(tmp_path):
    with gzip.open(tmp_path / "p.fasta.gz", "wt") as file:
        file.write(f">a\n{INSULIN}\n")
    assert service.read_proteins("", str(tmp_path / "p.fasta.gz")) == [("a", INSULIN)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Paste a protein sequence, or choose a file."),
        (" \n\t", "Paste a protein sequence, or choose a file."),
        ("MKV1", "'1' at position 4 is not an amino-acid code"),
        ("A" * 1_000_001, "The input is longer than 1,000,000 characters: send it in parts."),
        (f">a\n{'A' * 20_001}", "a has 20,001 residues; at most 20,000 are read."),
        ("".join(f">p{i}\nMKV\n" for i in range(101)), "More than 100 proteins: send at most 100 at a time."),
        (">a\nMKV\n>a\nMKV", "this id was used before"),
        (">a\n", "a"),
        ("MK\x00\x1bV", "is not an amino-acid code"),
        ("<script>alert(1)</script>", "is not an amino-acid code"),
    ],
)
def test_bad_text_gets_a_sentence(text, said):
    with pytest.raises(InputError) as error:
        service.read_proteins(text)
    assert said in str(error.value) and len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_bad_files_get_a_sentence(tmp_path):
    with gzip.open(tmp_path / "bomb.gz", "wb") as file:
        for _ in range(100):
            file.write(b"A" * 1_000_000)
    with pytest.raises(InputError, match="longer than 1,000,000 characters"):
        service.read_proteins("", str(tmp_path / "bomb.gz"))
    (tmp_path / "cut.gz").write_bytes((tmp_path / "bomb.gz").read_bytes()[:100])
    with pytest.raises(InputError):
        service.read_proteins("", str(tmp_path / "cut.gz"))
    (tmp_path / "binary.fasta").write_bytes(bytes(range(256)))
    with pytest.raises(InputError):
        service.read_proteins("", str(tmp_path / "binary.fasta"))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(
        InputError, match="The image of the nucleus: no image that can be read: it is none of PNG, TIFF"
    ):
        service.read_nucleus(str(tmp_path / "text.png"))
    Image.new("L", (5000, 5000)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="5000 x 5000 pixels are more than 16,000,000"):
        service.read_nucleus(str(tmp_path / "large.png"))


def test_the_square_around_a_point():
    image = np.arange(300 * 400, dtype=np.float32).reshape(300, 400)
    assert service.cut(image).shape == (208, 208) and service.cut(image)[0, 0] == image[46, 96]
    assert service.cut(image, 0, 299)[-1, 0] == image[-1, 0]
    assert service.cut(image[:100, :100]).shape == (100, 100)


def test_a_protein_on_a_nucleus():
    nucleus = service.read_nucleus(str(NUCLEUS))
    (found,) = service.analyze([("ins", INSULIN)], nucleus)
    assert found["localizations"][0] == "Extracellular" and found["image"].shape == found["nucleus"].shape == (208, 208)
    assert len(found["attention"]) == len(INSULIN) and found["uncertainty"] is None
    (found,) = service.analyze([("ins", INSULIN)], model=service.MODELS[0], threshold=0.05)
    assert "image" not in found
    assert set(found["localizations"]) == {name for name, score in found["scores"].items() if score >= 0.05}
    with pytest.raises(InputError, match="There is no model 'someone/else' here"):
        next(service.analyze([("ins", INSULIN)], model="someone/else"))
    for options in ({"threshold": 1.5}, {"threshold": float("nan")}, {"samples": 0}, {"samples": 10**9}):
        with pytest.raises(InputError, match="must be from"):
            next(service.analyze([("ins", INSULIN)], **options))
    with pytest.raises(InputError, match="the image is empty"):
        next(service.analyze([("ins", INSULIN)], np.zeros((208, 208), np.float32)))


def test_files_of_earlier_visits_go(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = app.new_folder()
    second = app.new_folder()
    assert first.is_dir()
    os.utime(first, (0, 0))
    app.new_folder()
    assert not first.exists() and second.is_dir()


def test_files_to_take_home(tmp_path):
    rows = list(service.analyze([("../../etc/x y", INSULIN), ("=1+1", SV40_SIGNAL)]))
    pictures.write_archive(rows, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert len(names) == 7 and not any("../" in name or name.startswith("/") for name in names)
        (tif,) = [name for name in names if name.endswith(".tif") and "etc" in name]
        pixels = np.asarray(Image.open(io.BytesIO(archive.read(tif))))
        assert pixels.dtype == np.uint16 and np.allclose(pixels / 65535, rows[0]["image"], atol=1e-4)
        lines = archive.read("predictions.csv").decode().splitlines()
    assert len(lines) == 3 and lines[0].startswith("protein,residues,compartments,membrane,picture shows,Cytoplasm")
    assert lines[2].startswith("'=1+1,")  # a spreadsheet would compute it
    figure = pictures.bars(rows[0]), pictures.attention(rows[0])
    assert all(figure) and pictures.overlay(rows[0]["nucleus"], rows[0]["image"]).size == (208, 208)
