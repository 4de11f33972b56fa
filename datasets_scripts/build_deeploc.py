"""
Build the DeepLoc data sets: the published files -> Parquet that `load_dataset` and the Hub viewer read.

    python -m datasets_scripts.build_deeploc \
        --deeploc2 Swissprot_Train_Validation_dataset.csv --hpa hpa_testset.csv \
        --deeploc1 deeploc_train.fasta deeploc_test.fasta --exclude hpa_testset.csv --out data/deeploc

Each source is optional. `--signals sorting_signals.csv` adds DeepLoc 2.0's annotated sorting signals, `--profiles DIR`
a PSI-BLAST profile of every protein (`DIR/<id>.pssm`, from `psiblast -out_ascii_pssm`). The data set has these
configurations:

    deeploc2         DeepLoc 2.0, train / validation (/ test) split by homology partition, several labels per protein
    hpa              DeepLoc 2.0's independent test set from the Human Protein Atlas, eight of the ten labels
    deeploc1         DeepLoc 1.0, train / test as published, the combined label Cytoplasm-Nucleus as both labels;
                     proteins that are also in DeepLoc 2.0 get its partition
    deeploc1_single  the same with one label per protein; proteins with the combined label are dropped

Add `--push-to-hub OWNER/NAME` to publish the folder as a data set repository.
"""

import argparse
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, List, Value
from huggingface_hub import DatasetCard, DatasetCardData

from datasets_scripts.arguments import add_push_arguments, check_out, describe_files, push
from protloc.files import replaced_folder
from protloc.profiles import protein_profile
from protloc.sequences import clean_sequence, read_fasta
from protloc.tables import read_csv, read_exclusions, sha1
from protloc.taxonomy import COMBINED_LABELS, COMPARTMENTS, KINGDOMS, SORTING_SIGNALS

FEATURES = Features(
    {
        "id": Value("string"),
        "sequence": Value("string"),
        "kingdom": ClassLabel(names=[*KINGDOMS, "unknown"]),
        "labels": List(ClassLabel(names=COMPARTMENTS)),
        "membrane": Value("int8"),  # 1 membrane, 0 soluble, -1 unknown
        "partition": Value("int8"),  # homology partition, -1 where the source has none
        # A digit a residue, 0 for none and 1-9 in the order of SORTING_SIGNALS; empty where nothing is annotated
        "signals": Value("string"),
    }
)
PROFILE_FEATURE = List(List(Value("float32"), length=20))
DEEPLOC2_COLUMNS = ["ACC", "Kingdom", "Partition", "Membrane", *COMPARTMENTS, "Sequence"]
DEEPLOC1_HEADER = re.compile(r"(?P<accession>\S+) (?P<location>\S+?)(-(?P<membrane>[MSU]))?(?P<test> test)?$")
OWN_FILES = re.compile(r"README\.md|(deeploc2|hpa|deeploc1|deeploc1_single)/(train|validation|test)\.parquet")
MEMBRANE_FLAGS = {"M": 1, "S": 0, "U": -1, None: -1}

CARD_TEMPLATE = Path(__file__).resolve().parents[1] / "model_cards" / "dataset_deeploc.md.jinja"
DESCRIPTIONS = {
    "deeploc2": "DeepLoc 2.0's cross-validation set: several labels a protein, split by homology partition.",
    "hpa": "DeepLoc 2.0's independent test set from the Human Protein Atlas: eight of the ten labels "
    "(no Extracellular, no Plastid), membrane type unknown.",
    "deeploc1": "DeepLoc 1.0 as published; its combined label Cytoplasm-Nucleus is given as both labels.",
    "deeploc1_single": "DeepLoc 1.0 with one label a protein: those labelled Cytoplasm-Nucleus are dropped.",
}

Row = dict[str, Any]
Configs = dict[str, dict[str, list[Row]]]


def positive_labels(row: dict[str, str], columns: list[str]) -> list[str]:
    labels = [name for name in columns if float(row[name])]
    if not labels:
        raise ValueError("the protein has no location")
    return labels


def read_deeploc2(path: Path) -> Iterator[Row]:
    for place, row in read_csv(path, DEEPLOC2_COLUMNS):
        try:
            if row["Kingdom"] not in KINGDOMS:
                raise ValueError(f"kingdom {row['Kingdom']!r} is none of {', '.join(KINGDOMS)}")
            yield {
                "id": row["ACC"],
                "sequence": clean_sequence(row["Sequence"]),
                "kingdom": row["Kingdom"],
                "labels": positive_labels(row, COMPARTMENTS),
                "membrane": int(float(row["Membrane"])),
                "partition": int(row["Partition"]),
                "signals": "",
            }
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def read_hpa(path: Path) -> Iterator[Row]:
    columns = [name for name in COMPARTMENTS if name not in ("Extracellular", "Plastid")]
    for place, row in read_csv(path, ["sid", "fasta", *columns]):
        try:
            yield {
                "id": row["sid"],
                "sequence": clean_sequence(row["fasta"]),
                "kingdom": "Metazoa",
                "labels": positive_labels(row, columns),
                "membrane": -1,
                "partition": -1,
                "signals": "",
            }
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None


