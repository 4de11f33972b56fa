"""
Build the OpenCell data set: fields of tagged proteins and nuclei in HEK293T -> crops in Parquet.

    python datasets_scripts/build_opencell.py --download --images raw/opencell --out data/opencell
    python datasets_scripts/build_opencell.py --annotations opencell-localization-annotations.csv \
        --sequences uniprot.fasta.gz --images raw/opencell --out data/opencell

`--download` fetches OpenCell's projections (some 6,300 fields, 9 GB), its annotations and UniProt's human proteome into
the folder of the images first. Started again, download and build go on where they stopped. Images may lie in any folder
below `--images`: `OC-FOV_GENE_ENSG_CID_FID_proj.tif` (or `_stack.tif`, projected here) as in OpenCell's bucket, or as
`GENE_hoechst.png` and `GENE_protein.png`. Configurations of the result, all with the same split by protein:

    single-2   proteins whose one major localization is the cytoplasm or the nucleoplasm
    single-4   the same with vesicles and the endoplasmic reticulum
    all        all proteins of at most 2,700 residues, also those with several major localizations

Add `--push-to-hub OWNER/NAME` to publish the folder as a data set repository.
"""

import argparse
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from download import DownloadError, RemoteFile, fetch, list_bucket
from fields import Field, add_arguments, build
from proteins import MAX_LENGTH, UNIPROT_HUMAN, Proteins, clusters, ramp_split, read_split
from tables import check_login, read_csv

from protloc.microscopy import OPENCELL_UM_PER_PX
from protloc.taxonomy import OPENCELL_CATEGORIES

BUCKET = "https://czb-opencell.s3.us-west-2.amazonaws.com"
TABLES = [
    RemoteFile("https://opencell.czbiohub.org/data/datasets/opencell-localization-annotations.csv", "annotations.csv"),
    UNIPROT_HUMAN,
]
LICENCE = "OpenCell (Cho et al. 2022), CZ Biohub: see https://registry.opendata.aws/czb-opencell; UniProt: CC BY 4.0"

FIELD_NAME = re.compile(
    r"OC-FOV_(?P<gene>.+)_(?P<ensembl>ENSG\d+)_(?P<line>CID\d+)_(?P<field>FID\d+)_(proj|stack)\.tiff?"
)
PAIR_NAME = re.compile(r"(?P<gene>.+)_hoechst\.(png|tiff?)")
# Proteins that train and test in the paper (deepGPS, "Dataset split")
PAPER = {
    "cytoplasmic": (182, 40),
    "vesicles": (112, 28),
    "nucleoplasm": (109, 23),
    "er": (64, 14),
    "single-2": (291, 63),
    "single-4": (467, 105),
    "all": (1051, 250),
}
SPLIT_RULE = (
    "Split by protein: 75 % of the largest class train, 90 % of the smallest, linearly between them over the classes "
    "sorted by size; proteins with several major localizations are a class. A sequence is never on both sides."
)
GROUPS = {"single-2": ["cytoplasm-nucleoplasm"], "single-4": ["cytoplasm-nucleoplasm", "vesicles-er"]}


def read_annotations(path: Path) -> Iterator[tuple[str, str, dict[str, int]]]:
    """
    Gene name, Ensembl gene and grade by category of every tagged protein, from OpenCell's table with a column for each
    grade, or from one with a row for each category.
    """
    grades: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for place, row in read_csv(path, ["ensg_id", "target_name"]):
        protein = grades[row["target_name"], row["ensg_id"]]
        if "annotation_name" in row:
            protein[row["annotation_name"]] = int(row["annotation_grade"])
        for grade in (1, 2, 3):
            protein.update(
                {name: grade for name in re.split(r"[;|]", row.get(f"annotations_grade_{grade}", "")) if name}
            )
        unknown = protein.keys() - set(OPENCELL_CATEGORIES)
        if unknown:
            raise ValueError(f"{place}: {min(unknown)!r} is none of {', '.join(OPENCELL_CATEGORIES)}")
    for (gene, ensembl), categories in grades.items():
        yield gene, ensembl, categories


def major_localizations(grades: dict[str, int]) -> tuple[list[str], int]:
    """
    The categories of the highest grade there is, 3 or else 2, and that grade (deepGPS, "Annotation of protein
    localization"); none if all are weak.
    """
    top = max(grades.values(), default=0)
    return ([name for name in OPENCELL_CATEGORIES if grades.get(name) == top], top) if top >= 2 else ([], top)


def find_images(folder: Path) -> Iterator[tuple[str, str, str, Path, Path | None]]:
    """Field, gene name, Ensembl gene, nucleus image and protein image (none where one file holds both)."""
    for path in sorted(folder.rglob("*")):
        if match := FIELD_NAME.fullmatch(path.name):
            yield match["field"], match["gene"], match["ensembl"], path, None
        elif match := PAIR_NAME.fullmatch(path.name):
            yield match["gene"], match["gene"], "", path, path.with_name(path.name.replace("_hoechst", "_protein"))


