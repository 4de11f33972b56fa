"""Agreement of deepGPS's labels with the known ones."""

from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from protloc.metrics import expected_calibration_error
from training.deepgps.data import LabelledProteins
from training.deepgps.encoded_proteins import EncodedProteins, label_probabilities

RESAMPLES = 1000
SEED = 0
SINGLE_2 = {"cytoplasmic": "cytoplasm", "nucleoplasm": "nucleoplasm"}  # names of OpenCell, then of HPA
SINGLE_2 |= {"Cytosol": "cytoplasm", "Nucleoplasm": "nucleoplasm"}
SINGLE_4 = SINGLE_2 | {"vesicles": "vesicles", "er": "ER", "Vesicles": "vesicles", "Endoplasmic reticulum": "ER"}
GROUPS = {"single-2": SINGLE_2, "single-4": SINGLE_4}  # what deepGPS-single-2 and single-4 tell apart
NUCLEAR = ("nucleoplasm", "nucleoli")  # the model's labels that other tools call nuclear


def auroc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve by ranks (Mann-Whitney): the bootstrap takes a thousand, and scikit-learn's is slow."""
    count = positive.sum()
    above = rankdata(scores)[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(positive) - count)))


def label_scores(truth: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """
    Scores of single labels: means over the classes, and of each; for two classes the first counts as positive.

    So the paper's Table 1 comes out: of 40 cytoplasmic and 23 nuclear proteins DeepLoc 1.0 is right about 34 and 18,
    sensitivity 0.850, specificity 0.783, F1 0.861.

    Args:
        truth (`np.ndarray` of shape `(n,)`): Indices into `classes`.
        probabilities (`np.ndarray` of shape `(n, classes)`): Sum to 1 over the classes.
    """
    ordered = np.sort(probabilities, axis=1)
    undecided = ordered[:, -1] == ordered[:, -2]  # another tool's answer that is of no class
    predicted = np.where(undecided, -1, probabilities.argmax(axis=1))
    decided = predicted >= 0
    matrix = np.zeros((len(classes), len(classes)), dtype=int)
    np.add.at(matrix, (truth[decided], predicted[decided]), 1)
    per_class = {}
    for i, name in enumerate(classes):
        positive, called = truth == i, predicted == i
        if not positive.any():
            continue
        per_class[name] = {
            "support": int(positive.sum()),
            "sensitivity": float(called[positive].mean()),
            "specificity": float((~called[~positive]).mean()) if (~positive).any() else None,
            "precision": float(positive[called].mean()) if called.any() else 0.0,
            "f1": float(2 * (positive & called).sum() / (positive.sum() + called.sum())),
            "auroc": auroc(positive, probabilities[:, i]) if (~positive).any() else None,
            "auprc": float(average_precision_score(positive, probabilities[:, i])),
        }
    shown = [per_class[classes[0]]] if len(classes) == 2 and classes[0] in per_class else list(per_class.values())
    means = {
        name: float(np.mean([scores[name] for scores in shown if scores[name] is not None]))
        for name in ("sensitivity", "specificity", "precision", "f1", "auroc", "auprc")
    }
    onehot = np.eye(len(classes))[truth]
    return {
        "classes": classes,
        "count": len(truth),
        "accuracy": float((truth == predicted).mean()),
        **means,
        "calibration_error": expected_calibration_error(onehot, probabilities),
        "matrix": matrix.tolist(),
        "per_class": per_class,
    }


def with_intervals(truth: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """Scores with 95 % intervals of accuracy, F1, AUROC and AUPRC, by resampling the proteins."""
    scores = label_scores(truth, probabilities, classes)
    numbers = np.random.default_rng(SEED)
    drawn: list[dict[str, Any]] = []
    while len(drawn) < RESAMPLES:
        chosen = numbers.integers(0, len(truth), len(truth))
        if len(set(truth[chosen])) == len(set(truth)):
            drawn.append(label_scores(truth[chosen], probabilities[chosen], classes))
    names = ("accuracy", "f1", "auroc", "auprc")
    scores["intervals"] = {
        name: np.percentile([scores[name] for scores in drawn], [2.5, 97.5]).tolist() for name in names
    }
    return scores


def cytoplasm_or_nucleus(probabilities: np.ndarray, labels: list[str]) -> np.ndarray:
    """
    Two classes `(n, 2)`: what is not nuclear is cytoplasm (deepGPS, "Comparative analysis"), be it a mitochondrion.

    The likeliest nuclear label against the likeliest of the others, so that the more probable class is the one that
    the model names.
    """
    nuclear = np.array([name in NUCLEAR for name in labels])
    two = np.stack([probabilities[:, ~nuclear].max(axis=1), probabilities[:, nuclear].max(axis=1)], axis=1)
    return two / two.sum(axis=1, keepdims=True)


def restricted(probabilities: np.ndarray, labels: list[str], classes: list[str]) -> np.ndarray:
    """Probabilities of some classes, given that it is one of them."""
    some = probabilities[:, [labels.index(name) for name in classes]]
    return some / some.sum(axis=1, keepdims=True)


def judge_labels(
    model: Any, encoded: EncodedProteins, proteins: LabelledProteins, labels: list[str]
) -> tuple[dict[str, Any], np.ndarray]:
    """Scores by group of classes, and the probabilities `(proteins, labels)`."""
    pairs = [(sequence, "") for sequence in proteins.sequences]
    probabilities = label_probabilities(model, encoded, pairs)
    results = {"all": with_intervals(proteins.labels, probabilities, labels)}
    for name, of_class in GROUPS.items():
        classes = list(dict.fromkeys(of_class.values()))
        chosen = [i for i, label in enumerate(proteins.source_labels) if label in of_class]
        if set(classes) <= set(labels) and chosen:
            truth = np.array([classes.index(of_class[proteins.source_labels[i]]) for i in chosen])
            some = probabilities[chosen]
            found = cytoplasm_or_nucleus(some, labels) if len(classes) == 2 else restricted(some, labels, classes)
            results[name] = with_intervals(truth, found, classes)
    return results, probabilities
