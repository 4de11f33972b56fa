"""Metrics of localization as `evaluate.Metric` over scikit-learn, and the fitting of thresholds and calibration."""

import datasets
import evaluate
import numpy as np
import torch
from sklearn import metrics as sk
from torch.nn import functional as F

AVERAGES = ("micro", "macro", "weighted", "samples")


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """
    Mean distance between what a probability says and how often it holds, weighted by the bins' sizes.

    Args:
        labels (`np.ndarray`): 0 / 1, any shape; all values are pooled.
        probabilities (`np.ndarray`): In [0, 1], the same shape.
        bins (`int`): Bins of equal width.

    Returns:
        `float`: In [0, 1], 0 for a calibrated model.
    """
    labels, probabilities = np.ravel(labels), np.ravel(probabilities)
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=probabilities - labels, minlength=bins)
    return float(np.abs(gaps).sum() / labels.size)


class LocalizationMetric(evaluate.Metric):
    """
    Scores of localization in several classes, for one or several labels a protein.

    `compute(references=(n, classes) 0 / 1, predictions=(n, classes) 0 / 1, probabilities=(n, classes), classes=names)`
    returns a dictionary:

    - over all classes: `num_proteins`, `subset_accuracy`, `argmax_accuracy` (the most probable class is a true one),
      `jaccard` (mean over proteins), `calibration_error` (all probabilities pooled, ten bins) and `gorodkin` (the
      correlation R_K of Gorodkin 2004 between class and most probable class, over proteins of one class);
    - `per_class`: precision, recall, F1, MCC, AUROC, AUPRC and support of each class that has a positive;
    - `average`: the micro, macro, weighted and samples averages of precision, recall and F1 over the classes named in
      `classes`, those with a positive; AUROC and AUPRC (not for samples) over those in `ranked_classes`, which also
      have a negative. A score that is not defined is `None`.
    """

    def _info(self):
        sequence = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description="Multi-label protein localization scores",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({"references": sequence, "predictions": sequence, "probabilities": sequence}),
        )

    def _compute(self, references, predictions, probabilities, classes):
        labels = np.asarray(references, dtype=int)
        predicted = np.asarray(predictions, dtype=int)
        probabilities = np.asarray(probabilities, dtype=float)
        support = labels.sum(axis=0)
        present = [i for i in range(len(classes)) if support[i] > 0]
        ranked = [i for i in present if support[i] < len(labels)]

        per_class = {}
        for i in present:
            truth, call, score = labels[:, i], predicted[:, i], probabilities[:, i]
            precision, recall, f1, _ = sk.precision_recall_fscore_support(
                truth, call, average="binary", zero_division=0
            )
            per_class[classes[i]] = {
                "precision": float(precision),
                "recall": float(recall),
                "f1": float(f1),
                "mcc": float(sk.matthews_corrcoef(truth, call)),
                "auroc": float(sk.roc_auc_score(truth, score)) if i in ranked else None,
                "auprc": float(sk.average_precision_score(truth, score)) if i in ranked else None,
                "support": int(support[i]),
            }
        average = {}
        for kind in AVERAGES:
            # `labels` restricts the average; slicing would turn a single class into a binary problem.
            precision, recall, f1, _ = sk.precision_recall_fscore_support(
                labels, predicted, labels=present, average=kind, zero_division=0
            )
            average[kind] = {"precision": float(precision), "recall": float(recall), "f1": float(f1)}
            if kind != "samples":
                truth, score = labels[:, ranked], probabilities[:, ranked]
                average[kind]["auroc"] = float(sk.roc_auc_score(truth, score, average=kind)) if ranked else None
                average[kind]["auprc"] = (
                    float(sk.average_precision_score(truth, score, average=kind)) if ranked else None
                )
        single = labels.sum(axis=1) == 1
        best = probabilities.argmax(axis=1)
        return {
            "classes": [classes[i] for i in present],
            "ranked_classes": [classes[i] for i in ranked],
            "num_proteins": len(labels),
            "subset_accuracy": float(sk.accuracy_score(labels, predicted)),
            "argmax_accuracy": float(labels[np.arange(len(labels)), best].mean()),
            # scikit-learn's MCC of several classes is R_K
            "gorodkin": float(sk.matthews_corrcoef(labels[single].argmax(axis=1), best[single]))
            if single.any()
            else None,
            "jaccard": float(sk.jaccard_score(labels, predicted, average="samples", zero_division=0)),
            "calibration_error": expected_calibration_error(labels, probabilities),
            "average": average,
            "per_class": per_class,
        }


