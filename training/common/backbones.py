"""Training of the sequence encoder of a DeepLoc or deepGPS: frozen, full, or with LoRA."""

import copy
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model


def set_backbone_training(owner: Any, how: str, lora_rank: int = 8) -> None:
    """
    Args:
        owner: The module whose `backbone` it is: a [`DeepLocModel`] or [`DeepGPSModel`].
        how (`str`): `"frozen"`, `"full"`, or `"lora"` (low-rank updates of every linear layer).
        lora_rank (`int`)

    Raises:
        ValueError: For LoRA of a DeepLoc encoder, which has no linear layers.
    """
    owner.backbone.requires_grad_(how == "full")
    if how == "lora":
        if owner.backbone.config.model_type == "deeploc":
            raise ValueError("a DeepLoc encoder has no linear layers for LoRA: train it 'full', or keep it 'frozen'")
        owner.backbone = get_peft_model(owner.backbone, LoraConfig(r=lora_rank, target_modules="all-linear"))


def merged(model: Any) -> Any:
    """The model as it is saved: a copy with low-rank updates merged into the weights, or the model itself."""
    if not any(isinstance(module, PeftModel) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    owner = getattr(model, model.base_model_prefix) if model.base_model_prefix else model
    owner.backbone = owner.backbone.merge_and_unload()
    return model
