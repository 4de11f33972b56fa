"""A short run of `python -m tests.fuzz`, and that it sees what it is there to see."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.fuzz.__main__ import case, run
from tests.fuzz.readers import READERS
from tests.helpers import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files(reader):
    """In a process of its own: what other tests leave in this one would count as the reader's memory."""
    command = [sys.executable, "-m", "tests.fuzz", "--cases", str(len(reader.seeds()) + 25), "--reader", reader.name]
    said = subprocess.run([*command, "--timeout", "60"], capture_output=True, text=True, cwd=ROOT)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith(f"{reader.name}: ") and said.stdout.endswith(" refused, 0 faults\n")


def test_the_same_seed_gives_the_same_cases():
    reader = READERS[0]
    seeds = reader.seeds()
    assert case(reader, seeds, 0, 5) == seeds[5]
    assert case(reader, seeds, 0, 500) == case(reader, seeds, 0, 500) != case(reader, seeds, 1, 500)


def fail(path):
    raise TypeError("no sentence")


def refuse(path):
    raise ValueError(f"{path}: no")


def take_memory(path):
    np.ones(300_000_000)


def hang(path):
    time.sleep(60)


def crash(path):
    os.kill(os.getpid(), signal.SIGKILL)


def test_faults_are_seen(tmp_path):
    assert run(lambda path: None, tmp_path, 5) == "read" and run(refuse, tmp_path, 5).startswith("refused: ")
    assert "TypeError: no sentence" in run(fail, tmp_path, 5)
    assert "GB of memory" in run(take_memory, tmp_path, 30)
    assert run(hang, tmp_path, 0.2) == "no answer within 0.2 seconds"
    assert run(crash, tmp_path, 5) == "the process was ended by signal -9"
