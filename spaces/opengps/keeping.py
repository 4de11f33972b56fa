"""Answers that a visitor wants to last: under an address that nobody can guess, for a stated time."""

import gzip
import hashlib
import hmac
import json
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import housekeeping
import numpy as np
from reading import InputError

from protloc.files import atomic_path

NAME = re.compile(r"[\w-]{20,40}")
SHARE = 0.02  # of the room, for one visitor's address
LARGE = 1_000_000  # bytes of a result that takes more than a moment to look at
ARRAYS = ("attention", "image", "nucleus", "uncertainty")
GONE = f"This result is not kept here: after {housekeeping.RESULT_DAYS} days, or when its owner asks, it is deleted."


def path_of(name: str) -> Any:
    """Where a result is; `InputError` where there is none of this name."""
    found = list(housekeeping.RESULTS.glob(f"{name}.*.json.gz")) if NAME.fullmatch(name) else []
    if not found:
        raise InputError(GONE)
    return found[0]


def mark(visitor: str) -> str:
    """Of 65,536: tells visitors apart well enough to count what each keeps, and doesn't tell who one is."""
    return digest(visitor)[:4]


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def plain(value: Any) -> Any:
    """For JSON: an array as lists; of a picture four decimals are more than 8 bits."""
    return (np.round(value, 4) if np.ndim(value) == 2 else value).tolist()


def keep(rows: list[dict[str, Any]], visitor: str = "") -> tuple[str, str]:
    """
    Keep answers of `service.answer`.

    Returns:
        `tuple[str, str]`: The name that finds them, and the key that deletes them.

    Raises:
        InputError: If there is no room, or this visitor has used a share of it.
    """
    if not rows:
        raise InputError("There is no result to keep.")
    name, key = secrets.token_urlsafe(18), secrets.token_urlsafe(18)
    content = {"key": digest(key), "kept": datetime.now(UTC).date().isoformat(), "rows": rows}
    written = gzip.compress(json.dumps(content, default=plain).encode())
    mine = sum(path.stat().st_size for path in housekeeping.RESULTS.glob(f"*.{mark(visitor)}.json.gz"))
    if mine + len(written) > SHARE * housekeeping.QUOTA:
        raise InputError("You keep as much as this site has room for from one address: take the files home.")
    try:
        housekeeping.RESULTS.mkdir(mode=0o700, parents=True, exist_ok=True)
        if housekeeping.used(housekeeping.RESULTS) > housekeeping.QUOTA:
            raise InputError("The site has no room to keep results now: take the files home.")
        path = housekeeping.RESULTS / f"{name}.{mark(visitor)}.json.gz"
        with atomic_path(path) as partial:
            partial.write_bytes(written)
        path.chmod(0o600)
    except OSError:
        raise InputError("The site can't keep results now: take the files home.") from None
    return name, key


def read(name: str) -> dict[str, Any]:
    """
    Raises:
        InputError: If there is no result of this name.
    """
    try:
        return json.loads(gzip.decompress(path_of(name).read_bytes()))
    except FileNotFoundError:
        raise InputError(GONE) from None


def is_large(name: str) -> bool:
    """Whether a result takes long to look at; `InputError` if there is none of this name."""
    return path_of(name).stat().st_size > LARGE


def find(name: str) -> tuple[list[dict[str, Any]], str]:
    """
    Answers that were kept, and a sentence on them.

    Raises:
        InputError: If there are none of this name.
    """
    content = read(name)
    rows = [restored(row) for row in content["rows"]]
    until = datetime.fromisoformat(content["kept"]).date() + timedelta(days=housekeeping.RESULT_DAYS)
    return rows, f"Kept since {content['kept']}, until {until.isoformat()}. {rows[0]['model_version']}."


def restored(row: dict[str, Any]) -> dict[str, Any]:
    row |= {name: np.array(row[name]) for name in ARRAYS if row.get(name) is not None}
    return row | ({"accurate": restored(row["accurate"])} if "accurate" in row else {})


def delete(name: str, key: str) -> None:
    """
    Raises:
        InputError: If there is no such result, or the key is of another one.
    """
    if not hmac.compare_digest(read(name)["key"], digest(key)):
        raise InputError("This address does not delete that result: take the one that was shown when it was kept.")
    path_of(name).unlink(missing_ok=True)
