"""Crops and labelled proteins -> batches for deepGPS."""

import argparse
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, concatenate_datasets, load_dataset
from omegaconf import MISSING
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from protloc import DeepGPSConfig
from protloc.embedding import ResidueEmbeddings
from protloc.microscopy import normalize
from protloc.models.configuration_deepgps import plain_name
from protloc.structures import point_cloud, structure_files
from protloc.taxonomy import image_class
from training.common.splits import check_apart

COLUMNS = ["nucleus", "protein", "sequence", "uniprot_id", "gene", "cell_line", "source_image", "class", "repeats"]
UNKNOWN = -100  # a label that no loss counts

UNNAMED_LINES = 0.2  # share of the crops whose cell line isn't told in training, so that "unknown" is learnt too

# Augmentation: pixels of a crop that become one, spread of the shift (share of the side), exponents of the brightness,
# and the most noise
SCALES, SHIFT, GAMMAS, NOISE = (0.8, 1.3), 0.06, (0.8, 1.25), 0.06


@dataclass
class ImageSource:
    """A configuration of a data set of crops, by folder or Hub name."""

    dataset: str = MISSING
    config: str = MISSING
    repeats: float = 1.0  # how often a crop comes in an epoch, on average


def read_source(text: str) -> ImageSource:
    """`DATASET:CONFIG` of a command line."""
    dataset, _, config = text.rpartition(":")
    if not dataset:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form DATASET:CONFIG")
    return ImageSource(dataset, config)


def data_labels(sources: Sequence[ImageSource], proteins: str | None = None) -> list[str]:
    """Names of the categories in data sets of crops, and of the classes of labelled proteins, each once."""
    names: dict[str, None] = {}
    for source in sources:
        for part in load_dataset(source.dataset, source.config).values():
            if "labels" in part.features:
                names |= dict.fromkeys(part.features["labels"].feature.names)
    if proteins:
        names |= dict.fromkeys(next(iter(load_dataset(proteins).values())).features["label"].names)
    return list(names)


def label_number(names: Sequence[str], labels: Sequence[str]) -> int:
    """Index of the one label of a crop, under its own name or as one of `IMAGE_CLASSES`; `UNKNOWN` if there is none."""
    name = names[0] if len(names) == 1 and names[0] in labels else image_class(list(names))
    return labels.index(name) if name in labels else UNKNOWN


def load_crops(sources: Sequence[ImageSource], split: str, labels: Sequence[str]) -> Dataset:
    """
    Crops of all sources, with columns `class`, an index into `labels` or `UNKNOWN`, and `repeats`.

    Args:
        sources (`Sequence[ImageSource]`)
        split (`str`): Sources without this split have no crops.
        labels (`Sequence[str]`): Of the model.

    Raises:
        ValueError: If no source has crops in this split, or an image is in several splits.
    """
    parts = []
    for source in sources:
        splits = load_dataset(source.dataset, source.config)
        if split not in splits:
            continue
        crops = splits[split]
        missing = {*COLUMNS, "labels"} - {"class", "repeats", *crops.column_names}
        if missing:
            raise ValueError(
                f"{source.dataset} ({source.config}) has no column {min(missing)!r}: it is no set of crops"
            )
        for other in splits.keys() - {split}:
            check_apart(crops["source_image"], splits[other]["source_image"], f"images of {source.dataset}")
        names = crops.features["labels"].feature.names
        indices = [label_number([names[i] for i in row], labels) for row in crops["labels"]]
        crops = crops.add_column("class", indices).add_column("repeats", [float(source.repeats)] * len(crops))
        parts.append(crops.select_columns(COLUMNS))
    if not parts:
        raise ValueError(f"no split {split!r} in {', '.join(f'{s.dataset} ({s.config})' for s in sources)}")
    return concatenate_datasets(parts)


def hold_out(crops: Dataset, share: float, by: str) -> tuple[Dataset, Dataset]:
    """
    Crops to train on and crops to validate with: a share of the genes, or source images, by a digest of their names.

    Where no gene is known, the sequence decides, or else the source image. One of them is held out in any case.
    """
    known = zip(crops[by], crops["sequence"], crops["source_image"], strict=True)
    names = [name or sequence or source for name, sequence, source in known]
    places = [int(hashlib.sha1(name.encode()).hexdigest()[:8], 16) / 16**8 for name in names]
    held = [place < share or place == min(places) for place in places]
    return tuple(crops.select([i for i, out in enumerate(held) if out is side]) for side in (False, True))


