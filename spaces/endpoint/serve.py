"""
Serve a model repository over HTTP, as the toolkit of Inference Endpoints does: its `handler.py` answers.

    MODEL_DIR=path/to/repository uvicorn serve:app --host 0.0.0.0 --port 8080

`GET /health`; `POST /` with JSON (`inputs`, `parameters`) or the bytes of an image, parameters then in the address. The
answer is JSON, or the image itself where `Accept` asks for one. Bad requests get 400 and a sentence.
"""

import base64
import importlib.util
import io
import json
import logging
import os
import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

MAX_BODY = 50_000_000  # bytes
MAX_WAITING = 64  # requests
logger = logging.getLogger("protloc.serve")


@asynccontextmanager
async def lifespan(app: Starlette):
    folder = Path(os.environ.get("MODEL_DIR", "/repository"))
    spec: Any = importlib.util.spec_from_file_location("handler", folder / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app.state.handler = module.EndpointHandler(str(folder))
    app.state.limiter = CapacityLimiter(1)  # one model, one computation
    yield


async def health(request: Request) -> Response:
    return PlainTextResponse("Ok")


async def read_request(request: Request) -> Any:
    too_large = f"the request has more than {MAX_BODY:,} bytes"
    if int(request.headers.get("content-length", 0)) > MAX_BODY:
        raise ValueError(too_large)
    body = bytearray()
    async for part in request.stream():
        body.extend(part)
        if len(body) > MAX_BODY:
            raise ValueError(too_large)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind.startswith("image/"):
        parameters = {name: number(value) for name, value in request.query_params.items()}
        return {"inputs": bytes(body), "parameters": parameters}
    if kind != "application/json":
        raise ValueError(f"content of type {kind!r} is not read: send application/json, or an image")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the request is no JSON") from None


def number(text: str) -> Any:
    """Parameters of an address are text, whole numbers too."""
    return int(text) if re.fullmatch(r"\d{1,18}", text) else text


async def predict(request: Request) -> Response:
    one_at_a_time: CapacityLimiter = request.app.state.limiter
    if one_at_a_time.statistics().tasks_waiting >= MAX_WAITING:
        return JSONResponse({"error": "too many requests are waiting: try again later"}, status_code=503)
    try:
        data = await read_request(request)
        answer = await to_thread.run_sync(request.app.state.handler, data, limiter=one_at_a_time)
        return respond(request, answer)
    except ValueError as error:
        return JSONResponse({"error": str(error)}, status_code=400)
    except ClientDisconnect:
        return Response(status_code=499)
    except Exception:
        logger.exception("a request failed")
        return JSONResponse({"error": "this request could not be answered"}, status_code=500)


def respond(request: Request, answer: Any) -> Response:
    wants_image = request.headers.get("accept", "").startswith("image/")
    if wants_image and isinstance(answer, dict) and "image" in answer:
        return Response(base64.b64decode(answer["image"]), media_type="image/png")
    if isinstance(answer, Image.Image):
        buffer = io.BytesIO()
        answer.save(buffer, format="PNG")
        if wants_image:
            return Response(buffer.getvalue(), media_type="image/png")
        answer = {"image": base64.b64encode(buffer.getvalue()).decode()}
    return JSONResponse(answer)


app = Starlette(
    routes=[
        Route("/", health, methods=["GET"]),
        Route("/health", health, methods=["GET"]),
        Route("/", predict, methods=["POST"]),
        Route("/predict", predict, methods=["POST"]),
    ],
    lifespan=lifespan,
)
