"""
Proteins with your own labels: a table, a folder or a data set of the Hub, checked and split for training.

The columns are `sequence` and `label` or `labels`, and optionally `id`, `split` (train, validation, test), `partition`
(a homology partition) and `membrane` (1 or 0).
"""

import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, load_dataset

from datasets_scripts.proteins import clusters
from protloc.sequences import ID_COLUMNS, SEQUENCE_COLUMNS, Warned, clean_sequence, find_columns, sequence_warning
from protloc.tables import read_csv
from protloc.taxonomy import COMPARTMENTS
from training.common.splits import choose_groups

# What the columns are called, in any case; `columns.labels=NAME` names another
COLUMNS = {
    "sequence": [*SEQUENCE_COLUMNS, "protein_sequence", "protein sequence"],
    "labels": ["labels", "label", "localizations", "localization", "localisations", "localisation", "compartments"],
    "id": [*ID_COLUMNS, "uniprot_id", "uniprot", "orf", "gene", "protein"],
    "split": ["split"],
    "partition": ["partition", "fold"],
    "membrane": ["membrane"],
}
COLUMNS["labels"] += ["compartment", "location", "locations"]
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(["validation", "valid", "val", "dev"], "validation")
MEMBRANE = {"1": 1, "1.0": 1, "true": 1, "yes": 1, "membrane": 1, "0": 0, "0.0": 0, "false": 0, "no": 0, "soluble": 0}
MEMBRANE |= {"": -1, "-1": -1, "-1.0": -1, "nan": -1, "na": -1, "unknown": -1}
NO_LABEL = {"", "-", "na", "n/a", "nan", "none", "null", "unknown", "?"}
NUMBER = re.compile(r"-?\d+(\.0+)?")


@dataclass
class OwnProteins:
    """A split data set; every part has the columns of `features`, and `test` may be empty."""

    labels: list[str]
    single_label: bool
    has_membrane: bool
    rule: str  # how it was split, for the card
    notes: list[str] = field(default_factory=list)  # what was left out or merged
    parts: dict[str, Dataset] = field(default_factory=dict)

    def counts(self) -> dict[str, dict[str, int]]:
        """Proteins of each label in each part that has any."""
        found = {}
        for name, part in self.parts.items():
            numbers = Counter(i for own in part["labels"] for i in own)
            found[name] = {label: numbers[i] for i, label in enumerate(self.labels)}
        return found


@dataclass
class Row:
    place: str  # for messages
    id: str
    sequence: str
    labels: set[str]
    split: str
    partition: str
    membrane: int


def has_compartments(dataset: str, config: str | None) -> bool:
    """
    Whether a data set is in the form that `datasets_scripts.build_deeploc` gives it.

    Raises:
        ValueError, OSError: If it is no file, and `load_dataset` doesn't find it.
    """
    if Path(dataset).is_file():
        return False
    if re.search(r"\.(csv|tsv|txt|parquet)(\.gz)?$", dataset, re.I):
        raise ValueError("there is no such file")
    part = next(iter(load_dataset(dataset, config).values()))
    labels = part.features.get("labels")
    return part.features.get("membrane") is not None and labels == List(ClassLabel(names=COMPARTMENTS))


def features(labels: list[str]) -> Features:
    return Features(
        {
            "id": Value("string"),
            "sequence": Value("string"),
            "labels": List(ClassLabel(names=labels)),
            "membrane": Value("int8"),  # 1 membrane, 0 soluble, -1 unknown
        }
    )


def find_names(found: Sequence[str], chosen: Mapping[str, str], dataset: str) -> dict[str, str]:
    """The data's own names of the columns of `COLUMNS`."""
    if unknown := chosen.keys() - COLUMNS.keys():
        raise ValueError(f"columns.{min(unknown)}: only the columns {', '.join(COLUMNS)} are read")
    names = {}
    for name, known in COLUMNS.items():
        wanted = [chosen[name].lower()] if name in chosen else known
        places = find_columns(list(found), [wanted])
        if places:
            names[name] = found[places[0]]
        elif name in chosen or name in ("sequence", "labels"):
            raise ValueError(
                f"{dataset}: no column {chosen.get(name, name)!r}, only {', '.join(found)}: name yours with "
                f"columns.{name}=NAME"
            )
    return names