class MembraneMetric(evaluate.Metric):
    """
    Scores of the membrane head: `compute(references, predictions, probabilities)`, each of shape `(n,)`, returns
    `num_proteins`, `accuracy`, `precision`, `recall`, `f1`, `mcc`, `auroc`, `auprc` and `calibration_error`.
    """

    def _info(self):
        value = datasets.Value("float64")
        return evaluate.MetricInfo(
            description="Membrane or soluble",
            citation="",
            inputs_description=self.__doc__,
            features=datasets.Features({"references": value, "predictions": value, "probabilities": value}),
        )

    def _compute(self, references, predictions, probabilities):
        labels = np.asarray(references, dtype=int)
        predicted = np.asarray(predictions, dtype=int)
        probabilities = np.asarray(probabilities, dtype=float)
        mixed = 0 < labels.sum() < len(labels)
        return {
            "num_proteins": len(labels),
            "accuracy": float(sk.accuracy_score(labels, predicted)),
            "precision": float(sk.precision_score(labels, predicted, zero_division=0)),
            "recall": float(sk.recall_score(labels, predicted, zero_division=0)),
            "f1": float(sk.f1_score(labels, predicted, zero_division=0)),
            "mcc": float(sk.matthews_corrcoef(labels, predicted)),
            "auroc": float(sk.roc_auc_score(labels, probabilities)) if mixed else None,
            "auprc": float(sk.average_precision_score(labels, probabilities)) if mixed else None,
            "calibration_error": expected_calibration_error(labels, probabilities),
        }


def bootstrap_intervals(
    labels: np.ndarray,
    predictions: np.ndarray,
    probabilities: np.ndarray,
    membrane_labels: np.ndarray | None = None,
    membrane_predictions: np.ndarray | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, list[float]]:
    """
    How far scores would vary with other proteins: 95 % intervals by the percentile bootstrap over proteins.

    Args:
        labels, predictions, probabilities (`np.ndarray` of shape `(n, classes)`): As for [`LocalizationMetric`].
        membrane_labels, membrane_predictions (`np.ndarray` of shape `(n,)`, *optional*): As for [`MembraneMetric`], -1
            where unknown.
        resamples (`int`): Samples of n proteins, drawn with replacement.
        seed (`int`): Of the draws.

    Returns:
        `dict[str, list[float]]`: Lower and upper bound of `micro_f1`, `macro_f1`, `weighted_f1`, `samples_f1` (all over
        classes with a positive), `subset_accuracy`, `argmax_accuracy`, and `membrane_accuracy` where a type is known.
    """
    labels, predictions = np.asarray(labels, dtype=float), np.asarray(predictions, dtype=float)
    proteins = len(labels)
    exact = (labels == predictions).all(axis=1)
    best = labels[np.arange(proteins), np.argmax(probabilities, axis=1)]
    # Scores are ratios of sums over proteins, so that a sample is a vector of counts.
    draws = np.random.default_rng(seed).multinomial(proteins, np.full(proteins, 1 / proteins), size=resamples)
    present = labels.any(axis=0)  # F1 is averaged over these, the other two scores are over all classes
    labels, predictions = labels[:, present], predictions[:, present]
    hits, called, true = draws @ (labels * predictions), draws @ predictions, draws @ labels  # (resamples, classes)
    f1 = 2 * hits / np.maximum(called + true, 1)
    own_f1 = 2 * (labels * predictions).sum(axis=1) / np.maximum((labels + predictions).sum(axis=1), 1)  # (n,)
    samples = {
        "micro_f1": 2 * hits.sum(axis=1) / np.maximum(called.sum(axis=1) + true.sum(axis=1), 1),
        "macro_f1": f1.mean(axis=1),
        "weighted_f1": (f1 * true).sum(axis=1) / np.maximum(true.sum(axis=1), 1),
        "samples_f1": draws @ own_f1 / proteins,
        "subset_accuracy": draws @ exact / proteins,
        "argmax_accuracy": draws @ best / proteins,
    }
    if membrane_labels is not None and (known := np.asarray(membrane_labels) >= 0).any():
        right = known & (np.asarray(membrane_labels) == np.asarray(membrane_predictions))
        samples["membrane_accuracy"] = draws @ right / np.maximum(draws @ known, 1)
    return {name: np.percentile(values, [2.5, 97.5]).tolist() for name, values in samples.items()}


