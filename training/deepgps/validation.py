"""A deepGPS on the validation split during training: losses, scores, pictures; and its calibration."""

import math
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

from protloc.metrics import fit_calibration
from training.common.loop import equal_batches
from training.deepgps.data import Crops, LabelledProteins, ProteinReader

SEED = 0  # of a diffusion model's noise
SHOWN = 8  # crops of the picture


@torch.no_grad()
def validate_images(accelerator: Accelerator, model: Any, loader: DataLoader) -> dict[str, float]:
    """Mean image loss, and for regression the PSNR in dB."""
    model.eval()
    results = []
    torch.manual_seed(SEED)
    for batch, counted in equal_batches(accelerator, loader):
        inputs = {name: batch[name] for name in batch if name != "labels"}
        with accelerator.autocast():
            outputs = model(**inputs)
        errors = torch.zeros(len(batch["nucleus"]))
        if "protein_image" in outputs:
            errors = (outputs.protein_image - batch["protein"]).square().mean(dim=(1, 2, 3)).float().cpu()
        if counted:
            results.append((outputs.loss.item(), errors))
    model.train()
    gathered = gather_object(results)
    losses = [loss for loss, errors in gathered for _ in errors]
    scores = {"image_loss": float(np.mean(losses))}
    errors = torch.cat([errors for _, errors in gathered])
    if errors.any():
        scores["psnr"] = float((-10 * errors.log10()).mean())
    return scores


@torch.no_grad()
def protein_logits(
    accelerator: Accelerator, model: Any, proteins: LabelledProteins, reader: ProteinReader, batch: int = 32
) -> torch.Tensor:
    """Logits `(proteins, labels)`; every process reads its part."""
    model.eval()
    order = np.argsort([len(sequence) for sequence in proteins.sequences])
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    results = []
    own = parts[accelerator.process_index :: accelerator.num_processes]
    # Under FSDP all processes pass as often: who has none left passes the first part, which does not count.
    for number in range(math.ceil(len(parts) / accelerator.num_processes)):
        part = own[number] if number < len(own) else parts[0]
        inputs = reader([proteins.sequences[i] for i in part], [""] * len(part))
        with accelerator.autocast():
            outputs = model(**{name: tensor.to(accelerator.device) for name, tensor in inputs.items()})
        if number < len(own):
            results.append((part, outputs.logits.float().cpu()))
    model.train()
    logits = torch.zeros(len(order), model.config.num_labels)
    for part, found in gather_object(results):
        logits[part] = found
    return logits


def label_validation_scores(logits: torch.Tensor, labels: np.ndarray) -> dict[str, float]:
    """Cross-entropy, accuracy, mean AUROC of the classes, and AUROC of the first two against each other."""
    truth = torch.tensor(labels)
    probabilities = logits.softmax(dim=-1).numpy()
    present = [i for i in range(logits.shape[1]) if 0 < (labels == i).sum() < len(labels)]
    scores = {
        "label_loss": torch.nn.functional.cross_entropy(logits, truth).item(),
        "accuracy": float((logits.argmax(dim=-1) == truth).float().mean()),
        "macro_auroc": float(np.mean([roc_auc_score(labels == i, probabilities[:, i]) for i in present])),
    }
    two = labels < 2
    if len(set(labels[two])) == 2:
        scores["auroc_2"] = float(roc_auc_score(labels[two], (logits[:, 1] - logits[:, 0]).numpy()[two]))
    return scores


@torch.no_grad()
def panel(model: Any, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """Nucleus, real and drawn protein of a batch below each other, grey in three colours: `(1, 3 H, n W, 3)`."""
    model.eval()
    inputs = {name: batch[name] for name in batch if name not in ("labels", "protein")}
    drawn = model.generate(**inputs, generator=torch.Generator().manual_seed(SEED)).protein_image
    model.train()
    shown = batch["nucleus"], batch["protein"], drawn
    rows = [torch.cat(list(images[:, 0].float().cpu()), dim=1) for images in shown]
    return np.repeat(torch.cat(rows).numpy()[None, ..., None], 3, axis=-1)


def log_panel(accelerator: Accelerator, model: Any, crops: Crops, step: int) -> None:
    """The first crops of the validation split as a picture in TensorBoard; under FSDP all processes draw it."""
    sharded = accelerator.distributed_type == DistributedType.FSDP
    if not (accelerator.is_main_process or sharded):
        return
    batch = crops.collate([crops[i] for i in range(min(SHOWN, len(crops)))])
    picture = panel(model, {name: tensor.to(accelerator.device) for name, tensor in batch.items()})
    for tracker in accelerator.trackers:  # the main process's alone
        if tracker.name == "tensorboard":
            tracker.log_images({"validation": picture}, step=step, dataformats="NHWC")


def calibrate(model: Any, logits: torch.Tensor, labels: np.ndarray) -> None:
    """Temperature and biases into the last layer of the classifier (Platt 1999)."""
    scale, bias = fit_calibration(logits, torch.tensor(labels))
    last = model.classifier[-1]
    with torch.no_grad():
        last.weight.mul_(scale[0])
        last.bias.mul_(scale[0]).add_(torch.tensor(bias, dtype=last.bias.dtype, device=last.bias.device))
