"""Files that are whole or absent, runs that resume alone and with their own settings, and safe names."""

import hashlib
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

# Windows keeps these for devices, whatever follows a dot.
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}


def set_modes(path: Path) -> None:
    """Give a file, or all files of a folder, the mode of the umask: safetensors keeps what it writes to its owner."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.mode")
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(mode)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """
    A path beside `path` for a file or folder to be written, which takes its name once the block has ended well.

    Other processes see it whole or not at all. A file replaces an older one; files have the mode of the umask. If the
    block fails, nothing is left.
    """
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        set_modes(partial)
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """
    An empty folder to be written, which takes the place of `folder` once the block has ended well.

    The two are never mixed: a process that is killed leaves the older folder, or for an instant none (what was there is
    then in `FOLDER.replaced`, which the next call puts back). If the block fails, `folder` stays as it was.
    """
    partial, replaced = (folder.with_name(f"{folder.name}.{kind}") for kind in ("partial", "replaced"))
    if replaced.exists() and not folder.exists():
        os.rename(replaced, folder)
    for left in (partial, replaced):
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        set_modes(partial)
        if folder.exists():
            os.rename(folder, replaced)
        os.rename(partial, folder)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def lock(path: Path, what: str | Path) -> Iterator[None]:
    """
    Hold the lock file `path` while the block runs; it is gone afterwards. A process that is killed loses its lock.

    Args:
        path (`Path`): In an existing folder.
        what (`str` or `Path`): The file or folder that is guarded, for the message.

    Raises:
        ValueError: In one sentence, if another process holds it, and which.
    """
    held = FileLock(path, timeout=0)
    while True:
        try:
            held.acquire()
        except Timeout:
            holder = ""
            with suppress(OSError):  # Windows lets nobody else read a locked file
                holder = path.read_text(encoding="utf-8").strip()
            by = holder if holder.startswith("process ") else "another process"
            raise ValueError(
                f"{what} is being written by {by}: wait until that has ended, or write elsewhere"
            ) from None
        if path.exists():  # else its last holder removed it just now, and it guards nothing
            break
        held.release()
    try:
        with suppress(OSError):
            # Where disks have no locks, filelock keeps a record of its own in the file.
            if not (old := path.read_text(encoding="utf-8")) or old.startswith("process "):
                path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        held.release()


@contextmanager
def disk_errors(path: Path, way_out: str) -> Iterator[None]:
    """What goes wrong with the disk, such as one that is full, becomes a `ValueError` with the file and the way out."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        name = getattr(error, "filename", None) or path
        raise ValueError(f"{name}: {getattr(error, 'strerror', None) or error}: {way_out}") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def same_settings(begun: Mapping[str, Any], asked: Mapping[str, Any], where: str | Path, way_out: str) -> None:
    """
    Compare the settings of a run with those that it is to be resumed with.

    Args:
        begun, asked (`Mapping`): By name; a name that one side lacks is `None` there.
        where (`str` or `Path`): The file or folder of the run, for the message.
        way_out (`str`): What to do, for the message.

    Raises:
        ValueError: In one sentence, naming the first setting that differs.
    """
    for name in {**begun, **asked}:
        if begun.get(name) != asked.get(name):
            raise ValueError(f"{where} was begun with {name} {begun.get(name)!r}, not {asked.get(name)!r}: {way_out}")


def check_other(path: Path, inputs: Iterable[str | Path]) -> None:
    """`ValueError` if a file that is to be written is one of `inputs`, by whatever name."""
    for name in inputs:
        same = path.resolve() == Path(name).resolve()
        if same or (path.exists() and Path(name).exists() and path.samefile(name)):
            raise ValueError(f"{path} is an input: write to another file")


def safe_name(protein_id: str) -> str:
    """
    An id as a file name: letters, digits, `.`, `_` and `-`, not hidden and not too long.

    An id that had to be changed, or that has lower case letters (some disks don't tell them apart), gets a digest.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", protein_id)[:100].lstrip(".")
    if safe.split(".")[0].upper() in _DEVICES:
        safe = f"_{safe}"
    if safe == protein_id and safe == safe.upper():
        return safe
    return f"{safe}-{hashlib.sha1(protein_id.encode()).hexdigest()[:8]}"
