"""Configuration of UniRep."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Tokens by id; Z, B and J are read as X.
TOKENS = ["<pad>", *"MRHKDESTNQCUGPAVIFYWLOX", "<start>", "<stop>"]


@strict
class UniRepConfig(PreTrainedConfig):
    r"""
    Configuration of [`UniRepModel`] and [`UniRepForCausalLM`] (Alley et al. 2019).

    Args:
        vocab_size (`int`): Tokens: padding, 23 residues (X, Z, B and J share one), `<start>` and `<stop>`.
        embedding_size (`int`): Size of the embedding of a token.
        hidden_size (`int`): Units of each multiplicative LSTM: 1,900, 256 or 64 in the published models.
        num_hidden_layers (`int`): Multiplicative LSTMs, one on top of the other: 1 in the published model of 1,900
            units, 4 in the smaller ones.
    """

    model_type = "unirep"

    vocab_size: int = 26
    pad_token_id: int = 0
    bos_token_id: int = 24
    eos_token_id: int = 25

    embedding_size: int = 10
    hidden_size: int = 1900
    num_hidden_layers: int = 1

    def __post_init__(self, **kwargs):
        kwargs.setdefault("auto_map", {"AutoModel": "modeling_unirep.UniRepModel"})
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of the validation that `@strict` runs."""
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")


UniRepConfig.register_for_auto_class()
