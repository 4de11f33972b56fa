"""
Train deepGPS.

    # a toy run on a CPU, about a minute, on the OpenCell data set of datasets_scripts/build_opencell.py
    accelerate launch --cpu -m training.deepgps.train training/configs/deepgps_toy.yaml
    # the shipped checkpoint: residue embeddings of its encoder first, then under an hour on a core
    protloc embed data/proteins/data/*.parquet data/opencell/data/*.parquet data/hpa/data/*.parquet -o data/embeddings
    accelerate launch --cpu --num_cpu_threads_per_process 2 -m training.deepgps.train training/configs/deepgps.yaml
    # the published model (Yuan et al. 2025) with ESM-2, on one GPU and on many
    protloc embed data/opencell/data/*.parquet --model facebook/esm2_t33_650M_UR50D -o data/embeddings-650M
    accelerate launch -m training.deepgps.train training/configs/deepgps_paper.yaml
    accelerate launch --multi_gpu -m training.deepgps.train training/configs/deepgps_single2.yaml
    # an encoder of 3 or 15 billion parameters that is trained too
    accelerate launch --config_file training/configs/fsdp.yaml -m training.deepgps.train \
        training/configs/deepgps_single2.yaml backbone=facebook/esm2_t36_3B_UR50D backbone_training=full \
        embeddings=null gradient_checkpointing=true ema_decay=0
    # your own pairs of images and categories, from the shipped weights (docs/finetune.md)
    accelerate launch --cpu -m training.deepgps.train training/configs/deepgps_finetune.yaml
    # resume an interrupted run
    accelerate launch -m training.deepgps.train training/configs/deepgps.yaml resume=true

The first argument is a YAML file with fields of `TrainingConfig`; `field=value` overrides it. The run writes
checkpoints to resume from, TensorBoard logs with images and finally the model with its processor to `output_dir`.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, gather_object
from omegaconf import MISSING
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerBase, get_scheduler, pipeline

from protloc import DeepGPSConfig, DeepGPSImageProcessor, DeepGPSModel, DeepGPSProcessor
from protloc.batching import token_budget_batches
from protloc.embedding import ResidueEmbeddings, weights_digest
from protloc.loading import LOAD_ERRORS, model_path, one_line
from protloc.microscopy import DEFAULT_NUCLEUS
from protloc.taxonomy import IMAGE_CLASSES, image_class
from training.common.backbones import set_backbone_training
from training.common.loop import Batch, Loop, Place, end_training, rounded, start_accelerator, steps_per_epoch
from training.common.publish import check_push, publish
from training.common.settings import (
    check_output_dir,
    check_settings,
    read_settings,
    save_settings,
    stop,
)
from training.common.splits import check_apart
from training.deepgps.adversary import Discriminator, deception_loss, discriminator_loss
from training.deepgps.data import (
    Crops,
    CropSampler,
    ImageSource,
    LabelledProteins,
    ProteinReader,
    data_labels,
    hold_out,
    load_crops,
)
from training.deepgps.validation import (
    calibrate,
    label_validation_scores,
    log_panel,
    protein_logits,
    validate_images,
)

MIN_ADVERSARIAL_SIDE = 64  # pixels: the discriminator sees a quarter of them, and halves it three times
MAX_TOKENS_PER_PASS = 12_000  # of sequences without an image, padding included


@dataclass
class TrainingConfig:
    # Data
    images: list[ImageSource] = MISSING  # data sets of crops
    output_dir: str = MISSING
    validation_share: float = 0.1  # of the training crops, held out for early stopping
    validation_by: str = "gene"  # or source_image: what is never on both sides
    proteins: str | None = None  # labelled sequences: trained on too, and partners of cells without one
    source_weights: dict[str, float] = field(default_factory=dict)  # how much likelier proteins of a source are drawn
    embeddings: str | None = None  # residue embeddings of `protloc embed`, in place of the encoder
    structures: str | None = None  # folder of PDB or mmCIF files, for models that read them
    limit: int | None = None  # crops of each part, for a quick try
    balance_classes: bool = False  # whether every class has as many crops in an epoch
    # Model
    labels: list[str] = field(default_factory=lambda: IMAGE_CLASSES[:2])  # of the data; empty: all of the crops'
    model: dict[str, Any] = field(default_factory=dict)  # fields of DeepGPSConfig
    backbone: str | None = None  # folder or Hub name of a transformers encoder or a DeepLoc; the shipped one by default
    backbone_training: str = "frozen"  # frozen, full or lora
    lora_rank: int = 8
    initial_weights: str | None = None  # a deepGPS to start from, with its configuration: deepgps, a folder, a Hub name
    gradient_checkpointing: bool = False
    # Optimization
    epochs: int = 50
    batch_size: int = 16  # crops on each process
    proteins_per_step: int = 32  # sequences without an image on each process, where `proteins` is given
    gradient_accumulation_steps: int = 1
    augment: bool = True  # turn and flip
    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    schedule: str = "cosine"  # down to 0 after the warm-up; constant; or decay: 0.9 times an epoch, as published
    warmup_fraction: float = 0.05  # of all optimizer steps
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0  # above 0, the moving average of the weights is validated and kept
    early_stopping_patience: int = 10  # epochs without better images of the validation part
    discriminator_channels: int = 32  # of an adversarial model's opponent
    discriminator_learning_rate: float = 2e-4
    # Running
    mixed_precision: str = "auto"  # bf16 where the hardware has it natively, else no
    workers: int = 0  # processes that load crops
    log_with: str = "tensorboard"  # or another tracker of Accelerate that is installed
    checkpoint_steps: int = 200
    checkpoints_kept: int = 2
    resume: bool = False
    push_to_hub: str | None = None  # OWNER/NAME of a model repository that gets the trained model
    private: bool = False  # where that repository is new
    seed: int = 0


CHOICES = {
    "validation_by": ["gene", "source_image"],
    "schedule": ["cosine", "constant", "decay"],
}


def read_config() -> TrainingConfig:
    config = read_settings(TrainingConfig, __doc__)
    check_settings(config, DeepGPSConfig, CHOICES)
    if config.backbone and config.initial_weights:
        stop("backbone and initial_weights both name an encoder to begin with: give one of them")
    if config.model.get("problem_type") == "multi_label_classification":
        stop("training teaches one label of each crop: leave model.problem_type out")
    if not 0 < config.validation_share < 1:
        stop(f"validation_share must be between 0 and 1, got {config.validation_share}")
    if config.embeddings and config.backbone_training != "frozen":
        stop("embeddings are those of a frozen encoder: give embeddings=null to train it, or backbone_training=frozen")
    if config.proteins and "structure" in config.model.get("inputs", ""):
        stop("proteins have sequences and no structures: give proteins=null to a model that reads structures")
    check_output_dir(config)
    check_push(config.push_to_hub)
    return config


def choose_labels(config: TrainingConfig) -> list[str]:
    """The labels of the model, which the data must have: those given, or all of the crops."""
    try:
        known = data_labels(config.images, config.proteins)
        of_crops = data_labels(config.images)
    except (ValueError, OSError) as error:
        stop(f"cannot read the data: {one_line(error)}")
    named = {*known, *filter(None, (image_class([name]) for name in known))}
    wrong = set(config.labels) - named
    if wrong:
        stop(f"labels: {min(wrong)!r} is none of the data's: {', '.join(sorted(named))}")
    return config.labels or of_crops


def load_initial(path: str, labels: dict[str, Any], fields: dict[str, Any]) -> DeepGPSModel:
    """
    A trained deepGPS with its own configuration but for `fields`; what knows its labels begins anew where they are
    others.

    Raises:
        ValueError: In one sentence, if other weights are missing, left over or of another shape.
    """
    before = DeepGPSConfig.from_pretrained(path)
    model, found = DeepGPSModel.from_pretrained(
        path, output_loading_info=True, ignore_mismatched_sizes=True, dtype="float32", **labels, **fields
    )
    last = f"classifier.{len(model.classifier) - 1}." if model.config.classify else "classifier."
    for kind in ("missing", "unexpected", "mismatched"):
        for name in sorted(str(key[0] if isinstance(key, tuple) else key) for key in found[f"{kind}_keys"]):
            if not name.startswith((last, "label_latent.")):
                raise ValueError(f"its weights don't fit the settings of model: {name} is {kind}")
    if model.config.classify and list(before.id2label.values()) != list(labels["id2label"].values()):
        model.classifier[-1].reset_parameters()
        if model.config.condition_on_label:
            model.label_latent.reset_parameters()
    return model


def build_model(config: TrainingConfig) -> tuple[DeepGPSModel, PreTrainedTokenizerBase]:
    """The model before training, and its tokenizer."""
    labels = choose_labels(config)
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    start = config.initial_weights or config.backbone or "deeploc"
    try:
        path = model_path(start)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        if config.initial_weights:
            model = load_initial(path, names, config.model)
        else:
            model = DeepGPSModel.from_backbone_pretrained(path, **names, **config.model)
    except (*LOAD_ERRORS, TypeError) as error:
        stop(f"cannot build on {start!r}: {one_line(error)}")
    if model.config.projection_size:
        if not config.embeddings and not config.initial_weights:
            stop("model.projection_size needs embeddings that protloc embed --project has fitted")
        model.projection.requires_grad_(False)
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


def build_schedule(config: TrainingConfig, optimizer: torch.optim.Optimizer, epoch_steps: int) -> LRScheduler:
    """Learning rate by optimizer step."""
    if config.schedule == "decay":
        return LambdaLR(optimizer, lambda step: 0.9 ** (step // epoch_steps))
    total = epoch_steps * config.epochs
    name = "constant_with_warmup" if config.schedule == "constant" else "cosine"
    return get_scheduler(name, optimizer, round(config.warmup_fraction * total), total)


@dataclass
class Data:
    """What a deepGPS is trained and validated on."""

    reader: ProteinReader
    train: Crops
    validation: Crops
    proteins: LabelledProteins | None  # trained on beside the crops
    validation_proteins: LabelledProteins | None


def use_projection(model: DeepGPSModel, embeddings: ResidueEmbeddings, config: TrainingConfig) -> None:
    """Take the projection of the embeddings into a new model; `ValueError` if the model's is another."""
    size = embeddings.size if embeddings.projection else 0
    if size != model.config.projection_size:
        raise ValueError(
            f"{config.embeddings} holds {embeddings.size} numbers a residue, and the model reads "
            f"{model.config.residue_size}: set model.projection_size={size}"
        )
    if embeddings.projection and not config.initial_weights:
        model.projection.load_state_dict(embeddings.projection)
    elif embeddings.projection:
        own = model.projection.state_dict()
        if any(not torch.equal(own[name], weight) for name, weight in embeddings.projection.items()):
            raise ValueError(f"{config.embeddings} has another projection than {config.initial_weights}")


