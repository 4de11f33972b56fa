"""`handler.py` of pushed repositories: called directly, and over HTTP in an environment without protloc."""

import base64
import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import serve
import tifffile
import uvicorn
from huggingface_hub import InferenceClient, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image
from transformers import pipeline

from protloc import ASSETS
from tests.helpers import ROOT, run_protloc
from tests.hub.local_hub import HUB
from training.common.cards import INSULIN, SV40_SIGNAL

NUCLEUS = (ROOT / "examples" / "nucleus.tif").read_bytes()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(width: int, height: int, mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, format="PNG")
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def stack(pages: int) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.arange(pages * 256, dtype=np.uint16).reshape(pages, 16, 16), photometric="minisblack")
    return buffer.getvalue()


STACK, PAGES = stack(3), stack(20_001)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory) -> dict[str, Path]:
    """Both shipped models, pushed and downloaded, as an endpoint finds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_owner")
        folders = {}
        for family in ("deeploc", "deepgps"):
            assert run_protloc("push", "model", ASSETS / family, f"owner/endpoint-{family}")[0] == 0
            folder = tmp_path_factory.mktemp("repository") / family
            folders[family] = Path(snapshot_download(f"owner/endpoint-{family}", local_dir=folder))
        HUB.reset()
    return folders


@pytest.fixture(scope="module")
def handlers(repositories):
    found = {}
    for family, folder in repositories.items():
        spec = importlib.util.spec_from_file_location(f"handler_{family}", folder / "handler.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found[family] = module.EndpointHandler(str(folder))
    return found


def test_deeploc_answers_as_text_classification_does(handlers):
    expected = pipeline("protein-localization")([INSULIN, SV40_SIGNAL])
    ranked = [sorted(row["scores"].items(), key=lambda pair: -pair[1]) for row in expected]
    expected_lists = [[{"label": label, "score": score} for label, score in row] for row in ranked]
    handler = handlers["deeploc"]
    assert handler({"inputs": INSULIN}) == expected_lists[:1]
    assert handler({"inputs": [INSULIN, SV40_SIGNAL]}) == expected_lists
    fasta = f">insulin human\n{INSULIN[:50]}\n{INSULIN[50:]}\n>signal\n{SV40_SIGNAL}\n"
    assert handler({"inputs": fasta, "parameters": {"top_k": 2}}) == [row[:2] for row in expected_lists]
    assert handler({"inputs": [INSULIN, SV40_SIGNAL], "parameters": {"details": True}}) == expected


def test_deepgps_draws(handlers):
    expected = pipeline("protein-imaging")({"sequence": INSULIN, "nucleus": str(ROOT / "examples" / "nucleus.tif")})
    handler = handlers["deepgps"]
    found = handler({"inputs": {"sequence": INSULIN, "nucleus": b64(NUCLEUS)}})
    image = Image.open(io.BytesIO(base64.b64decode(found.pop("image"))))
    assert image.format == "PNG" and np.array_equal(np.asarray(image), np.asarray(expected["image"]))
    assert found == {"label": expected["label"], "scores": expected["scores"], "uncertainty": None}
    as_image = handler({"inputs": b64(NUCLEUS), "parameters": {"prompt": INSULIN}})
    assert np.array_equal(np.asarray(as_image), np.asarray(expected["image"]))
    # What the toolkit makes of an image in the body
    as_image = handler({"inputs": Image.open(io.BytesIO(NUCLEUS)), "parameters": {"prompt": INSULIN}})
    assert np.array_equal(np.asarray(as_image), np.asarray(expected["image"]))
    as_image = handler({"inputs": NUCLEUS, "parameters": {"prompt": INSULIN, "page": 0}})  # what `serve.py` receives
    assert np.array_equal(np.asarray(as_image), np.asarray(expected["image"]))
    several = handler({"inputs": [{"sequence": INSULIN}, {"sequence": SV40_SIGNAL, "nucleus": None}]})
    assert len(several) == 2 and len(handler({"inputs": f">a\n{INSULIN}\n>b\n{SV40_SIGNAL}"})) == 2
    assert several[0] == handler({"inputs": INSULIN})


LONG = "M" * 40_001
BAD = [
    ("deeploc", {}, 'the request must be a JSON object with "inputs"'),
    ("deeploc", [INSULIN], 'the request must be a JSON object with "inputs"'),
    ("deeploc", {"inputs": []}, '"inputs" is empty: send a sequence'),
    ("deeploc", {"inputs": ""}, "the sequence is empty"),
    ("deeploc", {"inputs": 5}, "a sequence must be text, got 5"),
    ("deeploc", {"inputs": [INSULIN, None]}, "a sequence must be text, got None"),
    ("deeploc", {"inputs": "MKV1"}, "'1'"),
    ("deeploc", {"inputs": ">only a header"}, "the FASTA record 'only a header' has no sequence"),
    ("deeploc", {"inputs": ["MKV"] * 65}, "65 sequences are too many for a request: send at most 64"),
    ("deeploc", {"inputs": LONG}, "a sequence of 40,001 residues is too long: 40,000 are the most"),
    ("deeploc", {"inputs": [LONG[:-1]] * 6}, "240,000 residues are too many for a request: send at most 200,000"),
    ("deeploc", {"inputs": "MKV", "parameters": 3}, '"parameters" must be an object, got 3'),
    ("deeploc", {"inputs": "MKV", "parameters": {"top_k": 0}}, '"top_k" must be a whole number of 1 or more, got 0'),
    ("deeploc", {"inputs": "MKV", "parameters": {"details": "y"}}, "\"details\" must be true or false, got 'y'"),
    ("deeploc", {"inputs": "MKV", "parameters": {"topk": 1}}, "'topk' is no parameter of this model: known are"),
    ("deepgps", {"inputs": {"nucleus": "AAAA"}}, 'a protein must be {"sequence": ..., "nucleus": ...}, got'),
    ("deepgps", {"inputs": {"sequence": "MKV", "cell": 1}}, "'cell' is no parameter of this model"),
    ("deepgps", {"inputs": {"sequence": "MKV", "nucleus": "/etc/passwd"}}, "the nucleus is no "),
    ("deepgps", {"inputs": {"sequence": "MKV", "nucleus": "https://a.b/c.png"}}, "the nucleus is no base64 text of an"),
    ("deepgps", {"inputs": {"sequence": "MKV", "nucleus": b64(b"GIF89a but no")}}, "it is none of PNG, TIFF, JPEG"),
    ("deepgps", {"inputs": {"sequence": "MKV", "nucleus": 7}}, "a nucleus must be the base64 text of an image, got 7"),
    ("deepgps", {"inputs": {"sequence": "MKV", "nucleus": b64(png(1025, 1024))}}, "1025 x 1024 pixels are more than"),
    ("deepgps", {"inputs": {"sequence": "MKV", "nucleus": b64(png(16_000, 16_000))}}, "has more than 1,048,576"),
    ("deepgps", {"inputs": {"sequence": "MKV", "nucleus": b64(png(64, 64))}}, "the image is empty"),
    ("deepgps", {"inputs": b64(NUCLEUS), "parameters": {"prompt": 5}}, "a sequence must be text, got 5"),
    ("deepgps", {"inputs": {"sequence": "MKV", "nucleus": b64(STACK)}}, "holds 3 pages: say which by channel"),
    ("deepgps", {"inputs": b64(STACK), "parameters": {"prompt": "MKV", "page": 3}}, "has no page 3; it has 3, counted"),
    ("deepgps", {"inputs": STACK, "parameters": {"prompt": "MKV", "page": -1}}, '"page" must be a whole number from 0'),
    ("deepgps", {"inputs": STACK, "parameters": {"prompt": "MKV", "channel": [1]}}, '"channel" must be a name or a'),
    ("deepgps", {"inputs": STACK, "parameters": {"prompt": "MKV", "channel": 3}}, "channel must be one of 0 to 2"),
    ("deepgps", {"inputs": NUCLEUS, "parameters": {"prompt": "MKV", "channel": True}}, '"channel" must be a name or a'),
    ("deepgps", {"inputs": NUCLEUS, "parameters": {"prompt": "MKV", "project": []}}, '"project" must be "max", got []'),
    ("deepgps", {"inputs": PAGES, "parameters": {"prompt": "MKV"}}, "has more than 20,000 pages"),
    ("deepgps", {"inputs": NUCLEUS[:400], "parameters": {"prompt": "MKV"}}, "the image"),
    ("deepgps", {"inputs": "MKV", "parameters": {"num_samples": 17}}, '"num_samples" must be a whole number from 1 to'),
    ("deepgps", {"inputs": ["MKV"] * 5, "parameters": {"num_samples": 4}}, "20 images are too many for a request"),
    ("deepgps", {"inputs": "MKV", "parameters": {"seed": 1.5}}, '"seed" must be a whole number from 0'),
    ("deepgps", {"inputs": Image.new("L", (8, 8))}, 'send it as "prompt" in "parameters"'),
]  # fmt: skip


@pytest.mark.parametrize(("family", "data", "said"), BAD, ids=range(len(BAD)))
def test_bad_requests_get_a_sentence(handlers, family, data, said):
    with pytest.raises(ValueError) as error:
        handlers[family](data)
    assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 200


@contextmanager
def serving(folder: Path, tmp_path: Path):
    """`serve.py` as the Dockerfile starts it, without protloc; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "PYTHONPATH": f"{sysconfig.get_path('purelib')}", "HF_HUB_OFFLINE": "1"}
    env |= {"MODEL_DIR": str(folder), "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-S", ROOT / "spaces" / "endpoint" / "serve.py", "--port", str(port)]
    with open(tmp_path / "log", "w") as log, subprocess.Popen(command, env=env, stdout=log, stderr=log) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(300):
                assert server.poll() is None, (tmp_path / "log").read_text()
                try:
                    urllib.request.urlopen(f"{url}/health")
                    break
                except urllib.error.URLError:
                    time.sleep(0.2)
            yield url
        finally:
            server.kill()


