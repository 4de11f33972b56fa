"""Downloads from a real server on loopback that breaks on demand: resumed, retried, refused, never half-written."""

import hashlib
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

from tests.helpers import ROOT

CONTENT = random.Random(0).randbytes(300_000)
HALF = len(CONTENT) // 2
SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background hands down to ignore it
from datasets_scripts.download import RemoteFile, fetch
fetch([RemoteFile(sys.argv[1], "a")], Path(sys.argv[2]))
"""


class Server(ThreadingHTTPServer):
    """Serves `files` as S3 does, with a strong ETag and ranges, and first works off the `faults` of a path."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {"/a": CONTENT}
        self.faults = {}  # path -> what goes wrong with its first requests: a status, or one of the words below
        self.requests = []  # (path, Range header or None, bytes of the body that were sent)
        self.pages = []  # of the bucket's listing: keys with ETag and size
        self.queries = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self.over = threading.Event()

    def ranges(self, path="/a"):
        return [asked for requested, asked, _ in self.requests if requested == path]

    def sent(self, path="/a"):
        return [sent for requested, _, sent in self.requests if requested == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body, headers=(), part=None):
        """Announce the whole body and send `part` of its bytes."""
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        part = len(body) if part is None else part
        self.server.requests.append((self.path, self.headers["Range"], part))
        self.wfile.write(body[:part])

    def do_GET(self):
        if self.path.startswith("/?"):
            return self.list_bucket()
        with self.server.lock:
            self.server.busy += 1
            self.server.busiest = max(self.server.busiest, self.server.busy)
            faults = self.server.faults.get(self.path)
            fault = faults.pop(0) if faults else None
        if fault == "slow":
            time.sleep(0.05)
        with self.server.lock:  # before the answer, after which the client may ask anew
            self.server.busy -= 1

        content = self.server.files.get(unquote(self.path))
        if content is None:
            return self.reply(404, b"no such key")
        if isinstance(fault, int):
            return self.reply(fault, b"not now", {"Retry-After": "1"} if fault == 429 else {})
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        if fault == "drop without ETag":
            headers = {}
        if fault == "shorter":  # whole for HTTP, but not what was announced
            return self.reply(200, content[:HALF], headers)
        if fault == "garbled":
            return self.reply(200, content[::-1], headers)
        status, start = 200, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        same = fault == "ignores If-Range" or self.headers["If-Range"] == headers.get("ETag")
        if asked and same and fault != "ignores Range":
            status, start = 206, int(asked[1])
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if start >= len(content):
                return self.reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        body = content[start:]
        if fault == "wrong range":  # as many bytes as were asked for, but the first ones
            body = content[: len(body)]
            headers["Content-Range"] = f"bytes 0-{len(body) - 1}/{len(content)}"
        if fault in ("drop", "drop without ETag", "stall"):
            self.reply(status, body, headers, part=len(body) // 2)
            if fault == "stall":
                self.server.over.wait(10)
            self.close_connection = True
        else:
            self.reply(status, body, headers)

    def list_bucket(self):
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self.server.queries.append(query)
        if self.server.faults.get("list"):
            return self.reply(self.server.faults["list"].pop(0), b"not now")
        token = query.get("continuation-token", "page+/=0")
        page = int(token.removeprefix("page+/="))
        more = page + 1 < len(self.server.pages)
        body = '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        body += f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
        body += f"<NextContinuationToken>page+/={page + 1}</NextContinuationToken>" * more
        for key, etag, size in self.server.pages[page]:
            if key.startswith(query["prefix"]):
                body += f"<Contents><Key>{escape(key)}</Key><ETag>{escape(etag)}</ETag><Size>{size}</Size></Contents>"
        return self.reply(200, (body + "</ListBucketResult>").encode())


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def download(monkeypatch):
    """The module, with short pauses."""
    from datasets_scripts import download

    monkeypatch.setattr(download, "BACKOFF", 0.01)
    return download


@pytest.fixture
def fetch(download, server, tmp_path):
    """Fetch `/a` into `tmp_path`; the file's description and the call take options."""

    def fetch(size=None, md5=None, **options):
        (path,) = download.fetch([download.RemoteFile(f"{server.url}/a", "a", size, md5)], tmp_path, **options)
        assert path == tmp_path / "a" and list(tmp_path.iterdir()) == [path]
        return path.read_bytes()

    return fetch


def md5(content):
    return hashlib.md5(content).hexdigest()


def leave_half(fetch, download, server, folder):
    """What a start leaves that was cut off in the middle of `/a`."""
    server.faults["/a"] = ["drop"]
    with pytest.raises(download.DownloadError):
        fetch(attempts=1)
    assert sorted(path.name for path in folder.iterdir()) == ["a.part", "a.part.etag"]
    assert (folder / "a.part").stat().st_size == HALF
    server.requests.clear()


def test_files_into_folders_and_not_again(download, server, tmp_path, capsys):
    contents = {f"/plate {i}/x.tif": CONTENT[i * 10 : i * 1000] for i in range(1, 4)} | {"/empty": b""}
    server.files.update(contents)
    files = [download.RemoteFile(server.url + path, path[1:], len(c), md5(c)) for path, c in contents.items()]
    for _ in range(2):
        paths = download.fetch(iter([*files, files[0]]), tmp_path / "new" / "folder")
        assert paths == [tmp_path / "new" / "folder" / name[1:] for name in [*contents, "/plate 1/x.tif"]]
        assert [path.read_bytes() for path in paths] == [*contents.values(), contents["/plate 1/x.tif"]]
        assert len(server.requests) == 4
    assert not list(tmp_path.rglob("*.part*"))
    assert capsys.readouterr() == ("", "")  # no bar, as this is no terminal


@pytest.mark.parametrize("known", [{"size": len(CONTENT)}, {"md5": md5(CONTENT)}])
def test_a_file_that_does_not_fit_is_fetched_anew(fetch, server, tmp_path, known):
    (tmp_path / "a").write_bytes(CONTENT[:-1])
    assert fetch(**known) == CONTENT
    assert len(server.requests) == 1


def test_a_file_of_unknown_size_that_is_there_is_kept(fetch, server, tmp_path):
    (tmp_path / "a").write_bytes(b"mine")
    assert fetch() == b"mine"
    assert not server.requests


@pytest.mark.parametrize("fault", ["drop", "stall"])
def test_a_cut_off_download_goes_on(fetch, server, fault):
    server.faults["/a"] = [fault]
    assert fetch(timeout=0.3) == CONTENT
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert server.sent() == [HALF, HALF]


def test_a_later_start_goes_on(fetch, download, server, tmp_path):
    leave_half(fetch, download, server, tmp_path)
    assert fetch() == CONTENT
    assert server.requests == [("/a", f"bytes={HALF}-", HALF)]


def test_a_server_that_ignores_ranges(fetch, download, server, tmp_path):
    leave_half(fetch, download, server, tmp_path)
    server.faults["/a"] = ["ignores Range"]
    assert fetch(md5=md5(CONTENT)) == CONTENT
    assert server.requests == [("/a", f"bytes={HALF}-", len(CONTENT))]


def test_a_server_that_answers_with_another_range(fetch, download, server, tmp_path):
    leave_half(fetch, download, server, tmp_path)
    server.faults["/a"] = ["wrong range"]
    assert fetch() == CONTENT
    assert server.ranges() == [f"bytes={HALF}-", None]


def test_without_an_etag_the_next_attempt_begins_anew(fetch, server):
    server.faults["/a"] = ["drop without ETag"]
    assert fetch() == CONTENT
    assert server.requests == [("/a", None, HALF), ("/a", None, len(CONTENT))]


@pytest.mark.parametrize("fault", [None, "ignores If-Range"])
@pytest.mark.parametrize("length", [len(CONTENT), 1000])
def test_content_that_changed_between_starts(fetch, download, server, tmp_path, fault, length):
    leave_half(fetch, download, server, tmp_path)
    server.files["/a"] = CONTENT[::-1][:length]
    server.faults["/a"] = [fault]
    assert fetch() == CONTENT[::-1][:length]
    assert server.ranges()[0] == f"bytes={HALF}-" and server.sent()[-1] == length
    assert len(server.requests) == (1 if fault is None else 2)


def test_a_part_that_was_whole_already(fetch, download, server, tmp_path):
    """As a start leaves it that ended just before the renaming."""
    leave_half(fetch, download, server, tmp_path)
    (tmp_path / "a.part").write_bytes(CONTENT)
    assert fetch() == CONTENT
    assert server.ranges() == [f"bytes={len(CONTENT)}-", None]


def test_a_short_file(fetch, server):
    server.faults["/a"] = ["shorter"]
    assert fetch(size=len(CONTENT)) == CONTENT
    assert server.requests == [("/a", None, HALF), ("/a", f"bytes={HALF}-", HALF)]


def test_a_wrong_checksum(fetch, server):
    server.faults["/a"] = ["garbled"]
    assert fetch(md5=md5(CONTENT)) == CONTENT
    assert server.requests == [("/a", None, len(CONTENT))] * 2


def test_a_server_that_is_busy(fetch, server):
    server.faults["/a"] = [503, 500, 503]
    assert fetch() == CONTENT
    assert len(server.requests) == 4


def test_retry_after_is_honoured(fetch, server):
    server.faults["/a"] = [429]
    start = time.monotonic()
    assert fetch() == CONTENT
    assert 1 <= time.monotonic() - start < 3 and len(server.requests) == 2


def test_pauses_double(fetch, download, server, monkeypatch):
    monkeypatch.setattr(download, "BACKOFF", 0.05)
    server.faults["/a"] = [503] * 4
    start = time.monotonic()
    fetch()
    assert time.monotonic() - start >= 0.05 * (1 + 2 + 4 + 8) / 2  # jitter takes off half at most


def test_failures_are_told_once_the_others_are_there(download, server, tmp_path):
    server.files.update({f"/{i}": bytes([i]) * 1000 for i in range(10)})
    server.faults = {"/3": [503] * 9, "/5": ["drop"] * 9}
    names = ["0", "missing", *"123456789"]
    files = [download.RemoteFile(f"{server.url}/{name}", name) for name in names]
    with pytest.raises(download.DownloadError) as error:
        download.fetch(files, tmp_path, attempts=3)
    assert str(error.value) == (
        f"3 of 11 files could not be downloaded, the first being {server.url}/missing (HTTP 404 Not Found); "
        "start again to resume"
    )
    assert len(server.ranges("/missing")) == 1 and len(server.ranges("/3")) == 3
    assert {path.name for path in tmp_path.iterdir()} == {*"01246789", "5.part", "5.part.etag"}

    server.faults.clear()
    server.files["/missing"] = b"here"
    server.requests.clear()
    assert [path.read_bytes() for path in download.fetch(files, tmp_path)][1:3] == [b"here", b"\1" * 1000]
    assert sorted(path for path, *_ in server.requests) == ["/3", "/5", "/missing"]


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (["stall"] * 2, "timed out"),
        (["drop"] * 2, "peer closed connection"),
        (["garbled"] * 2, "its MD5 sum is not"),
        (["shorter"] * 2, "150000 bytes instead of 300000"),
        ([500, 503], "HTTP 503 Service Unavailable"),
        ([403], "HTTP 403 Forbidden"),
    ],
)
def test_reasons(fetch, download, server, tmp_path, faults, reason):
    server.faults["/a"] = list(faults)
    with pytest.raises(download.DownloadError, match=rf"1 of 1 .*{server.url}/a \(.*{reason}") as error:
        fetch(len(CONTENT), md5(CONTENT), attempts=2, timeout=0.2)
    assert "\n" not in str(error.value)
    assert len(server.requests) == len(faults) and not (tmp_path / "a").exists()


