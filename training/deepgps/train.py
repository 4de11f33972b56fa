"""
Train deepGPS.

    # a toy run on a CPU, about a minute, on the OpenCell data set of datasets_scripts/build_opencell.py
    accelerate launch --cpu -m training.deepgps.train training/configs/deepgps_toy.yaml
    # the shipped checkpoint: states of its encoder first, then under an hour on a core
    protloc embed data/proteins/data/*.parquet data/opencell/data/*.parquet data/hpa/data/*.parquet -o data/states
    accelerate launch --cpu --num_cpu_threads_per_process 2 -m training.deepgps.train training/configs/deepgps.yaml
    # the published model (Yuan et al. 2025) with ESM-2, on one GPU and on many
    protloc embed data/opencell/data/*.parquet --model facebook/esm2_t33_650M_UR50D -o data/states-650M
    accelerate launch -m training.deepgps.train training/configs/deepgps_paper.yaml
    accelerate launch --multi_gpu -m training.deepgps.train training/configs/deepgps_single2.yaml
    # an encoder of 3 or 15 billion parameters that is trained too
    accelerate launch --config_file training/configs/fsdp.yaml -m training.deepgps.train \
        training/configs/deepgps_single2.yaml backbone=facebook/esm2_t36_3B_UR50D backbone_training=full states=null \
        ema_decay=0
    # go on after a stop
    accelerate launch -m training.deepgps.train training/configs/deepgps.yaml resume=true

The first argument is a YAML file with fields of `TrainingConfig`; `field=value` overrides it. `output_dir` receives
checkpoints to resume from, TensorBoard logs with pictures, and at the end the model with its processor.
"""

import dataclasses
import math
import shlex
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DataLoaderConfiguration, DistributedDataParallelKwargs, skip_first_batches
from accelerate.utils import DistributedType, ProjectConfiguration, set_seed
from omegaconf import MISSING, OmegaConf
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer, get_scheduler, pipeline

from protloc import ASSETS, DeepGPSConfig, DeepGPSImageProcessor, DeepGPSModel, DeepGPSProcessor
from protloc.batching import token_budget_batches
from protloc.embedding import SequenceStates, weights_digest
from protloc.loading import LOAD_ERRORS, one_line
from protloc.microscopy import DEFAULT_NUCLEUS
from protloc.taxonomy import IMAGE_CLASSES
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
from training.deepgps.data import Crops, CropSampler, ImageSource, LabelledProteins, ProteinReader, hold_out, load_crops
from training.deepgps.validation import (
    SHOWN,
    calibrate,
    label_validation_scores,
    panel,
    protein_logits,
    validate_images,
)


@dataclass
class TrainingConfig:
    # Data
    images: list[ImageSource] = MISSING  # data sets of crops
    output_dir: str = MISSING
    validation_share: float = 0.1  # of the training crops, held out for early stopping
    validation_by: str = "gene"  # or source_image: what is never on both sides
    proteins: str | None = None  # labelled sequences: learnt too, and partners of cells without a sequence
    source_weights: dict[str, float] = field(default_factory=dict)  # how much likelier proteins of a source are drawn
    states: str | None = None  # folder of `protloc embed`, in place of the encoder
    structures: str | None = None  # folder of PDB or mmCIF files, for models that read them
    limit: int | None = None  # crops of each part, for a quick try
    # Model
    labels: list[str] = field(default_factory=lambda: IMAGE_CLASSES[:2])
    model: dict[str, Any] = field(default_factory=dict)  # fields of DeepGPSConfig
    backbone: str = str(ASSETS / "deeploc")  # folder or Hub name of a transformers encoder or a DeepLoc
    backbone_training: str = "frozen"  # frozen, full or lora
    lora_rank: int = 8
    initial_weights: str | None = None  # a deepGPS of this shape to go on from
    gradient_checkpointing: bool = False
    # Optimization
    epochs: int = 50
    batch_size: int = 16  # crops on each process
    proteins_per_step: int = 32  # sequences without an image on each process, where `proteins` is given
    max_tokens_per_pass: int = 12000  # of those sequences, padding included
    gradient_accumulation_steps: int = 1
    augment: bool = True  # turn and flip
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    schedule: str = "cosine"  # down to 0 after the warm-up; constant; or decay: 0.9 times an epoch, as published
    warmup_fraction: float = 0.05  # of all optimizer steps
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # above 0, the moving average of the weights is validated and kept
    early_stopping_patience: int = 10  # epochs without a lower image loss on the validation part
    # Running
    mixed_precision: str = "auto"  # bf16 where the hardware has it natively, else no
    workers: int = 0  # processes that load crops
    checkpoint_steps: int = 200
    checkpoints_kept: int = 2
    resume: bool = False
    push_to_hub: str | None = None  # OWNER/NAME of a model repository that gets the trained model
    private: bool = False  # where that repository is new
    seed: int = 0


