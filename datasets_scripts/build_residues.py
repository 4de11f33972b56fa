"""
Build the data set of sorting signals per residue: published annotations -> Parquet that `load_dataset` reads.

    python -m datasets_scripts.build_residues --topology cv_0*.fasta.gz --signals sorting_signals.csv.gz \
        --deeploc2 Swissprot_Train_Validation_dataset.csv --exclude hpa_testset.csv --out data/residues

Sources: signal peptides and transmembrane segments of TMbed's data set (three lines per protein: header with accession,
sequence, one class per residue), DeepLoc 2.0's nine sorting signals, and proteins of DeepLoc 2.0 whose compartments
exclude signals, such as a transit peptide in a protein of the nucleus only. A row has `id`, `sequence`, `source`,
`partition` (of DeepLoc 2.0, -1 elsewhere), `signals` (one digit per residue in the order of SORTING_SIGNALS, 0 if there
is no annotated signal, - if nothing is known) and `annotated` (the digits of the signals that the source annotates: a 0
is none of these, but may be any other signal).

Splits: DeepLoc 2.0's partition 3 is for validation, the last of the topology files for testing, everything else for
training. A protein of two sources is in one split only. Proteins that `--exclude` lists by accession or sequence are
excluded. With MMseqs2, topology proteins with 30 % identity to an excluded sequence of the sources, or to a sequence of
`--homologs-of`, are excluded too.
"""

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value
from huggingface_hub import DatasetCard, DatasetCardData

from datasets_scripts.arguments import add_push_arguments, build_and_push, describe_files
from datasets_scripts.homology import similar
from protloc.sequences import clean_sequence, read_sequences
from protloc.tables import read_csv, read_exclusions, sha1
from protloc.taxonomy import SORTING_SIGNALS
from protloc.text_files import open_text

FEATURES = Features({name: Value("string") for name in ("id", "sequence", "signals", "annotated", "source")})
FEATURES["partition"] = Value("int8")
DIGITS = {name: str(digit) for digit, name in enumerate(SORTING_SIGNALS, start=1)}
TOPOLOGY = {"S": DIGITS["SP"], "H": DIGITS["TM"], "h": DIGITS["TM"], "U": "-"}
# Where a protein with a signal is found; one that is found nowhere there has none.
COMPARTMENTS_OF = {
    "SP": {"Extracellular", "Cell membrane", "Endoplasmic reticulum", "Lysosome/Vacuole", "Golgi apparatus"},
    "MT": {"Mitochondrion"},
    "CH": {"Plastid"},
    "TH": {"Plastid"},
    "NLS": {"Nucleus"},
    "NES": {"Nucleus", "Cytoplasm"},
    "PTS": {"Peroxisome"},
    "GPI": {"Cell membrane", "Extracellular"},
}
OWN_FILES = re.compile(r"README\.md|(train|validation|test)\.parquet")
CARD_TEMPLATE = Path(__file__).resolve().parents[1] / "model_cards" / "dataset_residues.md.jinja"

Row = dict[str, Any]


def read_topology(path: Path) -> Iterator[Row]:
    """
    Raises:
        ValueError: Naming file and line, if a record is not of three lines, or its lines differ in length.
    """
    with open_text(path) as file:
        lines = [line.rstrip("\n") for line in file]
    for number in range(0, len(lines) - len(lines) % 3, 3):
        header, sequence, classes = lines[number : number + 3]
        if not header.startswith(">") or len(sequence) != len(classes):
            raise ValueError(f"{path}, line {number + 1}: no header, sequence and one class a residue: {header[:40]!r}")
        fields = header[1:].split("|")
        accession = fields[1] if "_" in fields[0] else fields[0]  # a PDB chain has its accession behind it
        yield {
            "id": accession,
            "sequence": sequence.upper(),
            "signals": "".join(TOPOLOGY.get(letter, "0") for letter in classes),
            "annotated": DIGITS["SP"] + DIGITS["TM"],
            "source": "topology",
        }


def ruled_out(compartments: set[str], membrane: bool) -> str:
    """The digits of the signals that a protein of these compartments has not."""
    found = [DIGITS[name] for name, places in COMPARTMENTS_OF.items() if not places & compartments]
    return "".join(sorted(found + ([] if membrane else [DIGITS["TM"]])))


def read_deeploc(proteins: Path, signals: Path) -> Iterator[Row]:
    """DeepLoc 2.0's annotated proteins, and those of which its compartments tell what they have not."""
    annotated = {row["accession"]: row["annotation"] for _, row in read_csv(signals, ["accession", "annotation"])}
    names = set().union(*COMPARTMENTS_OF.values()) | {"Cytoplasm"}
    for _, row in read_csv(proteins, ["ACC", "Partition", "Membrane", "Sequence", *sorted(names)]):
        compartments = {name for name in names if float(row[name]) == 1}
        digits = annotated.get(row["ACC"])
        if digits is not None and len(digits) != len(row["Sequence"]):
            raise ValueError(f"{signals}: {row['ACC']} has {len(digits)} digits for {len(row['Sequence'])} residues")
        yield {
            "id": row["ACC"],
            "sequence": row["Sequence"].upper(),
            "signals": digits or "0" * len(row["Sequence"]),
            # Of its transmembrane segments DeepLoc 2.0 marks those that sort, and not the others.
            "annotated": "".join(digit for name, digit in DIGITS.items() if name != "TM")
            if digits
            else ruled_out(compartments, float(row["Membrane"]) == 1),
            "source": "signals" if digits else "compartments",
            "partition": int(float(row["Partition"])),
        }


