"""Downloads of published files that resume, for the other scripts of this folder."""

import gzip
import hashlib
import random
import re
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import httpx2
from tqdm import tqdm

BACKOFF = 1.0  # seconds before the second attempt, give or take a half; doubles with each further one
S3 = {"": "http://s3.amazonaws.com/doc/2006-03-01/"}


class DownloadError(Exception):
    """Something could not be downloaded; the message is one sentence."""


class RefusedError(DownloadError):
    """The server has answered that it doesn't give this file; asking again would not help."""


class _TryAgainError(Exception):
    """The next attempt may succeed; holds the reason and the seconds that the server asks to wait."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to download. `ValueError` if `path` would leave the target folder."""

    url: str
    path: str  # where it goes, below the target folder
    size: int | None = None  # bytes
    md5: str | None = None  # 32 lower-case hex digits

    def __post_init__(self):
        path = PureWindowsPath(self.path)  # knows both kinds of slash, and drives
        if path.anchor or ".." in path.parts or not path.parts:
            raise ValueError(f"{self.url}: {self.path!r} is no path below a folder")


def list_bucket(bucket_url: str, prefix: str, suffix: str = "") -> Iterator[RemoteFile]:
    """Files of a public S3 bucket whose key starts with `prefix` and ends in `suffix`, read page by page.

    Their path is the key below the prefix's last slash: of `raw/A1/x.tif`, the prefixes `raw/` and `raw/A` both leave
    `A1/x.tif`. Raises `DownloadError` if the bucket cannot be read, `ValueError` if a path would leave the folder.
    """
    bucket_url = bucket_url.rstrip("/")
    query = {"list-type": "2", "prefix": prefix}
    with _client(timeout=60) as client:
        while True:
            try:
                page = _with_retries(lambda: _get_xml(client, f"{bucket_url}/", query))
            except (DownloadError, ElementTree.ParseError) as error:
                raise DownloadError(f"{bucket_url}: cannot list {prefix!r}: {error}") from None
            for item in page.iterfind("Contents", S3):
                key = item.findtext("Key", "", S3)
                if key.endswith(suffix) and not key.endswith("/"):  # a key that ends in a slash stands for a folder
                    # The ETag of an object that was uploaded in parts has a dash and is no MD5 sum.
                    md5 = re.fullmatch('"([0-9a-f]{32})"', item.findtext("ETag", "", S3))
                    path, size = key[prefix.rfind("/") + 1 :], int(item.findtext("Size", "", S3))
                    yield RemoteFile(f"{bucket_url}/{quote(key)}", path, size, md5[1] if md5 else None)
            if page.findtext("IsTruncated", "", S3) != "true":
                return
            query["continuation-token"] = page.findtext("NextContinuationToken", "", S3)


def fetch(
    files: Iterable[RemoteFile], folder: Path, parallel: int = 4, attempts: int = 5, timeout: float = 60
) -> list[Path]:
    """Download what is not there yet, `parallel` files at a time; the paths of all, in the order of `files`.

    A file under its own name is whole: until then it is `NAME.part`, and a later call resumes that if the server
    still has the same content. A file that is there is not asked for again if its size and MD5 sum fit, where known.
    An attempt has failed after `timeout` seconds without a byte. Raises `DownloadError` once the others are there if
    some file failed in all attempts or was refused, `ValueError` if two different files go to one path.
    """
    files = list(files)
    failed = fetch_all(files, folder, parallel, attempts, timeout)
    if failed:
        first, error = next(iter(failed.items()))
        raise DownloadError(
            f"{len(failed)} of {len({file.path for file in files})} files could not be downloaded, the first being "
            f"{first.url} ({error}); start again to resume"
        )
    return [folder / file.path for file in files]


def fetch_some(files: Iterable[RemoteFile], folder: Path, parallel: int = 4) -> dict[RemoteFile, DownloadError]:
    """
    The same for files of which a server may refuse some: those, and why. Raises `DownloadError` if others failed.
    """
    failed = fetch_all(list(files), folder, parallel)
    for file, error in failed.items():
        if not isinstance(error, RefusedError):
            raise DownloadError(f"{file.url} could not be downloaded ({error}); start again to resume")
    return failed


def fetch_all(
    files: list[RemoteFile], folder: Path, parallel: int = 4, attempts: int = 5, timeout: float = 60
) -> dict[RemoteFile, DownloadError]:
    """Download what can be; the others, in their order, and why not."""
    by_path = {file.path: file for file in files}
    for file in files:
        if by_path[file.path] != file:
            raise ValueError(f"{file.url} and {by_path[file.path].url} both go to {file.path!r}")

    def fetch_one(file: RemoteFile) -> tuple[RemoteFile, DownloadError | None]:
        target = folder / file.path
        try:
            if not target.exists() or _fault(target, file.size, file.md5):
                target.parent.mkdir(parents=True, exist_ok=True)
                _with_retries(lambda: _download(client, file, target), attempts)
            return file, None
        except DownloadError as error:
            return file, error

    # A ThreadPool does not wait for its threads: Ctrl-C closes the connections and ends, even while a server stalls.
    with _client(timeout) as client, ThreadPool(parallel) as pool:
        outcomes = pool.imap_unordered(fetch_one, by_path.values())
        reasons = dict(tqdm(outcomes, "Downloading", len(by_path), unit="file", disable=None))
    return {file: error for file in by_path.values() if (error := reasons[file]) is not None}