def test_no_server(download, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    closed = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    closed.server_close()
    file = download.RemoteFile(f"http://127.0.0.1:{closed.server_port}/a", "a")
    with pytest.raises(download.DownloadError, match="Connection refused"):
        download.fetch([file], tmp_path)


def test_parallel(download, server, tmp_path):
    server.files.update({f"/{i}": CONTENT[i:] for i in range(12)})
    server.faults = {f"/{i}": ["slow"] for i in range(12)}
    files = [download.RemoteFile(f"{server.url}/{i}", str(i)) for i in range(12)]
    paths = download.fetch(files, tmp_path, parallel=3)
    assert [path.read_bytes() for path in paths] == [CONTENT[i:] for i in range(12)]
    assert 1 < server.busiest <= 3


def start_script(server, folder, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, f"{server.url}/a", str(folder)]
    return subprocess.Popen(command, env=environment, **options)


def test_an_interrupt_keeps_what_is_there(fetch, server, tmp_path):
    """Ctrl-C while the server stalls: the program ends at once, and the next start resumes."""
    server.faults["/a"] = ["stall"]
    process = start_script(server, tmp_path, stderr=subprocess.PIPE, text=True)
    part = tmp_path / "a.part"
    while not (part.exists() and part.stat().st_size > HALF - 10_000):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    _, err = process.communicate(timeout=8)
    assert time.monotonic() - start < 3
    assert err.rstrip().endswith("KeyboardInterrupt")
    arrived = part.read_bytes()
    assert len(arrived) > HALF - 10_000 and CONTENT.startswith(arrived)

    assert fetch() == CONTENT
    assert server.requests[1:] == [("/a", f"bytes={len(arrived)}-", len(CONTENT) - len(arrived))]


def test_a_terminal_sees_a_bar(server, tmp_path):
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(stderr, (24, 80))
    process = start_script(server, tmp_path, stderr=stderr)
    assert process.wait(timeout=10) == 0
    os.close(stderr)
    shown = b""
    while b"Downloading: 100%" not in shown:
        shown += os.read(terminal, 10_000)  # an OSError at the end
    os.close(terminal)


def test_listing(download, server, tmp_path):
    name = "plate #1/a+b é%41.tif"
    server.files[f"/raw/{name}"] = CONTENT
    server.pages = [
        [
            ("raw/", f'"{md5(b"")}"', 0),
            (f"raw/{name}", f'"{md5(CONTENT)}"', len(CONTENT)),
            ("raw/notes.txt", '"0"', 1),
        ],
        [("raw/plate 2/a+b.tif", f'"{md5(CONTENT)}-3"', 5 * 2**30), ("rawer/x.tif", '"0"', 1)],
    ]
    server.faults["list"] = [503]
    files = list(download.list_bucket(server.url + "/", "raw/", suffix=".tif"))
    assert [(file.path, file.size, file.md5) for file in files] == [
        (name, len(CONTENT), md5(CONTENT)),
        ("plate 2/a+b.tif", 5 * 2**30, None),
    ]
    first = {"list-type": "2", "prefix": "raw/"}
    assert server.queries == [first, first, {**first, "continuation-token": "page+/=1"}]
    (path,) = download.fetch(files[:1], tmp_path)
    assert path == tmp_path / name and path.read_bytes() == CONTENT

    by_half_a_name = list(download.list_bucket(server.url, "raw/plate"))
    assert [file.path for file in by_half_a_name] == [name, "plate 2/a+b.tif"]
    everything = [f"raw/{name}", "raw/notes.txt", "raw/plate 2/a+b.tif", "rawer/x.tif"]
    assert [file.path for file in download.list_bucket(server.url, "raw")] == everything


def test_a_listing_that_fails(download, server):
    server.faults["list"] = [404]
    with pytest.raises(download.DownloadError) as error:
        list(download.list_bucket(server.url, "raw/"))
    assert str(error.value) == f"{server.url}: cannot list 'raw/': HTTP 404 Not Found"
    server.pages = [[("a", '"0"', "</no XML>")]]
    with pytest.raises(download.DownloadError, match="cannot list '': "):
        list(download.list_bucket(server.url, ""))


@pytest.mark.parametrize("key", ["raw/../../x", "raw//etc/passwd", "raw/..", "raw/..\\x", "raw/C:\\x", "raw/."])
def test_keys_that_would_leave_the_folder(download, server, key):
    server.pages = [[("raw/good", '"0"', 1), (key, '"0"', 1)]]
    listing = download.list_bucket(server.url, "raw/")
    assert next(listing).path == "good"
    with pytest.raises(ValueError, match=f"{re.escape(repr(key[4:]))} is no path below a folder"):
        next(listing)


def test_two_files_for_one_path(download, server, tmp_path):
    files = [download.RemoteFile(f"{server.url}/{name}", "a") for name in "ab"]
    with pytest.raises(ValueError, match=r"/a and .*/b both go to 'a'"):
        download.fetch(files, tmp_path)
    assert not server.requests
