"""`protloc predict --nucleus` and `protloc embed` as people run them."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import torch
from PIL import Image
from transformers import AutoModel, pipeline

import protloc_entry
from protloc import DeepGPSImageProcessor, DeepGPSProcessor, drawing
from protloc.embedding import ResidueEmbeddings
from protloc.images import read_image
from protloc.loading import load_model
from protloc.microscopy import DEFAULT_NUCLEUS, normalize, nucleus_found, simulate
from protloc.models.convert_unirep import build_tokenizer
from protloc.prediction import model_digest
from protloc.results import partial_path
from protloc.structures import point_cloud
from tests.fuzz.readers import structures
from tests.helpers import ROOT, TINY_ESM, TINY_UNIREP, tiny_deepgps

FASTA = ">sp|P1|A b\nMKTAYIAKQR\n>../x\nMKVLAAGIVGLLLALSAQA\n>C\nMPKKKRKVKK\n"


@pytest.fixture(scope="module")
def drawer_dir(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "deepgps"
    processor = DeepGPSProcessor(tokenizer, DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))
    pipeline("protein-imaging", model=tiny_deepgps(patch_size=2), processor=processor).save_pretrained(folder)
    return folder


@pytest.fixture
def protloc_command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["protloc", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            protloc_entry.main()
        return stop.value.code, capsys.readouterr().err

    return run


def test_images_beside_the_table(protloc_command, fasta, drawer_dir, tiny_model_dir, tmp_path):
    nucleus = tmp_path / "nucleus.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (45, 61), dtype=np.uint8)).save(nucleus)
    seen = str(nucleus_found(np.asarray(Image.open(nucleus)), 0.206)).lower()
    out = tmp_path / "results" / "out.csv"
    out.parent.mkdir()
    options = ("--model", tiny_model_dir, "--image-model", drawer_dir, "-o", out)
    assert protloc_command("predict", fasta, *options, "--nucleus", nucleus) == (0, "")
    rows = list(csv.DictReader(out.open()))
    assert [row["protein_id"] for row in rows] == ["sp|P1|A", "../x", "C"]
    assert list(rows[0])[-4:] == ["image_label", "image_label_probability", "image", "nucleus_found"]
    assert rows[2]["image"] == "out_images/C.png" and rows[2]["nucleus_found"] == seen
    assert all((out.parent / row["image"]).is_file() for row in rows)
    names = sorted(path.name for path in (out.parent / "out_images").iterdir())
    assert len(names) == 6 and names[:2] == ["C.png", "C.tif"]
    assert {name.rsplit("-", 1)[0] for name in names[2:]} == {"_x", "sp_P1_A"}

    draw = pipeline("protein-imaging", model=AutoModel.from_pretrained(drawer_dir), processor=str(drawer_dir))
    alone = draw({"sequence": "MPKKKRKVKK", "nucleus": str(nucleus)})
    assert np.array_equal(np.asarray(Image.open(out.parent / "out_images" / "C.png")), np.asarray(alone["image"]))
    assert rows[2]["image_label"] == alone["label"]
    assert float(rows[2]["image_label_probability"]) == pytest.approx(max(alone["scores"].values()), abs=1e-5)
    exact = np.asarray(Image.open(out.parent / "out_images" / "C.tif"))
    assert exact.dtype == np.uint16 and exact.shape == (45, 61)
    assert np.abs(exact / 65535 - np.asarray(alone["image"]) / 255).max() < 0.003


def test_the_default_nucleus(protloc_command, fasta, drawer_dir, tiny_model_dir, tmp_path):
    options = ("--model", tiny_model_dir, "--image-model", drawer_dir, "-o", tmp_path / "out.jsonl")
    assert protloc_command("predict", fasta, *options, "--nucleus", "default") == (0, "")
    assert Image.open(tmp_path / "out_images" / "C.png").size == (208, 208)


def test_several_nuclei_of_any_pixel_size(protloc_command, fasta, drawer_dir, tiny_model_dir, tmp_path, caplog):
    field = simulate("cytoplasmic", size=200, seed=0, cells=4).nucleus
    pair = np.round(np.stack([field[::-1], field]) / field.max() * 60_000).astype(np.uint16)
    ome = {"axes": "CYX", "Channel": {"Name": ["GFP", "Hoechst"]}}
    um = {f"PhysicalSize{axis}{end}": value for axis in "XY" for end, value in (("", 0.103), ("Unit", "µm"))}
    tifffile.imwrite(tmp_path / "ome.tif", pair, ome=True, metadata={**ome, **um})
    tifffile.imwrite(tmp_path / "plain.tif", pair, photometric="minisblack")
    base = ("predict", fasta, "--model", tiny_model_dir, "--image-model", drawer_dir)
    both = ("--nucleus", tmp_path / "ome.tif", "--nucleus", tmp_path / "plain.tif", "--nucleus-channel", "1")
    assert protloc_command(*base, *both, "-o", tmp_path / "both.csv") == (0, "")
    assert "its pixels of 0.103 um are made 0.206 um" in caplog.text
    row = list(csv.DictReader((tmp_path / "both.csv").open()))[2]
    assert row["image"] == "both_images/C.1.png|both_images/C.2.png" and row["nucleus_found"].count("|") == 1
    pictures = [Image.open(tmp_path / path) for path in row["image"].split("|")]
    assert [picture.size for picture in pictures] == [(100, 100), (200, 200)]
    assert "C drawn on the nucleus" in pictures[0].text["Description"] and "ome.tif" in pictures[0].text["Description"]
    assert read_image(tmp_path / "both_images" / "C.1.tif").um_per_px == pytest.approx(0.206, abs=1e-4)
    assert read_image(tmp_path / "both_images" / "C.1.png").um_per_px == pytest.approx(0.206, abs=1e-3)

    options = ("--nucleus", tmp_path / "ome.tif", "--nucleus-channel", "Hoechst", "--nucleus-um-per-px", "0.206")
    assert protloc_command(*base, *options, "-o", tmp_path / "one.csv") == (0, "")
    one, other = (np.asarray(Image.open(tmp_path / name)) for name in ("one_images/C.png", "both_images/C.2.png"))
    assert np.array_equal(one, other)
    code, err = protloc_command(*base, *options[:2], "-o", tmp_path / "none.csv", "--nucleus-channel", "DAPI")
    assert code == 2 and "GFP" in err and not (tmp_path / "none.csv").exists()
    code, err = protloc_command(*base, *both, "--nucleus-um-per-px", "3.9", "-o", tmp_path / "none.csv")
    assert code == 2 and "200 x 200 pixels of 3.9 um are" in err and "cut out a part of it" in err
    code, err = protloc_command(*base, *both, "--nucleus-um-per-px", "-1", "-o", tmp_path / "none.csv")
    assert code == 2 and "'-1' is not a positive number" in err


@pytest.mark.parametrize(
    ("um_per_px", "said"),
    [(0.09, "with which its nuclei are 14 um wide"), (0.206, "0.206 um are assumed, as in the images that the model")],
)
def test_a_pixel_size_that_nobody_gives(drawer_dir, tmp_path, caplog, um_per_px, said):
    field = simulate("cytoplasmic", size=round(60 / um_per_px), um_per_px=um_per_px, seed=1, cells=8).nucleus
    Image.fromarray((255 * normalize(field)).astype(np.uint8)).save(tmp_path / "nucleus.png")
    processor = drawing.load_model(drawer_dir)[1]
    found = drawing.read_nucleus(str(tmp_path / "nucleus.png"), processor)
    assert found.found and "does not say how large a pixel is: " in caplog.text and said in caplog.text
    # Simulated nuclei are 10.4 um wide.
    assert um_per_px == 0.206 or found.pixels.shape[-1] == pytest.approx(60 / 0.206 * 14 / 10.4, rel=0.12)
    caplog.clear()
    drawing.read_nucleus(str(tmp_path / "nucleus.png"), processor, um_per_px=um_per_px)
    assert "does not say how large" not in caplog.text


def test_samples_and_seed(protloc_command, fasta, tiny_model_dir, tokenizer, tmp_path, capsys):
    processor = DeepGPSProcessor(tokenizer, DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))
    model = tiny_deepgps(objective="diffusion", num_inference_steps=1)
    pipeline("protein-imaging", model=model, processor=processor).save_pretrained(tmp_path / "diffusion")
    capsys.readouterr()  # its progress bar
    base = (
        "predict",
        fasta,
        "--model",
        tiny_model_dir,
        "--image-model",
        tmp_path / "diffusion",
        "--nucleus",
        "default",
    )
    for name, options in {"a": (), "b": ("--seed", "1"), "c": ("--num-samples", "2")}.items():
        assert protloc_command(*base, *options, "-o", tmp_path / f"{name}.csv") == (0, "")
    a, b, c = ((tmp_path / f"{name}_images" / "C.png").read_bytes() for name in "abc")
    assert len({a, b, c}) == 3
    assert not list((tmp_path / "a_images").glob("*uncertainty*"))
    assert (tmp_path / "c_images" / "C.uncertainty.png").exists()


@pytest.mark.parametrize("inputs", ["structure", "sequence+structure"])
def test_models_that_read_structures(protloc_command, tokenizer, tiny_model_dir, tmp_path, caplog, inputs):
    """One complex for all, of which each protein's chain is read, or a folder by ids; the picture is the pipeline's."""
    processor = DeepGPSProcessor(tokenizer, DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))
    drawer = pipeline("protein-imaging", model=tiny_deepgps(inputs=inputs), processor=processor)
    drawer.save_pretrained(tmp_path / "model")
    complex_file, folder = tmp_path / "complex.pdb", tmp_path / "structures"
    complex_file.write_bytes(structures()[0])
    folder.mkdir()
    (folder / "B1").mkdir()
    for name in ("AF-A1-F1-model_v6.pdb", "B1.pdb"):
        (folder / name).write_bytes(structures()[0])
    proteins, options = tmp_path / "two.fasta", ("--model", tiny_model_dir, "--image-model", tmp_path / "model")
    proteins.write_text(">sp|A1|X\nMKVAAGHC\n>B1\nGGSW\n")

    def predict(out, *more):
        return protloc_command("predict", proteins, *options, "--nucleus", "default", "-o", tmp_path / out, *more)

    assert predict("file.csv", "--structure", complex_file)[0] == 0
    assert predict("folder.csv", "--structure", folder)[0] == 0
    assert predict("chain.csv", "--structure", complex_file, "--chain", "A")[0] == 0
    rows = {name: list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("file", "folder", "chain")}
    scores = {name: [row["image_label_probability"] for row in found] for name, found in rows.items()}
    assert scores["file"] == scores["folder"] and scores["chain"][0] == scores["file"][0] != scores["file"][1]
    assert scores["chain"][1] != scores["file"][1] and not caplog.text
    drawn = drawer({"sequence": "GGSW", "structure": point_cloud(complex_file, chain="B")})
    picture = Image.open(tmp_path / rows["file"][1]["image"])
    assert np.abs(np.asarray(picture, int) - np.asarray(drawn["image"], int)).max() <= 1

    (folder / "B1.pdb").unlink()
    code, err = predict("none.csv", "--structure", folder)
    assert code == 2 and f"{folder}, record 'B1': no file has this id in its name" in err
    code, err = predict("some.csv", "--structure", folder, "--on-error", "skip")
    assert code == 0 and "skipped 1 bad record(s)" in err
    code, err = predict("none.csv", "--structure", complex_file, "--chain", "C")
    assert code == 2 and f"{complex_file}, record 'sp|A1|X': has no protein chain 'C'; it has A, B" in err
    code, err = predict("file.csv", "--structure", complex_file, "--chain", "A", "--resume")
    assert code == 2 and "was begun with chain None, not 'A'" in err
    complex_file.write_bytes(structures()[3])
    code, err = predict("file.csv", "--structure", complex_file, "--resume")
    assert code == 2 and "was begun with structure" in err
    code, err = predict("none.csv")
    assert code == 2 and "it reads structures: name them with --structure" in err
    assert not (tmp_path / "none.csv").exists() and not (tmp_path / "none_images").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--structure", "a.pdb", "-o", "out.csv"], "--structure needs --nucleus"),
        (["--nucleus", "default", "--chain", "A", "-o", "out.csv"], "--chain needs --structure"),
        (["--nucleus", "default", "--structure", "none.pdb", "-o", "out.csv"], "none.pdb: there is no such file"),
        (
            ["--nucleus", "default", "--structure", str(ROOT / "README.md"), "-o", "out.csv"],
            "holds no atom of a protein",
        ),
        (["--nucleus", "none.png", "-o", "out.csv"], "none.png: there is no such file"),
        (["--nucleus", "default"], "--nucleus needs -o OUT"),
        (["--image-model", "x", "-o", "out.csv"], "--image-model needs --nucleus"),
        (["--nucleus-channel", "red", "-o", "out.csv"], "--nucleus-channel needs --nucleus"),
        (["--nucleus", "default", "-o", "out.csv", "--image-model", "/nowhere"], "cannot load the model '/nowhere'"),
        (["--nucleus", "default", "-o", "out.csv", "--image-model", "DEEPLOC"], "only a deepgps model draws"),
        (["--nucleus", str(ROOT / "README.md"), "-o", "out.csv"], "no image that can be read"),
    ],
)
def test_errors(protloc_command, fasta, drawer_dir, tiny_model_dir, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    options = [str(tiny_model_dir) if option == "DEEPLOC" else option for option in options]
    if "--image-model" not in options and "--nucleus" in options:
        options += ["--image-model", drawer_dir]
    code, err = protloc_command("predict", fasta, "--model", tiny_model_dir, *options)
    assert code == 2 and message in err and len(err.splitlines()[-1]) < 300
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "out_images").exists()


def test_a_protein_alone_and_among_others(drawer_dir):
    model, processor = drawing.load_model(drawer_dir)
    nucleus = processor.image_processor(None)["nucleus"]
    records = [(str(i), "MKTAYIAKQR" * (i + 1)) for i in range(5)]
    together = list(drawing.draw(records, nucleus, model, processor, max_tokens_per_batch=60))
    assert [row["protein_id"] for row in together] == list("01234")
    for record, row in zip(records, together, strict=True):
        (alone,) = drawing.draw([record], nucleus, model, processor)
        np.testing.assert_allclose(alone["image"], row["image"], rtol=0, atol=1e-5)
        assert alone["scores"] == pytest.approx(row["scores"], abs=1e-5)


def test_a_seed_draws_the_same_alone_and_in_a_batch(tokenizer):
    processor = DeepGPSProcessor(tokenizer, DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))
    model = tiny_deepgps(objective="diffusion", num_inference_steps=2)
    drawer = pipeline("protein-imaging", model=model, processor=processor)
    nucleus = np.random.default_rng(0).random((24, 24))
    proteins = [{"sequence": text, "nucleus": nucleus} for text in ("MKTAYIAK", "MKVLAAGI", "MPKKKRKV")]
    alone = [drawer(protein, seed=3, num_samples=2)["image"] for protein in proteins]
    together = drawer(proteins, seed=3, num_samples=2, batch_size=3)
    for one, other in zip(alone, together, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other["image"], int)).max() <= 1
    for options, message in (({"num_samples": 0}, "num_samples must be 1"), ({"num_inference_steps": 0}, "from 1 to")):
        with pytest.raises(ValueError, match=message):
            drawer(proteins[0], **options)


def test_every_residue_counts_whatever_the_encoder(tokenizer):
    """UniRep's proteins begin with a token and end without one."""
    for backbone, reads in ((TINY_ESM, tokenizer), ({"model_type": "unirep", **TINY_UNIREP}, build_tokenizer())):
        known = {"model_type": "esm", **backbone}
        ends = {"cls_token_id": reads("MK")["input_ids"][0], "eos_token_id": 25 if reads is not tokenizer else 2}
        model = tiny_deepgps(backbone_config=known, **ends)
        processor = DeepGPSProcessor(reads, DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))
        proteins = {"a": "MKTAYIAKQW", "b": "MKTAYIAK", "c": "W"}
        drawn = list(drawing.draw(proteins.items(), torch.rand(1, 1, 24, 24), model, processor))
        for row, sequence in zip(drawn, proteins.values(), strict=True):
            alone = model(**processor.tokenize([sequence])).logits[0].softmax(dim=-1)
            assert list(row["scores"].values()) == pytest.approx(alone.tolist(), abs=1e-5)


