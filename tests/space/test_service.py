"""What the site makes of input, good and hostile, without its pages."""

import asyncio
import csv
import gzip
import io
import json
import os
import sys
import threading
import time
import zipfile

import compare_tab
import gradio as gr
import housekeeping
import keeping
import lanes
import lookup
import numpy as np
import pictures
import predict_tab
import pytest
import reading
import service
import verdict
from PIL import Image
from reading import InputError

from protloc.drawing import save_image
from protloc.loading import DEFAULT_MODEL, load_config, load_model
from protloc.microscopy import normalize, simulate
from protloc.prediction import columns, model_digest
from protloc.sequences import read_fasta
from tests.helpers import ROOT, run_protloc, tiny_deeploc
from training.common.cards import INSULIN, SV40_SIGNAL

NUCLEUS = ROOT / "examples" / "nucleus.tif"
PARTS = "\n".join(INSULIN[start : start + 60] for start in range(0, len(INSULIN), 60))
BLOCKS = [INSULIN[start : start + 10] for start in range(0, len(INSULIN), 10)]


@pytest.mark.parametrize(
    "text",
    [
        f"  {INSULIN.lower()[:50]}\n{INSULIN[50:]}  ",
        "\n".join(f"{60 * i + 1:>6} {line} {60 * i + 60}" for i, line in enumerate(PARTS.split("\n"))),
        f"        10         20         30\n{' '.join(BLOCKS[:6])}\n\n        70\n{' '.join(BLOCKS[6:])}",
        " ".join(INSULIN),
        " ".join(INSULIN[start : start + 5] for start in range(0, len(INSULIN), 5)),
    ],
    ids=["bare", "numbered lines", "a ruler above blocks", "letter by letter", "blocks of five"],
)
def test_what_people_paste(text):
    assert reading.read_proteins(text) == ([("protein", INSULIN)], [])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f">a b\r\n{INSULIN}\r\n>c\n{SV40_SIGNAL}*", "a"),
        (f">a\n        10         20\n{PARTS}", "a"),
        (f"id,sequence\na,{INSULIN}", "a"),
        (f"Protein ID;Gene;Protein sequence\na;INS;{INSULIN}", "a"),
        (f'Gene\tAmino acid sequence\na\t"{INSULIN}"', "a"),
        (f"Gene name,UniProt accession,Protein sequence\nINS,P01308,{INSULIN}", "P01308"),
        (f"Sequence\n{INSULIN}\n{SV40_SIGNAL}", "protein_1"),
        (
            f"ID   INS_HUMAN               Reviewed;         110 AA.\nAC   P01308; Q5EEX2;\nDE   RecName: x;\n"
            f"SQ   SEQUENCE   110 AA;  11981 MW;  C2C3B23B85E520E5 CRC64;\n     {' '.join(BLOCKS)}\n//\n",
            "P01308",
        ),
        (
            "LOCUS       NP_000198   110 aa   linear   PRI\nDEFINITION  insulin.\nORIGIN\n"
            f"        1 {' '.join(BLOCKS).lower()}\n//\n",
            "NP_000198",
        ),
        (
            f'LOCUS       J00265   4044 bp    DNA\nFEATURES\n     CDS\n          /translation="{PARTS}"\nORIGIN\n'
            "        1 ctcgaggggc ctagacattg\n//\n",
            "J00265_1",
        ),
    ],
    ids=[
        "FASTA",
        "numbered FASTA",
        "CSV",
        "semicolons",
        "tabs",
        "two names",
        "one column",
        "UniProt",
        "GenPept",
        "GenBank",
    ],
)
def test_formats(text, name):
    assert reading.read_proteins(text).proteins[0] == (name, INSULIN)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("EGFR", "'EGFR' looks like a gene's symbol"),
        ("INS", "'INS' looks like a gene's symbol"),
        ("M", "looks like a gene's symbol"),
        ("X" * 24, "Your sequence is mostly X"),
        ("ATGGCCCTGTGGATGCGCCTCCTGCCCCTGCTGGCGCTGCTGGCC", "Your sequence looks like DNA or RNA"),
        ("the protein that we like", "looks like words, not a sequence"),
        (
            "P01308",
            "P01308 looks like a UniProt accession, not a sequence: copy the sequence from https://www.uniprot.org",
        ),
        ("P01308, P08684\nO24646", "These look like UniProt accessions"),
        ("P01308, EGFR", "'EGFR' among the accessions is none"),
        ("EGFR, INS, TP53", "looks like names, not a sequence"),
        ("EGFR\nKRAS\nINS", "looks like names, not a sequence"),
        ("SERPINA EGFR", "looks like names, not a sequence"),
        ("EGFR_HUMAN", "looks like the name of a UniProt entry"),
        ("NP_000198.1", "looks like a RefSeq accession"),
        ("ENSG00000146648", "looks like an Ensembl identifier"),
        ("1A2B", "looks like a PDB identifier"),
        ("Met-Ala-Leu-Trp-Met-Arg", "is in three-letter codes"),
        (f"Insulin\n{INSULIN}", "'Insulin' above the sequence looks like a name: put '>' before it"),
        (f"CLUSTAL W\n\na {INSULIN}", "This is an alignment"),
        (">a\nMKV", "a has 3 residues: at least 10 are needed"),
        ("LOCUS       J00265   4044 bp    DNA\nORIGIN\n  1 ctcga\n//\n", "J00265 holds DNA and no translation"),
    ],
)
def test_what_is_no_protein_is_not_answered(text, said):
    with pytest.raises(InputError) as error:
        reading.read_proteins(text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["P01308", "p01308", "P01308.1", "sp|P01308|INS_HUMAN", "https://www.uniprot.org/uniprotkb/P01308/entry"],
)
def test_how_an_accession_is_written(text):
    assert reading.read_proteins(text, None, lambda names: [(name, INSULIN) for name in names]).proteins == [
        ("P01308", INSULIN)
    ]


