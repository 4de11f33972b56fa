"""Base class of the models of all families."""

from transformers import PreTrainedModel


class SafetensorsModel(PreTrainedModel):
    """A transformers model that loads weights only from safetensors, because loading a pickle can run code."""

    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False

    @classmethod
    def from_pretrained(cls, *args, use_safetensors: bool = True, **kwargs):
        return super().from_pretrained(*args, use_safetensors=use_safetensors, **kwargs)
