"""
Train DeepLoc.

    # a toy run on a CPU, under a minute
    accelerate launch --cpu -m training.deeploc.train training/configs/toy.yaml
    # the shipped checkpoint on two cores (accelerate gives a process one thread by default), or on one GPU
    accelerate launch --cpu --num_cpu_threads_per_process 2 -m training.deeploc.train training/configs/deeploc.yaml
    accelerate launch -m training.deeploc.train training/configs/deeploc.yaml
    # many GPUs, another width, from a data set on the Hub
    accelerate launch --multi_gpu -m training.deeploc.train training/configs/deeploc.yaml \
        dataset=OWNER/NAME model.lstm_size=512 output_dir=runs/wide
    # your own proteins and compartments, from the shipped weights (docs/finetune.md)
    accelerate launch --cpu -m training.deeploc.train training/configs/finetune.yaml dataset=my.csv output_dir=runs/mine
    # resume an interrupted run
    accelerate launch -m training.deeploc.train training/configs/deeploc.yaml resume=true

The first argument is a YAML file with fields of `TrainingConfig`; `field=value` overrides it. The run writes
checkpoints to resume from, TensorBoard logs and finally the model with calibration and thresholds to `output_dir`.
"""

import itertools
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from datasets import Dataset, concatenate_datasets
from omegaconf import MISSING
from torch.utils.data import DataLoader
from transformers import get_scheduler, pipeline

from protloc import DeepLocConfig, DeepLocForSequenceClassification
from protloc.batching import TokenBudgetBatchSampler, token_budget_batches
from protloc.embedding import ResidueEmbeddings
from protloc.loading import load_model, one_line
from protloc.taxonomy import COMPARTMENTS
from training.common.loop import (
    Batch,
    Loop,
    Place,
    check_finite,
    end_training,
    rounded,
    start_accelerator,
    steps_per_epoch,
)
from training.common.publish import check_push, publish
from training.common.settings import (
    check_output_dir,
    check_settings,
    read_settings,
    save_settings,
    stop,
)
from training.deeploc.data import (
    class_balanced_weights,
    class_counts,
    collate,
    encode,
    load_proteins,
    load_unlabelled,
    mask_residues,
    read_teacher,
    reads_regions,
    repeat_factors,
    teach,
    window_lengths,
)
from training.deeploc.initial import build_model, embed_frozen, read_embeddings, reads_frozen
from training.deeploc.own_evaluation import evaluate_own, few_labels, flat_labels
from training.deeploc.own_proteins import OwnProteins, has_compartments, read_own_proteins
from training.deeploc.validation import fit_decisions, predict_logits, read_decisions, validation_scores