def group(labels: list[str]) -> str:
    if labels in (["cytoplasmic"], ["nucleoplasm"]):
        return "cytoplasm-nucleoplasm"
    return "vesicles-er" if labels in (["vesicles"], ["er"]) else "others"


def gather(args: argparse.Namespace) -> tuple[list[Field], dict]:
    """The fields to cut, and what the card says of proteins and labels."""
    proteins = Proteins(args.sequences)
    known, unmatched, too_long = {}, [], 0
    for gene, ensembl, grades in read_annotations(args.annotations):
        labels, grade = major_localizations(grades)
        protein = proteins.find(gene, ensembl)
        if protein is None:
            unmatched.append((gene, "no sequence for this gene name or Ensembl gene"))
        elif len(protein.sequence) > MAX_LENGTH:
            too_long += 1
        elif labels:
            known[gene] = known[ensembl] = (gene, protein, labels, grade)
        else:
            unmatched.append((gene, "only weak localizations"))
    described = {gene: (protein, labels) for gene, protein, labels, _ in known.values()}

    if args.split_file:
        split = read_split(args.split_file)
        splits = {gene: split.get(protein.uniprot_id) or split.get(gene) for gene, (protein, _) in described.items()}
    else:
        classes = {p.sequence: labels[0] if len(labels) == 1 else "several" for p, labels in described.values()}
        split = ramp_split(classes, clusters(classes, args.cluster_identity), args.seed)
        splits = {gene: split[protein.sequence] for gene, (protein, _) in described.items()}
    unmatched += [(gene, f"not in {args.split_file}") for gene, name in splits.items() if name is None]

    fields = []
    for field_id, gene, ensembl, nucleus, protein_image in find_images(args.images):
        gene, protein, labels, grade = known.get(gene) or known.get(ensembl) or (gene, None, [], 0)
        if protein is None or splits[gene] is None:
            unmatched.append((gene, f"{nucleus.name}: no protein of the build"))
            continue
        fields.append(
            Field(
                field_id=field_id,
                nucleus=nucleus,
                protein_image=protein_image,
                um_per_px=args.fields_um_per_px,
                protein=protein,
                labels=tuple(labels),
                cell_line="HEK293T",
                split=splits[gene],
                group=group(labels),
                grade=grade,
                pad=protein_image is not None,
            )
        )
    single = Counter(labels[0] for _, labels in described.values() if len(labels) == 1)
    counted = Counter((group(labels), splits[gene]) for gene, (_, labels) in described.items())
    return fields, {
        "title": "OpenCell crops: nucleus, protein, sequence and localization",
        "licence": "other",
        "paper": PAPER,
        "split_rule": f"Split as in `{args.split_file.name}`." if args.split_file else SPLIT_RULE,
        "unmatched": unmatched,
        "proteins": len(described),
        "too_long": too_long,
        "single": {name: single[name] for name in sorted(single, key=lambda name: -single[name])},
        "splits": {
            name: {split: sum(counted[part, split] for part in parts) for split in ("train", "test")}
            for name, parts in {**GROUPS, "all": sorted({part for part, _ in counted})}.items()
        },
        "classes": {
            name: {
                split: sum(labels == [name] and splits[gene] == split for gene, (_, labels) in described.items())
                for split in ("train", "test")
            }
            for name in ("cytoplasmic", "vesicles", "nucleoplasm", "er")
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, help="OpenCell's localization annotations")
    parser.add_argument(
        "--sequences", type=Path, nargs="+", default=[], help="FASTA of UniProt, or tables with sequences"
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of the fields")
    parser.add_argument("--fields-um-per-px", type=float, default=OPENCELL_UM_PER_PX, help="pixel size of the fields")
    parser.add_argument("--download", action="store_true", help="fetch what is missing into the folder of the images")
    add_arguments(parser)
    args = parser.parse_args()
    if args.push_to_hub:
        check_login(parser)
    if not args.download and not (args.annotations and args.sequences):
        parser.error("give --annotations and --sequences, or --download")
    try:
        if args.download:
            print(LICENCE, file=sys.stderr)
            fetch(TABLES, args.images, args.parallel)
            fetch(list_bucket(BUCKET, "microscopy/raw/", "_proj.tif"), args.images, args.parallel)
            args.annotations = args.annotations or args.images / TABLES[0].path
            args.sequences = args.sequences or [args.images / TABLES[1].path]
        fields, counts = gather(args)
        groups = sorted({field.group for field in fields})
        build(args, fields, OPENCELL_CATEGORIES, {**GROUPS, "all": groups}, "dataset_opencell.md.jinja", counts)
    except DownloadError as error:
        parser.exit(2, f"build_opencell: {error}, or leave out --download to build from what is there\n")
    except (ValueError, OSError) as error:
        parser.exit(2, f"build_opencell: {error}\n")


if __name__ == "__main__":
    main()
