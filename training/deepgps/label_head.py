"""
Train the labels of a deepGPS alone, on sequences, with another encoder if asked for; its image network stays.

    protloc embed data/proteins/data/*.parquet --model unirep --project 256 -o data/unirep
    accelerate launch --cpu -m training.deepgps.label_head training/configs/deepgps_unirep.yaml

The first argument is a YAML file with fields of `TrainingConfig`; `field=value` overrides it. The image network must be
one that sees the label alone (`condition_on_residues: false`), so that it draws for any encoder. `output_dir` receives
the whole model, its labels calibrated on the validation split. Runs in one process.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING
from torch.utils.data import DataLoader, Sampler
from transformers import AutoProcessor, AutoTokenizer, get_scheduler, pipeline

from protloc import DeepGPSConfig, DeepGPSModel, DeepGPSProcessor
from protloc.embedding import ResidueEmbeddings, weights_digest
from protloc.loading import DRAWING_PREFIXES, LOAD_ERRORS, model_path, one_line
from protloc.models.sequence_encoder_deepgps import load_backbone
from training.common.loop import Batch, Loop, Place, rounded, start_accelerator, steps_per_epoch
from training.common.publish import check_push, publish
from training.common.settings import HeadTraining, check_output_dir, check_settings, read_settings, save_settings, stop
from training.common.splits import check_apart
from training.deepgps.data import LabelledProteins, ProteinReader
from training.deepgps.validation import calibrate, label_validation_scores, protein_logits


@dataclass
class TrainingConfig(HeadTraining):
    proteins: str = MISSING  # of datasets_scripts.build_proteins, a folder or a Hub repository
    embeddings: str = MISSING  # residue embeddings of `protloc embed`
    source_weights: dict[str, float] = field(default_factory=dict)  # how much likelier proteins of a source are drawn
    initial_weights: str = "deepgps"  # the deepGPS whose image network and names of labels are kept
    backbone: str | None = None  # another encoder: a transformers encoder, a DeepLoc or unirep
    batch_size: int = 64
    early_stopping_patience: int = 20


class ProteinSampler(Sampler[list[int]]):
    """Batches of an epoch, as many as the proteins fill, drawn by their chances with the seed and the epoch alone."""

    def __init__(self, proteins: LabelledProteins, batch_size: int, seed: int):
        self.proteins, self.batch_size, self.seed = proteins, batch_size, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        numbers = np.random.default_rng([self.seed, epoch])
        size = len(self), self.batch_size
        self._batches = numbers.choice(len(self.proteins.sequences), size, p=self.proteins.chances).tolist()

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return max(1, len(self.proteins.sequences) // self.batch_size)


def build_model(config: TrainingConfig, embeddings: ResidueEmbeddings) -> tuple[DeepGPSModel, Any]:
    """The model with labels to learn, all else frozen, and its processor."""
    try:
        path = model_path(config.initial_weights)
        initial = DeepGPSModel.from_pretrained(path, dtype=torch.float32)
        if initial.config.condition_on_residues or not initial.config.classify:
            stop(f"{config.initial_weights} draws from more than a label: give one with condition_on_residues=false")
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
        if config.backbone:
            path = model_path(config.backbone)
            backbone, tokens = load_backbone(path)
        else:
            tokens = {}
            backbone = initial.backbone
        size = len(embeddings.projection["bias"]) if embeddings.projection else 0
        kept = initial.config.to_dict() | {"backbone_config": backbone.config, "projection_size": size, **tokens}
        model = DeepGPSModel(DeepGPSConfig.from_dict(kept | config.model))
        drawing = {name: value for name, value in initial.state_dict().items() if name.startswith(DRAWING_PREFIXES)}
        model.load_state_dict(drawing, strict=False)
        missing = [name for name in model.state_dict() if name.startswith(DRAWING_PREFIXES) and name not in drawing]
        if missing:
            raise ValueError(f"its image network has no weights {missing[0]}: leave fields of the image network out")
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (*LOAD_ERRORS, TypeError) as error:
        stop(f"cannot build on {config.backbone or config.initial_weights!r}: {one_line(error)}")
    model.backbone.load_state_dict(backbone.state_dict(), strict=False)  # but for its own heads
    model.requires_grad_(False)
    if embeddings.projection:
        model.projection.load_state_dict(embeddings.projection)
    for part in (model.project, model.pooling, model.classifier):
        part.requires_grad_(True)
    return model, DeepGPSProcessor(tokenizer, processor.image_processor)


def main() -> None:
    config: TrainingConfig = read_settings(TrainingConfig, __doc__)
    check_settings(config, DeepGPSConfig, {})
    check_output_dir(config)
    check_push(config.push_to_hub)
    accelerator = start_accelerator(config)
    if accelerator.num_processes > 1:
        stop(f"runs in one process, not in {accelerator.num_processes}: the head is small")
    try:
        embeddings = ResidueEmbeddings(config.embeddings)
    except ValueError as error:
        stop(one_line(error))
    model, processor = build_model(config, embeddings)
    labels = list(model.config.id2label.values())
    try:
        reader = ProteinReader(model.config, processor.tokenizer, embeddings)
        if embeddings.weights != weights_digest(model.backbone):
            raise ValueError(f"{config.embeddings} holds residue embeddings of other weights than the encoder's")
        proteins = LabelledProteins(config.proteins, "train", labels, config.source_weights)
        known = LabelledProteins(config.proteins, "validation", labels, human_only=True)
        check_apart(proteins.sequences, known.sequences, f"sequences of {config.proteins}")
        for sequence in proteins.sequences + known.sequences:
            embeddings.check(sequence)
    except (ValueError, OSError) as error:
        stop(f"cannot read the data: {one_line(error)}")
    for part in (proteins, known):
        part.limit(config.limit or len(part.sequences))
    save_settings(config)

    def collate(numbers: list[int]) -> Batch:
        inputs = reader([proteins.sequences[i] for i in numbers], [""] * len(numbers))
        return inputs | {"labels": torch.tensor(proteins.labels[numbers])}

    everything: Any = range(len(proteins.sequences))
    sampler = ProteinSampler(proteins, config.batch_size, config.seed)
    loader: Any = DataLoader(everything, batch_sampler=sampler, collate_fn=collate)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = steps_per_epoch(accelerator, len(loader)) * config.epochs
    scheduler = get_scheduler("cosine", optimizer, round(config.warmup_fraction * steps), steps)
    accelerator.print(
        f"{len(everything)} proteins, {steps} steps, {sum(weight.numel() for weight in trained):,} weights"
    )
    loop = Loop(
        *(accelerator, config, model, optimizer, scheduler, loader, loader), criterion="label_loss", maximize=False
    )

    def backward(batch: Batch, place: Place) -> dict[str, torch.Tensor | float]:
        loss = loop.model(**batch).loss
        accelerator.backward(loss)
        return {"loss": loss.detach()}

    def validate() -> dict[str, float]:
        return label_validation_scores(protein_logits(accelerator, loop.judged, known, reader), known.labels)

    loop.run(backward, validate, f"{len(known.sequences)} validation proteins")

    best = loop.best_model(DeepGPSModel)
    calibrate(best, protein_logits(accelerator, best, known, reader), known.labels)
    drawer = pipeline("protein-imaging", model=best, processor=processor)
    drawer.save_pretrained(config.output_dir, state_dict=rounded(best))
    report = loop.report("training.deepgps.label_head", proteins=len(everything))
    publish(config, "deepgps", report, best, [config.proteins], config.backbone or config.initial_weights)
    accelerator.end_training()


if __name__ == "__main__":
    main()
