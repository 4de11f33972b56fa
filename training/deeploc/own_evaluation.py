"""Evaluation of a model on your own labels: scores and a confusion matrix, for its card."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import confusion_matrix

from protloc import DeepLocConfig, plots
from training.deeploc.evaluate import intervals, predict_proteins, scores
from training.deeploc.own_proteins import OwnProteins


def few_labels(labels: list[str], config: DeepLocConfig, min_proteins: int) -> str:
    """What is said of labels that `fit_decisions` has too few proteins of; empty if there are none."""
    if not labels:
        return ""
    named = ", ".join(f"`{label}`" for label in labels)
    without = f"Fewer than {min_proteins} validation proteins have or lack {named}"
    if config.problem_type == "multi_label_classification":
        return f"{without}: their probabilities are not calibrated and their thresholds are 0.5."
    return f"{without}: no probability is calibrated."


FLAT = 0.2  # scale of a calibration that leaves little of the differences between proteins


def flat_labels(config: DeepLocConfig) -> str:
    """What is said of labels whose calibration makes nearly the same of every protein; empty if there are none."""
    flat = [config.id2label[i] for i, scale in enumerate(config.calibration_scale or []) if scale < FLAT]
    if not flat:
        return ""
    named = ", ".join(f"`{label}`" for label in flat)
    return (
        f"On the validation proteins the raw answers for {named} say little or nothing, so that calibration gives "
        "nearly the same probability to every protein: there are too few of them, or nothing was learnt."
    )


def evaluate_own(model: Any, tokenizer: Any, own: OwnProteins, output_dir: Path) -> dict[str, Any]:
    """
    Scores on the test part, or, where there is none, on the validation part that chose the epoch; `confusion.png`.

    Returns:
        `dict`: `split`, `labels`, `localization`, `membrane` where known, `intervals`, and `confusion`, proteins by
        label and most probable label, of those with one label.
    """
    split = "test" if len(own.parts["test"]) else "validation"
    arrays = predict_proteins(model, tokenizer, own.parts[split], 16_384, None)
    labels, probabilities = arrays["labels"], arrays["probabilities"]
    plots.save(plots.confusion(labels, probabilities, own.labels), output_dir / "confusion.png")
    one = labels.sum(axis=1) == 1
    matrix = confusion_matrix(
        labels[one].argmax(axis=1), probabilities[one].argmax(axis=1), labels=np.arange(len(own.labels))
    )
    return {
        "split": split,
        "labels": own.labels,
        **scores(arrays, own.labels),
        "intervals": intervals(arrays),
        "confusion": matrix.tolist(),
    }