def build(args: argparse.Namespace) -> tuple[dict[str, list[Row]], str]:
    """Rows of each split, and the sentence on what was left out."""
    ids, sums = read_exclusions(args.exclude)
    topology = [row | {"last": path == args.topology[-1]} for path in args.topology for row in read_topology(path)]
    deeploc = list(read_deeploc(args.deeploc2, args.signals))
    partition = {row["id"]: row["partition"] for row in deeploc}

    def excluded(row: Row) -> bool:
        return row["id"] in ids or sha1(row["sequence"]) in sums

    references = {row["sequence"] for row in [*topology, *deeploc] if excluded(row)}
    references |= {sequence for _, sequence in read_sequences([str(path) for path in args.homologs_of])}
    near = similar((row["sequence"] for row in topology), references) if references else set()
    kept = [row for row in [*topology, *deeploc] if not excluded(row)]
    homologs = [row for row in kept if row["source"] == "topology" and row["sequence"] in near]
    left_out = Counter(row["source"] for row in [*topology, *deeploc] if excluded(row))
    summary = (
        f"Left out: {left_out['topology']} proteins of the topology and "
        f"{left_out['signals'] + left_out['compartments']} of DeepLoc 2.0 that are held out elsewhere, and "
        f"{len(homologs)} of the topology with 30 % identity to one of {len(references)} held-out sequences."
    )
    # Of the proteins whose compartments rule signals out, as many as the others are.
    compartments = [row for row in kept if row["source"] == "compartments"]
    random.Random(args.seed).shuffle(compartments)
    dropped = {id(row) for row in compartments[args.negatives :]} | {id(row) for row in homologs}
    trained_on = {row["id"] for row in deeploc if row["partition"] != args.validation}
    splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
    for row in kept:
        if id(row) in dropped:
            continue
        clean_sequence(row["sequence"])
        row["partition"] = partition.get(row["id"], -1)
        if row.pop("last", False):
            # The encoder that reads them may have learnt from the others.
            split = "test" if row["id"] not in trained_on else ""
        else:
            split = "validation" if row["partition"] == args.validation else "train"
        if split:
            splits[split].append(row)
    tested = {row["id"] for row in splits["test"]}
    for split in ("train", "validation"):
        splits[split] = [row for row in splits[split] if row["id"] not in tested]
    return splits, summary


def write(splits: dict[str, list[Row]], summary: str, out: Path, repo_id: str) -> None:
    for split, rows in splits.items():
        Dataset.from_list(rows, features=FEATURES).to_parquet(out / f"{split}.parquet")
        print(f"{split}: {len(rows)} proteins", file=sys.stderr)
    files = {split: [out / f"{split}.parquet"] for split in splits}
    card_data = DatasetCardData(
        pretty_name="Sorting signals of proteins, residue by residue",
        license=["cc-by-4.0", "apache-2.0"],
        task_categories=["token-classification"],
        tags=["biology", "protein", "signal-peptide", "subcellular-localization"],
        **describe_files(out, FEATURES, {"default": files}),
    )
    counts = {split: Counter(row["source"] for row in rows) for split, rows in splits.items()}
    segments = {
        split: {
            name: sum(len(re.findall(f"{digit}+", row["signals"])) for row in rows) for name, digit in DIGITS.items()
        }
        for split, rows in splits.items()
    }
    card = DatasetCard.from_template(
        card_data,
        template_path=str(CARD_TEMPLATE),
        repo_id=repo_id,
        signals=SORTING_SIGNALS,
        counts=counts,
        segments=segments,
        summary=summary,
    )
    card.save(out / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--topology", type=Path, nargs="+", required=True, help="TMbed's files; the last one is for testing"
    )
    parser.add_argument("--signals", type=Path, required=True, help="DeepLoc 2.0's sorting signals")
    parser.add_argument("--deeploc2", type=Path, required=True, help="DeepLoc 2.0's training set")
    parser.add_argument("--validation", type=int, default=3, help="DeepLoc 2.0's partition for validation (default: 3)")
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], help="proteins to exclude, as in build_deeploc")
    parser.add_argument(
        "--homologs-of",
        type=Path,
        nargs="+",
        default=[],
        help="proteins whose homologs are excluded from the topology, in addition to homologs of excluded proteins",
    )
    parser.add_argument(
        "--negatives",
        type=int,
        default=6000,
        help="number of proteins whose compartments exclude signals (default: 6000)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    add_push_arguments(parser)
    build_and_push(parser, parser.parse_args(), OWN_FILES, build, write)


if __name__ == "__main__":
    main()
