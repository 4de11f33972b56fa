"""
Build the OpenCell data set: fields of tagged proteins and nuclei in HEK293T -> crops in Parquet.

    python -m datasets_scripts.build_opencell --download --images raw/opencell --out data/opencell
    python -m datasets_scripts.build_opencell --annotations opencell-localization-annotations.csv \
        --sequences uniprot.fasta.gz --images raw/opencell --out data/opencell

`--download` first downloads OpenCell's projections (some 6,300 fields, 9 GB), its annotations and UniProt's human
proteome into the folder of the images. When started again, download and build resume. Images may be in any folder below
`--images`: `OC-FOV_GENE_ENSG_CID_FID_proj.tif` (or `_stack.tif`, projected here) as in OpenCell's bucket, or
`GENE_hoechst.png` and `GENE_protein.png`. The data set has these configurations, all with the same split by protein:

    single-2   proteins whose only major localization is the cytoplasm or the nucleoplasm
    single-4   the same with vesicles and the endoplasmic reticulum
    all        all proteins of at most 2,700 residues, including proteins with several major localizations

Add `--push-to-hub OWNER/NAME` to publish the folder as a data set repository.
"""

import argparse
import dataclasses
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets_scripts.arguments import positive, push
from datasets_scripts.download import DownloadError, RemoteFile, fetch, fetch_archives, list_bucket
from datasets_scripts.fields import Field, add_arguments, build
from datasets_scripts.proteins import MAX_LENGTH, UNIPROT_HUMAN, Proteins, split_proteins
from protloc.images import read_image
from protloc.microscopy import OPENCELL_UM_PER_PX, normalize
from protloc.nuclei import estimate_um_per_px
from protloc.tables import read_csv
from protloc.taxonomy import OPENCELL_CATEGORIES

BUCKET = "https://czb-opencell.s3.us-west-2.amazonaws.com"
TABLES = [
    RemoteFile("https://opencell.czbiohub.org/data/datasets/opencell-localization-annotations.csv", "annotations.csv"),
    UNIPROT_HUMAN,
]
LICENCE = (
    "OpenCell (Cho et al. 2022), CZ Biohub: CC BY-SA 4.0, see https://registry.opendata.aws/czb-opencell and "
    "https://opencell.czbiohub.org; UniProt: CC BY 4.0"
)

FIELD_NAME = re.compile(
    r"OC-FOV_(?P<gene>.+)_(?P<ensembl>ENSG\d+)_(?P<line>CID\d+)_(?P<field>FID\d+)_(proj|stack)\.tiff?(\.gz)?",
    re.I,
)
PAIR_NAME = re.compile(r"(?P<gene>.+)_hoechst\.(png|tiff?)(\.gz)?", re.I)
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
GROUPS = {"single-2": ["cytoplasm-nucleoplasm"], "single-4": ["cytoplasm-nucleoplasm", "vesicles-er"]}


def read_annotations(path: Path) -> Iterator[tuple[str, str, list[str], dict[str, int]]]:
    """
    Gene name, Ensembl gene, UniProt accessions (of a column `uniprot_id`) and grade by category, OpenCell's or another,
    of every tagged protein, from OpenCell's table with a column for each grade, or from one with a row for each
    category.
    """
    grades: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    accessions: dict[tuple[str, str], list[str]] = {}
    for place, row in read_csv(path, ["ensg_id", "target_name"]):
        name = row["target_name"], row["ensg_id"]
        protein = grades[name]
        accessions[name] = [accession for accession in re.split(r"[;|, ]+", row.get("uniprot_id", "")) if accession]
        if "annotation_name" in row:
            if row["annotation_grade"] not in ("1", "2", "3"):
                raise ValueError(f"{place}: the grade {row['annotation_grade']!r} is not 1, 2 or 3")
            protein[row["annotation_name"]] = int(row["annotation_grade"])
        elif "annotations_grade_3" not in row:
            raise ValueError(f"{path}: no column 'annotations_grade_3' or 'annotation_name'")
        for grade in (1, 2, 3):
            protein.update(
                {name: grade for name in re.split(r"[;|]", row.get(f"annotations_grade_{grade}", "")) if name}
            )
    for (gene, ensembl), categories in grades.items():
        yield gene, ensembl, accessions[gene, ensembl], categories


def major_localizations(grades: dict[str, int]) -> tuple[list[str], int]:
    """
    The categories of the highest grade there is, 3 or else 2, and that grade (deepGPS, "Annotation of protein
    localization"); none if all are weak.
    """
    top = max(grades.values(), default=0)
    order = [*OPENCELL_CATEGORIES, *sorted(grades.keys() - set(OPENCELL_CATEGORIES))]
    return ([name for name in order if grades.get(name) == top], top) if top >= 2 else ([], top)