def fetch_archives(files: Iterable[RemoteFile], folder: Path, parallel: int = 4) -> list[Path]:
    """
    The same for gzip and ZIP files, which are looked through: one that is cut off or damaged is fetched again.

    A server that sends no length can be cut off unseen. Raises `DownloadError` as `fetch`, and if one is still damaged.
    """
    files = list(files)
    damaged = [path for file in files if (path := folder / file.path).exists() and is_damaged(path)]
    for path in damaged:
        print(f"{path} is cut off or damaged, and is fetched again", file=sys.stderr)
        path.unlink()
    paths = fetch(files, folder, parallel)
    damaged = [path for path in paths if is_damaged(path)]
    if damaged:
        raise DownloadError(f"{damaged[0]} is cut off or damaged: start again to fetch it once more")
    return paths


def is_damaged(path: Path) -> bool:
    """Whether a gzip or ZIP file, by its name, can't be unpacked."""
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is not None
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                while file.read(2**20):
                    pass
    except (gzip.BadGzipFile, zipfile.BadZipFile, EOFError, zlib.error):
        return True
    return False


def _download(client: httpx2.Client, file: RemoteFile, target: Path) -> None:
    """One attempt: resume what an earlier one left, else start anew; rename when whole."""
    part = target.with_name(f"{target.name}.part")
    etag_file = target.with_name(f"{target.name}.part.etag")  # which content the part is of
    start = part.stat().st_size if part.exists() and etag_file.exists() else 0
    etag = etag_file.read_text(encoding="utf-8") if start else ""
    headers = {"Range": f"bytes={start}-", "If-Range": etag} if etag else {}
    with client.stream("GET", file.url, headers=headers) as response:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        resumed = sent is not None and int(sent[1]) == start and response.headers.get("ETag") == etag
        if etag and response.status_code in (206, 416) and not resumed:
            etag_file.unlink()
            raise _TryAgainError("the server cannot resume what an earlier attempt left", 0)
        _check_status(response)
        if not resumed:
            part.write_bytes(b"")  # first, as part and ETag must never be of different contents
            etag_file.write_text(response.headers.get("ETag", ""), encoding="utf-8")
        with open(part, "ab") as out:
            for chunk in response.iter_raw():
                out.write(chunk)
        length = int(sent[2] if sent else response.headers.get("Content-Length", part.stat().st_size))

    size = length if file.size is None else file.size
    if fault := _fault(part, size, file.md5):
        if part.stat().st_size >= size:  # else the next attempt asks for the rest
            part.unlink()
        raise _TryAgainError(fault, 0)
    part.replace(target)
    etag_file.unlink()


def _fault(path: Path, size: int | None, md5: str | None) -> str:
    """What is wrong with a file, or an empty string."""
    if size is not None and path.stat().st_size != size:
        return f"{path.stat().st_size} bytes instead of {size}"
    with open(path, "rb") as handle:
        if md5 is not None and hashlib.file_digest(handle, "md5").hexdigest() != md5:
            return f"its MD5 sum is not {md5}"
    return ""


def _client(timeout: float) -> httpx2.Client:
    # Sizes, ranges and sums are those of the file only if the server does not compress it for the transfer.
    return httpx2.Client(timeout=timeout, follow_redirects=True, headers={"Accept-Encoding": "identity"})


def _get_xml(client: httpx2.Client, url: str, query: dict[str, str]) -> ElementTree.Element:
    response = client.get(url, params=query)
    _check_status(response)
    return ElementTree.fromstring(response.content)


def _check_status(response: httpx2.Response) -> None:
    reason = f"HTTP {response.status_code} {response.reason_phrase}"
    if response.status_code == 429 or response.status_code >= 500:
        wait = response.headers.get("Retry-After", "")  # in seconds; the form with a date is not worth reading
        raise _TryAgainError(reason, int(wait) if wait.isdecimal() else 0)
    if not response.is_success:
        raise RefusedError(reason)


def _with_retries(action: Callable[[], Any], attempts: int = 5) -> Any:
    """What `action` returns; `DownloadError` with the last reason if it fails in every attempt, or for good."""
    for attempt in range(attempts):
        try:
            return action()
        except httpx2.RequestError as error:
            reason, wait = str(error) or type(error).__name__, 0
        except _TryAgainError as error:
            reason, wait = error.args
        if attempt + 1 < attempts:
            time.sleep(wait + BACKOFF * 2**attempt * random.uniform(0.5, 1.5))
    raise DownloadError(reason)