def test_bad_records_are_left_out_and_listed():
    found = reading.read_proteins(f">a\n{INSULIN}\n>bad\nMK1V\n>short\nMKV\n>a\n{INSULIN}\n>dna\n{'ACGT' * 20}")
    assert found.proteins == [("a", INSULIN)]
    said = " ".join(found.skipped)
    assert "bad: '1' at position 3 is not an amino-acid code." in said and "short has 3 residues" in said
    assert "a: this id was used before" in said and "dna looks like DNA" in said and len(found.skipped) == 4


def test_the_examples_are_proteins_that_nobody_trained_on():
    examples = dict(read_fasta(ROOT / "spaces" / "opengps" / "examples.fasta"))
    assert examples.items() <= dict(read_fasta(ROOT / "examples" / "proteins.fasta")).items() and len(examples) == 5


def test_files(tmp_path):
    with gzip.open(tmp_path / "p.fasta.gz", "wt") as file:
        file.write(f">a\n{INSULIN}\n")
    assert reading.read_proteins("", str(tmp_path / "p.fasta.gz")).proteins == [("a", INSULIN)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Paste a protein sequence, or choose a file."),
        (" \n\t", "Paste a protein sequence, or choose a file."),
        ("MKVMKVMKV1MKV", "Your sequence: '1' at position 10 is not an amino-acid code"),
        ("A" * 1_000_001, "The input is longer than 1,000,000 characters: send it in parts."),
        (f">a\n{'L' * 20_001}", "a has 20,001 residues; at most 20,000 are read."),
        ("".join(f">p{i}\nMKVMKVMKVMKV\n" for i in range(101)), "More than 100 proteins: send at most 100 at a time."),
        ("".join(f">p{i}\n{'MKVLL' * 3000}\n" for i in range(14)), "More than 200,000 residues in all"),
        (">a\n", "a"),
        ("MK\x00\x1bVMKVMKVMKV", "is not an amino-acid code"),
        ("<script>alert(1)</script>", "is not an amino-acid code"),
        ("id,length\nx,5", "no table with a column for the id"),
    ],
)
def test_bad_text_gets_a_sentence(text, said):
    with pytest.raises(InputError) as error:
        reading.read_proteins(text)
    assert said in str(error.value) and len(str(error.value)) < 500 and "\n" not in str(error.value)
    assert "record '" not in str(error.value)