CHOICES = {
    "backbone_training": ["frozen", "full", "lora"],
    "validation_by": ["gene", "source_image"],
    "schedule": ["cosine", "constant", "decay"],
    "mixed_precision": MIXED_PRECISION,
}


def read_config() -> TrainingConfig:
    config = read_settings(TrainingConfig, __doc__)
    # A configuration takes any keyword, and a misspelt one would train the default for hours.
    unknown = config.model.keys() - {known.name for known in fields(DeepGPSConfig)}
    if unknown:
        stop(f"model.{min(unknown)} is no field of DeepGPSConfig")
    wrong = set(config.labels) - set(IMAGE_CLASSES)
    if wrong:
        stop(f"labels: {min(wrong)!r} is none of {', '.join(IMAGE_CLASSES)}")
    check_choices(config, CHOICES)
    if not 0 < config.validation_share < 1:
        stop(f"validation_share must be between 0 and 1, got {config.validation_share}")
    if config.limit is not None and config.limit < 1:
        stop(f"limit must be 1 or more, got {config.limit}")
    if config.states and config.backbone_training != "frozen":
        stop("states hold what a frozen encoder says: give states=null to train it, or backbone_training=frozen")
    if config.proteins and "structure" in config.model.get("inputs", ""):
        stop("proteins have sequences and no structures: give proteins=null to a model that reads structures")
    check_output_dir(config)
    check_push(config.push_to_hub)
    return config