@dataclass
class TrainingConfig:
    # Data
    dataset: str = MISSING  # a folder or a Hub repository that `load_dataset` reads, or a table of one's own proteins
    output_dir: str = MISSING
    dataset_config: str | None = "deeploc2"
    train_split: str = "train"
    validation_split: str = "validation"  # early stopping, calibration and thresholds; neither trained on nor tested
    validation_partition: int | None = None  # of the training split: this homology partition validates instead
    decisions: str | None = None  # a JSON file with calibration and thresholds, of folds.py; then no protein validates
    profiles: str | None = None  # folder of <id>.pssm files, for a data set without profiles
    limit: int | None = None  # proteins of each split, for a quick try
    # Data with labels of one's own: see own_proteins.py
    columns: dict[str, str] = field(default_factory=dict)  # their names in the data: columns.labels=Localisation
    label_names: list[str] = field(default_factory=list)  # what the labels 0, 1, ... stand for
    label_separator: str | None = None  # between the labels of a protein; `;` and `|` by default
    min_proteins: int = 2  # of a label; rarer ones are left out
    validation_share: float = 0.2  # of each label's proteins, where the data name no split
    cluster_identity: float = 0.3  # from which proteins stand on one side of that split, by MMseqs2
    min_validation_proteins: int = 1  # with and without a label, for a calibration and a threshold of its own
    # Model
    model: dict[str, Any] = field(default_factory=dict)  # fields of DeepLocConfig
    initial_weights: str | None = None  # a DeepLoc to start from, with its configuration: deeploc, a folder, a Hub name
    backbone: str | None = None  # folder or Hub name of a transformers encoder, or unirep
    embeddings: str | None = None  # folder of `protloc embed`, read in place of the frozen backbone
    companion: str | None = None  # a trained DeepLoc whose logits are averaged with those of a model on UniRep
    backbone_training: str = "frozen"  # frozen, full or lora
    lora_rank: int = 8
    # Loss and sampling
    class_balance: str = "sqrt"  # positives count by the square root of their rarity; effective_number; none
    oversampling_frequency: float = 0.0  # labels rarer than this are sampled more often
    mask_rate: float = 0.15  # residues replaced by <mask> in training
    teacher: list[str] = field(default_factory=list)  # tables of what a model answers, targets beside the labels
    distillation_weight: float = 0.5  # of the teacher's probabilities; the labels have the rest
    unlabelled: str | None = None  # a data set of proteins without labels, which learn from the teacher alone
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
    log_with: str = "tensorboard"  # or another tracker of Accelerate that is installed
    checkpoint_steps: int = 200
    checkpoints_kept: int = 2
    resume: bool = False
    push_to_hub: str | None = None  # OWNER/NAME of a model repository that gets the trained model
    private: bool = False  # where that repository is new
    seed: int = 0


OWN_SETTINGS = ["columns", "label_names", "label_separator", "min_proteins", "validation_share", "cluster_identity"]
OWN_SETTINGS += ["validation_partition", "seed"]
CHOICES = {
    "class_balance": ["sqrt", "effective_number", "none"],
    "optimizer": ["adamw", "adam", "sgd"],
    "schedule": ["cosine", "constant", "constant_with_warmup", "linear"],
}


def read_config() -> TrainingConfig:
    config = read_settings(TrainingConfig, __doc__)
    check_settings(config, DeepLocConfig, CHOICES)
    if config.backbone and config.initial_weights:
        stop("backbone and initial_weights both name weights to begin with: give one of them")
    if config.decisions and config.validation_partition is not None:
        stop("with decisions all proteins are trained on: leave validation_partition out")
    if config.decisions and not has_compartments(config.dataset, config.dataset_config):
        stop("decisions are of the ten compartments; proteins of one's own are split, and fit theirs")
    if config.unlabelled and not config.teacher:
        stop("unlabelled proteins learn from a teacher: name the tables of its answers with teacher")
    if config.embeddings and (not config.backbone or config.backbone_training != "frozen"):
        stop("embeddings are what a frozen backbone gives: name it with backbone, and leave backbone_training=frozen")
    for name in ("validation_share", "cluster_identity"):
        if not 0 < getattr(config, name) < 1:
            stop(f"{name} must be above 0 and below 1, got {getattr(config, name)}")
    check_output_dir(config)
    check_push(config.push_to_hub)
    return config