def test_bad_files_get_a_sentence(tmp_path):
    with gzip.open(tmp_path / "bomb.gz", "wb") as file:
        for _ in range(100):
            file.write(b"A" * 1_000_000)
    with pytest.raises(InputError, match="longer than 1,000,000 characters"):
        reading.read_proteins("", str(tmp_path / "bomb.gz"))
    (tmp_path / "cut.gz").write_bytes((tmp_path / "bomb.gz").read_bytes()[:100])
    with pytest.raises(InputError):
        reading.read_proteins("", str(tmp_path / "cut.gz"))
    (tmp_path / "binary.fasta").write_bytes(bytes(range(256)))
    with pytest.raises(InputError):
        reading.read_proteins("", str(tmp_path / "binary.fasta"))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(
        InputError, match="The image of the nucleus: no image that can be read: it is none of PNG, TIFF"
    ):
        service.read_nucleus(str(tmp_path / "text.png"))
    Image.new("L", (5000, 5000)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match="5000 x 5000 pixels are more than 16,000,000"):
        service.read_nucleus(str(tmp_path / "large.png"))


def test_the_pixel_size_is_the_files_or_asked_for(tmp_path):
    Image.new("L", (300, 300)).save(tmp_path / "no_size.png")
    with pytest.raises(InputError, match="does not say how large its pixels are: give their size in micrometres"):
        service.read_nucleus(str(tmp_path / "no_size.png"))
    nucleus = simulate("nucleoplasm", size=400, cells=5).nucleus
    Image.fromarray((255 * normalize(nucleus)).astype(np.uint8)).save(tmp_path / "nuclei.png")
    with pytest.raises(InputError, match=r"With nuclei 14 µm wide, as is usual, it would be 0\.2\d\."):
        service.read_nucleus(str(tmp_path / "nuclei.png"))
    found = service.read_nucleus(str(tmp_path / "no_size.png"), um_per_px=0.103)
    assert found.pixels.shape == (150, 150) and found.scale == "Pixels of 0.103 µm, as you said."
    save_image(np.eye(104, dtype=np.float32), tmp_path / "sized", "", 0.412)
    found = service.read_nucleus(str(tmp_path / "sized.tif"))
    assert found.pixels.shape == (208, 208) and found.scale == "Pixels of 0.412 µm, as the file says."
    with pytest.raises(InputError, match="A pixel of 900 µm: give a size from"):
        service.read_nucleus(str(tmp_path / "no_size.png"), um_per_px=900)


def test_a_field_of_a_number_may_be_empty(tmp_path):
    """Empty is not 0: the page of a stack is asked for."""
    pages = [Image.fromarray(np.full((300, 300), value, np.uint8)) for value in (1, 2)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="holds 2 pages"):
        predict_tab.read_image(str(tmp_path / "stack.tif"), "grey", "", "0,206")
    found = predict_tab.read_image(str(tmp_path / "stack.tif"), "grey", "1", "0,206")
    assert found.pixels.max() == 2 and found.scale == "Pixels of 0.206 µm, as you said."
    with pytest.raises(InputError, match="The page must be a number, got 'first'"):
        predict_tab.read_image(str(tmp_path / "stack.tif"), "grey", "first", "")
    with pytest.raises(InputError, match="Give both ends of the window"):
        compare_tab.window(INSULIN, 5, None)


def test_the_square_around_a_point():
    image = np.arange(300 * 400, dtype=np.float32).reshape(300, 400)
    assert service.cut(image).shape == (208, 208) and service.cut(image)[0, 0] == image[46, 96]
    assert service.cut(image, 0, 299)[-1, 0] == image[-1, 0]
    assert service.cut(image[:100, :100]).shape == (100, 100)


