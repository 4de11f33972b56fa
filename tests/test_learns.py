"""training/learns.py starts, trains and says how far it came; what it shows in two minutes is in the README."""

import subprocess
import sys

from conftest import ROOT


def run(*arguments: str) -> subprocess.CompletedProcess:
    script = str(ROOT / "training" / "learns.py")
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


def test_table_and_exit_code():
    result = run("paper", "--seconds", "3")
    head, _, row = result.stdout.splitlines()
    assert head.startswith("| model | parameters | steps |")
    name, _, steps, _, right, *_ = (cell.strip() for cell in row.strip("|").split("|"))
    assert name == "paper" and int(steps) > 1
    assert result.returncode == (0 if float(right.strip("%")) >= 95 else 1), result.stderr


def test_unknown_variant():
    result = run("condition", "papers")
    assert result.returncode == 2 and "unknown variant 'papers': choose from condition, paper" in result.stderr
