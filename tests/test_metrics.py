"""Metrics against scikit-learn's definitions worked out by hand, and the fits against known answers."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef

from protloc.metrics import (
    LocalizationMetric,
    MembraneMetric,
    bootstrap_intervals,
    expected_calibration_error,
    fit_calibration,
    fit_threshold,
    fit_thresholds,
)

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]])
PREDICTED = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
PROBABILITIES = np.array([[0.9, 0.1, 0.2], [0.8, 0.4, 0.1], [0.6, 0.7, 0.0], [0.2, 0.3, 0.1]])


def compute(**changes):
    values = {
        "references": LABELS,
        "predictions": PREDICTED,
        "probabilities": PROBABILITIES,
        "classes": ["a", "b", "c"],
    }
    return LocalizationMetric().compute(**{**values, **changes})


def test_localization_by_hand():
    result = compute()
    assert result["classes"] == ["a", "b", "c"] and result["num_proteins"] == 4
    assert result["subset_accuracy"] == 1 / 4
    assert result["argmax_accuracy"] == 3 / 4
    assert result["jaccard"] == pytest.approx((1 + 1 / 2 + 1 / 2 + 0) / 4)
    a, b, c = (result["per_class"][name] for name in "abc")
    assert (a["precision"], a["recall"], a["support"]) == (pytest.approx(2 / 3), 1, 2)
    assert (b["precision"], b["recall"], b["f1"]) == (1, 0.5, pytest.approx(2 / 3))
    assert (c["f1"], c["mcc"]) == (0, 0)
    assert b["auroc"] == 1 and b["auprc"] == 1
    assert c["auroc"] == pytest.approx(1.5 / 3)  # beats one negative, ties with another
    average = result["average"]
    assert average["micro"]["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert average["macro"]["f1"] == pytest.approx((0.8 + 2 / 3 + 0) / 3)
    assert average["weighted"]["f1"] == pytest.approx((2 * 0.8 + 2 * 2 / 3 + 0) / 5)
    assert average["samples"]["f1"] == pytest.approx((1 + 2 / 3 + 2 / 3 + 0) / 4)


def test_a_class_without_positives_is_left_out_of_averages_only():
    references = LABELS * [1, 1, 0]
    result = compute(references=references, predictions=PREDICTED | [0, 0, 1])
    assert result["classes"] == result["ranked_classes"] == list(result["per_class"]) == ["a", "b"]
    average = result["average"]
    assert average["micro"]["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert average["macro"]["f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert average["macro"]["auroc"] == pytest.approx(np.mean([result["per_class"][n]["auroc"] for n in "ab"]))
    assert result["subset_accuracy"] == 0  # every protein is wrongly called c
    assert result["calibration_error"] == expected_calibration_error(references, PROBABILITIES)


def test_one_protein_with_one_label():
    result = compute(references=[[0, 1, 0]], predictions=[[0, 1, 1]], probabilities=[[0.1, 0.8, 0.6]])
    assert result["classes"] == ["b"] and result["ranked_classes"] == []
    assert result["average"]["micro"] == {"precision": 1, "recall": 1, "f1": 1, "auroc": None, "auprc": None}
    assert result["argmax_accuracy"] == 1 and result["jaccard"] == 0.5


def test_calibration_error_by_hand():
    # bins: 0.1-0.2 holds 0.15, 0.15 (one positive), the last one holds 0.95 and 1.0 (both positive)
    error = expected_calibration_error(np.array([0, 1, 1, 1]), np.array([0.15, 0.15, 0.95, 1.0]))
    assert error == pytest.approx((2 * abs(0.15 - 0.5) + 2 * abs(0.975 - 1)) / 4)


def test_membrane():
    result = MembraneMetric().compute(
        references=[1, 1, 0, 0], predictions=[1, 0, 0, 0], probabilities=[0.9, 0.4, 0.3, 0.1]
    )
    assert result["accuracy"] == 0.75 and result["precision"] == 1 and result["recall"] == 0.5
    assert result["auroc"] == 1 and result["num_proteins"] == 4
    assert MembraneMetric().compute(references=[1], predictions=[1], probabilities=[0.9])["auroc"] is None


def test_calibration_recovers_scale_and_bias():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20_000, 2, generator=generator) * 2
    labels = (torch.rand(truth.shape, generator=generator) < truth.sigmoid()).float()
    scale, bias = torch.tensor([2.0, 0.5]), torch.tensor([-1.0, 0.5])
    fitted_scale, fitted_bias = fit_calibration((truth - bias) / scale, labels)
    assert fitted_scale == pytest.approx(scale.tolist(), rel=0.1)
    assert fitted_bias == pytest.approx(bias.tolist(), abs=0.1)


def test_calibration_never_turns_a_ranking_around():
    logits = torch.tensor([[2.0], [1.0], [-1.0], [-2.0]])
    scale, _ = fit_calibration(logits, torch.tensor([[0], [0], [1], [1]]))
    assert scale[0] > 0


def test_calibration_of_a_class_without_positives_is_finite():
    scale, bias = fit_calibration(torch.randn(50, 1), torch.zeros(50, 1))
    assert np.isfinite([*scale, *bias]).all()


def test_single_label_calibration_shares_one_scale():
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20_000, 3, generator=generator) * 2
    labels = torch.multinomial(truth.softmax(-1), 1, generator=generator).squeeze(1)
    scale, bias = fit_calibration(truth * 4, labels)
    assert scale == pytest.approx([0.25] * 3, rel=0.05)
    assert np.ptp(bias) < 0.1


def test_threshold_maximizes_mcc():
    generator = np.random.default_rng(0)
    labels = generator.random(300) < 0.2
    probabilities = np.round(np.clip(labels * 0.3 + generator.random(300) * 0.7, 0, 1), 2)
    found = matthews_corrcoef(labels, probabilities >= fit_threshold(labels, probabilities))
    best = max(matthews_corrcoef(labels, probabilities >= t) for t in np.linspace(0, 1, 1001))
    assert found == pytest.approx(best)


def test_threshold_without_positives_is_a_half():
    assert fit_threshold(np.zeros(5), np.linspace(0, 1, 5)) == 0.5


def test_thresholds_maximize_micro_and_macro_f1():
    generator = np.random.default_rng(0)
    labels = (generator.random((200, 3)) < [0.5, 0.2, 0.05]).astype(int)
    probabilities = np.round(labels * 0.2 + generator.random((200, 3)) * 0.8, 1)

    def judged(thresholds) -> float:
        called = probabilities >= thresholds
        return sum(f1_score(labels, called, average=average, zero_division=0) for average in ("micro", "macro"))

    found = fit_thresholds(labels, probabilities)
    alternatives = [[*found[:i], t, *found[i + 1 :]] for i in range(3) for t in np.linspace(0.05, 0.95, 10)]
    assert judged(found) >= max(map(judged, alternatives)) - 1e-9
    # beside F1 of each class alone, and beside MCC
    assert judged(found) > judged([fit_threshold(labels[:, i], probabilities[:, i]) for i in range(3)])


def test_thresholds_of_classes_without_positives_or_negatives_are_a_half():
    labels = np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0]])
    found = fit_thresholds(labels, np.array([[0.2, 0.9, 0.8], [0.1, 0.8, 0.3], [0.3, 0.7, 0.1]]))
    assert found == pytest.approx([0.5, 0.5, 0.55])
    assert fit_thresholds(np.array([[0, 1]]), np.array([[0.3, 0.4]])) == [0.5, 0.5]


def test_gorodkin_is_over_proteins_of_one_class():
    result = compute()
    single = [0, 2, 3]
    expected = matthews_corrcoef(LABELS[single].argmax(axis=1), PROBABILITIES[single].argmax(axis=1))
    assert result["gorodkin"] == pytest.approx(expected) and 0 < expected < 1


def test_bootstrap_intervals():
    generator = np.random.default_rng(0)
    labels = np.eye(3, dtype=int)[generator.integers(0, 3, 400)]
    probabilities = np.clip(0.5 * labels + 0.7 * generator.random((400, 3)), 0, 1)
    predictions = (probabilities >= 0.6).astype(int)
    values = LocalizationMetric().compute(
        references=labels, predictions=predictions, probabilities=probabilities, classes=["a", "b", "c"]
    )
    membrane = generator.integers(0, 2, 400)
    called = np.where(generator.random(400) < 0.8, membrane, 1 - membrane)
    known = np.where(generator.random(400) < 0.5, membrane, -1)
    intervals = bootstrap_intervals(labels, predictions, probabilities, known, called)
    points = {
        "micro_f1": values["average"]["micro"]["f1"],
        "macro_f1": values["average"]["macro"]["f1"],
        "weighted_f1": values["average"]["weighted"]["f1"],
        "samples_f1": values["average"]["samples"]["f1"],
        "subset_accuracy": values["subset_accuracy"],
        "argmax_accuracy": values["argmax_accuracy"],
        "membrane_accuracy": (called == known)[known >= 0].mean(),
    }
    assert intervals.keys() == points.keys()
    for name, value in points.items():
        low, high = intervals[name]
        assert low < value < high
    # of a share, about that of a binomial
    low, high = intervals["subset_accuracy"]
    share = points["subset_accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * (share * (1 - share) / 400) ** 0.5, rel=0.15)
    shares = [0.5 * (sum(intervals[name])) for name in points]  # each sample's mean is near the score itself
    assert shares == pytest.approx(list(points.values()), abs=0.02)
    again = bootstrap_intervals(labels, predictions, probabilities)
    assert again.items() <= intervals.items() and "membrane_accuracy" not in again
