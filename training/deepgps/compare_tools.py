"""
Compare other tools on the same proteins, mapped to deepGPS-single-2's two classes (deepGPS, "Comparison").

    python -m training.deepgps.compare_tools --proteins data/proteins --tool DeepLoc=deeploc.csv --tool BUSCA=busca.csv
    python -m training.deepgps.compare_tools --proteins data/proteins --fasta test.fasta
    protloc predict test.fasta -o ours.csv
    python -m training.deepgps.compare_tools --proteins data/proteins --tool ours=ours.csv

    python -m training.deepgps.compare_tools --images data/hpa:u2os-single-2 --tool MULocDeep=mulocdeep.txt

`--images` takes the proteins of a set of crops instead of labelled sequences. A CSV or TSV has a column with the
protein (UniProt accession or gene; `protein_id`, `id`, `accession`, `name`, ...) and

- scores in columns named after compartments (DeepLoc's `Cytoplasm`, `Nucleus`, `Mitochondrion`, ...), or
- compartments as text, the most probable first (`localization`, `prediction`, BUSCA's GO terms such as `C:nucleus`,
  ...).

Other text has one line per protein, with its name and scores: MultiLoc2's `P12345  cytoplasmic: 0.8  nuclear: 0.1`, or
MULocDeep's, which begins with `>`. Nucleus, nucleoplasm and nucleolus are nuclear, and everything else is cytoplasm, as
in the paper; cytoplasm is the positive class. A protein that is missing from a tool's output counts as neither class
and ranks in the middle. `--fasta OUT` writes the proteins as input for a tool.
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
from training.deepgps.data import read_source
from training.deepgps.labels import GROUPS, with_intervals

NUCLEAR = re.compile(r"nucle(us|ar|oplasm|ol)", re.IGNORECASE)
OTHERS = re.compile(  # the compartments of MultiLoc2, DeepLoc, BUSCA and MULocDeep that are not nuclear
    r"cyto(plasm(ic)?|sol)|mitochondri(al?|on)|secret(ed|ory.?pathway)|extracellular|plastid|chloroplast|golgi.*|"
    r"endoplasmic.*|(cell.|plasma.|organelle.)?membrane|endomembrane.*|lysosom.*|vacuol.*|peroxisom.*|vesicles?",
    re.IGNORECASE,
)
SCORE = re.compile(r"([A-Za-z][A-Za-z _/.-]*?)\s*[:=]\s*(\d*\.?\d+(?:e-?\d+)?)%?(?=[\s,;]|$)")
PROTEIN = re.compile(r"#?(protein.?id|id|accession|acc|entry|name|protein|seq.*id|gene)", re.IGNORECASE)
COMPARTMENT = re.compile(r".*(locali[sz]ation|location|prediction|compartment|go.?term).*", re.IGNORECASE)
CLASSES = ["cytoplasm", "nucleoplasm"]


def read_answers(path: Path) -> dict[str, float]:
    """
    The probability of the nucleus against all else that a tool gives, by the name of the protein.

    Raises:
        ValueError: If the file has no column for proteins, or none for answers.
    """
    try:
        found = read_text(path.read_text(encoding="utf-8"))
        if found:
            return found
        rows = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no table that can be read: {error}") from None
    names = [column for column in rows.columns if PROTEIN.fullmatch(column.strip())]
    if not names:
        raise ValueError(f"{path}: no column for the protein among {', '.join(rows.columns)}")
    columns = [column for column in rows.columns if NUCLEAR.match(column.strip()) or OTHERS.fullmatch(column.strip())]
    if any(re.fullmatch("(cell|plasma).membrane", column.strip(), re.IGNORECASE) for column in columns):
        columns = [column for column in columns if column.strip().lower() != "membrane"]  # bound to one, or soluble
    texts = [column for column in rows.columns if COMPARTMENT.fullmatch(column.strip())]
    if len({bool(NUCLEAR.match(column.strip())) for column in columns}) == 2:
        numbers = rows[columns].apply(pd.to_numeric, errors="coerce")
        empty = [column for column in columns if numbers[column].isna().all()]
        if empty:
            raise ValueError(f"{path}: no number in column {empty[0]!r}")
        shares = [share(dict(row)) for row in numbers.fillna(0).rename(columns=str.strip).to_dict("records")]
    elif texts:
        shares = rows[texts[0]].map(named_first).tolist()
    else:
        raise ValueError(
            f"{path}: no columns of scores for the nucleus and other compartments, and none of compartments, among "
            f"{', '.join(rows.columns)}"
        )
    return dict(zip(rows[names[0]].str.strip(), map(float, shares), strict=True))


def read_text(text: str) -> dict[str, float]:
    """Answers of text that gives a protein's name and then, on this line or the next, `compartment: score`."""
    found: dict[str, float] = {}
    name = ""
    for line in text.splitlines():
        scores = {
            compartment.strip(): float(score)
            for compartment, score in SCORE.findall(line)
            if NUCLEAR.match(compartment.strip()) or OTHERS.fullmatch(compartment.strip())
        }
        head = re.split(r"[\s,;]", line.strip(), maxsplit=1)[0].strip(">:")
        if line.startswith(">") or (scores and not SCORE.match(line.strip())):
            name = head
        if name and len(scores) > 1:
            found[name] = share(scores)
    return found


