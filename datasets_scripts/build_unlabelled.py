"""
Build the unlabelled proteins on which a small model is distilled from a large one: tables or FASTA -> Parquet.

    python -m datasets_scripts.build_unlabelled unlabelled_sequences.csv.gz human_sequences.csv.gz \
        --exclude never_train.csv.gz --homologs-of hpa_testset.fasta --proteins 20000 --out data/unlabelled

Each row has `id` and `sequence`; each sequence is present once. Proteins that `--exclude` lists by accession or
sequence are excluded. With MMseqs2, proteins with 30 % identity to an excluded sequence of the tables, or to a sequence
of `--homologs-of`, are excluded too: otherwise the model would be trained on predictions for test proteins.
"""

import argparse
import random
import re
import sys
from pathlib import Path

from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData

from datasets_scripts.arguments import add_push_arguments, build_and_push, describe_files
from datasets_scripts.homology import similar
from protloc.sequences import clean_sequence, read_sequences
from protloc.tables import read_exclusions, sha1

OWN_FILES = re.compile(r"README\.md|train\.parquet")
CARD_TEMPLATE = Path(__file__).resolve().parents[1] / "model_cards" / "dataset_unlabelled.md.jinja"


def build(args: argparse.Namespace) -> tuple[dict[str, str], str]:
    """Sequences with their ids, and the sentence on what was left out."""
    ids, sums = read_exclusions(args.exclude)
    found: dict[str, str] = {}
    for path in args.proteins_of:  # one by one, as two tables may name a protein alike
        for protein, sequence in read_sequences([str(path)]):
            found.setdefault(clean_sequence(sequence), protein)
    excluded = {sequence for sequence, protein in found.items() if protein in ids or sha1(sequence) in sums}
    references = excluded | {sequence for _, sequence in read_sequences([str(path) for path in args.homologs_of])}
    fitting = [
        sequence for sequence in found if sequence not in excluded and args.shortest <= len(sequence) <= args.longest
    ]
    near = similar(fitting, references) if references else set()
    kept = [sequence for sequence in fitting if sequence not in near]
    summary = (
        f"Of {len(found)} sequences {len(excluded)} are held out elsewhere, {len(fitting)} of the others have "
        f"{args.shortest} to {args.longest} residues, and {len(near)} of these, with 30 % identity to one of "
        f"{len(references)} held-out sequences, are left out."
    )
    random.Random(args.seed).shuffle(kept)
    named: set[str] = set()
    chosen = {}
    for sequence in kept[: args.proteins]:
        protein = found[sequence]
        chosen[sequence] = f"{protein}-{sha1(sequence)[:8]}" if protein in named else protein
        named.add(protein)
    return chosen, summary


def write(proteins: dict[str, str], summary: str, out: Path, repo_id: str) -> None:
    table = Dataset.from_dict({"id": list(proteins.values()), "sequence": list(proteins)})
    table.to_parquet(out / "train.parquet")
    print(f"train: {len(proteins)} proteins", file=sys.stderr)
    card_data = DatasetCardData(
        pretty_name="Proteins without labels",
        license="cc-by-4.0",
        tags=["biology", "protein"],
        **describe_files(out, table.features, {"default": {"train": [out / "train.parquet"]}}),
    )
    card = DatasetCard.from_template(
        card_data, template_path=str(CARD_TEMPLATE), repo_id=repo_id, summary=summary, proteins=len(proteins)
    )
    card.save(out / "README.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "proteins_of", metavar="FILE", type=Path, nargs="+", help="FASTA or tables, as protloc predict reads them"
    )
    parser.add_argument("--exclude", type=Path, nargs="+", default=[], help="proteins to exclude, as in build_deeploc")
    parser.add_argument(
        "--homologs-of", type=Path, nargs="+", default=[], help="proteins whose homologs are excluded too"
    )
    parser.add_argument("--proteins", type=int, help="number of randomly sampled proteins (default: all)")
    parser.add_argument("--shortest", type=int, default=40, help="minimum number of residues (default: 40)")
    parser.add_argument("--longest", type=int, default=600, help="maximum number of residues (default: 600)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    add_push_arguments(parser)
    build_and_push(parser, parser.parse_args(), OWN_FILES, build, write)


if __name__ == "__main__":
    main()
