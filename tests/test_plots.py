"""Figures show what they were given: drawn for real, and read back from the axes."""

import numpy as np

from protloc import plots

CLASSES = ["a", "b", "c"]
LABELS = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]])
PROBABILITIES = np.array([[0.9, 0.2, 0.1], [0.3, 0.8, 0.2], [0.6, 0.4, 0.1], [0.7, 0.1, 0.6], [0.1, 0.1, 0.9]])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_location_matrices():
    figure = plots.location_matrices(LABELS, (PROBABILITIES >= 0.5).astype(int), CLASSES)
    panels = {ax.get_title(): texts(ax) for ax in figure.axes}
    assert panels == {"a": ["2", "1", "0", "2"], "b": ["3", "0", "1", "1"], "c": ["3", "0", "0", "2"]}


def test_confusion_is_over_proteins_of_one_compartment():
    ax = plots.confusion(LABELS, PROBABILITIES, CLASSES).axes[0]
    assert texts(ax) == ["1", "0", "0", "1", "1", "0", "0", "0", "1"]


def test_membrane_matrix():
    assert texts(plots.membrane_matrix(np.array([0, 1, 1]), np.array([0, 0, 1])).axes[0]) == ["1", "0", "1", "1"]


def test_reliability_and_curves(tmp_path):
    figure = plots.reliability(LABELS, PROBABILITIES, CLASSES)
    said, held = figure.axes[0].lines[1].get_data()
    assert list(said) == [0.1, 0.3, 0.6, 0.7, 0.9] and list(held) == [0, 0, 0, 1, 1]
    figure = plots.ranking_curves(LABELS, PROBABILITIES, CLASSES)
    assert any(
        "a (AUC = 0.9" in text.get_text() or "a (AUC = 1" in text.get_text()
        for text in figure.axes[0].get_legend().texts
    )
    plots.save(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_attention_marks_known_signals():
    figure = plots.attention_along("MKWVT", [0.1, 0.1, 0.6, 0.1, 0.1], "P1", "11000", "Extracellular")
    ax = figure.axes[0]
    assert texts(ax) == ["W3"] and ax.get_title() == "P1\nExtracellular"
    assert [text.get_text() for text in ax.get_legend().texts] == ["signal peptide"]
    assert plots.attention_along("MKWVT", [0.2] * 5).axes[0].get_legend() is None
