"""The README's Python snippet runs, and its figures are what the evaluation command prints."""

import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from tests.helpers import ROOT

NUMBER = r"-?\d+\.?\d*"
README = (ROOT / "README.md").read_text()


def test_python_snippets_run(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    here = README.split("## On the Hugging Face Hub")[0]  # tests/hub/test_whole_path.py runs that section
    snippets = re.findall(r"```python\n(.*?)```", here, flags=re.DOTALL)
    assert snippets
    # In one process, which imports only once, but each on its own.
    script = "import sys\nfor snippet in sys.argv[1:]:\n    exec(snippet, {})"
    result = subprocess.run([sys.executable, "-c", script, *snippets], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "protein.png") as picture:
        assert picture.size == (208, 208)


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
    (section,) = [part for part in README.split("\n### ") if f"{options}`" in part]
    lines = [line for line in printed.splitlines() if line]
    forms = {re.sub(NUMBER, "#", line) for line in lines}
    stated = [line for line in section.splitlines() if re.sub(NUMBER, "#", line) in forms]
    assert len(stated) == len(lines)
    for line, figures in zip(lines, stated, strict=True):
        assert re.sub(NUMBER, "#", line) == re.sub(NUMBER, "#", figures)
        # Another processor rounds otherwise: a protein in a thousand may cross a threshold.
        expected = [float(figure) for figure in re.findall(NUMBER, figures)]
        assert [float(figure) for figure in re.findall(NUMBER, line)] == pytest.approx(expected, abs=0.003)