def load_data(config: TrainingConfig, model: DeepGPSModel, tokenizer: PreTrainedTokenizerBase) -> Data:
    proteins = known = None
    labels = list(model.config.id2label.values())
    try:
        embeddings = ResidueEmbeddings(config.embeddings) if config.embeddings else None
        reader = ProteinReader(model.config, tokenizer, embeddings, config.structures)
        if embeddings and model.reads_sequence:
            if embeddings.weights != weights_digest(model.backbone):
                raise ValueError(
                    f"{config.embeddings} holds residue embeddings of other weights than the encoder's: make them "
                    "with protloc embed"
                )
            use_projection(model, embeddings, config)
        if config.proteins:
            proteins = LabelledProteins(config.proteins, "train", labels, config.source_weights)
            known = LabelledProteins(config.proteins, "validation", labels, human_only=True)
            check_apart(proteins.sequences, known.sequences, f"sequences of {config.proteins}")
            for sequence in proteins.sequences + known.sequences:
                if not reader.can_read(sequence, ""):
                    raise ValueError(
                        f"{config.embeddings} has no residue embeddings of {sequence[:20]}...: add them with "
                        "protloc embed"
                    )
        crops = load_crops(config.images, "train", labels)
        parts = hold_out(crops, config.validation_share, config.validation_by)
        # Images of a compartment need no protein where other sequences teach the labels.
        crop_reader = reader if model.config.condition_on_residues or not proteins else None
        train, validation = (
            Crops(
                *(part, source.partners() if source else {}, crop_reader),
                *(model.config, augment, config.seed),
            )
            for part, source, augment in zip(parts, (proteins, known), (config.augment, False), strict=True)
        )
    except (ValueError, OSError) as error:
        stop(f"cannot read the data: {one_line(error)}")
    for part in (train, validation):
        part.limit(config.limit or len(part))
    if config.balance_classes:
        train.balance()
    if not len(train) or not len(validation):
        stop(
            f"{len(train)} crops to train on and {len(validation)} to validate with: both are needed; crops without a "
            "sequence need `proteins`"
        )
    return Data(reader, train, validation, proteins, known)