def test_diffusion_tells_its_uncertainty(tokenizer):
    processor = DeepGPSProcessor(tokenizer, DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))
    model = tiny_deepgps(objective="diffusion", num_inference_steps=2)
    nucleus = torch.rand(1, 1, 24, 24)
    draws = [list(drawing.draw([("a", "MK")], nucleus, model, processor, num_samples=2, seed=s)) for s in (0, 0, 1)]
    images = [rows[0]["image"] for rows in draws]
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])
    assert draws[0][0]["uncertainty"].max() > 0


def test_embed(protloc_command, fasta, tiny_backbones, tmp_path):
    out = tmp_path / "states"
    arguments = ("embed", fasta, "--model", tiny_backbones["esm"], "-o", out)
    assert protloc_command(*arguments) == (0, f"{out}: 3 sequences added\n")
    assert protloc_command(*arguments) == (0, f"{out}: 0 sequences added\n")
    assert ResidueEmbeddings(out)["MPKKKRKVKK"].shape == (10, 16)
    pq.write_table(pa.table({"sequence": ["MKVLLAGEDL", ""]}), tmp_path / "crops.parquet")
    arguments = ("embed", tmp_path / "crops.parquet", "--model", tiny_backbones["esm"], "-o", out)
    assert protloc_command(*arguments) == (0, f"{out}: 1 sequences added\n")
    code, err = protloc_command("embed", fasta, "--model", "/nowhere", "-o", tmp_path / "other")
    assert code == 2 and err.startswith("protloc: cannot load the model '/nowhere'")
    code, err = protloc_command("embed", tmp_path / "none.parquet", "-o", out)
    assert code == 2 and "none.parquet" in err and err.count("\n") == 1