def read_deeploc1(paths: list[Path]) -> Iterator[tuple[str, Row]]:
    """Pairs of split and row from headers `>ACC Location-M/S/U [test]`; the membrane flag may be absent."""
    for path in paths:
        for header, sequence in read_fasta(path, full_header=True):
            match = DEEPLOC1_HEADER.match(header)
            if match is None:
                raise ValueError(f"{path}: {header!r} is no header of the form 'ACC Location-M test'")
            name = match["location"].replace(".", " ")
            labels = COMBINED_LABELS.get(name, [name])
            if not set(labels) <= set(COMPARTMENTS):
                raise ValueError(f"{path}: {match['accession']}: unknown location {match['location']!r}")
            row = {
                "id": match["accession"],
                "sequence": sequence,
                "kingdom": "unknown",
                "labels": labels,
                "membrane": MEMBRANE_FLAGS[match["membrane"]],
                "partition": -1,
                "signals": "",
            }
            yield ("test" if match["test"] else "train"), row


def add_signals(configs: Configs, path: Path) -> None:
    """Annotate proteins with their sorting signals, matched by accession; the sequence must be the same."""
    annotations = {}
    for place, row in read_csv(path, ["accession", "sequence", "annotation"]):
        sequence, annotation = clean_sequence(row["sequence"]), row["annotation"]
        if len(annotation) != len(sequence) or not annotation.isdigit():
            raise ValueError(f"{place}: the annotation of {row['accession']} is not one digit for each residue")
        annotations[row["accession"], sequence] = annotation
    for splits in configs.values():
        for rows in splits.values():
            for row in rows:
                row["signals"] = annotations.get((row["id"], row["sequence"]), "")


def add_profiles(configs: Configs, folder: Path) -> None:
    for splits in configs.values():
        for rows in splits.values():
            for row in rows:
                row["profile"] = protein_profile(folder, row["id"], row["sequence"])


def check_no_duplicates(splits: dict[str, list[Row]]) -> None:
    """`ValueError` if a sequence stands in two splits (not both tests): it would be trained and tested on."""
    seen: dict[str, tuple[str, str]] = {}
    for split, rows in splits.items():
        for row in rows:
            other_split, other_id = seen.setdefault(row["sequence"], (split, row["id"]))
            if other_split != split and not (split.endswith("/test") and other_split.endswith("/test")):
                raise ValueError(
                    f"the sequence of {row['id']} in {split} is also {other_id} in {other_split}: "
                    "list one of them in the file given to --exclude"
                )


def build(args: argparse.Namespace) -> tuple[Configs, Counter]:
    """Configurations -> splits -> rows, and how many proteins were excluded from each (configuration, split)."""
    configs: Configs = {}
    if args.deeploc2:
        rows = list(read_deeploc2(args.deeploc2))
        splits = {"train": args.train, "validation": args.validation, "test": args.test}
        for split, chosen in splits.items():
            absent = set(chosen) - {row["partition"] for row in rows}
            if absent:
                raise ValueError(f"{args.deeploc2}: no partition {min(absent)}, asked for by --{split}")
        twice = [p for p, count in Counter(itertools.chain(*splits.values())).items() if count > 1]
        if twice:
            raise ValueError(f"partition {twice[0]} is asked for by two splits")
        configs["deeploc2"] = {
            split: [row for row in rows if row["partition"] in chosen] for split, chosen in splits.items() if chosen
        }
    if args.hpa:
        configs["hpa"] = {"test": list(read_hpa(args.hpa))}
    if args.deeploc1:
        configs["deeploc1"] = {"train": [], "test": []}
        # DeepLoc 1.0 comes without partitions: DeepLoc 2.0's hold for the proteins that stand in both.
        partitions = {
            row["sequence"]: row["partition"] for rows in configs.get("deeploc2", {}).values() for row in rows
        }
        for split, row in read_deeploc1(args.deeploc1):
            row["partition"] = partitions.get(row["sequence"], -1)
            configs["deeploc1"][split].append(row)
        configs["deeploc1_single"] = {
            split: [row for row in rows if len(row["labels"]) == 1] for split, rows in configs["deeploc1"].items()
        }

    excluded: Counter = Counter()
    if args.exclude:
        ids, sums = read_exclusions(args.exclude)
        for name, splits in configs.items():
            for split in splits.keys() - {"test"}:
                kept = [r for r in splits[split] if r["id"] not in ids and sha1(r["sequence"]) not in sums]
                excluded[name, split] = len(splits[split]) - len(kept)
                splits[split] = kept

    for name in ("deeploc1", "deeploc1_single"):
        check_no_duplicates({f"{name}/{split}": rows for split, rows in configs.get(name, {}).items()})
    # DeepLoc 2.0 and the HPA set are trained and tested together.
    check_no_duplicates(
        {f"{name}/{split}": rows for name in ("deeploc2", "hpa") for split, rows in configs.get(name, {}).items()}
    )
    if args.signals:
        add_signals(configs, args.signals)
    if args.profiles:
        add_profiles(configs, args.profiles)
    return configs, excluded


