"""
Train DeepLoc.

    # a toy run on a CPU, under a minute
    accelerate launch --cpu -m training.deeploc.train training/configs/toy.yaml
    # the shipped checkpoint on two cores (accelerate gives a process one thread unless told), or on one GPU
    accelerate launch --cpu --num_cpu_threads_per_process 2 -m training.deeploc.train training/configs/deeploc.yaml
    accelerate launch -m training.deeploc.train training/configs/deeploc.yaml
    # many GPUs, another width, from a data set on the Hub
    accelerate launch --multi_gpu -m training.deeploc.train training/configs/deeploc.yaml \
        dataset=OWNER/NAME model.lstm_size=512 output_dir=runs/wide
    # go on after a stop
    accelerate launch -m training.deeploc.train training/configs/deeploc.yaml resume=true

The first argument is a YAML file with fields of `TrainingConfig`; `field=value` overrides it. `output_dir` receives
checkpoints to resume from, TensorBoard logs, and at the end the model with calibration and thresholds.
"""

import math
import shlex
import sys
import time
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.utils import ProjectConfiguration, set_seed
from omegaconf import MISSING, OmegaConf
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer, get_scheduler, pipeline

from protloc import ASSETS, DeepLocConfig, DeepLocForSequenceClassification
from protloc.batching import TokenBudgetBatchSampler, token_budget_batches
from protloc.loading import LOAD_ERRORS, load_config, one_line
from protloc.taxonomy import COMPARTMENTS
from training.common.backbones import merged, set_backbone_training
from training.common.checkpoints import Progress, checkpoints, save_checkpoint
from training.common.publish import check_push, finish
from training.common.settings import (
    MIXED_PRECISION,
    SETTINGS,
    check_choices,
    check_output_dir,
    choose_precision,
    read_settings,
    stop,
)
from training.deeploc.data import (
    class_balanced_weights,
    class_counts,
    collate,
    encode,
    load_proteins,
    mask_residues,
    read_lengths,
    repeat_factors,
    teach,
)
from training.deeploc.validation import fit_decisions, predict_logits, validation_scores


@dataclass
class TrainingConfig:
    # Data
    dataset: str = MISSING  # a folder or a Hub repository that `load_dataset` reads
    output_dir: str = MISSING
    dataset_config: str = "deeploc2"
    train_split: str = "train"
    validation_split: str = "validation"  # early stopping, calibration and thresholds; neither trained on nor tested
    validation_partition: int | None = None  # of the training split: this homology partition validates instead
    profiles: str | None = None  # folder of <id>.pssm files, for a data set without profiles
    limit: int | None = None  # proteins of each split, for a quick try
    # Model
    model: dict[str, Any] = field(default_factory=dict)  # fields of DeepLocConfig
    initial_weights: str | None = None  # a DeepLoc of this shape, by folder or Hub name, to go on from
    backbone: str | None = None  # folder or Hub name of a transformers encoder
    backbone_training: str = "frozen"  # frozen, full or lora
    lora_rank: int = 8
    # Loss and sampling
    class_balance: str = "sqrt"  # positives count by the square root of their rarity; effective_number; none
    oversampling_frequency: float = 0.0  # labels rarer than this are shown more often
    mask_rate: float = 0.15  # residues replaced by <mask> in training
    teachers: list[str] = field(default_factory=list)  # models whose mean probabilities are learnt beside the labels
    distillation_weight: float = 0.5  # of the teachers' probabilities; the labels have the rest
    # Optimization
    epochs: int = 8
    max_tokens_per_batch: int = 12000  # on each process, padding included
    max_proteins_per_batch: int | None = None
    gradient_accumulation_steps: int = 1
    optimizer: str = "adamw"  # adamw, adam or sgd
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"  # down to 0 after the warm-up, or any other of transformers' schedules
    warmup_fraction: float = 0.1  # of all optimizer steps
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # above 0, the moving average of the weights is validated and kept
    early_stopping_patience: int = 5  # epochs without a better macro AUPRC on the validation split
    # Running
    mixed_precision: str = "auto"  # bf16 where the hardware has it natively, else no
    checkpoint_steps: int = 200
    checkpoints_kept: int = 2
    resume: bool = False
    push_to_hub: str | None = None  # OWNER/NAME of a model repository that gets the trained model
    private: bool = False  # where that repository is new
    seed: int = 0


