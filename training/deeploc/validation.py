"""A DeepLoc on the validation split during training: logits, scores, calibration and thresholds."""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from protloc import DeepLocConfig
from protloc.metrics import LocalizationMetric, MembraneMetric, fit_calibration, fit_threshold
from protloc.taxonomy import COMPARTMENTS


@torch.no_grad()
def predict_logits(accelerator: Accelerator, model, loader) -> tuple[torch.Tensor, ...]:
    """Logits (n, 10), membrane logits (n,), labels and membrane labels of a split, on every process."""
    training = model.training
    model.eval()
    results = []
    for batch in tqdm(loader, desc="Validating", leave=False, disable=not accelerator.is_local_main_process):
        protein, *labels = (batch.pop(name) for name in ("protein", "labels", "membrane_targets"))
        with accelerator.autocast():
            outputs = model(**{name: batch[name] for name in batch if not name.startswith("signal")})
        results.append((protein, outputs.logits, outputs.membrane_logits, *labels))
    model.train(training)
    gathered = gather_object([tuple(tensor.cpu() for tensor in result) for result in results])
    protein, logits, membrane_logits, *labels = (torch.cat(part) for part in zip(*gathered, strict=True))
    # Windows of one protein are averaged.
    number, counts = protein.unique(return_inverse=True, return_counts=True)[1:]
    first = torch.zeros(len(counts), dtype=torch.long).scatter_(0, number, torch.arange(len(number)))
    logits = torch.zeros(len(counts), logits.shape[1]).index_add_(0, number, logits) / counts[:, None]
    membrane_logits = torch.zeros(len(counts)).index_add_(0, number, membrane_logits) / counts
    return logits, membrane_logits, labels[0][first], labels[1][first]


def fit_decisions(model_config: DeepLocConfig, logits, membrane_logits, labels, membrane_targets) -> None:
    """Fit calibration and MCC thresholds on raw logits of the validation split, into the configuration."""
    model_config.calibration_scale, model_config.calibration_bias = fit_calibration(logits, labels)
    calibrated = logits * torch.tensor(model_config.calibration_scale) + torch.tensor(model_config.calibration_bias)
    if labels.ndim == 2:
        probabilities = calibrated.sigmoid().numpy()
        model_config.thresholds = [fit_threshold(labels[:, i], probabilities[:, i]) for i in range(labels.shape[1])]

    known = membrane_targets >= 0
    if known.any():
        membrane_logits, membrane_targets = membrane_logits[known].unsqueeze(1), membrane_targets[known].unsqueeze(1)
        (scale,), (bias,) = fit_calibration(membrane_logits, membrane_targets)
        model_config.membrane_calibration_scale, model_config.membrane_calibration_bias = scale, bias
        probabilities = (membrane_logits * scale + bias).sigmoid().numpy()
        model_config.membrane_threshold = fit_threshold(membrane_targets[:, 0], probabilities[:, 0])


def validation_scores(logits, membrane_logits, labels, membrane_targets) -> dict[str, float]:
    """What is logged after each epoch: at the threshold 0.5, before any calibration."""
    if labels.ndim == 2:
        probabilities, references = logits.sigmoid().numpy(), labels.int().numpy()
        predictions = (probabilities >= 0.5).astype(int)
    else:
        probabilities = logits.softmax(dim=-1).numpy()
        references, predictions = (np.eye(logits.shape[1], dtype=int)[i] for i in (labels, logits.argmax(dim=-1)))
    result = LocalizationMetric().compute(
        references=references, predictions=predictions, probabilities=probabilities, classes=COMPARTMENTS
    )
    scores = {
        "macro_auprc": result["average"]["macro"]["auprc"],
        "micro_f1": result["average"]["micro"]["f1"],
        "macro_f1": result["average"]["macro"]["f1"],
    }
    known = membrane_targets >= 0
    if known.any():
        probabilities = membrane_logits[known].sigmoid().numpy()
        result = MembraneMetric().compute(
            references=membrane_targets[known], predictions=probabilities >= 0.5, probabilities=probabilities
        )
        scores["membrane_accuracy"] = result["accuracy"]
    return scores