def test_a_protein_on_a_nucleus():
    nucleus = service.read_nucleus(str(NUCLEUS), um_per_px=0.206)
    (found,) = service.analyze([("ins", INSULIN)], nucleus)
    localizer, _ = load_model()
    assert {*columns(localizer.config, signals=True, tree=True)} <= found.keys()
    assert verdict.named(found)[0] == "Extracellular" and found["image"].shape == found["nucleus"].shape == (208, 208)
    assert found["membrane"] == "soluble" and "SP" in found["signals"] and found["truncated"] is False
    assert model_digest(localizer) in found["model_version"]
    assert len(found["attention"]) == len(INSULIN) and found["uncertainty"] is None
    (found,) = service.analyze([("ins", INSULIN)], model=service.MODELS[0], threshold=0.05)
    assert "image" not in found
    assert {*verdict.named(found)} == {name for name in found["thresholds"] if found[name] >= 0.05}
    with pytest.raises(InputError, match="There is no model 'someone/else' here"):
        next(service.analyze([("ins", INSULIN)], model="someone/else"))
    for options in ({"threshold": 1.5}, {"threshold": float("nan")}, {"samples": 0}, {"samples": 10**9}):
        with pytest.raises(InputError, match="must be from"):
            next(service.analyze([("ins", INSULIN)], **options))
    with pytest.raises(InputError, match="The organism must be one of"):
        next(service.analyze([("ins", INSULIN)], organism="rock"))
    with pytest.raises(InputError, match="the image is empty"):
        next(service.analyze([("ins", INSULIN)], service.Nucleus(np.zeros((208, 208), np.float32), "")))


def test_what_an_organism_lacks_is_not_named():
    proteins = [("P00890", dict(read_fasta(ROOT / "examples" / "proteins.fasta"))["P00890"])]
    (any_organism,) = service.analyze(proteins, model=service.MODELS[0])
    (fungus,) = service.analyze(proteins, model=service.MODELS[0], organism="fungus")
    assert any_organism["Plastid"] > 0.1 and fungus["Plastid"] == fungus["signal_CH"] == 0
    assert "Plastid" not in fungus["localizations"] and fungus["localizations"]
    assert not {"CH", "TH"} & {*fungus["signals"].split("|")}


def test_text_and_picture_are_compared():
    assert service.agreement("Endoplasmic reticulum|Nucleus", "ER") is True
    assert service.agreement("Nucleus", "ER") is False
    assert service.agreement("Extracellular|Peroxisome", "ER") is None


@pytest.fixture(scope="module")
def insulin() -> dict:
    (found,) = service.analyze([("=<img src=//evil.org/x>![x](//evil.org/y)`", INSULIN)])
    return found


def test_a_verdict_in_words(insulin):
    said = verdict.verdict(insulin)
    assert "extracellular (0." in said and "well above its threshold" in said and " · soluble (" in said
    assert " · read whole · the picture " in said
    assert "signal peptide 1-2" in said  # to residue 24 by UniProt
    disagrees = verdict.verdict(insulin | {"picture_agrees": False})
    assert f"the picture disagrees: it shows {insulin['image_label']}" in disagrees
    with_segments = insulin | {"segments": [{"type": "SP", "start": 1, "end": 24, "probability": 0.934}]}
    assert "signal peptide 1-24 (0.93)" in verdict.verdict(with_segments)
    page = verdict.answer(with_segments)
    assert page.count('class="s"') + page.count('class="h s"') == 24 and "signal peptide 1-24, probability 0.93" in page


def test_a_model_of_other_labels_without_membrane(tokenizer):
    model = tiny_deeploc(id2label={0: "bud", 1: "vacuole"}, membrane=False)
    models = service.Models((model, tokenizer), None, None, "mine")
    found = service.answer(("x", INSULIN), service.Job(models, None, "", None, 1, "fungus"))
    assert "membrane" not in verdict.verdict(found) and "membrane" not in verdict.probabilities(found)
    assert "was right for" not in verdict.answer(found)
    (row,) = csv.DictReader(io.StringIO(pictures.write_csv([found])))
    assert float(row["bud"]) + float(row["vacuole"]) > 0 and "membrane_probability" not in row
    assert "vacuole" in verdict.table([found, found], "x")