CHOICES = {
    "backbone_training": ["frozen", "full", "lora"],
    "class_balance": ["sqrt", "effective_number", "none"],
    "optimizer": ["adamw", "adam", "sgd"],
    "schedule": ["cosine", "constant", "constant_with_warmup", "linear"],
    "mixed_precision": MIXED_PRECISION,
}


def read_config() -> TrainingConfig:
    config = read_settings(TrainingConfig, __doc__)
    # A configuration takes any keyword, and a misspelt one would train the default for hours.
    unknown = config.model.keys() - {known.name for known in fields(DeepLocConfig)}
    if unknown:
        stop(f"model.{min(unknown)} is no field of DeepLocConfig")
    check_choices(config, CHOICES)
    if config.limit is not None and config.limit < 1:
        stop(f"limit must be 1 or more, got {config.limit}")
    if config.backbone and config.initial_weights:
        stop("backbone and initial_weights both name weights to begin with: give one of them")
    check_output_dir(config)
    check_push(config.push_to_hub)
    return config


def build_model(config: TrainingConfig):
    """The untrained model and its tokenizer."""
    try:
        model_config = DeepLocConfig(**config.model)
    except (*LOAD_ERRORS, TypeError) as error:
        stop(f"model: {one_line(error)}")
    try:
        if config.backbone is None:
            if config.initial_weights is None:
                model = DeepLocForSequenceClassification(model_config)
            else:
                load_config(config.initial_weights)  # another kind of model would give none of its weights
                model = DeepLocForSequenceClassification.from_pretrained(config.initial_weights, config=model_config)
            return model.float(), AutoTokenizer.from_pretrained(ASSETS / "deeploc")
        model = DeepLocForSequenceClassification.from_backbone_pretrained(config.backbone, **config.model)
        tokenizer = AutoTokenizer.from_pretrained(config.backbone)
    except (*LOAD_ERRORS, TypeError) as error:
        stop(f"cannot build on {(config.backbone or config.initial_weights)!r}: {one_line(error)}")
    set_backbone_training(model.deeploc, config.backbone_training, config.lora_rank)
    return model, tokenizer


def build_optimizer(config: TrainingConfig, model) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return torch.optim.SGD(trained, momentum=0.9, nesterov=True, **options)
    return (torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam)(trained, **options)


