"""A deepGPS on the validation split during training: losses, scores, images and calibration."""

import math
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, gather_object
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F
from torch.utils.data import DataLoader

from protloc.metrics import fit_calibration
from training.common.loop import equal_batches
from training.deepgps.data import Crops, LabelledProteins, ProteinReader

SEED = 0  # of a diffusion model's noise
SHOWN = 8  # crops of the picture


@torch.no_grad()
def validate_images(accelerator: Accelerator, model: Any, loader: DataLoader) -> dict[str, float]:
    """Mean image loss; the PSNR in dB of images in one pass, and for adversarial models the error of the texture."""
    model.eval()
    results = []
    torch.manual_seed(SEED)
    for batch, counted in equal_batches(accelerator, loader):
        unused = ["labels"]
        if not model.config.condition_on_residues:  # it draws the crop's own label, whatever the protein
            unused = ["residue_embeddings", "residue_mask", "input_ids", "attention_mask"]
        inputs = {name: batch[name] for name in batch if name not in unused}
        with accelerator.autocast():
            outputs = model(**inputs)
        errors, textures = torch.zeros(len(batch["nucleus"])), torch.zeros(0)
        if "protein_image" in outputs:
            drawn, real = outputs.protein_image.float(), batch["protein"]
            errors = (drawn - real).square().mean(dim=(1, 2, 3)).cpu()
            if model.config.objective == "adversarial":
                textures = torch.stack([texture(drawn), texture(real)], dim=1).cpu()  # (B, 2, bands)
        if counted:
            results.append((outputs.loss.item(), errors, textures, batch["labels"].cpu()))
    model.train()
    gathered = gather_object(results)
    losses = [loss for loss, errors, *_ in gathered for _ in errors]
    scores = {"image_loss": float(np.mean(losses))}
    errors = torch.cat([errors for _, errors, *_ in gathered])
    if errors.any():
        scores["psnr"] = float((-10 * errors.log10()).mean())
    if model.config.objective == "adversarial":
        textures, labels = (torch.cat([row[i] for row in gathered]) for i in (2, 3))
        means = torch.stack([textures[labels == label].mean(dim=0) for label in labels.unique()])  # (classes, 2, bands)
        scores["texture_error"] = (means[:, 0] - means[:, 1]).abs().mean().item()
    return scores


def texture(images: torch.Tensor) -> torch.Tensor:
    """Logarithms `(batch, bands)` of how much images `(batch, 1, H, W)` vary at sizes from 2 to 32 pixels."""
    bands = []
    for _ in range(5):
        smaller = F.avg_pool2d(images, 2)
        detail = images - F.interpolate(smaller, size=images.shape[2:], mode="bilinear")
        bands.append(detail.square().mean(dim=(1, 2, 3)).clamp(min=1e-8).log10())
        images = smaller
    return torch.stack(bands, dim=1)


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
    told = not model.config.condition_on_residues
    inputs = {name: batch[name] for name in batch if name != "protein" and (told or name != "labels")}
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