def find_images(folder: Path) -> Iterator[tuple[str, str, str, Path, Path | None]]:
    """Field, gene name, Ensembl gene, nucleus image and protein image (none where one file holds both)."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".gz" and path.with_suffix("").exists():
            continue  # it is there unpacked
        if match := FIELD_NAME.fullmatch(path.name):
            yield match["field"], match["gene"], match["ensembl"], path, None
        elif match := PAIR_NAME.fullmatch(path.name):
            protein = re.sub("_hoechst", "_protein", path.name, flags=re.I)
            yield match["gene"], match["gene"], "", path, path.with_name(protein)


def group(labels: list[str]) -> str:
    if labels in (["cytoplasmic"], ["nucleoplasm"]):
        return "cytoplasm-nucleoplasm"
    return "vesicles-er" if labels in (["vesicles"], ["er"]) else "others"


def gather(args: argparse.Namespace) -> tuple[list[Field], list[str], dict]:
    """The fields to cut, the categories, and what the card says of proteins and labels."""
    sequences = Proteins(args.sequences)
    proteins, labels_of, gene_of, unmatched = {}, {}, {}, []
    for gene, ensembl, accessions, grades in read_annotations(args.annotations):
        labels, grade = major_localizations(grades)
        protein = sequences.find(*accessions, ensembl, gene)  # names of genes change
        if protein is None:
            unmatched.append((gene, "no sequence for this gene name or Ensembl gene"))
        elif len(protein.sequence) > MAX_LENGTH:
            unmatched.append((gene, f"longer than {MAX_LENGTH} residues"))
        elif not labels:
            unmatched.append((gene, "only weak localizations"))
        else:
            proteins[gene] = dataclasses.replace(protein, gene=gene)
            labels_of[gene] = (labels, grade)
            gene_of[gene] = gene_of[ensembl or gene] = gene
    too_long = sum(reason.startswith("longer") for _, reason in unmatched)
    classes = {gene: labels[0] if len(labels) == 1 else "several" for gene, (labels, _) in labels_of.items()}
    splits, rule = split_proteins(proteins, classes, args)
    unmatched += [(gene, f"not in {args.split_file}") for gene in proteins if gene not in splits]

    fields = []
    for field_id, gene, ensembl, nucleus, protein_image in find_images(args.images):
        gene = gene_of.get(gene) or gene_of.get(ensembl) or gene
        if gene not in splits:
            unmatched.append((gene, f"{nucleus.name}: no protein of the build"))
            continue
        labels, grade = labels_of[gene]
        fields.append(
            Field(
                field_id=field_id,
                nucleus=nucleus,
                protein_image=protein_image,
                um_per_px=pixel_size(nucleus, args.nucleus_um) if args.nucleus_um else args.fields_um_per_px,
                protein=proteins[gene],
                labels=tuple(labels),
                cell_line="HEK293T",
                split=splits[gene],
                group=group(labels),
                grade=grade,
                pad=protein_image is not None,  # pictures of a few cells, smaller than a crop
            )
        )
    shown = {field.protein.gene for field in fields}
    unmatched += [(gene, "no image") for gene in splits if gene not in shown]
    single = Counter(labels[0] for labels, _ in labels_of.values() if len(labels) == 1)
    groups = {gene: group(labels) for gene, (labels, _) in labels_of.items()}

    def count(genes: Iterable[str]) -> dict[str, int]:
        counted = Counter(splits[gene] for gene in genes if gene in splits)
        return {split: counted[split] for split in ("train", "test")}

    own = {label for field in fields for label in field.labels} - set(OPENCELL_CATEGORIES)
    if own:
        print(f"{', '.join(sorted(own))}: no category of OpenCell's, taken as they are", file=sys.stderr)
    return (
        fields,
        [*OPENCELL_CATEGORIES, *sorted(own)],
        {
            "title": "OpenCell crops: nucleus, protein, sequence and localization",
            "licence": "cc-by-sa-4.0",
            "paper": PAPER,
            "split_rule": rule,
            "unmatched": unmatched,
            "proteins": len(proteins),
            "too_long": too_long,
            "single": dict(single.most_common()),
            "classes": {
                name: count(gene for gene, (labels, _) in labels_of.items() if labels == [name])
                for name in ("cytoplasmic", "vesicles", "nucleoplasm", "er")
            },
            "splits": {
                name: count(gene for gene in groups if groups[gene] in parts)
                for name, parts in {**GROUPS, "all": set(groups.values())}.items()
            },
        },
    )


def pixel_size(nucleus: Path, diameter: float) -> float:
    """The pixel size in micrometres at which the usual nucleus of an image has this diameter."""
    size = estimate_um_per_px(normalize(read_image(nucleus).pixels), diameter)
    if size is None:
        raise ValueError(f"{nucleus}: no nucleus is seen in it that --nucleus-um could measure")
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path, help="OpenCell's localization annotations")
    parser.add_argument(
        "--sequences", type=Path, nargs="+", default=[], help="FASTA of UniProt, or tables with sequences"
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of the fields")
    parser.add_argument(
        "--fields-um-per-px", type=positive, default=OPENCELL_UM_PER_PX, help="pixel size of the fields"
    )
    parser.add_argument(
        "--nucleus-um",
        type=positive,
        help="for pictures of unknown pixel size: the usual diameter of a nucleus in micrometres, 13 in HEK293T",
    )
    parser.add_argument("--download", action="store_true", help="download missing files into the folder of the images")
    add_arguments(parser)
    args = parser.parse_args()
    if not args.download and not (args.annotations and args.sequences):
        parser.error("give --annotations and --sequences, or --download")
    try:
        if args.download:
            print(LICENCE, file=sys.stderr)
            fetch_archives(TABLES, args.images, args.parallel)
            fetch(list_bucket(BUCKET, "microscopy/raw/", "_proj.tif"), args.images, args.parallel)
            args.annotations = args.annotations or args.images / TABLES[0].path
            args.sequences = args.sequences or [args.images / TABLES[1].path]
        fields, categories, counts = gather(args)
        groups = sorted({field.group for field in fields})
        build(args, fields, categories, {**GROUPS, "all": groups}, "dataset_opencell.md.jinja", counts)
    except DownloadError as error:
        parser.exit(2, f"build_opencell: {error}, or leave out --download to build from what is there\n")
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f"build_opencell: {error}\n")
    push(parser, args.out, args.push_to_hub, args.private)


if __name__ == "__main__":
    main()