def test_words_are_backed_by_a_measurement_of_this_model():
    """Rerun `python -m benchmarks.confidence` where this fails."""
    assert verdict.CONFIDENCE["models"]["deeploc"]["model_digest"] == model_digest(load_model(dtype="float32")[0])
    for model in verdict.CONFIDENCE["models"]:
        shares = [of["right"] for of in dict(verdict.measured(model))["DeepLoc 2.0's validation"].values()]
        assert shares[-3:] == sorted(shares[-3:])  # a stronger word is right more often
    assert verdict.words(0.5, 0.5) == "just above its threshold" and verdict.words(0.9, 0.1).startswith("well above")


def test_markup_in_an_id_stays_text(insulin):
    shown = verdict.answer(insulin) + verdict.table([insulin, insulin], "x") + verdict.status(insulin["protein_id"])
    shown += pictures.figures(insulin) + pictures.side_by_side([insulin, insulin])
    assert "<img src=//" not in shown and "![x]" not in shown and "`" not in shown and "${" not in shown


def test_a_long_protein_is_shown_in_part(insulin):
    length = 5000
    row = insulin | {
        "sequence": "MKVLA" * 1000,
        "attention": [1 / length] * length,
        "length": length,
        "truncated": True,
    }
    shown = verdict.answer(row)
    assert shown.count('class="line"') <= verdict.LETTERS // verdict.LINE and "are not shown" in shown
    assert "not read whole" in shown