def read_table(path: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place, split (none) and cells of each row of a CSV or TSV."""
    for place, row in read_csv(path, []):
        yield place, "", row


def read_dataset(parts: DatasetDict, dataset: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Place, split and cells of each row, class numbers as their names."""
    for split, part in parts.items():
        classes = {name: kind for name, kind in part.features.items() if isinstance(kind, ClassLabel)}
        lists = {
            name: kind.feature
            for name, kind in part.features.items()
            if isinstance(kind, List) and isinstance(kind.feature, ClassLabel)
        }
        for number, row in enumerate(part, start=1):
            for name, kind in classes.items():
                row[name] = kind.int2str(row[name]) if row[name] is not None and row[name] >= 0 else ""
            for name, kind in lists.items():
                row[name] = [kind.int2str(value) for value in row[name] or []]
            yield f"{dataset}, {split}, row {number}", split if len(parts) > 1 else "", row


def split_labels(cell: Any, separator: str | None, names: Sequence[str], place: str) -> set[str]:
    """
    The labels in a cell: a text with `;` or `|` between them, or a list.

    Raises:
        ValueError: For numbers without names, and for commas, which may or may not stand between labels.
    """
    if isinstance(cell, (list, tuple)):
        texts = [str(value) for value in cell]
    else:
        texts = re.split(re.escape(separator) if separator else r"[;|]", "" if cell is None else str(cell))
    labels = set()
    for text in texts:
        label = " ".join(text.split())
        if label.lower() in NO_LABEL:
            continue
        if NUMBER.fullmatch(label):
            number = int(float(label))
            if not 0 <= number < len(names):
                known = f"label_names has {len(names)} names" if names else "labels need names"
                raise ValueError(
                    f"{place}: the label is the number {label}, and {known}: write names in the column, or give those "
                    "of 0, 1, ... with label_names=[bud,vacuole,...]"
                )
            label = names[number]
        elif "," in label and not separator and isinstance(cell, str):
            raise ValueError(
                f"{place}: {label!r} has a comma: separate several labels by ';', or give label_separator=',' if it "
                "stands between labels, or label_separator=';' if it is part of the name"
            )
        labels.add(label)
    return labels


def read_rows(dataset: str, config: str | None, columns: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place, and cells by the names of `COLUMNS`, of each row."""
    path = Path(dataset)
    rows: Iterator[tuple[str, str, dict[str, Any]]]
    if path.is_file() and ".parquet" not in path.suffixes:
        rows = read_table(path)
    else:
        parts = load_dataset("parquet", data_files=dataset) if path.is_file() else load_dataset(dataset, config)
        rows = read_dataset(parts, dataset)
    names: dict[str, str] = {}
    for place, split, cells in rows:
        names = names or find_names(list(cells), columns, dataset)
        yield place, {"split": split} | {name: cells[own] for name, own in names.items()}


def check_row(place: str, cells: dict[str, Any], separator: str | None, names: Sequence[str]) -> Row:
    def text(name: str) -> str:
        return "" if cells.get(name) is None else str(cells[name]).strip()

    try:
        sequence = clean_sequence(cells["sequence"])
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    split, membrane = text("split").lower(), text("membrane").lower()
    if split not in ("", *SPLITS):
        raise ValueError(f"{place}: the split {split!r} is none of train, validation and test")
    if membrane not in MEMBRANE:
        raise ValueError(f"{place}: membrane is {membrane!r}, not 1, 0 or empty")
    labels = split_labels(cells["labels"], separator, names, place)
    own_id = text("id") or f"row_{place.rsplit(' ', 1)[1]}"
    return Row(place, own_id, sequence, labels, SPLITS.get(split, ""), text("partition"), MEMBRANE[membrane])


def merge(rows: Iterator[Row], notes: list[str]) -> list[Row]:
    """
    One row a sequence: rows of the same sequence join their labels, rows without a label go.

    Raises:
        ValueError: If an id has two sequences, or a sequence stands in two parts of the split.
    """
    merged: dict[str, Row] = {}
    by_id: dict[str, Row] = {}
    unlabelled, repeated, joined = [], 0, []
    warned = Warned()
    for row in rows:
        if not row.labels:
            unlabelled.append(row.place)
            continue
        warned.add(row.id, sequence_warning(row.sequence))
        if by_id.setdefault(row.id, row).sequence != row.sequence:
            raise ValueError(f"{row.place}: the id {row.id!r} has another sequence than in {by_id[row.id].place}")
        first = merged.setdefault(row.sequence, row)
        if first is row:
            continue
        repeated += 1
        for name in ("split", "partition", "membrane"):
            if getattr(first, name) != getattr(row, name):
                raise ValueError(
                    f"{row.place}: the sequence of {row.id!r} is also in {first.place}, with another {name}: give both "
                    "rows the same one"
                )
        if first.labels != row.labels:
            joined.append(first.id)
            first.labels = first.labels | row.labels
    if unlabelled:
        notes.append(
            f"{len(unlabelled)} row(s) without a label were left out, the first in {unlabelled[0].rsplit(', ', 1)[1]}."
        )
    if repeated:
        notes.append(f"{repeated} row(s) repeat the sequence of another row and were merged with it.")
    if joined:
        notes.append(
            f"{len(set(joined))} sequence(s) have other labels in each of their rows, such as {joined[0]}: they were "
            "given all of these."
        )
    if warned.count:
        notes.append(f"{warned}.")
    return list(merged.values())


def choose_labels(rows: list[Row], min_proteins: int, notes: list[str]) -> tuple[list[str], list[Row]]:
    """
    The labels, and the rows that are left when those of too few proteins are gone.

    Raises:
        ValueError: If labels differ in case only, or fewer than two are left.
    """
    counts = Counter(label for row in rows for label in row.labels)
    by_case: dict[str, str] = {}
    for label in sorted(counts):
        if (other := by_case.setdefault(label.lower(), label)) != label:
            raise ValueError(f"the labels {other!r} and {label!r} differ in case only: write one of them")
    rare = sorted(label for label in counts if counts[label] < min_proteins)
    if rare:
        named = ", ".join(f"`{label}` ({counts[label]})" for label in rare)
        notes.append(f"Labels of fewer than {min_proteins} proteins (`min_proteins`) were left out: {named}.")
        for row in rows:
            row.labels = row.labels - set(rare)
        rows = [row for row in rows if row.labels]
    labels = sorted(counts.keys() - set(rare))
    if len(labels) < 2:
        raise ValueError(f"there must be two labels or more, of {min_proteins} proteins each, and there are {labels}")
    # The ten compartments keep their order, and what a trained model knows of them.
    return (COMPARTMENTS if set(labels) == set(COMPARTMENTS) else labels), rows


def hold_out(rows: list[Row], share: float, identity: float, partition: str | None, seed: int) -> str:
    """Give every row that trains or validates its part, if none validates yet; what the card says of the split."""
    given = sorted({row.split for row in rows} - {""})
    if "validation" in given:
        return "The split is that of the data; whether homologs stand on both sides was not checked."
    undecided = [row for row in rows if row.split != "test"]
    also = " The test part is that of the data." if given else ""
    if any(row.partition for row in undecided):
        known = sorted({row.partition for row in undecided}, key=lambda name: (len(name), name))
        chosen = known[-1] if partition is None else partition
        if chosen not in known:
            raise ValueError(f"no protein of partition {chosen}; there are {', '.join(known)}")
        for row in undecided:
            row.split = "validation" if row.partition == chosen else "train"
        return f"Partition {chosen} of the data validates, the others train.{also}"
    clustered = shutil.which("mmseqs") is not None
    cluster_of = clusters((row.sequence for row in undecided), identity if clustered else None)
    groups = [cluster_of[row.sequence] for row in undecided]
    held = choose_groups([row.labels for row in undecided], groups, share, seed)
    for row, holds in zip(undecided, held, strict=True):
        row.split = "validation" if holds else "train"
    if clustered:
        return (
            f"Clusters of {identity:.0%} identity by MMseqs2 stand on one side: about {share:.0%} of each label's "
            f"proteins validate.{also}"
        )
    return (
        "**Homologous proteins may stand on both sides of the split, so that the scores below may be too high**: "
        "MMseqs2 was not installed, and only equal sequences were kept together. "
        f"About {share:.0%} of each label's proteins validate.{also}"
    )


def read_own_proteins(
    dataset: str,
    config: str | None = None,
    *,
    columns: Mapping[str, str],
    label_names: Sequence[str] = (),
    label_separator: str | None = None,
    min_proteins: int = 2,
    validation_share: float = 0.2,
    cluster_identity: float = 0.3,
    validation_partition: int | None = None,
    seed: int = 0,
) -> OwnProteins:
    """
    Args:
        dataset (`str`): A CSV, TSV or Parquet file, or what `load_dataset` reads with the configuration `config`.
        columns (`Mapping`): The data's names of `COLUMNS`, where they are others.
        label_names (`Sequence[str]`): What the numbers in the column of labels stand for, in order.
        label_separator (`str`, *optional*): What stands between labels; `;` and `|` by default.
        min_proteins (`int`): Labels of fewer proteins are left out.
        validation_share (`float`): Of each label's proteins, where the data name no split and no partitions.
        cluster_identity (`float`): Of MMseqs2's clusters, from 0 to 1.
        validation_partition (`int`, *optional*): Of the column `partition`; the last by default.
        seed (`int`): Of the split.

    Raises:
        ValueError, OSError: In one sentence, naming the row, label or column at fault.
    """
    notes: list[str] = []
    found = read_rows(dataset, config, columns)
    rows = merge((check_row(place, cells, label_separator, label_names) for place, cells in found), notes)
    labels, rows = choose_labels(rows, min_proteins, notes)
    if any(row.split for row in rows) and not all(row.split for row in rows):
        blank = next(row for row in rows if not row.split)
        raise ValueError(f"{blank.place}: the split is empty, and other rows have one: fill it in")
    if not any(row.split in ("", "train") for row in rows):
        raise ValueError(f"{dataset} has no protein to train on: give rows of the split 'train'")
    partition = None if validation_partition is None else str(validation_partition)
    rule = hold_out(rows, validation_share, cluster_identity, partition, seed)
    single = all(len(row.labels) == 1 for row in rows)
    own = OwnProteins(labels, single, any(row.membrane >= 0 for row in rows), rule, notes)
    number = {label: i for i, label in enumerate(labels)}
    for name in ("train", "validation", "test"):
        part = [row for row in rows if row.split == name]
        columns_of = {
            "id": [row.id for row in part],
            "sequence": [row.sequence for row in part],
            "labels": [sorted(number[label] for label in row.labels) for row in part],
            "membrane": [row.membrane for row in part],
        }
        own.parts[name] = Dataset.from_dict(columns_of, features=features(labels))
    counts = own.counts()
    if not any(0 < count < len(own.parts["validation"]) for count in counts["validation"].values()):
        raise ValueError(
            f"{len(rows)} proteins are too few to hold some out: no two labels have one in the validation part; add "
            "proteins, or name a part with the column 'split'"
        )
    return own
