"""Crops of nucleus and protein as rows of a data set."""

import io
from typing import Any

import numpy as np
from datasets import ClassLabel, Features, Image, List, Value
from PIL import Image as PILImage

from .microscopy import Crop


def crop_features(labels: list[str]) -> Features:
    """Columns of a data set of crops; `labels` are the names of its classes."""
    return Features(
        {
            "nucleus": Image(),
            "protein": Image(),
            "sequence": Value("string"),
            "uniprot_id": Value("string"),
            "gene": Value("string"),
            "labels": List(ClassLabel(names=labels)),
            "grade": Value("int8"),
            "cell_line": Value("string"),
            "field_id": Value("string"),
            "source_image": Value("string"),
            "crop_box": List(Value("int32"), length=4),  # left, top, right, bottom at um_per_px
            "um_per_px": Value("float32"),
            "focus": Value("float32"),
            "saturation": Value("float32"),
        }
    )


def encode_image(image: np.ndarray) -> dict[str, Any]:
    """An image in [0, 1] as a TIFF of 16 bit: noise leaves little to compress, and a PNG takes twenty times as long."""
    buffer = io.BytesIO()
    PILImage.fromarray(np.round(image * 65535).astype(np.uint16)).save(buffer, "TIFF")
    return {"bytes": buffer.getvalue(), "path": None}


def crop_row(crop: Crop) -> dict[str, Any]:
    """The columns of a crop that say nothing of its protein."""
    return {
        "nucleus": encode_image(crop.nucleus),
        "protein": encode_image(crop.protein),
        "crop_box": crop.box,
        "focus": crop.focus,
        "saturation": crop.saturation,
    }


def decode_image(image: dict[str, Any]) -> np.ndarray:
    """What `encode_image` made, float32 `(H, W)` in [0, 1]."""
    return np.asarray(PILImage.open(io.BytesIO(image["bytes"])), dtype=np.float32) / 65535


def overlay(nucleus: np.ndarray, protein: np.ndarray) -> np.ndarray:
    """
    Two images `(H, W)` in [0, 1] as colours `(H, W, 3)`: the first in blue and the second in yellow, which add up to
    white, on black. People with any colour vision tell them apart.
    """
    return np.clip(np.stack([protein, 0.35 * nucleus + 0.9 * protein, nucleus], axis=-1), 0, 1)
