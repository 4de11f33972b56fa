"""Figures of a deepGPS's images."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from skimage.metrics import peak_signal_noise_ratio

COLUMNS = ["nucleus", "real protein", "drawn protein"]


def _grid(rows: int, columns: int, size: float = 1.7) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(columns * size, rows * size + 0.3), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return figure, axes


def _show(ax, image: np.ndarray, color: str = "gray") -> None:
    ax.imshow(image, cmap=color, vmin=0, vmax=max(float(image.max()), 1e-6))


def examples_figure(shown: dict[str, np.ndarray]) -> Figure:
    """Examples by title, each `(3, H, W)`: nucleus, real and drawn protein; each image stretched to its maximum."""
    rows = -(-len(shown) // 2)
    figure, axes = _grid(rows, 6)
    for ax in axes.flat:
        ax.set_axis_off()
    for number, (title, images) in enumerate(shown.items()):
        row, column = number % rows, 3 * (number // rows)
        for i, image in enumerate(images):
            _show(axes[row, column + i], image)
            axes[row, column + i].set_title(COLUMNS[i] if row == 0 and i != 1 else "", fontsize=7)
        axes[row, column + 1].set_title(title.split(": ", 1)[1], fontsize=7)
    return figure


def cutoff_figure(shown: dict[str, np.ndarray]) -> Figure:
    """The same examples from the lowest to the highest PSNR (deepGPS, Fig. 4f)."""
    scores = {name: peak_signal_noise_ratio(images[1], images[2], data_range=1) for name, images in shown.items()}
    ordered = sorted(shown, key=lambda name: scores[name])
    figure, axes = _grid(2, len(ordered), size=1.3)
    for column, name in enumerate(ordered):
        for row, image in enumerate(shown[name][1:]):
            _show(axes[row, column], image)
        axes[0, column].set_title(f"{scores[name]:.1f} dB", fontsize=8)
    axes[0, 0].set_ylabel("real")
    axes[1, 0].set_ylabel("drawn")
    return figure


def cross_assay_figure(
    nuclei: Sequence[np.ndarray], images: Sequence[Sequence[np.ndarray]], kinds: list[str]
) -> Figure:
    """Nuclei in the first row, below them what each sequence looks like on each (deepGPS, Fig. 2e)."""
    figure, axes = _grid(len(images) + 1, len(nuclei))
    for column, nucleus in enumerate(nuclei):
        _show(axes[0, column], nucleus)
        for row, drawn in enumerate(images, start=1):
            _show(axes[row, column], drawn[column])
    for row, name in enumerate(["nucleus", *kinds]):
        axes[row, 0].set_ylabel(name, fontsize=8)
    return figure


def panel_figure(
    nuclei: Sequence[np.ndarray],
    drawn: Sequence[Sequence[np.ndarray]],
    labels: Sequence[str],
    real: Sequence[np.ndarray | None],
) -> Figure:
    """
    Nuclei in the first column, beside each what every compartment looks like on it; real images of other cells below.

    Args:
        nuclei: Images `(H, W)`.
        drawn: For each nucleus an image for each label.
        labels: Names of the compartments.
        real: An image for each label, or None where there is none.
    """
    figure, axes = _grid(len(nuclei) + 1, len(labels) + 1, size=1.4)
    for row, (nucleus, images) in enumerate(zip(nuclei, drawn, strict=True)):
        _show(axes[row, 0], nucleus)
        for column, image in enumerate(images, start=1):
            _show(axes[row, column], image)
    for column, (label, example) in enumerate(zip(labels, real, strict=True), start=1):
        axes[0, column].set_title(label, fontsize=8)
        if example is not None:
            _show(axes[-1, column], example)
    axes[0, 0].set_title("nucleus", fontsize=8)
    axes[-1, 0].set_ylabel("real, other cells", fontsize=8)
    axes[-1, 0].spines[:].set_visible(False)
    return figure
