"""Files that are whole or absent, and settings of runs that resume."""

import os
import signal
import stat

import pytest
import torch
from safetensors.torch import save_file

from protloc.files import atomic_path, replaced_folder, same_settings


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