def describe(configs: Configs, excluded: Counter) -> list[dict]:
    """What the card's tables show, counted from the rows."""
    described = []
    for name, splits in configs.items():
        tables = []
        for split, rows in splits.items():
            membrane = Counter(row["membrane"] for row in rows)
            labels = Counter(label for row in rows for label in row["labels"])
            tables.append(
                {
                    "name": split,
                    "proteins": len(rows),
                    "partitions": ", ".join(str(p) for p in sorted({row["partition"] for row in rows})),
                    "excluded": excluded[name, split],
                    "multi_label": sum(len(row["labels"]) > 1 for row in rows),
                    "signals": sum(bool(row["signals"]) for row in rows),
                    "membrane": f"{membrane[1]} / {membrane[0]} / {membrane[-1]}",
                    "labels": {label: labels[label] for label in COMPARTMENTS},
                }
            )
        described.append(
            {
                "name": name,
                "description": DESCRIPTIONS[name],
                "partitioned": name == "deeploc2",
                "splits": tables,
            }
        )
    return described


def write(configs: Configs, excluded: Counter, out: Path, repo_id: str) -> None:
    """Write Parquet files and the card, which tells `load_dataset` and the Hub viewer where they are, into a folder."""
    has_profiles = any("profile" in row for splits in configs.values() for rows in splits.values() for row in rows)
    features = Features({**FEATURES, **({"profile": PROFILE_FEATURE} if has_profiles else {})})
    files: dict[str, dict[str, list[Path]]] = {name: {} for name in configs}
    for name, splits in configs.items():
        for split, rows in splits.items():
            path = out / name / f"{split}.parquet"
            path.parent.mkdir(exist_ok=True)
            Dataset.from_list(rows, features=features).to_parquet(path)
            files[name][split] = [path]
            print(f"{name}/{split}: {len(rows)} proteins, {excluded[name, split]} excluded", file=sys.stderr)

    card_data = DatasetCardData(
        pretty_name="DeepLoc subcellular localization",
        license=["cc-by-4.0", "cc-by-sa-4.0"],
        task_categories=["text-classification"],
        task_ids=["multi-label-classification"],
        tags=["biology", "protein", "subcellular-localization"],
        **describe_files(out, features, files, **DESCRIPTIONS),
    )
    card = DatasetCard.from_template(
        card_data,
        template_path=str(CARD_TEMPLATE),
        repo_id=repo_id,
        labels=COMPARTMENTS,
        signals=list(SORTING_SIGNALS),
        has_profiles=has_profiles,
        configs=describe(configs, excluded),
    )
    card.save(out / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deeploc2", type=Path, help="DeepLoc 2.0's Swissprot_Train_Validation_dataset.csv[.gz]")
    parser.add_argument("--hpa", type=Path, help="DeepLoc 2.0's hpa_testset.csv[.gz]")
    parser.add_argument("--deeploc1", type=Path, nargs="+", default=[], help="DeepLoc 1.0's FASTA file(s)")
    parser.add_argument(
        "--exclude",
        type=Path,
        nargs="+",
        default=[],
        help="proteins excluded from training and validation: FASTA, tables of sequences, or accession, sequence_sha1",
    )
    parser.add_argument("--signals", type=Path, help="DeepLoc 2.0's sorting signals: accession, sequence, annotation")
    parser.add_argument("--profiles", type=Path, help="folder with a PSI-BLAST profile <id>.pssm[.gz] of every protein")
    parser.add_argument("--train", type=int, nargs="+", default=[0, 1, 2], help="DeepLoc 2.0 partitions to train on")
    parser.add_argument(
        "--validation", type=int, nargs="+", default=[3], help="partitions for early stopping and calibration"
    )
    parser.add_argument("--test", type=int, nargs="+", default=[], help="partitions for a test split")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    add_push_arguments(parser)
    args = parser.parse_args()
    if not (args.deeploc2 or args.hpa or args.deeploc1):
        parser.error("give at least one of --deeploc2, --hpa and --deeploc1")

    try:
        check_out(args.out, OWN_FILES)
        configs, excluded = build(args)
        with replaced_folder(args.out) as folder:
            write(configs, excluded, folder, args.push_to_hub or str(args.out))
    except (ValueError, OSError) as error:
        parser.exit(2, f"build_deeploc: {error}\n")
    push(parser, args.out, args.push_to_hub, args.private)


if __name__ == "__main__":
    main()