def main() -> None:
    config = read_config()
    output_dir = Path(config.output_dir)
    checkpoint_dir = output_dir / "checkpoints"

    mixed_precision = choose_precision(config.mixed_precision)
    accelerator = Accelerator(
        mixed_precision=mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with="tensorboard",
        project_config=ProjectConfiguration(project_dir=str(output_dir), logging_dir=str(output_dir / "logs")),
        # Batches vary in size, and the sampler already gives every process as many.
        dataloader_config=DataLoaderConfiguration(even_batches=False),
    )
    set_seed(config.seed)

    # Model and data
    model, tokenizer = build_model(config)
    model_config = model.config
    if list(model_config.id2label.values()) != COMPARTMENTS:
        stop("model.id2label must be the ten DeepLoc compartments")
    try:
        train_set, validation_set = (
            proteins.select(range(min(config.limit or len(proteins), len(proteins))))
            for proteins in load_proteins(
                *(config.dataset, config.dataset_config, config.train_split, config.validation_split),
                config.validation_partition,
            )
        )
    except (ValueError, OSError) as error:
        stop(f"cannot read {config.dataset!r}, {config.dataset_config!r}: {one_line(error)}")
    num_proteins = len(train_set)
    try:
        lessons = None
        if config.teachers:
            lessons = teach(train_set, config.teachers, config.profiles, output_dir / "teachers.npy", config.resume)
        with accelerator.main_process_first():
            train_set, validation_set = (
                encode(proteins, model_config, tokenizer, config.profiles) for proteins in (train_set, validation_set)
            )
    except (ValueError, OSError) as error:
        stop(one_line(error))

    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.structured(config), output_dir / SETTINGS)

    targets = np.array(train_set["target"])
    counts = class_counts(targets, model_config.num_labels)
    if config.class_balance == "sqrt" and targets.ndim == 2:
        model_config.positive_weights = np.sqrt((len(targets) - counts) / counts).tolist()
    if config.class_balance == "effective_number":
        model_config.class_weights = class_balanced_weights(counts)
    if lessons is not None:
        lessons = torch.tensor(lessons)

    repeats = None
    if config.oversampling_frequency:
        repeats = repeat_factors(targets, model_config.num_labels, config.oversampling_frequency)
    sampler = TokenBudgetBatchSampler(
        *(read_lengths(train_set, model_config), config.max_tokens_per_batch, config.seed, accelerator.num_processes),
        *(config.max_proteins_per_batch, repeats),
    )
    proteins_per_batch = np.mean([len(batch) for batch in sampler])
    validation_batches = token_budget_batches(
        read_lengths(validation_set, model_config), 2 * config.max_tokens_per_batch
    )
    collate_batch = partial(collate, pad_token_id=model_config.pad_token_id)
    train_loader = DataLoader(train_set, batch_sampler=sampler, collate_fn=collate_batch)
    validation_loader = DataLoader(validation_set, batch_sampler=validation_batches, collate_fn=collate_batch)

    # Optimizer
    optimizer = build_optimizer(config, model)
    if config.ema_decay:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)).to(accelerator.device)
    steps_per_epoch = math.ceil(len(sampler) / accelerator.num_processes / config.gradient_accumulation_steps)
    total_steps = steps_per_epoch * config.epochs
    # Not prepared: accelerate would step it once for each process.
    scheduler = get_scheduler(config.schedule, optimizer, round(config.warmup_fraction * total_steps), total_steps)
    model, optimizer, train_loader, validation_loader = accelerator.prepare(
        model, optimizer, train_loader, validation_loader
    )
    progress = Progress()
    accelerator.register_for_checkpointing(scheduler, progress)
    if config.ema_decay:
        accelerator.register_for_checkpointing(average)
    judged = average.module if config.ema_decay else accelerator.unwrap_model(model)  # what is validated and kept
    accelerator.init_trackers("tensorboard")
    accelerator.print(
        f"{num_proteins} proteins, {len(sampler)} batches an epoch, {total_steps} steps, "
        f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,} trained parameters, "
        f"mixed precision {mixed_precision}"
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
        clock = time.monotonic()
        for batch in bar:
            # Masking and dropout depend on the batch's place alone: a run that resumes goes on as if never stopped.
            torch.manual_seed(hash((config.seed, progress.epoch, progress.batch, accelerator.process_index)))
            mask_residues(batch, config.mask_rate, model_config)
            protein = batch.pop("protein")
            if lessons is not None:
                told = lessons[protein.cpu()].to(accelerator.device)
                labels = batch["labels"] if targets.ndim == 2 else F.one_hot(batch["labels"], told.shape[1])
                batch["labels"] = config.distillation_weight * told + (1 - config.distillation_weight) * labels
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                # Batches of short proteins hold more of them: each protein counts the same.
                accelerator.backward(loss * len(protein) / proteins_per_batch)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
            progress.batch += 1
            progress.seconds += time.monotonic() - clock
            clock = time.monotonic()
            if accelerator.sync_gradients:
                scheduler.step()
                if config.ema_decay:
                    average.update_parameters(accelerator.unwrap_model(model))
                progress.step += 1
                accelerator.log({"train/loss": loss.item(), "train/lr": scheduler.get_last_lr()[0]}, progress.step)
                bar.set_postfix(loss=f"{loss.item():.3f}")
                if progress.step % config.checkpoint_steps == 0:
                    save_checkpoint(accelerator, checkpoint_dir, progress, config.checkpoints_kept)

        validation = predict_logits(accelerator, judged, validation_loader)
        scores = validation_scores(*validation)
        progress.seconds += time.monotonic() - clock
        progress.scores.append(scores)
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
                merged(judged).save_pretrained(output_dir / "best")
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
        scores = max(progress.scores, key=lambda epoch: epoch["macro_auprc"])
        arguments = [argument for argument in sys.argv[1:] if argument != "resume=true"]
        report = {
            "command": shlex.join(["python", "-m", "training.deeploc.train", *arguments]),
            "processes": accelerator.num_processes,
            "training": vars(config),
            "proteins": num_proteins,
            "seconds": progress.seconds,
            "steps": progress.step,
            "validation": {"best": scores, "epochs": progress.scores},
        }
        finish(config, "deeploc", report, best, [config.dataset], config.backbone or config.initial_weights)
    accelerator.end_training()


if __name__ == "__main__":
    main()
