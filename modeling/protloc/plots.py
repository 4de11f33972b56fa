"""Figures of localization: what was predicted, how well, how sure, and from which residues."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    ConfusionMatrixDisplay,
    PrecisionRecallDisplay,
    RocCurveDisplay,
    confusion_matrix,
    multilabel_confusion_matrix,
)

from .taxonomy import MEMBRANE, SORTING_SIGNALS


def _panels(count: int, columns: int, size: float = 3.0) -> tuple[Figure, list[Axes]]:
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * size, rows * size), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for empty in axes[count:]:
        empty.remove()
    return figure, axes[:count]


def location_matrices(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str]) -> Figure:
    """
    A 2 x 2 confusion matrix for every compartment.

    Args:
        labels, predictions (`np.ndarray` of shape `(n, classes)`): 0 / 1.
        classes (`Sequence[str]`): Their names.
    """
    figure, axes = _panels(len(classes), columns=5, size=2.6)
    for name, matrix, ax in zip(classes, multilabel_confusion_matrix(labels, predictions), axes, strict=True):
        ConfusionMatrixDisplay(matrix, display_labels=["no", "yes"]).plot(
            ax=ax, colorbar=False, cmap="Blues", values_format="d"
        )
        ax.set(title=name, xlabel="predicted", ylabel="known")
    return figure


def confusion(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Figure:
    """
    The compartment against the most probable one, over proteins of one compartment; shares of each row, and counts.

    Args:
        labels, probabilities (`np.ndarray` of shape `(n, classes)`)
        classes (`Sequence[str]`): Their names.
    """
    single = labels.sum(axis=1) == 1
    matrix = confusion_matrix(
        labels[single].argmax(axis=1), probabilities[single].argmax(axis=1), labels=range(len(classes))
    )
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(8.5, 7.5), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        color = "white" if shares[row, column] > 0.5 else "black"
        ax.text(column, row, matrix[row, column], ha="center", va="center", color=color, fontsize=8)
    ax.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    ax.set_yticks(range(len(classes)), classes)
    ax.set(xlabel="most probable compartment", ylabel="known compartment")
    figure.colorbar(image, label="share of the row", shrink=0.8)
    return figure


def membrane_matrix(labels: np.ndarray, predictions: np.ndarray) -> Figure:
    """Membrane and soluble proteins against what was predicted; both 0 / 1 of shape `(n,)`."""
    figure = Figure(figsize=(4, 3.6), layout="constrained")
    display = ConfusionMatrixDisplay(confusion_matrix(labels, predictions, labels=[0, 1]), display_labels=MEMBRANE)
    display.plot(ax=figure.subplots(), colorbar=False, cmap="Blues", values_format="d")
    display.ax_.set(xlabel="predicted", ylabel="known")
    return figure


def reliability(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Figure:
    """
    How often a probability holds, for every compartment: on the diagonal the model is as sure as it is right.

    Args:
        labels, probabilities (`np.ndarray` of shape `(n, classes)`)
        classes (`Sequence[str]`): Their names.
    """
    figure, axes = _panels(len(classes), columns=5, size=2.4)
    for i, (name, ax) in enumerate(zip(classes, axes, strict=True)):
        ax.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        held, said = calibration_curve(labels[:, i], probabilities[:, i], n_bins=10)
        ax.plot(said, held, marker="o", markersize=3)
        ax.set(title=name, xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="how often true", aspect="equal")
    return figure


def ranking_curves(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> Figure:
    """
    ROC and precision-recall curves of every class that has positives and negatives.

    Args:
        labels, probabilities (`np.ndarray` of shape `(n, classes)`)
        classes (`Sequence[str]`): Their names.
    """
    figure, axes = _panels(2, columns=2, size=5.5)
    for i, name in enumerate(classes):
        if 0 < labels[:, i].sum() < len(labels):
            RocCurveDisplay.from_predictions(labels[:, i], probabilities[:, i], name=name, ax=axes[0])
            PrecisionRecallDisplay.from_predictions(labels[:, i], probabilities[:, i], name=name, ax=axes[1])
    axes[0].plot([0, 1], [0, 1], color="0.8", linewidth=1)
    for ax, title in zip(axes, ("ROC", "precision and recall"), strict=True):
        ax.set_title(title)
        ax.legend(fontsize=7)
    return figure


def attention_along(
    sequence: str, attention: Sequence[float], title: str = "", signals: str = "", predicted: str = ""
) -> Figure:
    """
    The attention along a protein, with its known sorting signals marked.

    Args:
        sequence (`str`): Residues.
        attention (`Sequence[float]`): The weight of each.
        title (`str`): Above the figure.
        signals (`str`): A digit a residue, 0 for none and 1-9 in the order of `SORTING_SIGNALS`; empty if not known.
        predicted (`str`): What was predicted, below the title.
    """
    figure = Figure(figsize=(10, 3), layout="constrained")
    ax = figure.subplots()
    positions = np.arange(1, len(sequence) + 1)
    ax.fill_between(positions, attention, step="mid", color="tab:blue", linewidth=0)
    most = int(np.argmax(attention))
    ax.annotate(f"{sequence[most]}{most + 1}", (most + 1, attention[most]), ha="center", va="bottom", fontsize=8)
    kinds = list(SORTING_SIGNALS)
    for digit in sorted(set(signals) - {"0"}):
        inside = np.array([sign == digit for sign in signals])
        color = f"C{int(digit)}"
        label = SORTING_SIGNALS[kinds[int(digit) - 1]]
        ax.fill_between(
            positions, 0, 1, where=inside, step="mid", color=color, alpha=0.25, linewidth=0, zorder=0,
            label=label, transform=ax.get_xaxis_transform(),
        )  # fmt: skip
    ax.set(xlim=(0.5, len(sequence) + 0.5), ylim=(0, 1.15 * max(attention)), xlabel="residue", ylabel="attention")
    ax.set_title("\n".join(text for text in (title, predicted) if text), fontsize=10, parse_math=False)
    if set(signals) - {"0"}:
        ax.legend(loc="upper right", fontsize=8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=120)
