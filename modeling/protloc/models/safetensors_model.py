"""What the models of all families have in common."""

from transformers import PreTrainedModel


class SafetensorsModel(PreTrainedModel):
    """A transformers model whose weights come from safetensors alone: loading a pickle would run what it says."""

    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False

    @classmethod
    def from_pretrained(cls, *args, use_safetensors: bool = True, **kwargs):
        return super().from_pretrained(*args, use_safetensors=use_safetensors, **kwargs)
