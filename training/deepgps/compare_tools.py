"""
Other tools' answers on the same proteins, mapped to deepGPS-single-2's two classes (deepGPS, "Comparison").

    python -m training.deepgps.compare_tools --proteins data/proteins --tool DeepLoc=deeploc.csv --tool BUSCA=busca.csv
    python -m training.deepgps.compare_tools --proteins data/proteins --fasta test.fasta
    protloc predict test.fasta -o ours.csv
    python -m training.deepgps.compare_tools --proteins data/proteins --tool ours=ours.csv

A CSV or TSV has a column with the protein (UniProt accession or gene; `protein_id`, `id`, `accession`, `name`, ...) and

- scores in columns named after a compartment (DeepLoc's `Cytoplasm` and `Nucleus`, MultiLoc2's `cytoplasmic` and
  `nuclear`, MULocDeep's), or
- compartments as text, the likeliest first (`localization`, `prediction`, BUSCA's GO terms such as `C:nucleus`, ...).

Nuclear is what names the nucleus, nucleoplasm or nucleolus; cytosolic what names the cytoplasm or cytosol. A protein
that a tool leaves out or sees elsewhere is called neither, and ranks in the middle. `--fasta OUT` writes the proteins
to give to a tool.
"""

import argparse
import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import load_dataset

from training.common.runs import table
from training.deepgps.labels import GROUPS, with_intervals

NUCLEAR = re.compile(r"nucle(us|ar|oplasm|ol)", re.IGNORECASE)
CYTOSOLIC = re.compile(r"cyto(plasm|sol)", re.IGNORECASE)
PROTEIN = re.compile(r"#?(protein.?id|id|accession|acc|entry|name|protein|seq.*id|gene)", re.IGNORECASE)
COMPARTMENT = re.compile(r".*(locali[sz]ation|location|prediction|compartment|go.?term).*", re.IGNORECASE)
CLASSES = ["cytoplasm", "nucleoplasm"]


def read_answers(path: Path) -> dict[str, float]:
    """
    The probability of the nucleus against the cytoplasm that a tool's table gives, by the name of the protein.

    Raises:
        ValueError: If the table has no column for proteins, or none for answers.
    """
    try:
        rows = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no table that can be read: {error}") from None
    names = [column for column in rows.columns if PROTEIN.fullmatch(column.strip())]
    if not names:
        raise ValueError(f"{path}: no column for the protein among {', '.join(rows.columns)}")
    scores = [[c for c in rows.columns if kind.match(c.strip())] for kind in (CYTOSOLIC, NUCLEAR)]
    texts = [column for column in rows.columns if COMPARTMENT.fullmatch(column.strip())]
    if all(scores):
        cytosolic, nuclear = (pd.to_numeric(rows[columns[0]], errors="coerce") for columns in scores)
        if cytosolic.isna().all() or nuclear.isna().all():
            raise ValueError(f"{path}: no number in column {scores[0][0]!r} or {scores[1][0]!r}")
        cytosolic, nuclear = cytosolic.fillna(0), nuclear.fillna(0)
        total = cytosolic + nuclear
        shares = (nuclear / total.where(total > 0)).fillna(0.5)
    elif texts:
        shares = rows[texts[0]].map(nuclear_share)
    else:
        raise ValueError(
            f"{path}: no columns of scores for cytoplasm and nucleus, and none of compartments, among "
            f"{', '.join(rows.columns)}"
        )
    return dict(zip(rows[names[0]].str.strip(), shares.astype(float), strict=True))


def nuclear_share(text: str) -> float:
    """1 if the nucleus is named and the cytoplasm is not, or later; 0 the other way round; 0.5 if neither is."""
    nuclear, cytosolic = NUCLEAR.search(text), CYTOSOLIC.search(text)
    if nuclear and cytosolic:
        return float(nuclear.start() < cytosolic.start())
    return 1.0 if nuclear else 0.0 if cytosolic else 0.5


def compare(args: argparse.Namespace) -> dict[str, Any]:
    proteins = load_dataset(args.proteins, split=args.split)
    of_class = GROUPS["single-2"]
    rows = [row for row in proteins if row["source_labels"] in of_class]
    truth = np.array([CLASSES.index(of_class[row["source_labels"]]) for row in rows])
    if args.fasta:
        args.fasta.write_text("".join(f">{row['uniprot_id'] or row['gene']}\n{row['sequence']}\n" for row in rows))
    results = {}
    for name, path in args.tool:
        answers = read_answers(path)
        found = [answers.get(row["uniprot_id"], answers.get(row["gene"])) for row in rows]
        if not any(share is not None for share in found):
            raise ValueError(f"{path}: none of its proteins is among the {len(rows)} of {args.proteins}")
        shares = np.array([0.5 if share is None else share for share in found])
        results[name] = with_intervals(truth, np.stack([1 - shares, shares], axis=1), CLASSES)
        results[name]["answered"] = sum(share is not None for share in found)
    return results


def read_tool(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=CSV")
    return name, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", required=True, help="data set of datasets_scripts/build_proteins.py")
    parser.add_argument("--split", default="test", help="of the data set (default: test)")
    parser.add_argument("--tool", type=read_tool, action="append", default=[], metavar="NAME=CSV", help="its answers")
    parser.add_argument("--fasta", type=Path, metavar="OUT", help="write the proteins")
    args = parser.parse_args()
    if not args.tool and not args.fasta:
        parser.error("give --tool, --fasta or both")
    try:
        results = compare(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"training.deepgps.compare_tools: {error}\n")
    head = ["tool", "answered", "accuracy", "specificity", "sensitivity", "F1", "AUROC (95 %)", "AUPRC"]
    rows = [head]
    for name, scores in results.items():
        numbers = [f"{scores[key]:.3f}" for key in ("accuracy", "specificity", "sensitivity", "f1")]
        low, high = scores["intervals"]["auroc"]
        auroc = f"{scores['auroc']:.3f} ({low:.3f}-{high:.3f})"
        rows.append([name, f"{scores['answered']}/{scores['count']}", *numbers, auroc, f"{scores['auprc']:.3f}"])
    if results:
        print(table(rows))


if __name__ == "__main__":
    main()