def build_optimizer(config: TrainingConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    rate, decay = config.learning_rate, config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(trained, lr=rate, weight_decay=decay)


def load_data(config: TrainingConfig, accelerator: Accelerator) -> tuple[Dataset, Dataset, OwnProteins | None]:
    """Training and validation proteins, not yet encoded; and all about them where they have labels of their own."""
    own = None
    try:
        if has_compartments(config.dataset, config.dataset_config):
            source = config.dataset, config.dataset_config, config.train_split, config.validation_split
            train_set, validation_set = load_proteins(*source, config.validation_partition, bool(config.decisions))
        else:
            if accelerator.is_main_process:  # one split for all processes
                chosen = {name: getattr(config, name) for name in OWN_SETTINGS}
                own = read_own_proteins(config.dataset, config.dataset_config, **chosen)
            [own] = broadcast_object_list([own])
            train_set, validation_set = own.parts["train"], own.parts["validation"]
            accelerator.print("\n".join([*own.notes, own.rule, json.dumps(own.counts())]))
    except (ValueError, OSError) as error:
        named = [repr(name) for name in (config.dataset, config.dataset_config) if name is not None]
        stop(f"cannot read {', '.join(named)}: {one_line(error)}")
    limit = config.limit or max(len(train_set), len(validation_set))
    return train_set.take(min(limit, len(train_set))), validation_set.take(min(limit, len(validation_set))), own


def add_unlabelled(config: TrainingConfig, train_set: Dataset, validation_set: Dataset) -> Dataset:
    """The training proteins, and after them those without labels."""
    if config.unlabelled is None:
        return train_set
    unlabelled = load_unlabelled(config.unlabelled, concatenate_datasets([train_set, validation_set]))
    unlabelled = unlabelled.take(min(config.limit or len(unlabelled), len(unlabelled)))
    return concatenate_datasets([train_set.select_columns(unlabelled.column_names), unlabelled])


def balance_classes(config: TrainingConfig, model_config: DeepLocConfig, targets: np.ndarray) -> None:
    """Weights of the loss by the rarity of the classes, into the model's configuration."""
    counts = class_counts(targets, model_config.num_labels)
    if config.class_balance == "sqrt" and targets.ndim == 2:
        model_config.positive_weights = np.sqrt((len(targets) - counts) / counts).tolist()
    if config.class_balance == "effective_number":
        model_config.class_weights = class_balanced_weights(counts)


def build_loaders(
    config: TrainingConfig,
    model_config: DeepLocConfig,
    train_set: Dataset,
    validation_set: Dataset,
    embeddings: ResidueEmbeddings | None,
    processes: int,
) -> tuple[DataLoader, DataLoader, float]:
    """Batches of similar length for training and validation, and the mean number of windows of a training batch."""
    repeats = None
    if config.oversampling_frequency:
        targets = np.array(train_set["target"])
        labelled = targets.any(axis=-1) if targets.ndim == 2 else np.ones(len(targets), dtype=bool)
        factors = np.ones(len(targets))  # proteins without labels are shown once
        factors[labelled] = repeat_factors(targets[labelled], model_config.num_labels, config.oversampling_frequency)
        repeats = factors.tolist()
    lengths, validation_lengths = (window_lengths(part, model_config) for part in (train_set, validation_set))
    budget = config.max_tokens_per_batch
    sampler = TokenBudgetBatchSampler(lengths, budget, config.seed, processes, config.max_proteins_per_batch, repeats)
    collate_batch = partial(collate, pad_token_id=model_config.pad_token_id, embeddings=embeddings)
    train_loader = DataLoader(train_set, batch_sampler=sampler, collate_fn=collate_batch)
    batches = token_budget_batches(validation_lengths, 2 * budget)
    validation_loader = DataLoader(validation_set, batch_sampler=batches, collate_fn=collate_batch)
    return train_loader, validation_loader, float(np.mean([len(batch) for batch in sampler]))


def train(config: TrainingConfig, accelerator: Accelerator) -> None:
    # Model and data
    embeddings = read_embeddings(config)
    train_proteins, validation_proteins, own = load_data(config, accelerator)
    model, tokenizer = build_model(config, embeddings, own)
    model_config = model.config
    if own is None and list(model_config.id2label.values()) != COMPARTMENTS:
        stop("model.id2label must be the ten DeepLoc compartments")
    answers = None
    labelled = len(train_proteins)
    try:
        train_proteins = add_unlabelled(config, train_proteins, validation_proteins)
        if reads_frozen(config, model_config):
            folder = Path(config.output_dir) / "embeddings"
            if accelerator.is_main_process:
                embed_frozen(model, tokenizer, [*train_proteins["sequence"], *validation_proteins["sequence"]], folder)
            accelerator.wait_for_everyone()
            embeddings = ResidueEmbeddings(folder)
        decisions = read_decisions(config.decisions, model_config.num_labels) if config.decisions else None
        if config.teacher:
            names = list(model_config.id2label.values())
            answers = read_teacher(config.teacher, train_proteins["id"], names, model_config.membrane)
        with accelerator.main_process_first():
            train_set, validation_set = (
                encode(proteins, model_config, tokenizer, config.profiles, embeddings, config.companion is not None)
                for proteins in (train_proteins, validation_proteins)
            )
        if embeddings is not None and not reads_regions(model_config):
            for residues in itertools.chain(train_set["residues"], validation_set["residues"]):
                embeddings.check(residues)
    except (ValueError, OSError) as error:
        stop(one_line(error))
    if accelerator.is_main_process:
        save_settings(config)
    targets = np.array(train_set["target"])
    balance_classes(config, model_config, targets[targets.any(axis=1)] if config.unlabelled else targets)
    train_loader, validation_loader, mean_batch_size = build_loaders(
        config, model_config, train_set, validation_set, embeddings, accelerator.num_processes
    )

    # Optimizer
    optimizer = build_optimizer(config, model)
    steps = steps_per_epoch(accelerator, len(train_loader)) * config.epochs
    scheduler = get_scheduler(config.schedule, optimizer, round(config.warmup_fraction * steps), steps)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    accelerator.print(
        f"{len(train_proteins)} proteins, {len(train_loader)} batches an epoch, {steps} steps, "
        f"{trained:,} trained parameters, mixed precision {accelerator.mixed_precision}"
    )
    loop = Loop(
        *(accelerator, config, model, optimizer, scheduler, train_loader, validation_loader),
        criterion="epoch" if config.decisions else "macro_auprc",
        maximize=True,
    )

    # Training
    def backward(batch: Batch, place: Place) -> dict[str, torch.Tensor | float]:
        mask_residues(batch, config.mask_rate, model_config)
        protein = batch.pop("protein")
        if answers is not None:
            teach(batch, answers[protein.cpu()], config.distillation_weight)
        loss = loop.model(**batch).loss
        # Batches of short proteins hold more of them: each protein counts the same.
        accelerator.backward(loss * len(protein) / mean_batch_size)
        return {"loss": loss.detach()}

    def validate() -> dict[str, float]:
        if config.decisions:
            return {"epoch": loop.progress.epoch + 1}
        logits, *others = predict_logits(accelerator, loop.judged, loop.validation_loader)
        check_finite("the largest logit of the validation split", logits.abs().max().item())
        return validation_scores(list(model_config.id2label.values()), logits, *others)

    loop.run(
        backward, validate, "decisions are given" if decisions else f"{len(validation_proteins)} validation proteins"
    )

    # Calibration and thresholds on raw logits of the best epoch
    best = loop.best_model(DeepLocForSequenceClassification)
    if config.companion:
        best.add_companion(load_model(config.companion, accelerator.device.type, "float32")[0])
    remarks: list[str] = []
    if decisions:
        best.config.update(decisions)
    else:
        found = predict_logits(accelerator, best, loop.validation_loader)
        few = fit_decisions(best.config, *found, min_proteins=config.min_validation_proteins)
        remarks = [few_labels(few, best.config, config.min_validation_proteins), flat_labels(best.config)]
    for remark in filter(None, remarks):
        accelerator.print(f"warning: {remark}")
    if accelerator.is_main_process:
        locator = pipeline("protein-localization", model=best, tokenizer=tokenizer)
        locator.save_pretrained(config.output_dir, state_dict=rounded(best))
        report = loop.report("training.deeploc.train", proteins=labelled, unlabelled=len(train_proteins) - labelled)
        start, evaluation = config.initial_weights or config.backbone, None
        if own is not None:
            report |= {"rule": own.rule, "remarks": [*own.notes, *filter(None, remarks)], "counts": own.counts()}
            evaluation = evaluate_own(best, tokenizer, own, Path(config.output_dir))
        publish(config, "deeploc", report, best, [config.dataset], start, evaluation)


def main() -> None:
    config = read_config()
    accelerator = start_accelerator(config)
    train(config, accelerator)
    end_training(accelerator)


if __name__ == "__main__":
    main()
