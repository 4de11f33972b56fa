"""
Train DeepLoc.

    # a toy run on a CPU, under a minute
    accelerate launch --cpu training/train_deeploc.py training/configs/toy.yaml
    # the shipped checkpoint on two cores (accelerate gives a process one thread unless told), or on one GPU
    accelerate launch --cpu --num_cpu_threads_per_process 2 training/train_deeploc.py training/configs/deeploc.yaml
    accelerate launch training/train_deeploc.py training/configs/deeploc.yaml
    # many GPUs, another width, from a data set on the Hub
    accelerate launch --multi_gpu training/train_deeploc.py training/configs/deeploc.yaml \
        dataset=OWNER/NAME model.lstm_size=512 output_dir=runs/wide
    # go on after a stop
    accelerate launch training/train_deeploc.py training/configs/deeploc.yaml resume=true

The first argument is a YAML file with fields of `TrainingConfig`; `field=value` overrides it. `output_dir` receives
checkpoints to resume from, TensorBoard logs, and at the end the model with calibration and thresholds.
"""

import math
import shutil
import sys
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import yaml
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.utils import ProjectConfiguration, gather_object, parse_flag_from_env, set_seed
from datasets import Dataset, load_dataset
from huggingface_hub.errors import StrictDataclassError
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer, get_cosine_schedule_with_warmup, pipeline

from protloc import ASSETS, DeepLocConfig, DeepLocForSequenceClassification
from protloc.batching import TokenBudgetBatchSampler, token_budget_batches
from protloc.metrics import LocalizationMetric, MembraneMetric, fit_calibration, fit_threshold
from protloc.prediction import native_bf16
from protloc.sequences import shorten
from protloc.taxonomy import COMPARTMENTS


@dataclass
class TrainingConfig:
    dataset: str = MISSING  # a folder or a Hub repository that `load_dataset` reads
    output_dir: str = MISSING
    dataset_config: str = "deeploc2"
    train_split: str = "train"
    validation_split: str = "validation"  # early stopping, calibration and thresholds; neither trained on nor tested
    model: dict[str, Any] = field(default_factory=dict)  # fields of DeepLocConfig
    epochs: int = 8
    max_tokens_per_batch: int = 12000  # on each process, padding included
    gradient_accumulation_steps: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_fraction: float = 0.1  # of all optimizer steps; a cosine down to 0 follows
    mask_rate: float = 0.15  # residues replaced by <mask> in training
    max_grad_norm: float = 1.0
    early_stopping_patience: int = 5  # epochs without a better macro AUPRC on the validation split
    mixed_precision: str = "auto"  # bf16 where the hardware has it natively, else no
    checkpoint_steps: int = 200
    checkpoints_kept: int = 2
    resume: bool = False
    seed: int = 0
    limit: int | None = None  # proteins of each split, for a quick try