def test_a_run_resumes_with_the_same_nucleus_only(protloc_command, fasta, drawer_dir, tiny_model_dir, tmp_path):
    out = tmp_path / "out.csv"
    command = ("predict", fasta, "--model", tiny_model_dir, "--image-model", drawer_dir, "-o", out)
    assert protloc_command(*command, "--nucleus", "default") == (0, "")
    rows = out.read_text()
    settings = {
        "model": str(tiny_model_dir),
        "dtype": str(load_model(tiny_model_dir)[0].dtype),
        "length_policy": "middle",
        "model_digest": model_digest(load_model(tiny_model_dir)[0]),
        "attention": None,
        "columns": rows.splitlines()[0].split(","),
        "nucleus": [f"default, SHA-1 {drawing.read_nucleus('default', drawing.load_model(drawer_dir)[1]).digest}"],
        "image_model": str(drawer_dir),
        "image_model_digest": model_digest(drawing.load_model(drawer_dir)[0]),
        "seed": 0,
        "num_samples": 1,
    }
    out.unlink()
    partial_path(out).write_text(json.dumps(settings) + "\n")
    code, err = protloc_command(*command, "--nucleus", ROOT / "examples" / "nucleus.tif", "--resume")
    assert code == 2 and "was begun with nucleus ['default, SHA-1 " in err
    code, err = protloc_command(*command[:4], "-o", out, "--resume")
    assert code == 2 and "was begun with columns" in err
    assert protloc_command(*command, "--nucleus", "default", "--resume") == (0, "")
    assert out.read_text() == rows
    gone = sorted(out.with_name(f"{out.stem}_images").glob("*.png"))[0]
    gone.unlink()  # of a table that is complete
    code, err = protloc_command(*command, "--nucleus", "default", "--resume")
    assert code == 2 and f"its image {gone.parent.name}/{gone.name} is gone" in err

    nucleus = tmp_path / "nucleus.tif"  # the same name, another image
    for seed in (0, 1):
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (45, 61), dtype=np.uint8)).save(nucleus)
        if seed == 0:
            digest = drawing.read_nucleus(str(nucleus), drawing.load_model(drawer_dir)[1]).digest
    out.unlink()
    partial_path(out).write_text(json.dumps(settings | {"nucleus": [f"{nucleus}, SHA-1 {digest}"]}) + "\n")
    code, err = protloc_command(*command, "--nucleus", nucleus, "--resume")
    assert code == 2 and f"was begun with nucleus ['{nucleus}, SHA-1 {digest}'], not" in err
