"""Every benchmark of `make bench` runs to its end at a small size, through its own options."""

import re
import subprocess
import sys

import pytest

from tests.helpers import ROOT

SMALL = {
    "deeploc": "--proteins 128",
    "embed": "--shape 8M --count 4 --baseline 4 --repeats 1",
    "unirep": "--size 64 --count 4",
    "drawing": "--nuclei 2 --side 32 --steps 2",
    "deepgps": "--small --length 20",
    "growth": "--proteins 100 --longest 300 --tokens 4096",
    "fields": "--fields 4",
    "site": "--users 2 --seconds 3",
    "cost_model": "--proteins 8",
}
BENCH = re.findall(r"-m benchmarks\.(\w+)", (ROOT / "Makefile").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCH)
def test_a_benchmark_runs(name):
    command = [sys.executable, "-m", f"benchmarks.{name}", *SMALL[name].split()]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "residues" in result.stdout or "| " in result.stdout
