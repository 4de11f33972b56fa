"""What keeps visitors apart and the disk free: headers, temporary files by age, a quota, and logs without inputs."""

import os
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

KEPT = 3600  # seconds that files of a visit stay on the server
RESULT_DAYS = 30  # that a visitor may keep a result
OWN = Path(tempfile.gettempdir()) / "opengps"  # temporary files of the site, of its other processes too
# Not in it: what is kept outlives files of visits.
RESULTS = Path(os.environ.get("OPENGPS_RESULTS") or Path(tempfile.gettempdir()) / "opengps-results")
QUOTA = int(float(os.environ.get("OPENGPS_DISK_GB", "5")) * 1e9)  # bytes of temporary files
# Nothing on the page makes a browser call another host, whatever gets into it. Gradio's pages need inline scripts.
POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

LASTING = {"cache-control": "public, max-age=31536000, immutable"}  # scripts, whose names have a digest of them


def settle() -> None:
    """Put temporary files into a folder of the site's own, keep it swept, and keep inputs out of the log."""
    OWN.mkdir(mode=0o700, exist_ok=True)
    tempfile.tempdir = str(OWN)
    os.environ.setdefault("GRADIO_TEMP_DIR", str(OWN / "gradio"))
    traceback.print_exc = print_places  # Gradio prints what it can't process together with what people sent

    def keep_swept() -> None:
        while True:
            for place in {OWN, Path(os.environ["GRADIO_TEMP_DIR"])}:
                sweep(place)
            for path in RESULTS.glob("*.json.gz"):  # the folder may hold other things
                sweep_file(path, RESULT_DAYS * 86400)
            time.sleep(KEPT / 12)

    threading.Thread(target=keep_swept, daemon=True).start()


def sweep(folder: Path, age: float = KEPT) -> None:
    """Remove files that nobody has written for a while, whoever left them there, and folders that are empty since."""
    before = time.time() - age
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        try:
            if path.lstat().st_mtime < before:
                path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError:  # in use, or another process was faster
            continue


def sweep_file(path: Path, age: float) -> None:
    """Remove a file that is older."""
    try:
        if path.lstat().st_mtime < time.time() - age:
            path.unlink()
    except OSError:  # another process was faster
        pass


def used(folder: Path) -> int:
    """Bytes of the files in it."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_size
        except OSError:
            continue
    return total


def print_places(*_: Any, **__: Any) -> None:
    """Log where an error came from, and not what it says: that may be somebody's input."""
    kind, _error, trace = sys.exc_info()
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(trace)]
    print(f"openGPS: {kind.__name__ if kind else 'error'} at {' > '.join(places[-4:])}", file=sys.stderr)


class Guard:
    """ASGI middleware: the headers of every answer, and no upload where the quota is used up."""

    def __init__(self, app: Any):
        self.app = app
        self.full, self.checked = False, 0.0

    def no_room(self) -> bool:
        if time.monotonic() - self.checked > 10:
            gradio = Path(os.environ.get("GRADIO_TEMP_DIR", OWN))
            places = {OWN, OWN if gradio.is_relative_to(OWN) else gradio}
            self.full, self.checked = sum(map(used, places)) > QUOTA, time.monotonic()
        return self.full

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message):
            if message["type"] == "http.response.start":
                names = {name.lower() for name, _ in message["headers"]}
                own = HEADERS | (LASTING if scope["path"].startswith("/assets/") else {})
                extra = [(name.encode(), value.encode()) for name, value in own.items() if name.encode() not in names]
                message = message | {"headers": [*message["headers"], *extra]}
            await send(message)

        if scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload") and self.no_room():
            said = b"The site has no room for files now: please try again in an hour."
            start = {"type": "http.response.start", "status": 507, "headers": [(b"content-type", b"text/plain")]}
            await with_headers(start)
            await send({"type": "http.response.body", "body": said})
            return
        await self.app(scope, receive, with_headers)


def new_folder() -> Path:
    """A folder for files to take home."""
    return Path(tempfile.mkdtemp(prefix="opengps-"))
