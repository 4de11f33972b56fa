"""The README's Python snippet runs, and its figures are what the evaluation command prints."""

import re
import subprocess
import sys

import pytest

from conftest import ROOT

NUMBER = r"-?\d+\.?\d*"
README = (ROOT / "README.md").read_text()


def test_python_snippets_run():
    snippets = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        result = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, cwd=ROOT)
        assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("config", "split"), [("hpa", "test"), ("deeploc2", "validation")])
def test_figures_are_reproduced(data_dir, tmp_path_factory, config, split):
    folder = tmp_path_factory.mktemp("readme")
    deeploc = data_dir / "deeploc"
    build = [sys.executable, ROOT / "datasets_scripts" / "build_deeploc.py", "--out", folder / "data"]
    build += ["--deeploc2", deeploc / "Swissprot_Train_Validation_dataset.partitions0-3.csv.gz"]
    build += ["--hpa", deeploc / "hpa_testset.csv.gz", "--exclude", data_dir / "never_train.csv.gz"]
    subprocess.run(build, check=True)
    evaluate = [sys.executable, ROOT / "training" / "evaluate_deeploc.py", "--dataset", folder / "data"]
    evaluate += ["--config", config, "--split", split, "--dtype", "float32"]
    printed = subprocess.run(evaluate, check=True, capture_output=True, text=True).stdout
    (section,) = [part for part in README.split("\n### ") if f"--config {config} --split {split}" in part]
    stated = {re.sub(NUMBER, "#", line): line for line in section.splitlines()}
    for line in filter(None, printed.splitlines()):
        figures = [float(figure) for figure in re.findall(NUMBER, stated[re.sub(NUMBER, "#", line)])]
        # Another processor rounds otherwise: a protein in a thousand may cross a threshold.
        assert [float(figure) for figure in re.findall(NUMBER, line)] == pytest.approx(figures, abs=0.003)