def post(url: str, body: bytes, kind: str = "application/json", **headers: str) -> tuple[int, str, bytes]:
    request = urllib.request.Request(url, body, {"Content-Type": kind, **headers})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.headers["Content-Type"], response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read()


@contextmanager
def connected(url: str):
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as client:
        yield client


@pytest.fixture
def server(repositories, monkeypatch):
    """`serve.py` in a thread of this process, with DeepLoc; gives its address."""
    monkeypatch.setenv("MODEL_DIR", str(repositories["deeploc"]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(serve.app, port=port, http=serve.Protocol, log_level="error"))
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    running.should_exit = True
    thread.join()


def test_a_request_has_a_size(server, monkeypatch):
    head = "POST / HTTP/1.1\r\nHost: here\r\n"
    with connected(server) as client:  # refused by its announced length, before any of it is read
        client.sendall(f"{head}Content-Length: 1000001\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    with connected(server) as client:  # and where none is announced, by what has arrived
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        client.sendall(b"100000\r\n" + bytes(0x100000) + b"\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    status, _, body = post(server, b"[" * 10_001)
    assert status == 400 and "more than 10,000 values" in json.loads(body)["error"]
    monkeypatch.setattr(serve, "MAX_HELD", 10)
    status, _, body = post(server, json.dumps({"inputs": INSULIN}).encode())
    assert status == 503 and "too much is waiting" in json.loads(body)["error"]
    monkeypatch.undo()
    assert post(server, json.dumps({"inputs": INSULIN}).encode())[0] == 200
    assert (serve.app.state.requests, serve.app.state.held) == (0, 0)


def test_silent_and_slow_requests_end(server, monkeypatch):
    monkeypatch.setattr(serve, "READ_SECONDS", 0.5)
    with connected(server) as silent, connected(server) as head, connected(server) as body:
        head.sendall(b"POST / HTTP/1.1\r\nHost:")
        body.sendall(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\nhalf")
        assert body.recv(100).startswith(b"HTTP/1.1 408")
        assert silent.recv(100) == head.recv(100) == b""
    with connected(server) as twice, twice.makefile("rb") as answers:  # nor for the head of a second request
        twice.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
        twice.sendall(b"GET /hea")
        assert answers.read().endswith(b"\r\n\r\nOk")


def test_requests_that_wait_are_counted_and_end(server, monkeypatch):
    """While one computation lasts, as of a long protein, the site answers everybody else."""
    started, release = threading.Event(), threading.Event()
    busy = serve.app.state.worker.submit(lambda: (started.set(), release.wait(60)))
    started.wait()
    monkeypatch.setattr(serve, "COMPUTE_SECONDS", 0.5)
    monkeypatch.setattr(serve, "MAX_REQUESTS", 1)
    body = json.dumps({"inputs": INSULIN}).encode()
    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(lambda _: post(server, body), range(2)))
    said = sorted(json.loads(answer)["error"] for status, _, answer in answers if status == 503)
    assert said[0].startswith("no answer within 0.5 seconds") and said[1].startswith("too many requests are waiting")
    assert urllib.request.urlopen(f"{server}/health").read() == b"Ok"
    release.set()
    busy.result()
    monkeypatch.undo()
    assert post(server, body)[0] == 200


@pytest.mark.slow
def test_deeploc_over_http(repositories, handlers, tmp_path):
    with serving(repositories["deeploc"], tmp_path) as url:
        expected = handlers["deeploc"]({"inputs": INSULIN})
        status, _, body = post(url, json.dumps({"inputs": INSULIN}).encode())
        assert status == 200 and json.loads(body) == expected
        found = InferenceClient(model=url).text_classification(INSULIN, top_k=3)
        assert [{"label": row.label, "score": row.score} for row in found] == expected[0][:3]
        for content, said in {
            b"{": "the request is no JSON",
            b"[" * 9_000: "the request is no JSON",
            b'{"inputs": "MKV!"}': "'!'",
            b'{"sequence": "MKV"}': "must be a JSON object with",
        }.items():
            status, _, body = post(url, content)
            assert status == 400 and said in json.loads(body)["error"]
        assert post(url, b"MKV", "text/plain")[0] == 400
        with pytest.raises(HfHubHTTPError, match="'1' at position 4 is not an amino-acid code"):
            InferenceClient(model=url).text_classification("MKV1")
        assert post(url, json.dumps({"inputs": INSULIN}).encode())[0] == 200  # the server is still up
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.slow
def test_deepgps_over_http(repositories, handlers, tmp_path):
    with serving(repositories["deepgps"], tmp_path) as url:
        data = {"inputs": {"sequence": INSULIN, "nucleus": b64(NUCLEUS)}}
        expected = handlers["deepgps"](data)
        status, kind, body = post(url, json.dumps(data).encode())
        answer = json.loads(body)
        assert (status, kind) == (200, "application/json") and answer.keys() == expected.keys()
        assert answer["label"] == expected["label"] and answer["scores"] == pytest.approx(expected["scores"], abs=1e-5)
        image = base64.b64decode(answer["image"])
        # another process: other threads, and maybe denormal numbers flushed; a grey level may round the other way
        apart = pixels(image).astype(int) - pixels(base64.b64decode(expected["image"]))
        assert np.abs(apart).max() <= 1
        status, kind, body = post(url, json.dumps(data).encode(), Accept="image/png")
        assert (status, kind, body) == (200, "image/png", image)
        drawn = InferenceClient(model=url).image_to_image(NUCLEUS, prompt=INSULIN)
        assert np.array_equal(np.asarray(drawn), pixels(image))
        status, kind, body = post(f"{url}/?prompt={INSULIN}", NUCLEUS, "image/tiff", Accept="image/png")
        assert (status, kind, body) == (200, "image/png", image)
        status, _, body = post(url, NUCLEUS, "image/tiff")
        assert status == 400 and 'send it as "prompt"' in json.loads(body)["error"]
        status, _, body = post(f"{url}/?prompt=MKV", b"no image", "image/png")
        assert status == 400 and "no image that can be read: it is none of PNG" in json.loads(body)["error"]
    assert "Traceback" not in (tmp_path / "log").read_text()