def build_loaders(config: TrainingConfig, data: Data, processes: int) -> tuple[DataLoader, DataLoader]:
    sampler = CropSampler(data.train, config.batch_size, config.seed, processes)
    if not len(sampler):
        stop(f"{len(data.train)} crops are less than a batch of {config.batch_size} on every process: lower batch_size")
    return (
        DataLoader(data.train, batch_sampler=sampler, collate_fn=data.train.collate, num_workers=config.workers),
        DataLoader(data.validation, config.batch_size, collate_fn=data.validation.collate),
    )


def backward_labels(
    config: TrainingConfig, accelerator: Accelerator, model: Any, data: Data, numbers: np.random.Generator
) -> float:
    """Gradients of this process's part of a draw of proteins, in passes of similar length; their mean loss."""
    assert data.proteins
    drawn, labels = data.proteins.draw(config.proteins_per_step * accelerator.num_processes, numbers)
    own = slice(accelerator.process_index, None, accelerator.num_processes)
    drawn, labels = drawn[own], labels[own]
    total = 0.0
    parts = list(token_budget_batches([len(sequence) for sequence in drawn], MAX_TOKENS_PER_PASS))
    passes = len(parts)
    if accelerator.distributed_type == DistributedType.FSDP:  # all processes pass as often, some of them for nothing
        passes = max(gather_object([passes]))
    for number in range(passes):
        part = parts[min(number, len(parts) - 1)]
        weight = len(part) / len(drawn) * (number < len(parts))
        inputs = data.reader([drawn[i] for i in part], [""] * len(part)) | {"labels": labels[part]}
        with accelerator.no_sync(model):
            loss = model(**{name: tensor.to(accelerator.device) for name, tensor in inputs.items()}).loss
            accelerator.backward(loss * weight)
        total += loss.item() * weight
    return total