def test_files_of_earlier_visits_go(tmp_path):
    for name in ("old/deep/file", "young/file", "cut.upload"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x" * 100)
    assert housekeeping.used(tmp_path) >= 300
    for name in ("old/deep/file", "old/deep", "old", "cut.upload"):
        os.utime(tmp_path / name, (0, 0))
    housekeeping.sweep(tmp_path)
    assert [path.name for path in sorted(tmp_path.rglob("*")) if path.is_file()] == ["file"]
    assert (tmp_path / "young" / "file").exists()


def test_files_to_take_home(tmp_path):
    rows = list(service.analyze([("../../etc/x y", INSULIN), ("=1+1", SV40_SIGNAL)]))
    pictures.write_archive(rows, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        names = archive.namelist()
        assert len(names) == 11 and not any("../" in name or name.startswith("/") for name in names)
        (tif,) = [name for name in names if name.endswith(".tif") and "etc" in name]
        pixels = np.asarray(Image.open(io.BytesIO(archive.read(tif))))
        assert pixels.dtype == np.uint16 and np.allclose(pixels / 65535, rows[0]["image"], atol=1e-4)
        lines = list(csv.DictReader(io.StringIO(archive.read("predictions.csv").decode())))
        about = archive.read("README.txt").decode()
    localizer, _ = load_model()
    assert [*lines[0]][: len(columns(localizer.config))][:6] == columns(localizer.config)[:6]
    assert {*columns(localizer.config, signals=True, tree=True)} <= lines[0].keys()
    assert lines[1]["protein_id"] == "'=1+1"  # a spreadsheet would compute it
    assert lines[0]["sequence"] == INSULIN and float(lines[0]["threshold_Nucleus"]) > 0 and lines[0]["date"]
    assert lines[0]["cite"] in about and lines[0]["model_version"] in about
    json.dumps(pictures.describe(rows[0]))  # what programs get is JSON


def test_a_small_job_does_not_wait_for_a_large_one_and_visitors_take_turns():
    order: list[str] = []

    def step(name: str, seconds: float) -> None:
        time.sleep(seconds)
        order.append(name)

    async def request(visitor: str, cost: int, steps: int, seconds: float) -> None:
        async with lanes.job(visitor, cost) as lane:
            for number in range(steps):
                await lane.run(visitor, step, f"{visitor}{number}", seconds)

    async def all_at_once() -> None:
        large = [request(name, lanes.SMALL + 1, 5, 0.05) for name in ("a", "a", "b")]
        tasks = [asyncio.create_task(one) for one in large]
        await asyncio.sleep(0.02)
        await request("c", 10, 1, 0.01)
        await asyncio.gather(*tasks)

    asyncio.run(all_at_once())
    assert order[0] == "c0" and len(order) == 16
    assert order.index("b4") < 11  # beside the first of `a`, before the second: one large job a visitor
    assert not lanes.jobs and not lanes.large_jobs and lanes.small.free == lanes.large.free == 1


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_a_large_job_leaves_the_core_to_a_small_one():
    def priority() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    async def both() -> tuple[int, int]:
        return await lanes.small.run("a", priority), await lanes.large.run("b", priority)

    small, large = asyncio.run(both())
    assert small < large == 10 and small == priority()


def test_a_cancelled_job_gives_its_place_back():
    async def cancelled() -> None:
        running = asyncio.create_task(lanes.large.run("a", time.sleep, 0.1))
        waiting = asyncio.create_task(lanes.large.run("b", time.sleep, 0.1))
        await asyncio.sleep(0.02)
        running.cancel()
        waiting.cancel()
        await asyncio.sleep(0.2)

    asyncio.run(cancelled())
    assert lanes.large.free == 1


def test_look_up_is_off_without_a_network(monkeypatch):
    monkeypatch.setattr(lookup, "ON", False)
    with pytest.raises(InputError, match="EGFR of human: sequences are not looked up here"):
        lookup.read("EGFR human")
    with pytest.raises(InputError, match="looks like a UniProt accession"):
        lookup.read("P01308")


def test_a_result_is_kept_and_deleted_by_its_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "RESULTS", tmp_path / "results")
    rows = list(service.analyze([("a", INSULIN), ("<b>", SV40_SIGNAL)]))
    name, key = keeping.keep(rows)
    assert keeping.keep(rows)[0] != name
    found, said = keeping.find(name)
    assert rows[0]["model_version"] in said and "until" in said
    # The page and the files of a kept result are those of the run.
    assert pictures.write_csv(found) == pictures.write_csv(rows)
    assert [verdict.answer(row, "", "1") for row in found] == [verdict.answer(row, "", "1") for row in rows]
    np.testing.assert_allclose(found[0]["image"], rows[0]["image"], atol=1e-4)
    pictures.write_archive(found, tmp_path / "all.zip")
    for wrong in ("x" * 24, "", f"../results/{name}", name + "x"):
        with pytest.raises(InputError, match="not kept here"):
            keeping.find(wrong)
    with pytest.raises(InputError, match="does not delete"):
        keeping.delete(name, key + "x")
    assert key not in keeping.path_of(name).read_bytes().decode("latin-1")
    keeping.delete(name, key)
    with pytest.raises(InputError, match="not kept here"):
        keeping.find(name)
    (left,) = housekeeping.RESULTS.iterdir()
    assert left.stat().st_mode & 0o777 == 0o600
    housekeeping.sweep_file(left, 60)
    assert left.exists()
    housekeeping.sweep_file(left, -1)
    assert not left.exists()
    keeping.keep(rows, "visitor")
    written = sum(path.stat().st_size for path in housekeeping.RESULTS.iterdir())
    monkeypatch.setattr(keeping, "SHARE", 1.5 * written / housekeeping.QUOTA)  # room for one
    with pytest.raises(InputError, match="as much as this site has room for from one address"):
        keeping.keep(rows, "visitor")  # counted by the files: of other processes, and after a restart, too
    keeping.keep(rows, "another visitor")
    monkeypatch.setattr(keeping, "SHARE", 1)
    (tmp_path / "file").touch()
    monkeypatch.setattr(housekeeping, "RESULTS", tmp_path / "file" / "x")
    with pytest.raises(InputError, match="can't keep"):
        keeping.keep(rows)


def test_what_the_site_says_is_what_the_command_says(tmp_path):
    """To the last digit, in the table to take home and for programs; one protein alone, and several at once."""
    proteins = list(read_fasta(ROOT / "examples" / "proteins.fasta"))[:4]
    out = tmp_path / "out.csv"
    (tmp_path / "in.fasta").write_text("".join(f">{name}\n{sequence}\n" for name, sequence in proteins))
    assert run_protloc("predict", tmp_path / "in.fasta", "--signals", "--tree", "-o", out)[0] == 0
    rows = list(service.analyze(proteins, model=service.MODELS[0]))
    taken_home = list(csv.DictReader(io.StringIO(pictures.write_csv(rows))))
    for row, mine, found in zip(csv.DictReader(open(out)), taken_home, map(pictures.describe, rows), strict=True):
        assert {name: mine[name] for name in row} == row
        for name in load_config(DEFAULT_MODEL).id2label.values():
            assert found[name] == float(row[name])
        assert "|".join(found["localizations"]) == row["localizations"] and "|".join(found["signals"]) == row["signals"]


def test_a_threshold_of_ones_own_is_not_given_the_words_of_the_models(insulin):
    (found,) = service.analyze([("ins", INSULIN)], model=service.MODELS[0], threshold=0.05)
    assert "threshold 0.05" in verdict.verdict(found) and "well above" not in verdict.verdict(found)
    assert verdict.backing(found) == "" and "was right for" in verdict.backing(insulin)
    assert "was right for" not in verdict.answer(insulin | {"model_version": "me/deeploc 0123456789abcdef"})
    assert "deepgps " in insulin["model_version"]  # what drew the picture


def test_an_answer_before_its_picture():
    job = service.prepare([("ins", INSULIN)])
    said = service.said_of(("ins", INSULIN), job)
    assert "the picture" not in verdict.verdict(said) and pictures.figures(said) == ""
    with_picture = said | service.drawn(said, job)
    assert verdict.verdict(with_picture).startswith(verdict.verdict(said))
    shown = verdict.table([with_picture, said | {"protein_id": "b"}], "ins")
    assert "picture" in shown
    assert len(list(csv.DictReader(io.StringIO(pictures.write_csv([with_picture, said]))))) == 2


def test_residues_lie_below_those_that_they_are():
    reference = "MKVLAWGPDEFRSTHIQNYC"
    deleted = compare_tab.places(reference, reference[:8] + reference[9:])
    assert [deleted(before) for before in (0, 8, 9, 19)] == [0, 8, 10, 20]
    inserted = compare_tab.places(reference, reference[:8] + "AAA" + reference[8:])
    assert [inserted(before) for before in (8, 11, 23)] == [8, 8, 20]
    changed = compare_tab.places(reference, reference[:8] + "A" + reference[9:])
    assert [changed(before) for before in (8, 9, 20)] == [8, 9, 20]
    assert compare_tab.places(reference, reference[::-1])(7) == 7  # another protein
    assert compare_tab.places(reference, reference[:12])(12) == 12


def test_a_kept_result_is_looked_at_when_it_is_ones_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(housekeeping, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(housekeeping, "OWN", tmp_path)
    name, _ = keeping.keep(list(service.analyze([("a", INSULIN)], model=service.MODELS[0])))
    ended: list[str] = []

    async def look() -> None:
        shown = await predict_tab.kept(1.0, gr.Request(query_params={"result": name}))
        assert "Kept since" in dict(zip(predict_tab.Page.names, shown, strict=True))["status"]
        ended.append("looked")

    async def both() -> None:
        busy = asyncio.create_task(lanes.small.run("another", lambda: (time.sleep(0.3), ended.append("computed"))))
        await asyncio.sleep(0.02)
        await look()
        await busy

    asyncio.run(both())
    assert ended == ["computed", "looked"]
