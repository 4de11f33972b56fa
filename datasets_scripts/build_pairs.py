"""
Build a data set from your own pairs of images: a nucleus and a protein in the same field -> crops in Parquet.

    python -m datasets_scripts.build_pairs pairs.csv --out data/mine

Each row of the table (CSV or TSV) is a field. The columns are:

    nucleus          an image (PNG, TIFF, JPEG or any format that `protloc.images` reads), beside the table or a path
    protein          the protein's image of the same field; if empty or missing, both are in one TIFF of two channels
    sequence         one-letter codes
    label            your own label of the localization; several, separated by ; or |, train the image but no label
    id, gene, uniprot_id, cell_line, um_per_px    optional; a protein is never in both splits

Nuclei are segmented and cropped as for OpenCell. `--single-cells` is for images of one or a few cells: black is added
if a crop extends beyond them. The data set has one configuration, `all`, with the labels of the table. Add
`--push-to-hub OWNER/NAME` to publish it.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from datasets_scripts.arguments import positive, push
from datasets_scripts.fields import Field, add_arguments, build
from datasets_scripts.proteins import MAX_LENGTH, Protein, split_proteins
from protloc.microscopy import OPENCELL_UM_PER_PX
from protloc.sequences import clean_sequence
from protloc.tables import read_csv


def gather(args: argparse.Namespace) -> tuple[list[Field], list[str], dict[str, Any]]:
    """The fields to cut, the labels, and what the card says of proteins and labels."""
    proteins: dict[str, Protein] = {}
    known: dict[str, dict[str, Any]] = {}
    unmatched = []
    for place, row in read_csv(args.table, ["nucleus", "sequence"]):
        texts = {name: row.get(name, "").strip() for name in row}
        column = "label" if "label" in texts else "labels"
        if column not in texts:
            raise ValueError(f"{args.table}: no column 'label'")
        labels = [" ".join(name.split()) for name in re.split(r"[;|]", texts[column])]
        labels = list(dict.fromkeys(filter(None, labels)))
        nucleus = args.table.parent / texts["nucleus"]
        field_id = texts.get("id") or Path(texts["nucleus"]).name.split(".")[0]
        if field_id in known:
            raise ValueError(f"{place}: there is a field {field_id!r} already: give each an id of its own")
        for name in ("nucleus", "protein"):
            if texts.get(name) and not (args.table.parent / texts[name]).is_file():
                raise ValueError(f"{place}: there is no file {args.table.parent / texts[name]}")
        try:
            sequence = clean_sequence(texts["sequence"])
            size = positive(texts["um_per_px"]) if texts.get("um_per_px") else args.fields_um_per_px
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{place}: {error}") from None
        if not labels:
            unmatched.append((field_id, "no label"))
        elif len(sequence) > MAX_LENGTH:
            unmatched.append((field_id, f"longer than {MAX_LENGTH} residues"))
        else:
            proteins[field_id] = Protein(texts.get("gene", ""), texts.get("uniprot_id", ""), sequence)
            known[field_id] = {
                "nucleus": nucleus,
                "protein_image": args.table.parent / texts["protein"] if texts.get("protein") else None,
                "um_per_px": size,
                "labels": tuple(labels),
                "cell_line": texts.get("cell_line", ""),
            }
    classes = {name: "|".join(about["labels"]) for name, about in known.items()}
    splits, rule = split_proteins(proteins, classes, args)
    unmatched += [(name, f"not in {args.split_file}") for name in proteins if name not in splits]
    fields = [
        Field(name, protein=proteins[name], split=side, group="all", pad=args.single_cells, **known[name])
        for name, side in splits.items()
    ]
    about = {"title": args.title, "licence": args.licence, "unmatched": unmatched, "split_rule": rule}
    return fields, sorted({label for field in fields for label in field.labels}), about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="CSV or TSV, one row per field")
    parser.add_argument(
        "--fields-um-per-px",
        type=positive,
        default=OPENCELL_UM_PER_PX,
        help=f"pixel size of the fields, if the table has none (default: {OPENCELL_UM_PER_PX} micrometres)",
    )
    parser.add_argument("--single-cells", action="store_true", help="each image shows one or a few cells")
    parser.add_argument("--title", default="Nuclei and proteins in the same cells", help="title of the card")
    parser.add_argument(
        "--licence", default="other", help="licence of the images, by its name on the Hub (default: other)"
    )
    add_arguments(parser)
    args = parser.parse_args()
    try:
        fields, labels, about = gather(args)
        build(args, fields, labels, {"all": ["all"]}, "dataset_pairs.md.jinja", about)
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"build_pairs: {error}\n")
    push(parser, args.out, args.push_to_hub, args.private)


if __name__ == "__main__":
    main()
