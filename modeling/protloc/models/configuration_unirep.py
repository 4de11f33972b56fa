"""Configuration of UniRep."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# Tokens by id; Z, B and J are read as X.
TOKENS = ["<pad>", *"MRHKDESTNQCUGPAVIFYWLOX", "<start>", "<stop>"]

LARGEST = 1_000_000  # of any number in a configuration: sizes, tokens, steps, weights of losses
MOST_LAYERS = 1000


def check_numbers(config: Any) -> None:
    """
    `ValueError` for a number in a configuration, of ours or of an encoder, that no network has: a file that is damaged
    must not make one that never ends, fills the memory, or answers NaN.
    """
    for name, value in vars(config).items():
        for number in value if isinstance(value, (list, tuple)) else [value]:
            most = MOST_LAYERS if name.endswith(("_layers", "_steps")) and name != "diffusion_steps" else LARGEST
            if isinstance(number, (int, float)) and not abs(number) <= most:
                raise ValueError(f"{name} is {number}: it must be a number, and at most {most:,}")
    wrong = [label for label in config.id2label.values() if not isinstance(label, str)]
    if wrong:
        raise ValueError(f"id2label names labels, and {wrong[0]!r} is no name")


def check_ranges(config: Any, at_least: dict[int, tuple[str, ...]]) -> None:
    """`ValueError` for a number, or one of a list, below the least that the field can be."""
    for least, names in at_least.items():
        for name in names:
            value = getattr(config, name)
            for number in value if isinstance(value, (list, tuple)) else [value]:
                if number < least:
                    raise ValueError(f"{name} must be {least} or more, got {number}")


@strict
class UniRepConfig(PreTrainedConfig):
    r"""
    Configuration of [`UniRepModel`] and [`UniRepForCausalLM`] (Alley et al. 2019).

    Args:
        vocab_size (`int`): Tokens: padding, 23 residues (X, Z, B and J share one), `<start>` and `<stop>`.
        embedding_size (`int`): Size of the embedding of a token.
        hidden_size (`int`): Units of each multiplicative LSTM: 1,900, 256 or 64 in the published models.
        num_hidden_layers (`int`): Number of stacked multiplicative LSTMs: 1 in the published model with 1,900 units, 4
            in the smaller models.
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
        check_numbers(self)
        check_ranges(self, {1: ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers")})


UniRepConfig.register_for_auto_class()
