"""Microscope images: what data sets and inference share."""

import base64

from . import ASSETS
from .models.image_processing_deepgps import normalize, read_image

__all__ = ["DEFAULT_NUCLEUS", "normalize", "read_image"]

# A real nucleus (`assets/deepgps/README.md` gives its source) for `DeepGPSImageProcessor(default_nucleus=...)`
DEFAULT_NUCLEUS = base64.b64encode((ASSETS / "deepgps" / "default_nucleus.png").read_bytes()).decode()