@dataclass
class Progress:
    """Where a run stands; saved with each checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches of the epoch that are done
    step: int = 0  # optimizer steps
    best_score: float = -1.0
    epochs_since_best: int = 0

    def state_dict(self):
        return dict(self.__dict__)

    def load_state_dict(self, state):
        self.__dict__.update(state)


def read_config(arguments: list[str]) -> TrainingConfig:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        raise SystemExit(0 if arguments else 2)
    try:
        merged = OmegaConf.merge(
            OmegaConf.structured(TrainingConfig), OmegaConf.load(arguments[0]), OmegaConf.from_dotlist(arguments[1:])
        )
        config: TrainingConfig = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, OSError, yaml.YAMLError) as error:
        place = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        stop(f"{place}{first_line(error)}")
    # A configuration takes any keyword, and a misspelt one would train the default for hours.
    unknown = config.model.keys() - {known.name for known in fields(DeepLocConfig)}
    if unknown:
        stop(f"model.{min(unknown)} is no field of DeepLocConfig")
    if not config.resume and checkpoints(Path(config.output_dir) / "checkpoints"):
        stop(f"{config.output_dir} holds checkpoints: add resume=true to go on with them, or choose another output_dir")
    return config


def stop(message: str) -> NoReturn:
    print(f"train_deeploc: {message}", file=sys.stderr)
    raise SystemExit(2)


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def load_split(config: TrainingConfig, split: str) -> Dataset:
    try:
        proteins = load_dataset(config.dataset, config.dataset_config, split=split)
    except (ValueError, OSError) as error:
        stop(f"cannot load {split!r} of {config.dataset!r}, {config.dataset_config!r}: {first_line(error)}")
    return proteins.select(range(min(config.limit or len(proteins), len(proteins))))


def tokenize(proteins: Dataset, tokenizer, model_config: DeepLocConfig) -> Dataset:
    """Token ids, the labels as a vector (multi-label) or an index (single-label), and the membrane label."""
    multi_label = model_config.problem_type == "multi_label_classification"

    def encode(protein):
        sequence = shorten(protein["sequence"], model_config.max_length, model_config.length_policy)
        labels = protein["labels"]
        if not multi_label and len(labels) != 1:
            raise ValueError(f"{protein['id']} has {len(labels)} labels; single-label training needs exactly one")
        return {
            "input_ids": tokenizer(sequence)["input_ids"],
            "length": len(sequence),
            "target": [float(i in labels) for i in range(model_config.num_labels)] if multi_label else labels[0],
        }

    return proteins.map(encode, remove_columns=["id", "sequence", "kingdom", "labels", "partition"], desc="Tokenizing")


def collate(proteins: list[dict], pad_token_id: int) -> dict[str, torch.Tensor]:
    input_ids = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(protein["input_ids"]) for protein in proteins], batch_first=True, padding_value=pad_token_id
    )
    return {
        "input_ids": input_ids,  # (B, L)
        "attention_mask": (input_ids != pad_token_id).long(),
        "labels": torch.tensor([protein["target"] for protein in proteins]),  # (B, 10) or (B,)
        "membrane_labels": torch.tensor([protein["membrane"] for protein in proteins]),  # (B,)
    }


@torch.no_grad()
def predict_logits(accelerator: Accelerator, model, loader) -> tuple[torch.Tensor, ...]:
    """Logits (n, 10), membrane logits (n,), labels and membrane labels of a split, on every process."""
    model.eval()
    results = []
    for batch in tqdm(loader, desc="Validating", leave=False, disable=not accelerator.is_local_main_process):
        outputs = model(batch["input_ids"], batch["attention_mask"])
        results.append((outputs.logits, outputs.membrane_logits, batch["labels"], batch["membrane_labels"]))
    model.train()
    gathered = gather_object([tuple(tensor.cpu() for tensor in result) for result in results])
    return tuple(torch.cat(parts) for parts in zip(*gathered, strict=True))


def fit_decisions(model_config: DeepLocConfig, logits, membrane_logits, labels, membrane_labels) -> None:
    """Fit calibration and MCC thresholds on raw logits of the validation split, into the configuration."""
    model_config.calibration_scale, model_config.calibration_bias = fit_calibration(logits, labels)
    calibrated = logits * torch.tensor(model_config.calibration_scale) + torch.tensor(model_config.calibration_bias)
    if labels.ndim == 2:
        probabilities = calibrated.sigmoid().numpy()
        model_config.thresholds = [fit_threshold(labels[:, i], probabilities[:, i]) for i in range(labels.shape[1])]

    known = membrane_labels >= 0
    if known.any():
        membrane_logits, membrane_labels = membrane_logits[known].unsqueeze(1), membrane_labels[known].unsqueeze(1)
        (scale,), (bias,) = fit_calibration(membrane_logits, membrane_labels)
        model_config.membrane_calibration_scale, model_config.membrane_calibration_bias = scale, bias
        probabilities = (membrane_logits * scale + bias).sigmoid().numpy()
        model_config.membrane_threshold = fit_threshold(membrane_labels[:, 0], probabilities[:, 0])


def validation_scores(logits, membrane_logits, labels, membrane_labels) -> dict[str, float]:
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
    known = membrane_labels >= 0
    if known.any():
        probabilities = membrane_logits[known].sigmoid().numpy()
        result = MembraneMetric().compute(
            references=membrane_labels[known], predictions=probabilities >= 0.5, probabilities=probabilities
        )
        scores["membrane_accuracy"] = result["accuracy"]
    return scores


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: Progress, kept: int) -> None:
    """Write beside and rename, so that a kill leaves only whole checkpoints; the oldest ones go."""
    partial_folder = folder / "partial"
    accelerator.save_state(str(partial_folder))
    accelerator.wait_for_everyone()  # every process writes its random states
    if accelerator.is_main_process:
        shutil.rmtree(folder / f"step_{progress.step}", ignore_errors=True)
        partial_folder.rename(folder / f"step_{progress.step}")
        for old in checkpoints(folder)[:-kept]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))


def main() -> None:
    config = read_config(sys.argv[1:])
    output_dir = Path(config.output_dir)
    checkpoint_dir = output_dir / "checkpoints"

    mixed_precision = config.mixed_precision
    if mixed_precision == "auto":
        on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        mixed_precision = "bf16" if native_bf16("cpu" if on_cpu else "cuda") else "no"
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "logs")),
        # Batches vary in size, and the sampler already gives every process as many.
        dataloader_config=DataLoaderConfiguration(even_batches=False),
    )
    set_seed(config.seed)

    # Data
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "deeploc")
    try:
        model_config = DeepLocConfig(**config.model)
    except StrictDataclassError as error:
        stop(f"model: {' '.join(str(error).split())}")
    if list(model_config.id2label.values()) != COMPARTMENTS:
        stop("model.id2label must be the ten DeepLoc compartments")
    with accelerator.main_process_first():
        train_set = tokenize(load_split(config, config.train_split), tokenizer, model_config)
        validation_set = tokenize(load_split(config, config.validation_split), tokenizer, model_config)
    if model_config.problem_type == "multi_label_classification":
        positives = np.array(train_set["target"]).sum(axis=0).clip(min=1)
        model_config.positive_weights = np.sqrt((len(train_set) - positives) / positives).tolist()

    sampler = TokenBudgetBatchSampler(
        list(train_set["length"]), config.max_tokens_per_batch, config.seed, accelerator.num_processes
    )
    validation_batches = token_budget_batches(list(validation_set["length"]), 2 * config.max_tokens_per_batch)
    collate_batch = partial(collate, pad_token_id=tokenizer.pad_token_id)
    train_loader = DataLoader(train_set, batch_sampler=sampler, collate_fn=collate_batch)
    validation_loader = DataLoader(validation_set, batch_sampler=validation_batches, collate_fn=collate_batch)

    # Model and optimizer
    model = DeepLocForSequenceClassification(model_config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps_per_epoch = math.ceil(len(sampler) / accelerator.num_processes / config.gradient_accumulation_steps)
    total_steps = steps_per_epoch * config.epochs
    # Not prepared: accelerate would step it once for each process.
    scheduler = get_cosine_schedule_with_warmup(optimizer, round(config.warmup_fraction * total_steps), total_steps)
    model, optimizer, train_loader, validation_loader = accelerator.prepare(
        model, optimizer, train_loader, validation_loader
    )
    progress = Progress()
    accelerator.register_for_checkpointing(scheduler, progress)
    accelerator.init_trackers("tensorboard")
    accelerator.print(
        f"{len(train_set)} proteins, {len(sampler)} batches an epoch, {total_steps} steps, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, mixed precision {mixed_precision}"
    )

    if config.resume and checkpoints(checkpoint_dir):
        latest = checkpoints(checkpoint_dir)[-1]
        accelerator.load_state(str(latest))
        accelerator.print(f"resumed from {latest}: epoch {progress.epoch}, batch {progress.batch}")

    # Training
    while progress.epoch < config.epochs and progress.epochs_since_best < config.early_stopping_patience:
        sampler.set_epoch(progress.epoch)
        loader = skip_first_batches(train_loader, progress.batch)
        bar = tqdm(
            loader,
            desc=f"Epoch {progress.epoch + 1}/{config.epochs}",
            initial=progress.batch,
            total=len(train_loader),
            disable=not accelerator.is_local_main_process,
            mininterval=5,
        )
        for batch in bar:
            # Masking and dropout depend on the batch's place alone: a run that resumes goes on as if never stopped.
            torch.manual_seed(hash((config.seed, progress.epoch, progress.batch, accelerator.process_index)))
            special = (batch["input_ids"] == tokenizer.cls_token_id) | (batch["input_ids"] == tokenizer.eos_token_id)
            masked = torch.rand(batch["input_ids"].shape, device=accelerator.device) < config.mask_rate
            masked &= batch["attention_mask"].bool() & ~special
            batch["input_ids"] = batch["input_ids"].masked_fill(masked, tokenizer.mask_token_id)
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            progress.batch += 1
            if accelerator.sync_gradients:
                scheduler.step()
                progress.step += 1
                accelerator.log({"train/loss": loss.item(), "train/lr": scheduler.get_last_lr()[0]}, progress.step)
                bar.set_postfix(loss=f"{loss.item():.3f}")
                if progress.step % config.checkpoint_steps == 0:
                    save_checkpoint(accelerator, checkpoint_dir, progress, config.checkpoints_kept)

        validation = predict_logits(accelerator, model, validation_loader)
        scores = validation_scores(*validation)
        accelerator.log({f"validation/{name}": value for name, value in scores.items()}, progress.step)
        accelerator.print(
            f"epoch {progress.epoch + 1}: {len(validation[0])} validation proteins, "
            + ", ".join(f"{name} {value:.3f}" for name, value in scores.items())
        )
        progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.epochs_since_best += 1
        if scores["macro_auprc"] > progress.best_score:
            progress.best_score, progress.epochs_since_best = scores["macro_auprc"], 0
            if accelerator.is_main_process:
                accelerator.unwrap_model(model).save_pretrained(output_dir / "best")
        save_checkpoint(accelerator, checkpoint_dir, progress, config.checkpoints_kept)

    # Calibration and thresholds, on raw logits of the best epoch
    accelerator.wait_for_everyone()
    best = DeepLocForSequenceClassification.from_pretrained(output_dir / "best").to(accelerator.device)
    best.load_state_dict({name: value.bfloat16().float() for name, value in best.state_dict().items()})
    fit_decisions(best.config, *predict_logits(accelerator, best, validation_loader))
    if accelerator.is_main_process:
        # Weights are stored in bfloat16, at half the size; the configuration keeps float32 to compute in.
        stored = {name: value.bfloat16() for name, value in best.state_dict().items()}
        locator = pipeline("protein-localization", model=best, tokenizer=tokenizer)
        locator.save_pretrained(output_dir, state_dict=stored)
        print(f"saved {output_dir}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
