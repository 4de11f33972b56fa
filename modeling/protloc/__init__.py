"""Protein subcellular localization with transformers: importing it registers its Auto classes and pipelines."""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import ASSETS

if TYPE_CHECKING:
    from .loading import load_unirep
    from .models.configuration_deepgps import DeepGPSConfig
    from .models.configuration_deeploc import DeepLocConfig
    from .models.configuration_unirep import UniRepConfig
    from .models.image_processing_deepgps import DeepGPSImageProcessor
    from .models.modeling_deepgps import DeepGPSModel
    from .models.modeling_deeploc import DeepLocForSequenceClassification, DeepLocModel
    from .models.modeling_unirep import UniRepForCausalLM, UniRepModel
    from .models.processing_deepgps import DeepGPSProcessor
    from .pipelines.pipeline_protein_imaging import ProteinImagingPipeline
    from .pipelines.pipeline_protein_localization import ProteinLocalizationPipeline

# Loaded when they are asked for (PEP 562)
_MODULES = {
    "DeepGPSConfig": "models.configuration_deepgps",
    "DeepGPSImageProcessor": "models.image_processing_deepgps",
    "DeepGPSModel": "models.modeling_deepgps",
    "DeepGPSProcessor": "models.processing_deepgps",
    "DeepLocConfig": "models.configuration_deeploc",
    "DeepLocForSequenceClassification": "models.modeling_deeploc",
    "DeepLocModel": "models.modeling_deeploc",
    "ProteinImagingPipeline": "pipelines.pipeline_protein_imaging",
    "ProteinLocalizationPipeline": "pipelines.pipeline_protein_localization",
    "UniRepConfig": "models.configuration_unirep",
    "UniRepForCausalLM": "models.modeling_unirep",
    "UniRepModel": "models.modeling_unirep",
    "load_unirep": "loading",
}

__all__ = [
    "ASSETS",
    "DeepGPSConfig",
    "DeepGPSImageProcessor",
    "DeepGPSModel",
    "DeepGPSProcessor",
    "DeepLocConfig",
    "DeepLocForSequenceClassification",
    "DeepLocModel",
    "ProteinImagingPipeline",
    "ProteinLocalizationPipeline",
    "UniRepConfig",
    "UniRepForCausalLM",
    "UniRepModel",
    "load_unirep",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
