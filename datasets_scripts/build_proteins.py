"""
Build the sequences that train deepGPS's labels: proteins of DeepLoc 2.0 and OpenCell, without images.

    python -m datasets_scripts.build_proteins --human human_sequences.csv.gz --exclude never_train.csv.gz \
        --deeploc2 Swissprot_Train_Validation_dataset.csv --annotations opencell-localization-annotations.csv \
        --sequences uniprot.fasta.gz --split-file split.csv --out data/proteins

The proteins belong to one of the eight classes `protloc.taxonomy.IMAGE_CLASSES`. Splits: `train` has DeepLoc's homology
partitions 0 to 2 and OpenCell's training proteins, `validation` partition 3 (on which the shipped DeepLoc is validated
too), `test` OpenCell's test proteins. Proteins of `--exclude` are only in `test`; a sequence is in one split only.
Add `--push-to-hub OWNER/NAME` to publish the folder as a data set repository.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value
from huggingface_hub import DatasetCard, DatasetCardData

from datasets_scripts.arguments import add_push_arguments, check_out, describe_files, push
from datasets_scripts.build_deeploc import read_deeploc2
from datasets_scripts.build_opencell import major_localizations, read_annotations
from datasets_scripts.proteins import MAX_LENGTH, Protein, Proteins, held_out, read_split
from protloc.files import replaced_folder
from protloc.tables import read_exclusions
from protloc.taxonomy import IMAGE_CLASSES, image_class

VALIDATION_PARTITION = 3
SPLITS = ["test", "validation", "train"]  # a sequence of several goes to the first
FEATURES = Features(
    {
        "sequence": Value("string"),
        "uniprot_id": Value("string"),
        "gene": Value("string"),
        "label": ClassLabel(names=IMAGE_CLASSES),
        "source_labels": Value("string"),
        "source": Value("string"),
        "human": Value("bool"),
    }
)
OWN_FILES = re.compile(r"README\.md|data/(train|validation|test)\.parquet")
CARD = Path(__file__).resolve().parents[1] / "model_cards" / "dataset_proteins.md.jinja"

Found = tuple[str, str, Protein, bool, list[str]]


def opencell_proteins(args: argparse.Namespace) -> list[Found]:
    """Split, source, protein, whether it is human, and its major localizations."""
    sequences, sides, found = Proteins(args.sequences), read_split(args.split_file), []
    for gene, ensembl, accessions, grades in read_annotations(args.annotations):
        protein = sequences.find(*accessions, ensembl, gene)
        side = sides.get(gene) or (protein and sides.get(protein.uniprot_id))
        if protein and side:
            found.append((side, "OpenCell", protein, True, major_localizations(grades)[0]))
    return found


def deeploc_proteins(args: argparse.Namespace) -> list[Found]:
    human = Proteins(args.human)
    sequences = {protein.sequence for protein in human.by_name.values()}
    return [
        (
            "validation" if row["partition"] == VALIDATION_PARTITION else "train",
            "DeepLoc 2.0",
            Protein(uniprot_id=row["id"], sequence=row["sequence"]),
            human.find(row["id"]) is not None or row["sequence"] in sequences,
            row["labels"],
        )
        for row in read_deeploc2(args.deeploc2)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--human", type=Path, nargs="+", required=True, help="human proteins: FASTA or tables")
    parser.add_argument("--deeploc2", type=Path, required=True, help="DeepLoc 2.0's table")
    parser.add_argument("--annotations", type=Path, required=True, help="OpenCell's localization annotations")
    parser.add_argument("--sequences", type=Path, nargs="+", required=True, help="OpenCell's sequences: FASTA, tables")
    parser.add_argument("--split-file", type=Path, required=True, help="the split of OpenCell's proteins")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], help="proteins for testing only")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_push_arguments(parser)
    args = parser.parse_args()
    try:
        check_out(args.out, OWN_FILES)
        rows = build_rows(args)
        with replaced_folder(args.out) as folder:
            write(rows, folder)
        print(f"{args.out}: " + ", ".join(f"{len(members)} {split}" for split, members in rows.items()))
    except (ValueError, OSError) as error:
        parser.exit(2, f"build_proteins: {error}\n")
    push(parser, args.out, args.push_to_hub, args.private)


def build_rows(args: argparse.Namespace) -> dict[str, list[dict]]:
    """Rows by split; the source that is read first gives the label."""
    ids, sums = read_exclusions(args.exclude)
    found = opencell_proteins(args) + deeploc_proteins(args)
    rows: dict[str, dict] = {}  # by sequence
    accessions: dict[str, str] = {}  # the split of each
    for split in SPLITS:
        for side, source, protein, human, labels in found:
            label = image_class(labels)
            if side != split or label is None or len(protein.sequence) > MAX_LENGTH:
                continue
            # Another version of the sequence counts as the same protein.
            if protein.sequence in rows or accessions.get(protein.uniprot_id, split) != split:
                continue
            if split != "test" and held_out(protein, ids, sums):
                continue
            rows[protein.sequence] = {
                "sequence": protein.sequence,
                "uniprot_id": protein.uniprot_id,
                "gene": protein.gene,
                "label": label,
                "source_labels": "|".join(labels),
                "source": source,
                "human": human,
                "split": split,
            }
            if protein.uniprot_id:
                accessions[protein.uniprot_id] = split
    splits = {split: [row for row in rows.values() if row["split"] == split] for split in reversed(SPLITS)}
    empty = [split for split in splits if not splits[split]]
    if empty:
        raise ValueError(f"no protein is left to {empty[0]}: are these the right tables?")
    return splits


def write(rows: dict[str, list[dict]], out: Path) -> None:
    (out / "data").mkdir()
    tables = {
        split: Dataset.from_list([{name: row[name] for name in FEATURES} for row in members], features=FEATURES)
        for split, members in rows.items()
    }
    for split, table in tables.items():
        table.to_parquet(out / "data" / f"{split}.parquet")
    files = {split: [out / "data" / f"{split}.parquet"] for split in tables}
    card_data = DatasetCardData(
        pretty_name="Proteins with one localization",
        license="other",
        task_categories=["text-classification"],
        tags=["biology", "protein", "subcellular-localization"],
        **describe_files(out, FEATURES, {"default": files}),
    )
    counts = {split: Counter(row["label"] for row in members) for split, members in rows.items()}
    humans = {split: Counter(row["label"] for row in members if row["human"]) for split, members in rows.items()}
    sources = {split: Counter(row["source"] for row in members) for split, members in rows.items()}
    card = DatasetCard.from_template(
        card_data,
        template_path=str(CARD),
        classes=IMAGE_CLASSES,
        counts=counts,
        humans=humans,
        sources=sources,
        limit=MAX_LENGTH,
    )
    card.save(out / "README.md")


if __name__ == "__main__":
    main()
