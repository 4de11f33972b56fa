"""From a data set of proteins to batches for DeepLoc: splits, windows, targets and a teacher's predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, load_dataset
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from protloc import DeepLocConfig
from protloc.embedding import ResidueEmbeddings
from protloc.models.layers_deeploc import DeepLocRegions
from protloc.models.protein_sequence import split_windows, tokenize, window_text
from protloc.profiles import protein_profile
from protloc.tables import read_csv
from protloc.taxonomy import SORTING_SIGNALS
from training.common.splits import check_apart

MEMBRANE_PROBABILITY = "membrane_probability"  # a column of `protloc predict`


def load_proteins(
    dataset: str,
    name: str | None,
    train_split: str,
    validation_split: str,
    validation_partition: int | None,
    train_on_all: bool = False,
) -> tuple[Dataset, Dataset]:
    """
    Training and validation proteins; with `train_on_all` none validates.

    With `validation_partition` the training split is divided instead (`train+validation` joins both): that homology
    partition validates, all else trains. One after the other they make a cross-validation.

    Raises:
        ValueError, OSError: If the data set, a split or the partition is not there, or a protein is on both sides.
    """
    proteins = load_dataset(dataset, name, split=train_split)
    if train_on_all:
        return proteins, proteins.take(1)  # encoded like the others, and never asked
    if validation_partition is None:
        validation = load_dataset(dataset, name, split=validation_split)
        check_apart(proteins["id"], validation["id"], f"proteins of {dataset}")
        return proteins, validation
    partitions = np.array(proteins["partition"])
    if validation_partition not in partitions:
        known = ", ".join(str(partition) for partition in sorted(set(partitions.tolist())))
        raise ValueError(f"no protein of partition {validation_partition}; there are {known}")
    return (
        proteins.select(np.flatnonzero(partitions != validation_partition)),
        proteins.select(np.flatnonzero(partitions == validation_partition)),
    )


def profile_source(proteins: Dataset, folder: str | Path | None) -> str | Path | dict[str, np.ndarray] | None:
    """Where the profiles of proteins are: in a folder, or in the data set itself, or nowhere."""
    if folder is None and "profile" in proteins.column_names:
        arrays = proteins.with_format("numpy", columns=["profile"])["profile"]
        return dict(zip(proteins["id"], arrays, strict=True))
    return folder


def reads_regions(config: DeepLocConfig) -> bool:
    """Whether a model needs of residue embeddings only their means over regions."""
    return config.pooling == "regions" and not (config.conv_widths or config.second_conv_channels or config.lstm_size)


def encode(
    proteins: Dataset,
    config: DeepLocConfig,
    tokenizer,
    profiles: str | None,
    embeddings: ResidueEmbeddings | None = None,
    tokens: bool = False,
) -> Dataset:
    """
    One row for each window of a protein: `input_ids`, `profile` or, with `embeddings`, `residues` or `regions`, and
    `input_ids` beside them where `tokens` are wanted too; `length`, `protein` (its number), `target` (the labels as a
    vector, or an index if single-label), `membrane`, `signal_targets` and `signal_positions`.

    Raises:
        ValueError: For a protein with several labels in single-label training, and for a missing profile.
    """
    multi_label = config.problem_type == "multi_label_classification"
    regions = DeepLocRegions(config, 1) if embeddings is not None and reads_regions(config) else None
    if config.signals and "signals" not in proteins.column_names:
        raise ValueError("model.signals needs the column 'signals': build the data set anew with --signals")

    def encode_proteins(batch: dict[str, list], numbers: list[int]) -> dict[str, list]:
        rows: dict[str, list] = {}
        for k, number in enumerate(numbers):
            sequence, labels = batch["sequence"][k], batch["labels"][k]
            digits = batch["signals"][k] if config.signals else ""
            if not multi_label and len(labels) != 1:
                raise ValueError(f"{batch['id'][k]} has {len(labels)} labels; single-label training needs exactly one")
            target = [float(i in labels) for i in range(config.num_labels)] if multi_label else labels[0]
            profile = None
            if config.input_features == "profile":
                profile = batch["profile"][k] if "profile" in batch else None
                if profiles is not None:
                    profile = protein_profile(Path(profiles), batch["id"][k], sequence)
                if profile is None:
                    raise ValueError("input_features 'profile' needs a data set with profiles, or profiles=DIR")
            for window in split_windows(len(sequence), config.max_length, config.length_policy):
                row = {
                    "protein": number,
                    "length": sum(piece.stop - piece.start for piece in window),
                    "target": target,
                }
                if config.membrane:
                    row["membrane"] = batch["membrane"][k]
                if regions is not None and embeddings is not None:
                    states = embeddings[window_text(sequence, window)].unsqueeze(0)
                    weights = regions.weights(torch.ones(states.shape[:2], dtype=torch.bool))
                    row |= {"regions": regions.means(states, weights)[0].numpy(), "length": weights.shape[1]}
                elif embeddings is not None:
                    row["residues"] = window_text(sequence, window)
                if tokens or (embeddings is None and profile is None):
                    row["input_ids"] = tokenize([window_text(sequence, window)], tokenizer)["input_ids"][0].tolist()
                if profile is not None:
                    row["profile"] = np.concatenate([np.asarray(profile, dtype=np.float32)[piece] for piece in window])
                if config.signals:
                    seen = np.concatenate([np.array([int(d) for d in digits[piece]], dtype=int) for piece in window])
                    known = [float(i in seen) for i in range(1, len(SORTING_SIGNALS) + 1)]
                    row["signal_targets"] = known if digits else [-1.0] * len(SORTING_SIGNALS)
                    if regions is None:
                        around = [] if embeddings is not None or profile is not None else [0]  # <cls> and <eos>
                        positions = (seen > 0).tolist() if digits else [0] * row["length"]
                        row["signal_positions"] = [*around, *map(int, positions), *around]
                for name, value in row.items():
                    rows.setdefault(name, []).append(value)
        return rows

    return proteins.map(
        encode_proteins,
        batched=True,
        with_indices=True,
        remove_columns=proteins.column_names,
        # The cache knows a folder's name only, not what is in it.
        load_from_cache_file=profiles is None and embeddings is None,
        desc="Encoding",
    )


def window_lengths(windows: Dataset, config: DeepLocConfig) -> list[int]:
    """Residues of each window as the model computes them: with a fixed length, padding counts."""
    return [config.max_length] * len(windows) if config.fixed_length else list(windows["length"])


def collate(
    rows: list[dict[str, Any]], pad_token_id: int, embeddings: ResidueEmbeddings | None = None
) -> dict[str, torch.Tensor]:
    """A batch of model inputs, padded on the right; the embeddings of `residues` are read here."""

    def padded(name: str, value: float = 0) -> torch.Tensor:
        return pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=value)

    batch = {
        "labels": torch.tensor([row["target"] for row in rows]),  # (B, 10) or (B,)
        "protein": torch.tensor([row["protein"] for row in rows]),  # (B,)
    }
    if "membrane" in rows[0]:
        batch["membrane_targets"] = torch.tensor([row["membrane"] for row in rows])  # (B,)
    if "input_ids" in rows[0]:
        batch["input_ids"] = padded("input_ids", pad_token_id)  # (B, L)
    if "regions" in rows[0]:
        batch["region_embeddings"] = torch.tensor(np.stack([row["regions"] for row in rows]))  # (B, regions, size)
    elif embeddings is None and "input_ids" in rows[0]:
        batch["attention_mask"] = (batch["input_ids"] != pad_token_id).long()
    else:
        if embeddings is not None:
            found = [embeddings[row["residues"]] for row in rows]
            batch["residue_embeddings"] = pad_sequence(found, batch_first=True).float()  # (B, L, size)
        else:
            batch["profiles"] = padded("profile")  # (B, L, 20)
        lengths = torch.tensor([row["length"] for row in rows])
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    if "signal_targets" in rows[0]:
        batch["signal_targets"] = torch.tensor([row["signal_targets"] for row in rows])  # (B, 9)
    if "signal_positions" in rows[0]:
        batch["signal_positions"] = padded("signal_positions")  # (B, L)
    return batch


def mask_residues(batch: dict[str, torch.Tensor], rate: float, config: DeepLocConfig) -> None:
    """Hide residues at random, in place: as `<mask>`, or as a profile or an embedding of zeros; regions have none."""
    if "region_embeddings" in batch:
        return
    masked = torch.rand(batch["attention_mask"].shape, device=batch["attention_mask"].device) < rate
    for name in ("profiles", "residue_embeddings"):
        if name in batch:
            batch[name] = batch[name].masked_fill(masked.unsqueeze(-1), 0)
            return
    special = (batch["input_ids"] == config.cls_token_id) | (batch["input_ids"] == config.eos_token_id)
    masked &= batch["attention_mask"].bool() & ~special
    batch["input_ids"] = batch["input_ids"].masked_fill(masked, config.mask_token_id)


def class_counts(targets: np.ndarray, num_labels: int) -> np.ndarray:
    """Positives of each class, at least 1; `targets` of shape (n, classes), or indices (n,)."""
    counts = targets.sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=num_labels)
    return counts.clip(min=1)


def class_balanced_weights(counts: np.ndarray, beta: float = 0.999) -> list[float]:
    """Inverse effective numbers of samples (Cui et al. 2019), with a mean of 1."""
    weights = (1 - beta) / (1 - beta**counts)
    return (weights / weights.mean()).tolist()


def repeat_factors(targets: np.ndarray, num_labels: int, frequency: float) -> list[float]:
    """How often to show each protein for labels rarer than `frequency` to come more often (Gupta et al. 2019)."""
    factors = np.sqrt(frequency * len(targets) / class_counts(targets, num_labels)).clip(min=1)
    if targets.ndim == 1:
        return factors[targets].tolist()
    return np.where(targets > 0, factors, 1).max(axis=1).tolist()


def load_unlabelled(dataset: str, like: Dataset) -> Dataset:
    """
    Proteins without labels, with the columns that `like` has: no labels, membrane type and signals unknown.

    Raises:
        ValueError, OSError: If the data set is not there, or a protein is one of `like`.
    """
    proteins = load_dataset(dataset, split="train").select_columns(["id", "sequence"])
    labelled = set(like["sequence"])
    proteins = proteins.filter(lambda row: row["sequence"] not in labelled)
    check_apart(like["id"], proteins["id"], f"proteins with labels and those of {dataset}")
    unknown: dict[str, Any] = {"labels": [], "membrane": -1, "signals": ""}
    rows = proteins.map(lambda row: row | unknown, load_from_cache_file=False)
    names = [name for name in ("id", "sequence", *unknown) if name in like.column_names]
    return rows.select_columns(names).cast(Features({name: like.features[name] for name in names}))


def read_teacher(paths: list[str], ids: list[str], labels: list[str], membrane: bool = True) -> torch.Tensor:
    """
    What a teacher answers, from tables as `protloc predict` writes them.

    Args:
        paths (`list[str]`): Tables with a column `protein_id`, one a label, and `membrane_probability`.
        ids (`list[str]`): Of the proteins that learn.
        labels (`list[str]`), membrane (`bool`): What to read.

    Returns:
        `torch.Tensor` of shape `(len(ids), labels + 1)`: Probabilities of labels and, if read, of the membrane type.

    Raises:
        ValueError: Naming file and line, if a number is no probability; or if a protein is in none of the tables.
    """
    columns = [*labels, *[MEMBRANE_PROBABILITY] * membrane]
    answers: dict[str, list[float]] = {}
    for path in paths:
        for place, row in read_csv(Path(path), ["protein_id", *columns]):
            protein = row["protein_id"]
            if protein in answers:
                raise ValueError(f"{place}: {protein!r} was answered before: give one answer a protein")
            try:
                answers[protein] = [float(row[name]) for name in columns]
            except ValueError:
                answers[protein] = [-1.0]
            if not all(0 <= value <= 1 for value in answers[protein]):
                raise ValueError(f"{place}: the probabilities of {protein!r} are not all numbers from 0 to 1")
    missing = [name for name in ids if name not in answers]
    if missing:
        raise ValueError(f"{', '.join(paths)}: no row for {len(missing)} proteins, such as {missing[0]!r}")
    return torch.tensor([answers[name] for name in ids])


def teach(batch: dict[str, torch.Tensor], answers: torch.Tensor, weight: float) -> None:
    """
    Mix a teacher's answers into the targets of a batch, in place.

    Args:
        answers (`torch.Tensor` of shape `(batch, labels + 1)`, or `(batch, labels)` without a membrane head): As of
            `read_teacher`.
        weight (`float`): Of the answers where a protein has labels; elsewhere they are all it has.
    """
    labels, membrane = batch["labels"], batch.get("membrane_targets")
    answers = answers.to(labels.device)
    classes = answers.shape[1] - (membrane is not None)
    if labels.ndim == 1:
        labels = F.one_hot(labels, classes)
    share = torch.where(labels.sum(dim=-1, keepdim=True) > 0, weight, 1.0)  # (B, 1)
    batch["labels"] = share * answers[:, :classes] + (1 - share) * labels
    if membrane is not None:
        known = torch.where(membrane >= 0, weight, 1.0)  # (B,)
        batch["membrane_targets"] = known * answers[:, -1] + (1 - known) * membrane