Opponent = tuple[torch.nn.Module, torch.optim.Optimizer]


def build_opponent(config: TrainingConfig, accelerator: Accelerator, model: DeepGPSModel) -> Opponent:
    """The discriminator and its optimizer; what is prepared is saved with every checkpoint."""
    if model.config.image_size < MIN_ADVERSARIAL_SIDE:
        stop(f"image_size is {model.config.image_size}: an adversarial model needs {MIN_ADVERSARIAL_SIDE} or more")
    if accelerator.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        stop(
            "an adversarial model has two networks to train, which FSDP and DeepSpeed don't take: use several processes"
        )
    # Convolutions of a CPU are several times faster with the channels beside each other.
    model.unet.to(memory_format=torch.channels_last)
    network: Any = Discriminator(model.config.num_labels, config.discriminator_channels)
    network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.discriminator_learning_rate, betas=(0.5, 0.99))
    return accelerator.prepare(network, optimizer)


def backward_adversarial(
    accelerator: Accelerator, model: Any, opponent: Opponent, batch: Batch
) -> dict[str, torch.Tensor | float]:
    """A step of the opponent, and the gradients of the model; the losses of both."""
    network, optimizer = opponent
    outputs = model(**batch)
    drawn, known = outputs.protein_image, (batch["nucleus"], batch["labels"])
    real_scores = network(known[0], batch["protein"], known[1])
    drawn_scores = network(known[0], drawn.detach(), known[1])
    opponent_loss = discriminator_loss(real_scores, drawn_scores)
    accelerator.backward(opponent_loss)
    optimizer.step()
    optimizer.zero_grad()
    judge = accelerator.unwrap_model(network).requires_grad_(False)  # no gradients of its own in the model's turn
    with accelerator.autocast():
        convinced = deception_loss(judge(known[0], drawn, known[1]))
    accelerator.backward(convinced + outputs.loss)
    judge.requires_grad_(True)
    return {
        "loss": outputs.loss.detach(),
        "opponent_loss": opponent_loss.detach(),
        "convinced_loss": convinced.detach(),
    }