def share(scores: dict[str, float]) -> float:
    """Of the best nuclear compartment against the best other one: above 0.5 where the nucleus is the likeliest."""
    nuclear = max((score for name, score in scores.items() if NUCLEAR.match(name)), default=0.0)
    other = max((score for name, score in scores.items() if not NUCLEAR.match(name)), default=0.0)
    return nuclear / (nuclear + other) if nuclear + other else 0.5


def named_first(text: str) -> float:
    """1 if the first compartment of a text is nuclear, 0 if it is another, 0.5 if there is none."""
    first = re.split(r"[|;,]| then | and ", re.sub(r"^C:", "", text.strip()), maxsplit=1)[0]
    return 1.0 if NUCLEAR.search(first) else 0.0 if first else 0.5


def known_proteins(args: argparse.Namespace) -> list[dict[str, str]]:
    """Accession, gene, sequence and label of the proteins of one of the two classes."""
    if args.proteins:
        rows = load_dataset(args.proteins, split=args.split)
    else:
        crops = load_dataset(args.images.dataset, args.images.config, split=args.split)
        names = crops.features["labels"].feature.names
        crops = crops.select_columns(["uniprot_id", "gene", "sequence", "labels"])
        unique = {row["sequence"]: row for row in crops if row["sequence"]}
        rows = [{**row, "source_labels": "|".join(names[i] for i in row["labels"])} for row in unique.values()]
    return [row for row in rows if row["source_labels"] in GROUPS["single-2"]]


def compare(args: argparse.Namespace) -> dict[str, Any]:
    rows, of_class = known_proteins(args), GROUPS["single-2"]
    truth = np.array([CLASSES.index(of_class[row["source_labels"]]) for row in rows])
    if args.fasta:
        args.fasta.write_text(
            "".join(f">{row['uniprot_id'] or row['gene']}\n{row['sequence']}\n" for row in rows), encoding="utf-8"
        )
    results = {}
    for name, path in args.tool:
        answers = read_answers(path)
        found = [answers.get(row["uniprot_id"], answers.get(row["gene"])) for row in rows]
        if not any(share is not None for share in found):
            raise ValueError(f"{path}: none of its proteins is among the {len(rows)} of the data set")
        shares = np.array([0.5 if share is None else share for share in found])
        results[name] = with_intervals(truth, np.stack([1 - shares, shares], axis=1), CLASSES)
        results[name]["answered"] = sum(share is not None for share in found)
    return results


def read_tool(text: str) -> tuple[str, Path]:
    name, _, path = text.partition("=")
    if not path:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=FILE")
    return name, Path(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--proteins", help="data set of datasets_scripts/build_proteins.py")
    source.add_argument(
        "--images", type=read_source, metavar="DATASET:CONFIG", help="crops whose proteins are compared"
    )
    parser.add_argument("--split", default="test", help="split of the data set (default: test)")
    parser.add_argument(
        "--tool", type=read_tool, action="append", default=[], metavar="NAME=FILE", help="a tool's predictions"
    )
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
