"""
What Hugging Face Inference Endpoints run for a DeepLoc or deepGPS repository; it needs that repository's code alone.

DeepLoc answers as `text-classification` does: for each sequence a list of `{"label", "score"}`, most probable first.

    {"inputs": "MKV..."}                                        one sequence, a list of them, or FASTA text
    {"inputs": "MKV...", "parameters": {"top_k": 3}}            only the first three
    {"inputs": "MKV...", "parameters": {"details": true}}       what pipeline("protein-localization") gives

deepGPS answers with JSON, images as base64 of PNG files; or as `image-to-image` does, with the image alone.

    {"inputs": {"sequence": "MKV...", "nucleus": "<base64 of an image>"}}       or a list; without a nucleus the default
    {"inputs": "MKV..."}                                                        or FASTA text: on the default nucleus
    {"inputs": "<base64 of a nucleus>", "parameters": {"prompt": "MKV..."}}     the image

`parameters` of deepGPS: `num_samples`, `num_inference_steps`, `guidance_scale`, `seed`, `cell_line`; and of an image
with several channels or pages `channel` (a colour, a name or a number), `page` (from 0) or `project` ("max", of a
stack).
Whatever can't be answered raises `ValueError` with one sentence.
"""

import base64
import binascii
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import pipeline

MAX_SEQUENCES = 64  # of DeepLoc, in a request
MAX_IMAGES = 16  # of deepGPS, samples counted
MAX_RESIDUES = 40_000  # of a protein; titin, the longest human one, has 35,000
MAX_TOTAL_RESIDUES = 200_000
MAX_IMAGE_BYTES = 20_000_000
MAX_BYTES = {"protein-localization": 1_000_000, "protein-imaging": 30_000_000}  # of a request; the server asks for it
MAX_PIXELS = 1024 * 1024
MAX_STEPS = 100
MAX_WORK = 20_000_000  # pixels times passes of the image network
FORMATS = ["PNG", "TIFF", "JPEG"]  # what microscopes give; every other decoder is one more way in
# Parameters of deepGPS, their type, and the range of numbers
NUMBERS: dict[str, tuple[type, float, float]] = {
    "num_samples": (int, 1, MAX_IMAGES),
    "num_inference_steps": (int, 1, MAX_STEPS),
}
NUMBERS |= {"guidance_scale": (float, 0, 20), "seed": (int, 0, 2**63 - 1), "page": (int, 0, 19_999)}
READING = ["channel", "page", "project"]
IGNORED = {"negative_prompt", "target_size", "strength"}  # what InferenceClient may send and this model has no use for


