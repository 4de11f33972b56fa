"""Registers protloc's models with the Auto classes and pipelines of transformers; `import protloc` does this."""

from pathlib import Path

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    EsmTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.pipelines import PIPELINE_REGISTRY

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

ASSETS = Path(__file__).parent / "assets"  # the checkpoints that the package ships

AutoConfig.register("deeploc", DeepLocConfig)
AutoTokenizer.register(DeepLocConfig, EsmTokenizer)
AutoModel.register(DeepLocConfig, DeepLocModel)
AutoModelForSequenceClassification.register(DeepLocConfig, DeepLocForSequenceClassification)
AutoConfig.register("unirep", UniRepConfig)
AutoTokenizer.register(UniRepConfig, fast_tokenizer_class=PreTrainedTokenizerFast)
AutoModel.register(UniRepConfig, UniRepModel)
AutoModelForCausalLM.register(UniRepConfig, UniRepForCausalLM)
AutoConfig.register("deepgps", DeepGPSConfig)
AutoTokenizer.register(DeepGPSConfig, EsmTokenizer)
AutoImageProcessor.register(DeepGPSConfig, DeepGPSImageProcessor)
AutoProcessor.register(DeepGPSConfig, DeepGPSProcessor)
AutoModel.register(DeepGPSConfig, DeepGPSModel)

PIPELINE_REGISTRY.register_pipeline(
    "protein-localization",
    pipeline_class=ProteinLocalizationPipeline,
    pt_model=AutoModelForSequenceClassification,
    default={"model": (str(ASSETS / "deeploc"), "main")},
    type="text",
)
PIPELINE_REGISTRY.register_pipeline(
    "protein-imaging",
    pipeline_class=ProteinImagingPipeline,
    pt_model=AutoModel,
    default={"model": (str(ASSETS / "deepgps"), "main")},
    type="multimodal",
)
# `save_pretrained` writes this into a model's config.json, where the path of this installation has no place.
ProteinLocalizationPipeline._registered_impl = {
    "protein-localization": {
        "impl": ProteinLocalizationPipeline,
        "pt": (AutoModelForSequenceClassification,),
        "type": "text",
    }
}
ProteinImagingPipeline._registered_impl = {
    "protein-imaging": {"impl": ProteinImagingPipeline, "pt": (AutoModel,), "type": "multimodal"}
}
