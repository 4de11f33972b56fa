"""A companion for a DeepLoc on UniRep: a DeepLoc with its own embedding of residues; their logits are averaged."""

from typing import Any

import torch
from torch.nn import functional as F

from .configuration_deeploc import DeepLocConfig
from .configuration_unirep import TOKENS
from .residue_features import VOCABULARY


class CompanionMixin:
    """What a [`DeepLocForSequenceClassification`] does with its `companion`, another one."""

    config: DeepLocConfig
    companion: Any

    def add_companion(self, companion: Any) -> None:
        """
        Average the logits of this model with those of a companion that has its own embedding of residues.

        Raises:
            ValueError: If the companion has other labels or heads, or no embedding of residues.
        """
        self.check_companion(companion.config)
        self.config.companion_config = companion.config.to_dict()
        self.companion = companion

    def check_companion(self, config: DeepLocConfig) -> None:
        """What `add_companion` raises of a companion with this configuration."""
        for name in ("id2label", "problem_type", "max_length", "length_policy", "membrane", "tree", "signals"):
            own, other = getattr(self.config, name), getattr(config, name)
            if own != other:
                raise ValueError(f"a model and its companion must agree: {name} is {own!r} and {other!r}")
        if config.vocab_size != len(VOCABULARY):
            raise ValueError("a companion has its own embedding of residues, not a backbone")

    def ask_companion(self, input_ids: torch.Tensor) -> Any:
        """[`DeepLocClassifierOutput`] of the companion for UniRep's tokens `(batch, length)`."""
        special = {"<pad>": "<pad>", "<start>": "<cls>", "<stop>": "<eos>"}
        own_ids = input_ids.new_tensor([VOCABULARY.index(special.get(token, token)) for token in TOKENS])
        lengths = (input_ids != self.config.pad_token_id).sum(dim=1, keepdim=True)  # (B, 1)
        positions = torch.arange(input_ids.shape[1] + 1, device=input_ids.device)
        ids = F.pad(own_ids[input_ids], (0, 1), value=VOCABULARY.index("<pad>"))
        ids = torch.where(positions == lengths, VOCABULARY.index("<eos>"), ids)  # (B, L + 1)
        outputs = self.companion(ids, (positions <= lengths).long())
        outputs.attentions = outputs.attentions[..., :-1]
        if outputs.residue_signal_logits is not None:
            outputs.residue_signal_logits = outputs.residue_signal_logits[:, :-1]
        return outputs