class EndpointHandler:
    """Called with the JSON of a request as a `dict`; gives what goes back as JSON, or a PIL image."""

    def __init__(self, path: str = ""):
        model_type = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))["model_type"]
        self.task = {"deeploc": "protein-localization", "deepgps": "protein-imaging"}[model_type]
        self.max_bytes = MAX_BYTES[self.task]
        device = 0 if torch.cuda.is_available() else -1
        self.pipeline = pipeline(self.task, model=str(path), trust_remote_code=True, device=device)

    def __call__(self, data: dict[str, Any]) -> Any:
        if not isinstance(data, dict) or "inputs" not in data:
            raise ValueError('the request must be a JSON object with "inputs"')
        inputs, parameters = data["inputs"], data.get("parameters") or {}
        if not isinstance(parameters, dict):
            raise ValueError(f'"parameters" must be an object, got {shortened(parameters)}')
        if self.task == "protein-localization":
            return self.localize(inputs, dict(parameters))
        return self.draw(inputs, dict(parameters))

    def localize(self, inputs: Any, parameters: dict[str, Any]) -> list[Any]:
        details, top_k = parameters.pop("details", False), parameters.pop("top_k", None)
        parameters.pop("function_to_apply", None)  # the probabilities are calibrated: there is no other
        refuse_unknown(parameters, ["details", "top_k"])
        if not isinstance(details, bool):
            raise ValueError(f'"details" must be true or false, got {shortened(details)}')
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f'"top_k" must be a whole number of 1 or more, got {shortened(top_k)}')
        sequences = read_sequences(inputs)
        limit_count(len(sequences), MAX_SEQUENCES, "sequences")
        found = self.pipeline(sequences, return_attention=details)
        if details:
            return found
        ranked = [sorted(row["scores"].items(), key=lambda pair: -pair[1])[:top_k] for row in found]
        return [[{"label": label, "score": score} for label, score in row] for row in ranked]

    def draw(self, inputs: Any, parameters: dict[str, Any]) -> Any:
        prompt = parameters.pop("prompt", None)
        for name in IGNORED:
            parameters.pop(name, None)
        for name, (kind, low, high) in NUMBERS.items():
            value = parameters.get(name)
            if value is not None:
                fits = isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
                if not fits or not low <= value <= high:
                    article = "a whole number" if kind is int else "a number"
                    raise ValueError(f'"{name}" must be {article} from {low} to {high}, got {shortened(value)}')
        refuse_unknown(parameters, ["prompt", "cell_line", *NUMBERS, *READING])
        line = parameters.get("cell_line")
        if line is not None and (not isinstance(line, str) or len(line) > 100):
            raise ValueError(f'"cell_line" must be a name, got {shortened(line)}')
        channel, project = parameters.get("channel"), parameters.get("project")
        if channel is not None and (type(channel) not in (str, int) or len(str(channel)) > 100):
            raise ValueError(f'"channel" must be a name or a number, got {shortened(channel)}')
        if project not in (None, "max"):
            raise ValueError(f'"project" must be "max", got {shortened(project)}')
        reading = {name: parameters.pop(name, None) for name in READING}
        parameters = {name: value for name, value in parameters.items() if value is not None}
        if isinstance(inputs, (bytes, Image.Image)) or prompt is not None:  # the task image-to-image
            if prompt is None:
                raise ValueError('an image needs the protein\'s sequence: send it as "prompt" in "parameters"')
            (sequence,) = limit_length([sequence_of(prompt)])
            protein = {"sequence": sequence, "nucleus": self.read_nucleus(inputs, reading)}
            self.limit_work([protein], parameters)
            return self.pipeline(protein, **parameters)["image"]
        rows = inputs if isinstance(inputs, list) else [inputs]
        if isinstance(inputs, str):
            rows = read_sequences(inputs)
        proteins = [self.read_protein(row, reading) for row in rows]
        limit_length([protein["sequence"] for protein in proteins])
        self.limit_work(proteins, parameters)
        answers = [
            {
                **drawn,
                "image": encode(drawn["image"]),
                "uncertainty": drawn["uncertainty"] and encode(drawn["uncertainty"]),
            }
            for drawn in self.pipeline(proteins, **parameters)
        ]
        return answers[0] if isinstance(inputs, dict) or (isinstance(inputs, str) and len(rows) == 1) else answers

    def limit_work(self, proteins: list[dict[str, Any]], parameters: dict[str, Any]) -> None:
        """`ValueError` for more images, or larger ones in more steps, than a request should take."""
        config = self.pipeline.model.config
        samples = parameters.get("num_samples", 1)
        limit_count(len(proteins) * samples, MAX_IMAGES, "images")
        passes = 3 * samples if config.objective == "adversarial" else 1  # three compartments
        if config.objective == "diffusion":
            passes = samples * parameters.get("num_inference_steps", config.num_inference_steps)
            passes *= 2 if parameters.get("guidance_scale", config.guidance_scale) != 1 else 1
        sizes = [
            config.image_size**2 if protein["nucleus"] is None else protein["nucleus"].size for protein in proteins
        ]
        work = passes * sum(sizes)
        if work > MAX_WORK:
            raise ValueError(
                f"{work:,} pixels times steps are too many for a request (at most {MAX_WORK:,}): fewer samples or "
                "steps, or smaller images"
            )

    def read_protein(self, row: Any, reading: dict[str, Any]) -> dict[str, Any]:
        """`{"sequence", "nucleus"}`, or a sequence, of a request."""
        if isinstance(row, str):
            return {"sequence": row, "nucleus": None}
        if not isinstance(row, dict) or "sequence" not in row:
            raise ValueError(f'a protein must be {{"sequence": ..., "nucleus": ...}}, got {shortened(row)}')
        refuse_unknown({name: value for name, value in row.items() if name not in ("sequence", "nucleus")}, [])
        nucleus = row.get("nucleus")
        nucleus = None if nucleus is None else self.read_nucleus(nucleus, reading)
        return {"sequence": sequence_of(row["sequence"]), "nucleus": nucleus}

    def read_nucleus(self, value: Any, reading: dict[str, Any]) -> np.ndarray:
        """An image `(H, W)` from its base64 text (never a path or an address), small enough to draw on."""
        if isinstance(value, str):
            text = value.partition(",")[2] if value.startswith("data:") else value
            if len(text) > MAX_IMAGE_BYTES * 4 // 3:
                raise ValueError(f"the nucleus has more than {MAX_IMAGE_BYTES:,} bytes")
            try:
                value = base64.b64decode("".join(text.split()), validate=True)
            except (binascii.Error, ValueError):
                raise ValueError(f"the nucleus is no base64 text of an image: {shortened(text)}") from None
        elif not isinstance(value, (bytes, Image.Image)):  # which the server has received or opened
            raise ValueError(f"a nucleus must be the base64 text of an image, got {shortened(value)}")
        read = self.pipeline.processor.image_processor.read
        return read(value, **reading, max_pixels=MAX_PIXELS, formats=FORMATS)


def read_sequences(inputs: Any) -> list[str]:
    """A sequence, a list of sequences, or FASTA text -> sequences."""
    if isinstance(inputs, str) and inputs.lstrip().startswith(">"):
        records = inputs.strip().removeprefix(">").split("\n>")
        found = []
        for record in records:
            header, _, sequence = record.partition("\n")
            if not sequence.strip():
                raise ValueError(f"the FASTA record {shortened(header.strip())} has no sequence")
            found.append("".join(sequence.split()))
    else:
        found = [sequence_of(row) for row in (inputs if isinstance(inputs, list) else [inputs])]
    return limit_length(found)


def sequence_of(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"a sequence must be text, got {shortened(value)}")
    return value


def limit_length(sequences: list[str]) -> list[str]:
    for sequence in sequences:
        if len(sequence) > MAX_RESIDUES:
            raise ValueError(f"a sequence of {len(sequence):,} residues is too long: {MAX_RESIDUES:,} are the most")
    total = sum(map(len, sequences))
    if total > MAX_TOTAL_RESIDUES:
        raise ValueError(f"{total:,} residues are too many for a request: send at most {MAX_TOTAL_RESIDUES:,}")
    return sequences


def limit_count(count: int, most: int, of: str) -> None:
    if not count:
        raise ValueError('"inputs" is empty: send a sequence')
    if count > most:
        raise ValueError(f"{count} {of} are too many for a request: send at most {most}")


def encode(image: Image.Image) -> str:
    """PNG as base64 text."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def refuse_unknown(rest: dict[str, Any], known: list[str]) -> None:
    for name in rest:
        if name not in known:
            hint = f": known are {', '.join(known)}" if known else ""
            raise ValueError(f"{shortened(name)} is no parameter of this model{hint}")


def shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
