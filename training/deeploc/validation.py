"""A DeepLoc on the validation split during training: logits, scores, calibration and thresholds."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm

from protloc import DeepLocConfig, DeepLocForSequenceClassification
from protloc.batching import token_budget_batches
from protloc.embedding import ResidueEmbeddings
from protloc.metrics import LocalizationMetric, MembraneMetric, fit_calibration, fit_threshold, fit_thresholds
from training.common.loop import equal_batches
from training.deeploc.data import collate, window_lengths


@torch.no_grad()
def predict_logits(
    accelerator: Accelerator, model, loader
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Logits (n, classes), membrane logits (n,), labels and membrane labels of a split, on every process; the membrane
    logits of a model without them are 0.
    """
    training = model.training
    model.eval()
    results = []
    batches = equal_batches(accelerator, loader)
    hidden = not accelerator.is_local_main_process
    for batch, counted in tqdm(batches, desc="Validating", total=len(loader), leave=False, disable=hidden):
        protein, labels = batch.pop("protein"), batch.pop("labels")
        membrane_targets = batch.pop("membrane_targets", torch.full_like(protein, -1))
        with accelerator.autocast():
            outputs = model(**{name: batch[name] for name in batch if not name.startswith("signal")})
        membrane_logits = torch.zeros(len(protein)) if outputs.membrane_logits is None else outputs.membrane_logits
        if not counted:
            continue
        results.append((protein, outputs.logits, membrane_logits, labels, membrane_targets))
    model.train(training)
    gathered = gather_object([tuple(tensor.cpu() for tensor in result) for result in results])
    parts = (torch.cat(part) for part in zip(*gathered, strict=True))
    protein, logits, membrane_logits, labels, membrane_targets = parts
    # Windows of one protein are averaged.
    number, counts = protein.unique(return_inverse=True, return_counts=True)[1:]
    first = torch.zeros(len(counts), dtype=torch.long).scatter_(0, number, torch.arange(len(number)))
    logits = torch.zeros(len(counts), logits.shape[1]).index_add_(0, number, logits) / counts[:, None]
    membrane_logits = torch.zeros(len(counts)).index_add_(0, number, membrane_logits) / counts
    return logits, membrane_logits, labels[first], membrane_targets[first]


DECISIONS = ["thresholds", "calibration_scale", "calibration_bias"]
DECISIONS += ["membrane_threshold", "membrane_calibration_scale", "membrane_calibration_bias"]


def read_decisions(path: str | Path, labels: int) -> dict[str, Any]:
    """
    The fields that `fit_decisions` fits, from a JSON file that has them: `decisions.json`, or a model's `config.json`.

    Raises:
        ValueError: If the file has not all of them, or of another number of labels.
    """
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    missing = [name for name in DECISIONS if name not in found]
    if missing:
        raise ValueError(f"decisions={path}: no {', '.join(missing)}; give decisions.json of training.deeploc.folds")
    for name in DECISIONS[:3]:
        if not isinstance(found[name], list) or len(found[name]) != labels:
            raise ValueError(f"decisions={path}: {name} must be a list of {labels} numbers, one a label")
    return {name: found[name] for name in DECISIONS}


def raw_logits(
    model: DeepLocForSequenceClassification, rows: Dataset, embeddings: ResidueEmbeddings | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `predict_logits` gives for `encode`d proteins before the model's calibration, which is set to nothing."""
    config, accelerator = model.config, Accelerator()
    config.calibration_scale, config.calibration_bias = [1.0] * config.num_labels, [0.0] * config.num_labels
    config.membrane_calibration_scale, config.membrane_calibration_bias = 1.0, 0.0
    loader = DataLoader(
        rows,
        batch_sampler=token_budget_batches(window_lengths(rows, config), 16_384),
        collate_fn=partial(collate, pad_token_id=config.pad_token_id, embeddings=embeddings),
    )
    return predict_logits(accelerator, model.to(accelerator.device), accelerator.prepare(loader))


def fit_decisions(
    model_config: DeepLocConfig, logits, membrane_logits, labels, membrane_targets, min_proteins: int = 1
) -> list[str]:
    """
    Fit calibration and thresholds on raw logits of the validation split, into the configuration.

    Returns:
        `list[str]`: Labels that fewer than `min_proteins` proteins have, or lack: several labels a protein, these alone
        are left without calibration and with the threshold 0.5, and one label a protein, none is calibrated.
    """
    classes = logits.shape[1]
    flags = labels.int() if labels.ndim == 2 else torch.nn.functional.one_hot(labels, classes)
    positives = flags.sum(dim=0)
    few = torch.minimum(positives, len(flags) - positives) < min_proteins  # (classes,)
    if labels.ndim == 2:
        fitted = fit_calibration(logits, labels)
        scales = [1.0 if few[i] else fitted[0][i] for i in range(classes)]
        biases = [0.0 if few[i] else fitted[1][i] for i in range(classes)]
        probabilities = (logits * torch.tensor(scales) + torch.tensor(biases)).sigmoid().numpy()
        thresholds = fit_thresholds(labels.numpy(), probabilities)
        model_config.thresholds = [0.5 if few[i] else thresholds[i] for i in range(classes)]
        model_config.calibration_scale, model_config.calibration_bias = scales, biases
    elif not few.any():
        model_config.calibration_scale, model_config.calibration_bias = fit_calibration(logits, labels)

    known = membrane_targets >= 0
    share = membrane_targets[known].float().sum()
    if torch.minimum(share, known.sum() - share) >= min_proteins:
        membrane_logits, membrane_targets = membrane_logits[known].unsqueeze(1), membrane_targets[known].unsqueeze(1)
        (scale,), (bias,) = fit_calibration(membrane_logits, membrane_targets)
        model_config.membrane_calibration_scale, model_config.membrane_calibration_bias = scale, bias
        probabilities = (membrane_logits * scale + bias).sigmoid().numpy()
        model_config.membrane_threshold = fit_threshold(membrane_targets[:, 0], probabilities[:, 0])
    return [model_config.id2label[i] for i in range(classes) if few[i]]


def validation_scores(names: list[str], logits, membrane_logits, labels, membrane_targets) -> dict[str, float]:
    """What is logged after each epoch: at the threshold 0.5, before any calibration."""
    if labels.ndim == 2:
        probabilities, references = logits.sigmoid().numpy(), labels.int().numpy()
        predictions = (probabilities >= 0.5).astype(int)
    else:
        probabilities = logits.softmax(dim=-1).numpy()
        references, predictions = (np.eye(logits.shape[1], dtype=int)[i] for i in (labels, logits.argmax(dim=-1)))
    result = LocalizationMetric().compute(
        references=references, predictions=predictions, probabilities=probabilities, classes=names
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
