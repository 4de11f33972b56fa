"""Protein subcellular localization with transformers: importing this registers its Auto classes and pipelines."""

from pathlib import Path

from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer, EsmTokenizer

from .models.configuration_deeploc import DeepLocConfig
from .models.modeling_deeploc import DeepLocForSequenceClassification, DeepLocModel

ASSETS = Path(__file__).parent / "assets"  # the checkpoints that the package ships

AutoConfig.register("deeploc", DeepLocConfig)
AutoTokenizer.register(DeepLocConfig, EsmTokenizer)
AutoModel.register(DeepLocConfig, DeepLocModel)
AutoModelForSequenceClassification.register(DeepLocConfig, DeepLocForSequenceClassification)

__all__ = ["ASSETS", "DeepLocConfig", "DeepLocForSequenceClassification", "DeepLocModel"]
