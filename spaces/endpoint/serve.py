"""
Serve a model repository over HTTP, as the toolkit of Inference Endpoints does: its `handler.py` answers.

    MODEL_DIR=path/to/repository python serve.py --host 0.0.0.0 --port 8080

`GET /health`; `POST /` with JSON (`inputs`, `parameters`) or the bytes of an image, parameters then in the address. The
answer is JSON, or the image itself where `Accept` asks for one. Bad requests get 400 and a sentence, slow ones 408, too
large ones 413; 503 where too much waits or an answer takes too long.
"""

import argparse
import asyncio
import base64
import importlib.util
import io
import json
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_REQUESTS = 64  # at a time, counted when they arrive
MAX_HELD = 200_000_000  # bytes of all of them
MAX_VALUES = 10_000  # of a request's JSON: parsed, an empty list takes thirty times its bytes
READ_SECONDS = 60  # for the head of a request, and again for its body
COMPUTE_SECONDS = 300  # waiting included
logger = logging.getLogger("protloc.serve")


@asynccontextmanager
async def lifespan(app: Starlette):
    folder = Path(os.environ.get("MODEL_DIR", "/repository"))
    spec: Any = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app.state.handler = module.EndpointHandler(str(folder))
    app.state.worker = ThreadPoolExecutor(1)  # one model, one computation; the event loop stays free
    app.state.requests = app.state.held = 0
    yield
    app.state.worker.shutdown(wait=False, cancel_futures=True)


async def health(request: Request) -> Response:
    return PlainTextResponse("Ok")


async def predict(request: Request) -> Response:
    state = request.app.state
    if state.requests >= MAX_REQUESTS:
        return refuse(503, "too many requests are waiting: try again later")
    state.requests += 1
    body = bytearray()
    try:
        try:
            await asyncio.wait_for(read_body(request, body), READ_SECONDS)
        except TimeoutError:
            raise HTTPException(408, f"the request did not arrive within {READ_SECONDS} seconds") from None
        computing = state.worker.submit(answer, request, bytes(body))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(computing), COMPUTE_SECONDS)
        except TimeoutError:  # what waits is taken out of the queue, the answer of what runs is dropped
            reason = f"no answer within {COMPUTE_SECONDS} seconds: send less at a time, or try again later"
            raise HTTPException(503, reason) from None
    except HTTPException as error:
        return refuse(error.status_code, error.detail)
    except ValueError as error:
        return refuse(400, str(error))
    except ClientDisconnect:
        return Response(status_code=499)
    except Exception:
        logger.exception("a request failed")
        return refuse(500, "this request could not be answered")
    finally:
        state.requests -= 1
        state.held -= len(body)


def refuse(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)


async def read_body(request: Request, body: bytearray) -> None:
    """Append what arrives to `body`, and count it as held."""
    state = request.app.state
    most = state.handler.max_bytes
    if int(request.headers.get("content-length", 0)) > most:
        raise HTTPException(413, f"the request has more than {most:,} bytes")
    async for part in request.stream():
        if len(body) + len(part) > most:
            raise HTTPException(413, f"the request has more than {most:,} bytes")
        if state.held + len(part) > MAX_HELD:
            raise HTTPException(503, "too much is waiting: try again later")
        body.extend(part)
        state.held += len(part)


def answer(request: Request, body: bytes) -> Response:
    """Parse, compute and encode; runs in the worker's thread."""
    found = request.app.state.handler(parse(request, body))
    wants_image = request.headers.get("accept", "").startswith("image/")
    if wants_image and isinstance(found, dict) and "image" in found:
        return Response(base64.b64decode(found["image"]), media_type="image/png")
    if isinstance(found, Image.Image):
        buffer = io.BytesIO()
        found.save(buffer, format="PNG")
        if wants_image:
            return Response(buffer.getvalue(), media_type="image/png")
        found = {"image": base64.b64encode(buffer.getvalue()).decode()}
    return JSONResponse(found)


def parse(request: Request, body: bytes) -> Any:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        return {"inputs": body, "parameters": {name: number(text) for name, text in request.query_params.items()}}
    if kind != "application/json":
        raise ValueError(f"content of type {kind!r} is not read: send application/json, or an image")
    if sum(body.count(character) for character in (b"[", b"{", b",")) > MAX_VALUES:
        raise ValueError(f"the request has more than {MAX_VALUES:,} values: send less at a time")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the request is no JSON") from None


def number(text: str) -> Any:
    """Parameters of an address are text, numbers too."""
    if re.fullmatch(r"\d{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d{1,18}\.\d{1,18}", text) else text


class Protocol(H11Protocol):
    """uvicorn's, which would wait for the head of a request for ever."""

    head_timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.head_timeout:
            self.head_timeout.cancel()

    def watch_head(self) -> None:
        waiting = self.cycle is None or self.cycle.response_complete
        if waiting and self.head_timeout is None:
            self.head_timeout = self.loop.call_later(READ_SECONDS, self.transport.close)
        elif not waiting and self.head_timeout:
            self.head_timeout.cancel()
            self.head_timeout = None


app = Starlette(
    routes=[
        Route("/", health, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/", predict, methods=["POST"]),
        Route("/predict", predict, methods=["POST"]),
    ],
    lifespan=lifespan,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    args = parser.parse_args()
    uvicorn.run(app, host=args.host, port=args.port, http=Protocol)


if __name__ == "__main__":
    main()