class LabelledProteins:
    """
    Sequences of known class.

    Args:
        source (`str`): Folder or Hub name of a data set as `datasets_scripts/build_proteins.py` makes it.
        split (`str`)
        labels (`Sequence[str]`): Of the model; proteins of other classes are left out.
        source_weights (`Mapping[str, float]`): How much likelier a protein of this `source` is drawn; 1 by default.
        human_only (`bool`): Whether other organisms' proteins are left out.
    """

    def __init__(
        self,
        source: str,
        split: str,
        labels: Sequence[str],
        source_weights: Mapping[str, float] | None = None,
        human_only: bool = False,
    ):
        table = load_dataset(source, split=split)
        names = table.features["label"].names
        table = table.filter(
            lambda label, human: names[label] in labels and (human or not human_only), input_columns=["label", "human"]
        )
        self.sequences: list[str] = table["sequence"][:]
        self.sources: list[str] = table["source"][:]
        self.source_labels: list[str] = table["source_labels"][:]
        self.labels = np.array([labels.index(names[label]) for label in table["label"]])
        if not self.sequences:
            raise ValueError(f"{source} has no {split} protein of {', '.join(labels)}")
        self.human = np.array(table["human"])
        # A class counts by the square root of its size, between all alike and as they are.
        counts = np.bincount(self.labels, minlength=len(labels))
        weights = np.array([(source_weights or {}).get(name, 1.0) for name in self.sources]) / np.sqrt(
            counts[self.labels]
        )
        self.chances = weights / weights.sum()

    def limit(self, count: int) -> None:
        """Keep the first `count` proteins only."""
        for name in ("sequences", "sources", "source_labels", "labels", "human", "chances"):
            setattr(self, name, getattr(self, name)[:count])
        self.chances = self.chances / self.chances.sum()

    def draw(self, count: int, numbers: np.random.Generator) -> tuple[list[str], torch.Tensor]:
        chosen = numbers.choice(len(self.sequences), count, p=self.chances)
        return [self.sequences[i] for i in chosen], torch.tensor(self.labels[chosen])

    def partners(self) -> dict[int, list[str]]:
        """Human sequences by class, for cells whose own protein isn't known."""
        pool: dict[int, list[str]] = defaultdict(list)
        for i in np.flatnonzero(self.human):
            pool[int(self.labels[i])].append(self.sequences[i])
        return pool


class ProteinReader:
    """
    Sequences and structures -> what the model reads of a protein.

    Args:
        config ([`DeepGPSConfig`]): Of the model.
        tokenizer: Of its encoder.
        embeddings ([`ResidueEmbeddings`], *optional*): The encoder's residue embeddings, computed before, in place of
            tokens.
        structures (`str`, *optional*): Folder of PDB or mmCIF files with the UniProt accession in their name.
    """

    def __init__(
        self,
        config: DeepGPSConfig,
        tokenizer: PreTrainedTokenizerBase,
        embeddings: ResidueEmbeddings | None = None,
        structures: str | None = None,
    ):
        self.reads_sequence, self.reads_structure = "sequence" in config.inputs, "structure" in config.inputs
        if embeddings and embeddings.mean:
            raise ValueError(f"{embeddings.folder} holds one embedding a protein: use protloc embed without --mean")
        self.tokenizer, self.embeddings = tokenizer, embeddings
        self.files: dict[str, Path] = {}
        self.clouds: dict[tuple[str, str], torch.Tensor] = {}
        if self.reads_structure:
            if structures is None:
                raise ValueError("the model reads structures: name their folder with structures")
            self.files = structure_files(structures)

    def cloud(self, accession: str, sequence: str) -> torch.Tensor:
        """Of the chain that fits the sequence, where a file holds several."""
        if (accession, sequence) not in self.clouds:
            cloud = point_cloud(self.files[accession], sequence=sequence or None)
            self.clouds[accession, sequence] = torch.tensor(cloud)
        return self.clouds[accession, sequence]

    def can_read(self, sequence: str, accession: str) -> bool:
        known = not self.reads_sequence or self.embeddings is None or not sequence or sequence in self.embeddings
        return known and (not self.reads_structure or accession in self.files)

    def __call__(self, sequences: Sequence[str], accessions: Sequence[str]) -> dict[str, torch.Tensor]:
        """`residue_embeddings` and `residue_mask`, or `input_ids` and `attention_mask`; `structure`."""
        inputs: dict[str, torch.Tensor] = {}
        if self.reads_sequence and self.embeddings is not None:
            rows = [self.embeddings[sequence] for sequence in sequences]
            inputs["residue_embeddings"] = pad_sequence(rows, batch_first=True).float()
            inputs["residue_mask"] = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True).bool()
        elif self.reads_sequence:
            spaced = len(self.tokenizer.tokenize("MKV")) == 1  # ProtBert
            texts = [" ".join(sequence) if spaced else sequence for sequence in sequences]
            tokens = self.tokenizer(texts, padding=True, return_tensors="pt")
            inputs |= {name: tokens[name] for name in ("input_ids", "attention_mask")}
        if self.reads_structure:
            inputs["structure"] = torch.stack(list(map(self.cloud, accessions, sequences)))
        return inputs