def build_model(config: TrainingConfig) -> tuple[DeepGPSModel, Any]:
    """The model before training, and its tokenizer."""
    names = {
        "id2label": dict(enumerate(config.labels)),
        "label2id": {label: number for number, label in enumerate(config.labels)},
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(config.backbone)
        if config.initial_weights:
            model = DeepGPSModel.from_pretrained(config.initial_weights, **names, **config.model)
        else:
            model = DeepGPSModel.from_backbone_pretrained(config.backbone, **names, **config.model)
    except (*LOAD_ERRORS, TypeError) as error:
        stop(f"cannot build on {(config.initial_weights or config.backbone)!r}: {one_line(error)}")
    if model.reads_sequence:
        try:
            set_backbone_training(model, config.backbone_training, config.lora_rank)
        except ValueError as error:
            stop(str(error))
    if config.gradient_checkpointing:
        try:
            model.gradient_checkpointing_enable()
            model.unet.enable_gradient_checkpointing()
        except (ValueError, AttributeError):
            stop("this encoder or image network has no gradient checkpointing: leave gradient_checkpointing out")
    return model, tokenizer


def encoder_of(model: DeepGPSModel) -> tuple[int, str]:
    """Size of its states, and the digest of its weights."""
    return model.config.sequence_size, weights_digest(model.backbone)


def build_schedule(config: TrainingConfig, optimizer, steps_per_epoch: int):
    """Not prepared by accelerate, which would step it once for each process."""
    if config.schedule == "decay":
        return LambdaLR(optimizer, lambda step: 0.9 ** (step // steps_per_epoch))
    total = steps_per_epoch * config.epochs
    name = "constant_with_warmup" if config.schedule == "constant" else "cosine"
    return get_scheduler(name, optimizer, round(config.warmup_fraction * total), total)


def learn_labels(config: TrainingConfig, accelerator: Accelerator, model, proteins, reader, numbers) -> float:
    """Gradients of this process's part of a draw of proteins, in passes of similar length; their mean loss."""
    drawn, labels = proteins.draw(config.proteins_per_step * accelerator.num_processes, numbers)
    own = slice(accelerator.process_index, None, accelerator.num_processes)
    drawn, labels = drawn[own], labels[own]
    total = 0.0
    for part in token_budget_batches([len(sequence) for sequence in drawn], config.max_tokens_per_pass):
        inputs = reader([drawn[i] for i in part], [""] * len(part)) | {"labels": labels[part]}
        with accelerator.no_sync(model):
            loss = model(**{name: tensor.to(accelerator.device) for name, tensor in inputs.items()}).loss
            accelerator.backward(loss * len(part) / len(drawn))
        total += loss.item() * len(part) / len(drawn)
    return total


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
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        # A step over sequences alone leaves the image network out.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=config.proteins is not None)],
    )
    set_seed(config.seed)
    whole_weights = config.ema_decay or config.backbone_training == "lora"
    if accelerator.distributed_type == DistributedType.FSDP and whole_weights:
        stop("moving averages and low-rank updates need whole weights: under FSDP give ema_decay=0 and no lora")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        if config.proteins:
            stop("DeepSpeed steps at every backward pass, and proteins need several: use FSDP, or proteins=null")
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch_size

    # Model and data
    model, tokenizer = build_model(config)
    model_config = model.config
    proteins = known = None
    try:
        reader = ProteinReader(
            model_config, tokenizer, SequenceStates(config.states) if config.states else None, config.structures
        )
        states = reader.states
        if states and model.reads_sequence and (states.size, states.weights) != encoder_of(model):
            raise ValueError(
                f"{config.states} holds states of other weights than {config.backbone}'s: see protloc embed"
            )
        if config.proteins:
            proteins = LabelledProteins(config.proteins, "train", config.labels, config.source_weights)
            known = LabelledProteins(config.proteins, "validation", config.labels, human_only=True)
            for sequence in proteins.sequences + known.sequences:
                if not reader.can_read(sequence, ""):
                    raise ValueError(f"{config.states} has no states of {sequence[:20]}...: add it with protloc embed")
        parts = hold_out(
            load_crops(config.images, "train", config.labels), config.validation_share, config.validation_by
        )
        train_set, validation_set = (
            Crops(part, source.partners() if source else {}, reader, augment, config.seed)
            for part, source, augment in zip(parts, (proteins, known), (config.augment, False), strict=True)
        )
    except (ValueError, OSError) as error:
        stop(f"cannot read the data: {one_line(error)}")
    if config.limit:
        train_set.crops = train_set.crops.select(range(min(config.limit, len(train_set))))
        validation_set.crops = validation_set.crops.select(range(min(config.limit, len(validation_set))))
        train_set.repeats = train_set.repeats[: config.limit]
    if not len(train_set) or not len(validation_set):
        stop(
            f"{len(train_set)} crops to learn and {len(validation_set)} to validate with: both are needed; crops "
            "without a sequence need `proteins`"
        )
    if accelerator.is_main_process:
        output_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.structured(config), output_dir / SETTINGS)

    sampler = CropSampler(train_set.repeats, config.batch_size, config.seed, accelerator.num_processes)
    train_loader = DataLoader(
        train_set, batch_sampler=sampler, collate_fn=train_set.collate, num_workers=config.workers
    )
    validation_loader = DataLoader(validation_set, config.batch_size, collate_fn=validation_set.collate)
    steps_per_epoch = math.ceil(len(sampler) / accelerator.num_processes / config.gradient_accumulation_steps)
    if not steps_per_epoch:
        stop(f"{len(train_set)} crops are less than a batch of {config.batch_size} on every process: lower batch_size")

    # Optimizer
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    if config.ema_decay:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay)).to(accelerator.device)
    scheduler = build_schedule(config, optimizer, steps_per_epoch)
    model, optimizer, train_loader, validation_loader = accelerator.prepare(
        model, optimizer, train_loader, validation_loader
    )
    progress = Progress()
    accelerator.register_for_checkpointing(scheduler, progress)
    if config.ema_decay:
        accelerator.register_for_checkpointing(average)
    judged: Any = average.module if config.ema_decay else accelerator.unwrap_model(model)  # what is validated and kept
    accelerator.init_trackers("tensorboard")
    accelerator.print(
        f"{len(train_set)} crops to learn, {len(validation_set)} to validate with, {train_set.left_out} left out for "
        f"want of a sequence or structure; {len(proteins.sequences) if proteins else 0} labelled proteins; "
        f"{steps_per_epoch} steps an epoch; {sum(p.numel() for p in trained):,} trained parameters; "
        f"mixed precision {mixed_precision}"
    )

    if config.resume and checkpoints(checkpoint_dir):
        latest = checkpoints(checkpoint_dir)[-1]
        accelerator.load_state(str(latest))
        accelerator.print(f"resumed from {latest}: epoch {progress.epoch}, batch {progress.batch}")

    # Training
    model.train()
    while progress.epoch < config.epochs and progress.epochs_since_best < config.early_stopping_patience:
        sampler.set_epoch(progress.epoch)
        train_set.epoch = progress.epoch
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
            # Dropout and noise depend on the batch's place alone: a run that resumes goes on as if never stopped.
            place = (config.seed, progress.epoch, progress.batch)
            torch.manual_seed(hash((*place, accelerator.process_index)))
            losses = {}
            with accelerator.accumulate(model):
                if proteins and model_config.classify:
                    losses["train/label_loss"] = learn_labels(
                        config, accelerator, model, proteins, reader, np.random.default_rng(place)
                    )
                loss = model(**batch).loss
                accelerator.backward(loss)
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
                losses |= {"train/loss": loss.item(), "train/lr": scheduler.get_last_lr()[0]}
                accelerator.log(losses, progress.step)
                bar.set_postfix(loss=f"{loss.item():.4f}")
                if progress.step % config.checkpoint_steps == 0:
                    save_checkpoint(accelerator, checkpoint_dir, progress, config.checkpoints_kept)

        scores = validate_images(accelerator, judged, validation_loader)
        if known and model_config.classify:
            scores |= label_validation_scores(protein_logits(accelerator, judged, known, reader), known.labels)
        if accelerator.is_main_process:
            some = validation_set.collate([validation_set[i] for i in range(min(SHOWN, len(validation_set)))])
            some = {name: tensor.to(accelerator.device) for name, tensor in some.items()}
            accelerator.get_tracker("tensorboard").log_images(
                {"validation": panel(judged, some)}, step=progress.step, dataformats="NHWC"
            )
        progress.seconds += time.monotonic() - clock
        progress.scores.append(scores)
        accelerator.log({f"validation/{name}": value for name, value in scores.items()}, progress.step)
        found = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        accelerator.print(f"epoch {progress.epoch + 1}: {found}")
        progress.epoch, progress.batch = progress.epoch + 1, 0
        progress.epochs_since_best += 1
        # By the images alone: the labels are calibrated at the end, and rank the same long before.
        score = -scores["image_loss"]
        if not math.isfinite(score):
            stop(f"the image loss is {-score}: lower learning_rate, or raise warmup_fraction")
        if score > progress.best_score:
            progress.best_score, progress.epochs_since_best = score, 0
            # Gathered from all processes where the weights are cut over them (FSDP); merging and averages are whole.
            weights = None
            if accelerator.distributed_type == DistributedType.FSDP:
                weights = accelerator.get_state_dict(model)
            if accelerator.is_main_process:
                merged(judged).save_pretrained(output_dir / "best", state_dict=weights)
        save_checkpoint(accelerator, checkpoint_dir, progress, config.checkpoints_kept)

    # The best epoch, its labels calibrated on the validation split
    accelerator.wait_for_everyone()
    best = DeepGPSModel.from_pretrained(output_dir / "best").to(accelerator.device)
    if known and best.config.classify:
        calibrate(best, protein_logits(accelerator, best, known, reader), known.labels)
    if accelerator.is_main_process:
        # Weights are stored in bfloat16, at half the size; the configuration keeps float32 to compute in.
        stored = {name: value.bfloat16() for name, value in best.state_dict().items()}
        processor = DeepGPSProcessor(tokenizer, DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))
        drawer = pipeline("protein-imaging", model=best.eval(), processor=processor)
        drawer.save_pretrained(output_dir, state_dict=stored)
        arguments = [argument for argument in sys.argv[1:] if argument != "resume=true"]
        report = {
            "command": shlex.join(["python", "-m", "training.deepgps.train", *arguments]),
            "processes": accelerator.num_processes,
            "training": dataclasses.asdict(config),
            "crops": len(train_set),
            "validation_crops": len(validation_set),
            "proteins": len(proteins.sequences) if proteins else 0,
            "seconds": progress.seconds,
            "steps": progress.step,
            "validation": {"epochs": progress.scores},
        }
        datasets = [*(source.dataset for source in config.images), config.proteins]
        finish(config, "deepgps", report, best, datasets, config.backbone)
    accelerator.end_training()


if __name__ == "__main__":
    main()