def train(config: TrainingConfig, accelerator: Accelerator) -> None:
    # Model and data
    model, tokenizer = build_model(config)
    # Validation draws once; the model that is kept draws as its configuration says.
    drawing = {name: getattr(model.config, name) for name in ("drawing_margin", "drawing_shifts")}
    model.config.update({"drawing_margin": 0, "drawing_shifts": 1})
    data = load_data(config, model, tokenizer)
    train_loader, validation_loader = build_loaders(config, data, accelerator.num_processes)
    if accelerator.is_main_process:
        save_settings(config)

    # Optimizer
    adversarial = model.config.objective == "adversarial"
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    betas = (0.5, 0.99) if adversarial else (0.9, 0.999)
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=betas, weight_decay=config.weight_decay)
    steps = steps_per_epoch(accelerator, len(train_loader))
    scheduler = build_schedule(config, optimizer, steps)
    num_proteins = len(data.proteins.sequences) if data.proteins else 0
    accelerator.print(
        f"{len(data.train)} crops to train on, {len(data.validation)} to validate with, {data.train.left_out} left out "
        f"for want of a sequence or structure; {num_proteins} labelled proteins; {steps} steps an epoch; "
        f"{sum(parameter.numel() for parameter in trained):,} trained parameters; "
        f"mixed precision {accelerator.mixed_precision}"
    )
    opponent = build_opponent(config, accelerator, model) if adversarial else None
    # The images alone choose the epoch: the labels are calibrated at the end, and their ranking settles long before.
    loop = Loop(
        *(accelerator, config, model, optimizer, scheduler, train_loader, validation_loader),
        criterion="texture_error" if adversarial else "image_loss",
        maximize=False,
    )
    known = data.validation_proteins if model.config.classify else None

    # Training
    def backward(batch: Batch, place: Place) -> dict[str, torch.Tensor | float]:
        losses: dict[str, torch.Tensor | float] = {}
        if known:
            numbers = np.random.default_rng(place)
            losses["label_loss"] = backward_labels(config, accelerator, loop.model, data, numbers)
        if opponent:
            return losses | backward_adversarial(accelerator, loop.model, opponent, batch)
        loss = loop.model(**batch).loss
        accelerator.backward(loss)
        return {**losses, "loss": loss.detach()}

    def validate() -> dict[str, float]:
        scores = validate_images(accelerator, loop.judged, loop.validation_loader)
        if known:
            logits = protein_logits(accelerator, loop.judged, known, data.reader)
            scores |= label_validation_scores(logits, known.labels)
        log_panel(accelerator, loop.judged, data.validation, loop.progress.step)
        return scores

    loop.run(backward, validate, f"{len(data.validation)} validation crops")

    # The best epoch, its labels calibrated on the validation split
    best = loop.best_model(DeepGPSModel)
    best.config.update(drawing)
    if known:
        calibrate(best, protein_logits(accelerator, best, known, data.reader), known.labels)
    if accelerator.is_main_process:
        processor = DeepGPSProcessor(tokenizer, DeepGPSImageProcessor(default_nucleus=DEFAULT_NUCLEUS))
        drawer = pipeline("protein-imaging", model=best, processor=processor)
        drawer.save_pretrained(config.output_dir, state_dict=rounded(best))
        counts = {"crops": len(data.train), "validation_crops": len(data.validation), "proteins": num_proteins}
        report = loop.report("training.deepgps.train", **counts)
        datasets = [*(source.dataset for source in config.images), config.proteins]
        publish(config, "deepgps", report, best, datasets, config.initial_weights or config.backbone)


def main() -> None:
    config = read_config()
    # A step over sequences alone leaves the image network out.
    unused = DistributedDataParallelKwargs(find_unused_parameters=config.proteins is not None)
    accelerator = start_accelerator(config, unused)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        if config.proteins:
            stop("DeepSpeed steps at every backward pass, and proteins need several: use FSDP, or proteins=null")
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch_size
    train(config, accelerator)
    end_training(accelerator)


if __name__ == "__main__":
    main()
