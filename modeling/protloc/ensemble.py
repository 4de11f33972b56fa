"""Several DeepLoc models as one: their calibrated logits averaged."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .models.modeling_deeploc import DeepLocClassifierOutput, DeepLocForSequenceClassification


class DeepLocEnsemble(nn.Module):
    """
    Models whose predictions are averaged, such as those of a cross-validation over homology partitions.

    Calibrated logits, decisions, signals, segments and attention are means over the members, and so are the thresholds.

    Args:
        members (`Sequence[DeepLocForSequenceClassification]`): Models that read the same inputs.

    Raises:
        ValueError: If members differ in labels, input features, length policy or heads.
    """

    def __init__(self, members: Sequence[DeepLocForSequenceClassification]):
        super().__init__()
        self.members: Any = nn.ModuleList(members)
        configs = [member.config for member in members]
        shared = "id2label", "problem_type", "input_features", "max_length", "length_policy", "membrane"
        for name in (*shared, "tree", "signals", "residue_signals", "vocab_size", "spaced_residues"):
            values = [getattr(config, name) for config in configs]
            different = next((value for value in values if value != values[0]), None)
            if different is not None:
                raise ValueError(f"members of an ensemble must agree: {name} is {values[0]!r} and {different!r}")
        self.config = copy.deepcopy(configs[0])
        self.config.thresholds = torch.tensor([config.thresholds for config in configs]).mean(dim=0).tolist()
        self.config.membrane_threshold = sum(config.membrane_threshold for config in configs) / len(configs)

    # What does not depend on weights is the first member's.
    @property
    def device(self) -> torch.device:
        return self.members[0].device

    @property
    def dtype(self) -> torch.dtype:
        return self.members[0].dtype

    def prepare_sequence(self, text):
        return self.members[0].prepare_sequence(text)

    def merge_windows(self, length, windows, outputs):
        return self.members[0].merge_windows(length, windows, outputs)

    def residue_mask(self, input_ids, attention_mask):
        return self.members[0].residue_mask(input_ids, attention_mask)

    def probabilities(self, logits):
        return self.members[0].probabilities(logits)

    def decide(self, logits, membrane_logits):
        """As in [`DeepLocForSequenceClassification`], with the mean thresholds."""
        return type(self.members[0]).decide(self, logits, membrane_logits)

    def forward(self, **inputs) -> DeepLocClassifierOutput:
        outputs = [member(**inputs) for member in self.members]

        def mean(name: str) -> Any:
            if name not in outputs[0]:
                return None
            return torch.stack([output[name] for output in outputs]).mean(dim=0)

        logits, membrane_logits = mean("logits"), mean("membrane_logits")
        decisions: Any = self.decide(logits, membrane_logits)
        return DeepLocClassifierOutput(
            logits=logits,
            membrane_logits=membrane_logits,
            localizations=decisions[0],
            membrane=decisions[1],
            tree_logits=mean("tree_logits"),
            signal_logits=mean("signal_logits"),
            residue_signal_logits=mean("residue_signal_logits"),
            attentions=mean("attentions")[:, -1:],
        )
