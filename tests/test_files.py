"""Files that are whole or absent, and settings of runs that resume."""

import ast
import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from protloc.files import atomic_path, disk_errors, lock, replaced_folder, safe_name, same_settings
from tests.helpers import ROOT


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_nothing_and_the_old_file(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="stop"), atomic_path(tmp_path / "folder") as partial:
        partial.mkdir()
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_whole(tmp_path):
    with atomic_path(tmp_path / "folder") as partial:
        partial.mkdir()
        (partial / "a").write_text("a")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "a").read_text() == "a" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_replaces_an_older_one(tmp_path):
    folder = tmp_path / "data"
    for content in ("old", "new"):
        with replaced_folder(folder) as partial:
            (partial / content).write_text(content)
    assert [path.name for path in folder.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [folder]
    with pytest.raises(ValueError, match="stop"), replaced_folder(folder) as partial:
        (partial / "half").write_text("half")
        raise ValueError("stop")
    assert [path.name for path in folder.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [folder]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("between_renames", [False, True])
def test_a_kill_never_mixes_two_folders(tmp_path, between_renames):
    folder = tmp_path / "data"
    with replaced_folder(folder) as partial:
        (partial / "old").write_text("old")

    def kill(*paths):
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        rename = os.rename
        os.rename = lambda source, target: (rename if source == folder else kill)(source, target)
        with replaced_folder(folder) as partial:
            (partial / "new").write_text("new")
            if not between_renames:
                kill()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert folder.exists() != between_renames
    with pytest.raises(ValueError, match="stop"), replaced_folder(folder):
        raise ValueError("stop")
    assert [path.name for path in folder.iterdir()] == ["old"] and list(tmp_path.iterdir()) == [folder]


def test_safetensors_get_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a.safetensors") as partial:
            save_file({"a": torch.zeros(1)}, partial)
        with replaced_folder(tmp_path / "folder") as partial:
            save_file({"a": torch.zeros(1)}, partial / "a.safetensors")
    finally:
        os.umask(before)
    for path in (tmp_path / "a.safetensors", tmp_path / "folder" / "a.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_first_setting_that_differs_is_named():
    same_settings({"model": "a", "tree": None}, {"model": "a"}, "out.csv", "delete it")
    with pytest.raises(ValueError, match=r"^out.csv was begun with model 'a', not 'b': delete it$"):
        same_settings({"model": "a", "tree": True}, {"model": "b"}, "out.csv", "delete it")


HOLD = """
import sys, time
from pathlib import Path
from protloc.files import lock
from tests.helpers import ROOT
with lock(Path(sys.argv[1]), "out.csv"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_is_held_by_one_process_and_ends_with_it(tmp_path):
    path = tmp_path / "out.csv.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    held = f"^out.csv is being written by process {holder.pid} on .*: wait until"
    with pytest.raises(ValueError, match=held), lock(path, "out.csv"):
        pass
    holder.kill()
    holder.communicate()
    with lock(path, "out.csv"):
        assert path.read_text().startswith(f"process {os.getpid()} on ")
    assert not path.exists()


def test_what_a_disk_says_names_the_file_and_the_way_out():
    said = r"^out.csv: No space left on device: make room$"
    with pytest.raises(ValueError, match=said), disk_errors(Path("out.csv"), "make room"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_names_of_files():
    assert safe_name("P12345") == "P12345"
    for device in ("CON", "Lpt1.x", "nul"):  # of Windows
        assert safe_name(device).startswith(f"_{device}-")
    assert safe_name("a/b") != safe_name("a_b") and not safe_name("..").startswith(".")


def test_text_is_read_and_written_in_utf8_everywhere():
    """Windows has another encoding by default; binary files are opened with their mode in place."""
    places = []
    for path in [path for top in ("modeling", "training", "datasets_scripts") for path in (ROOT / top).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or "encoding" in {word.arg for word in node.keywords}:
                continue
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            opened = isinstance(node.func, ast.Name) and node.func.id == "open"
            if method in ("read_text", "write_text") or (opened and "b" not in ast.unparse(node.args[1:])):
                places.append(f"{path}:{node.lineno}")
    assert not places