def fit_calibration(logits: torch.Tensor, labels: torch.Tensor) -> tuple[list[float], list[float]]:
    """
    Scale and bias of each class that make `sigmoid(scale * logit + bias)` likeliest (Platt 1999).

    Args:
        logits (`torch.Tensor` of shape `(n, classes)`): Raw.
        labels (`torch.Tensor` of shape `(n, classes)`): 0 / 1, or class indices of shape `(n,)` for a softmax, where
            one scale is shared by all classes (temperature scaling with biases).

    Returns:
        `tuple[list[float], list[float]]`: Scales and biases, one a class.
    """
    logits = logits.double()
    multi_label = labels.ndim == 2
    # Its exponential is the scale: a negative one would turn a class's ranking around.
    log_scale = torch.zeros(logits.shape[1] if multi_label else 1, dtype=torch.double, requires_grad=True)
    bias = torch.zeros(logits.shape[1], dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_scale, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        calibrated = logits * log_scale.exp() + bias
        if multi_label:
            loss = F.binary_cross_entropy_with_logits(calibrated, labels.double())
        else:
            loss = F.cross_entropy(calibrated, labels)
        # Keeps a class without positives or negatives finite.
        loss = loss + 1e-6 * (log_scale.square().sum() + bias.square().sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    return log_scale.detach().exp().expand(logits.shape[1]).tolist(), bias.detach().tolist()


def fit_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """
    The probability from which calling one class positive gives the largest MCC (as DeepLoc 2.0 does).

    Args:
        labels, probabilities (`np.ndarray` of shape `(n,)`)

    Returns:
        `float`: Half-way between the two probabilities it separates; 0.5 where the class has no positive or negative.
    """
    order = np.argsort(-probabilities, kind="stable")
    labels, ranked = np.asarray(labels)[order].astype(float), probabilities[order]
    positives, total = labels.sum(), len(labels)
    if positives in (0, total):
        return 0.5
    true_positives = np.cumsum(labels)[:-1]
    called = np.arange(1, total)
    covariance = true_positives * total - called * positives
    mcc = covariance / np.sqrt(called * (total - called) * positives * (total - positives))
    mcc[ranked[:-1] == ranked[1:]] = -1  # equal probabilities can't be separated
    best = int(mcc.argmax())
    return float((ranked[best] + ranked[best + 1]) / 2)


def fit_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> list[float]:
    """
    Thresholds of several classes that give the largest sum of micro F1 and macro F1.

    One class's threshold is chosen at a time, beginning with what gives each the largest F1 of its own, until none
    changes (coordinate ascent).

    Args:
        labels, probabilities (`np.ndarray` of shape `(n, classes)`)

    Returns:
        `list[float]`: As by [`fit_threshold`], one a class; 0.5 where a class has no positive or negative.
    """
    labels = np.asarray(labels)
    total, classes = labels.shape
    chosen = [i for i in range(classes) if 0 < labels[:, i].sum() < total]
    if not chosen:
        return [0.5] * classes
    order = np.argsort(-probabilities, axis=0, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=0)
    hits = np.take_along_axis(labels, order, axis=0).cumsum(axis=0)[:-1].astype(float)  # (n - 1, classes)
    called = np.arange(1, total)[:, None]
    own_f1 = np.where(ranked[:-1] == ranked[1:], -1, 2 * hits / (called + labels.sum(axis=0)))
    best = own_f1.argmax(axis=0)  # the rank of the last protein that is called
    for _ in range(100):
        before = best.copy()
        for i in chosen:
            others = [j for j in chosen if j != i]
            other_hits, other_called = hits[best[others], others].sum(), best[others].sum() + len(others)
            micro = 2 * (hits[:, i] + other_hits) / (labels[:, chosen].sum() + called[:, 0] + other_called)
            best[i] = np.where(own_f1[:, i] < 0, -1, micro + own_f1[:, i] / len(chosen)).argmax()
        if (best == before).all():
            break
    return [float((ranked[k, i] + ranked[k + 1, i]) / 2) if i in chosen else 0.5 for i, k in enumerate(best)]
