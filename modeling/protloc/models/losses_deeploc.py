"""Losses of DeepLoc: compartments, membrane type, sorting tree, sorting signals and their positions."""

import torch
from torch.nn import functional as F

from .configuration_deeploc import SORTING_TREE, DeepLocConfig


def localization_loss(logits: torch.Tensor, labels: torch.Tensor, config: DeepLocConfig) -> torch.Tensor:
    """
    Binary cross-entropy of every label, or cross-entropy over the labels; focal and class-weighted if configured.

    Args:
        logits (`torch.Tensor` of shape `(batch, num_labels)`)
        labels (`torch.Tensor`): 0 / 1 (or probabilities, from a teacher) of shape `(batch, num_labels)`; for
            single-label models class indices of shape `(batch,)`, or several labels, which share a probability of 1.

    Raises:
        ValueError: For class indices, if several labels are possible.
    """
    class_weights = logits.new_tensor(config.class_weights) if config.class_weights else None
    if config.problem_type == "multi_label_classification":
        if labels.shape != logits.shape:
            raise ValueError(
                f"labels are {tuple(labels.shape)}, and a model of several labels a protein learns from 0 and 1 of "
                f"shape {tuple(logits.shape)}: for one number a protein load it with "
                "problem_type='single_label_classification'"
            )
        labels = labels.to(logits)
        positive_weights = logits.new_tensor(config.positive_weights) if config.positive_weights else None
        losses = F.binary_cross_entropy_with_logits(
            logits, labels, weight=class_weights, pos_weight=positive_weights, reduction="none"
        )
        if config.focal_gamma:
            losses = losses * (logits.sigmoid() - labels).abs() ** config.focal_gamma
        return losses.mean()

    targets = labels.to(logits) if labels.ndim == 2 else F.one_hot(labels, config.num_labels).to(logits)
    targets = targets / targets.sum(dim=-1, keepdim=True).clamp(min=1e-6)  # a protein without labels teaches nothing
    log_probabilities = logits.log_softmax(dim=-1)
    losses = -targets * log_probabilities
    if config.focal_gamma:
        losses = losses * (targets - log_probabilities.exp()).abs() ** config.focal_gamma
    if class_weights is None:
        return losses.sum(dim=-1).mean()
    return (losses * class_weights).sum() / (targets * class_weights).sum().clamp(min=1e-6)


def known_label_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over the labels that are known (0 or 1, not -1), of any shape; 0 if none is."""
    known = (labels >= 0).to(logits)
    losses = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits), weight=known, reduction="sum")
    return losses / known.sum().clamp(min=1)


def tree_log_probabilities(decisions: torch.Tensor) -> torch.Tensor:
    """
    From decisions to compartments: a leaf's probability is the product of the decisions on its way.

    Args:
        decisions (`torch.Tensor` of shape `(batch, 9)`): Logits, in the order of `SORTING_TREE`; a positive one speaks
            for the first of the node's two sides.

    Returns:
        `torch.Tensor` of shape `(batch, 10)`: Logarithms of probabilities that sum to 1.
    """
    sides = decisions.new_zeros(len(SORTING_TREE), 10)
    for node, (first, second) in enumerate(SORTING_TREE.values()):
        sides[node, first], sides[node, second] = 1, -1
    return (F.logsigmoid(decisions.unsqueeze(-1) * sides) * sides.abs()).sum(dim=1)


def tree_loss(decisions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of the leaves `labels (batch, 10)`; several labels of a protein share its weight."""
    shares = labels.to(decisions) / labels.to(decisions).sum(dim=-1, keepdim=True).clamp(min=1e-6)
    return -(shares * tree_log_probabilities(decisions)).sum(dim=-1).mean()


def attention_loss(attention: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """
    Divergence of the attention from an even look at the known signals (DeepLoc 2.0's supervised attention).

    Args:
        attention (`torch.Tensor` of shape `(batch, length)`): The last step's weights.
        positions (`torch.Tensor` of shape `(batch, length)`): 1 at residues of a known signal. Proteins without any
            are left out.
    """
    sizes = positions.sum(dim=-1, keepdim=True)
    shares = positions.to(attention) / sizes.clamp(min=1)
    divergence = torch.xlogy(shares, shares) - shares * attention.clamp(min=1e-8).log()
    return divergence.sum() / (sizes > 0).sum().clamp(min=1)


def residue_signal_loss(logits: torch.Tensor, possible: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy of each residue's signal, known or narrowed down: the probability of all that it may be should be 1.

    Args:
        logits (`torch.Tensor` of shape `(batch, length, 10)`)
        possible (`torch.Tensor` of shape `(batch, length)`): Bit 0 is set where the residue may be of no signal, bit
            `k` where it may be of signal `k`; 0 at special tokens and padding, which don't count.
    """
    bits = torch.arange(logits.shape[-1], device=logits.device)
    allowed = (possible.unsqueeze(-1) >> bits & 1).bool()  # (B, L, 10)
    counted = possible > 0
    log_probabilities = logits.float().log_softmax(dim=-1)
    found = log_probabilities.masked_fill(~allowed, torch.finfo(torch.float32).min).logsumexp(dim=-1)  # (B, L)
    return -found[counted].sum() / counted.sum().clamp(min=1)