class Crops(TorchDataset):
    """
    Pairs of nucleus and protein images with a sequence.

    A crop without a sequence gets one of its class, drawn anew for each epoch; crops that no sequence or structure is
    known for are left out.

    Args:
        crops (`Dataset`): As `load_crops` gives them.
        partners (`dict[int, list[str]]`): Sequences by class.
        reader ([`ProteinReader`], *optional*): Without it no protein is read, and none needs to be known.
        config ([`DeepGPSConfig`]): Of the model, for the size of its images and its cell lines. Of larger crops the
            middle is taken; a crop of another cell line is one of an unknown one.
        augment (`bool`): Whether crops are turned, flipped, scaled, shifted, and their nuclei made brighter or noisier.
        seed (`int`): The draws depend on it, the epoch and the crop alone.
    """

    def __init__(
        self,
        crops: Dataset,
        partners: dict[int, list[str]],
        reader: ProteinReader | None,
        config: DeepGPSConfig,
        augment: bool,
        seed: int,
    ):
        known = zip(crops["sequence"], crops["uniprot_id"], crops["class"], strict=True)
        kept = [
            i
            for i, (sequence, accession, label) in enumerate(known)
            if (
                label != UNKNOWN
                if reader is None
                else (sequence or partners.get(label)) and reader.can_read(sequence, accession)
            )
        ]
        self.left_out = len(crops) - len(kept)
        self.crops = crops.select(kept).cast_column("nucleus", Image()).cast_column("protein", Image())
        self.repeats = self.crops["repeats"][:]
        self.known = [bool(sequence) for sequence in self.crops["sequence"]]  # whether its protein is
        self.partners, self.reader, self.augment, self.seed = partners, reader, augment, seed
        self.size, self.cell_lines = config.image_size, [plain_name(line) for line in config.cell_lines]
        self.epoch = 0

    def limit(self, count: int) -> None:
        """Keep the first `count` crops only."""
        self.crops = self.crops.select(range(min(count, len(self))))
        self.repeats, self.known = self.repeats[:count], self.known[:count]

    def balance(self) -> None:
        """Let every known class come as often in an epoch, which stays as long; within one, proportions stay."""
        repeats, classes = np.array(self.repeats), np.array(self.crops["class"])
        labels = [label for label in np.unique(classes[classes != UNKNOWN]) if repeats[classes == label].any()]
        for label in labels:
            members = classes == label
            repeats[members] *= (classes != UNKNOWN).sum() / len(labels) / repeats[members].sum()
        self.repeats = repeats.tolist()

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, place: tuple[int, int] | int) -> dict[str, Any]:
        """A crop by number, or by number and which of its times in this epoch."""
        number, time = place if isinstance(place, tuple) else (place, 0)
        numbers = np.random.default_rng([self.seed, self.epoch, number, time])
        row = self.crops[number]
        images = [np.asarray(row[name], dtype=np.float32) / 65535 for name in ("nucleus", "protein")]
        images[0] = normalize(images[0])  # a user's nucleus is stretched like this
        nucleus, protein = torch.tensor(np.stack(images)).unsqueeze(1)  # (1, H, W) each
        if self.augment:
            nucleus, protein = augmented(nucleus, protein, self.size, numbers)
        else:
            nucleus, protein = middle(nucleus, self.size), middle(protein, self.size)
        sequence = row["sequence"]
        if self.reader and not sequence:
            partners = self.partners[row["class"]]
            sequence = partners[numbers.integers(len(partners))]
        line = plain_name(row["cell_line"] or "")
        known = line in self.cell_lines and not (self.augment and numbers.random() < UNNAMED_LINES)
        return {
            "nucleus": nucleus,
            "protein": protein,
            "sequence": sequence,
            "accession": row["uniprot_id"],
            "label": row["class"],
            "cell_line": self.cell_lines.index(line) if known else len(self.cell_lines),
        }

    def collate(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Inputs of the model: images `(batch, 1, H, W)`, labels and cell lines `(batch,)`, and the protein's."""
        return {
            **{name: torch.stack([row[name] for row in rows]) for name in ("nucleus", "protein")},
            "labels": torch.tensor([row["label"] for row in rows]),
            "cell_line": torch.tensor([row["cell_line"] for row in rows]),
            **(
                self.reader([row["sequence"] for row in rows], [row["accession"] for row in rows])
                if self.reader
                else {}
            ),
        }


def middle(image: torch.Tensor, size: int) -> torch.Tensor:
    """The middle `(1, size, size)` of an image `(1, H, W)`; a smaller one stays as it is."""
    top, left = (max(0, side - size) // 2 for side in image.shape[1:])
    return image[:, top : top + size, left : left + size].contiguous()


def augmented(
    nucleus: torch.Tensor, protein: torch.Tensor, size: int, numbers: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Both images `(1, H, W)` turned, flipped, scaled and shifted alike, mirrored beyond their border, and cut to
    `(1, size, size)`; the nucleus brighter or darker, and noisier.
    """
    angle, scale, flip = numbers.uniform(0, 2 * np.pi), numbers.uniform(*SCALES), 1 - 2 * numbers.integers(2)
    shift = numbers.normal(0, SHIFT * size, 2)
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    turn = torch.tensor([[cosine, -sine * flip, shift[0]], [sine, cosine * flip, shift[1]]], dtype=torch.float32)
    steps = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1) @ turn.T  # (size, size, 2), pixels from the middle
    height, width = nucleus.shape[1:]
    grid = places * 2 / torch.tensor([width - 1, height - 1])
    both = torch.cat([nucleus, protein]).unsqueeze(0)
    moved = F.grid_sample(both, grid.unsqueeze(0), padding_mode="reflection", align_corners=True)[0]
    light = moved[:1].clamp(min=0) ** numbers.uniform(*GAMMAS)
    noise = torch.tensor(numbers.standard_normal(light.shape, dtype=np.float32))
    light = light + numbers.uniform(0, NOISE) * light.clamp(min=0.05).sqrt() * noise
    return light.clamp(0, 1), moved[1:].clamp(0, 1)


class CropSampler(Sampler[list[tuple[int, int]]]):
    """
    Shuffled batches of crops, each as often as `repeats` says; the last, smaller ones are left out.

    The order depends on `seed` and the epoch alone. `batch_size` crops go to each process and step.
    """

    def __init__(self, crops: Crops, batch_size: int, seed: int, num_processes: int):
        self.crops, self.batch_size, self.seed, self.num_processes = crops, batch_size, seed, num_processes
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.crops.epoch = epoch
        numbers = np.random.default_rng([self.seed, epoch])
        repeats = np.array(self.crops.repeats)
        counts = np.floor(repeats + numbers.random(len(repeats))).astype(int)
        order = numbers.permutation([(i, time) for i, count in enumerate(counts) for time in range(count)])
        step = self.batch_size * self.num_processes
        kept = order[: len(order) // step * step].reshape(-1, self.batch_size, 2)
        self._batches = [[(int(i), int(time)) for i, time in batch] for batch in kept]

    def __iter__(self):
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)
