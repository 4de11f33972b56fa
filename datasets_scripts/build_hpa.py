"""
Build the Human Protein Atlas data set: immunofluorescence fields, or single cells -> crops in Parquet.

    python datasets_scripts/build_hpa.py --fields raw/hpa --labels kaggle_2021.tsv --download --out data/hpa
    python datasets_scripts/build_hpa.py --cells cells.csv --sequences human_sequences.csv.gz --out data/hpa-cells

Images of a field are `ID_blue.png` (nucleus) and `ID_green.png` (protein), PNG or TIFF, in any folder below `--fields`.
Their labels come from

  --labels TABLE       the public table with cell lines (columns Image, Label, Cellline; Gene if it has one), or that of
                       a Kaggle challenge (ID, Label as numbers); several may be given
  --locations TABLE    subcellular_location.tsv, for fields of a known gene without a label of their own: gene-level
                       labels of all cell lines, of the reliabilities given; only if asked for

`--antibodies proteinatlas.tsv` names the gene of the antibody in the image's address. `--cells cells.csv` reads single
cells (columns image_id, compartment, um_per_px and mosaic; images in the folder `cells` beside it), whose genes are not
known, and of each the two markers that are (alpha-tubulin, calreticulin). Configurations of the result:

    u2os-single-2   U-2 OS, one localization, cytosol or nucleoplasm (deepGPS's own choice)
    all             all fields
    cells, markers  the single cells, split by the mosaic they come from; their markers

`--download` fetches what is not there yet into the folder of the fields: the images of U-2 OS that the table names, the
atlas's tables and UniProt's human proteome (the table with cell lines is on Kaggle, which wants an account). Add
`--push-to-hub OWNER/NAME` to publish the folder as a data set repository.
"""

import argparse
import gzip
import io
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from download import DownloadError, RemoteFile, fetch
from fields import Field, add_arguments, build
from proteins import MAX_LENGTH, UNIPROT_HUMAN, Protein, Proteins, clusters, ramp_split, read_split
from tables import check_login, read_csv, read_exclusions, sha1

from protloc.taxonomy import HPA_LOCATIONS, KAGGLE_LOCATIONS

U2OS = "U-2 OS"
SINGLE_2 = (["Cytosol"], ["Nucleoplasm"])
MARKERS = {"red": ("TUBA1A", ["Microtubules"]), "yellow": ("CALR", ["Endoplasmic reticulum"])}
RELIABILITIES = ["Enhanced", "Supported", "Approved", "Uncertain"]
TABLES = [
    RemoteFile(f"https://www.proteinatlas.org/download/{name}.tsv.zip", f"{name}.tsv.zip")
    for name in ("proteinatlas", "subcellular_location")
]
LICENCE = "The Human Protein Atlas (proteinatlas.org): CC BY-SA 4.0; cite Thul et al. 2017, Science 356, eaal3321"
IMAGE_NAME = re.compile(r"(?P<field>.+)_blue\.(png|jpe?g|tiff?)")


class Annotation(NamedTuple):
    labels: list[str]
    cell_line: str
    genes: list[str]
    url: str


def read_labels(path: Path, genes_of: dict[str, list[str]]) -> Iterator[tuple[str, Annotation]]:
    """Field and its annotation, from the public table with cell lines or from that of a Kaggle challenge."""
    for place, row in read_csv(path, ["Label"]):
        image = row.get("Image") or row.get("ID") or row.get("Id") or ""
        if not image:
            raise ValueError(f"{place}: no name in column Image or ID")
        if "Image" in row:
            labels = [name.strip() for name in row["Label"].split(",") if name.strip()]
        else:
            labels = [KAGGLE_LOCATIONS[int(number)] for number in row["Label"].split("|")]
        unknown = set(labels) - set(HPA_LOCATIONS)
        if unknown:
            raise ValueError(f"{place}: {min(unknown)!r} is no location of the Human Protein Atlas")
        parts = image.split("/")
        antibody = f"HPA{int(parts[-2]):06d}" if len(parts) > 1 and parts[-2].isdigit() else ""
        genes = [row.get("ENSG", ""), row.get("Gene", ""), *genes_of.get(antibody, [])]
        yield parts[-1], Annotation(labels, row.get("Cellline", ""), [gene for gene in genes if gene], image)


def read_antibodies(path: Path) -> dict[str, list[str]]:
    """Ensembl gene and gene name by antibody, from the atlas's table `proteinatlas.tsv`."""
    return {
        antibody.strip(): [row["Ensembl"], row["Gene"]]
        for _, row in read_csv(path, ["Gene", "Ensembl", "Antibody"])
        for antibody in row["Antibody"].split(",")
    }


def read_locations(path: Path, reliabilities: list[str]) -> dict[str, list[str]]:
    """Main and additional locations by Ensembl gene and gene name, of the reliabilities given."""
    locations = {}
    for _, row in read_csv(path, ["Gene", "Gene name", "Reliability", "Main location", "Additional location"]):
        labels = [name for name in f"{row['Main location']};{row['Additional location']}".split(";") if name]
        if row["Reliability"] in reliabilities and labels:
            locations[row["Gene"]] = locations[row["Gene name"]] = labels
    return locations


def whole_fields(args: argparse.Namespace, proteins: Proteins) -> tuple[list[Field], list[tuple[str, str]]]:
    """The fields that have labels, with their protein if it is known, and what is missing of the others."""
    genes_of = read_antibodies(args.antibodies) if args.antibodies else {}
    annotations = {name: annotation for path in args.labels for name, annotation in read_labels(path, genes_of)}
    locations = read_locations(args.locations, args.reliability) if args.locations else {}
    if args.download:
        fetch(wanted_images(annotations, args.fields), args.fields, args.parallel)
        unpack(args.fields)
    found, unmatched = [], []
    for path in sorted(args.fields.rglob("*_blue.*")):
        match = IMAGE_NAME.fullmatch(path.name)
        if match is None:
            continue
        name = match["field"]
        annotation = annotations.get(name, Annotation([], "", [], ""))
        protein = proteins.find(*annotation.genes) or Protein(gene=next(iter(annotation.genes), ""))
        labels = annotation.labels or next((locations[gene] for gene in annotation.genes if gene in locations), [])
        if not labels:
            unmatched.append((name, "no table names a label for this image"))
        elif len(protein.sequence) > MAX_LENGTH:
            unmatched.append((name, f"{protein.gene}: longer than {MAX_LENGTH} residues"))
        else:
            if not protein.sequence:
                unmatched.append((name, "no table names a gene with a sequence: the crops have none"))
            found.append((name, path, protein, labels, annotation.cell_line))

    classes = {p.sequence or name: labels[0] if len(labels) == 1 else "several" for name, _, p, labels, _ in found}
    split = ramp_split(classes, clusters(classes, args.cluster_identity), args.seed)
    named = read_split(args.split_file) if args.split_file else {}
    ids, sums = read_exclusions(args.exclude)
    fields = []
    for name, path, protein, labels, cell_line in found:
        held_out = protein.uniprot_id in ids or (protein.sequence and sha1(protein.sequence) in sums)
        chosen = named.get(protein.uniprot_id) or named.get(protein.gene) or split[protein.sequence or name]
        fields.append(
            Field(
                field_id=name,
                nucleus=path,
                protein_image=path.with_name(path.name.replace("_blue", "_green")),
                um_per_px=args.fields_um_per_px,
                protein=protein,
                labels=tuple(labels),
                cell_line=cell_line,
                split="test" if held_out else chosen,
                group="u2os-single-2" if cell_line == U2OS and labels in SINGLE_2 and protein.sequence else "others",
            )
        )
    return fields, unmatched


def wanted_images(annotations: dict[str, Annotation], folder: Path) -> Iterator[RemoteFile]:
    for name, annotation in annotations.items():
        if annotation.url.startswith("http") and annotation.cell_line == U2OS:
            for colour in ("blue", "green"):
                if not (folder / f"{name}_{colour}.tif").exists():
                    yield RemoteFile(f"{annotation.url}_{colour}.tif.gz", f"{name}_{colour}.tif.gz")


def download_tables(args: argparse.Namespace) -> None:
    """The atlas's tables and UniProt's sequences, where no others are given."""
    fetch([*TABLES, UNIPROT_HUMAN], args.fields, args.parallel)
    for table in TABLES:
        with zipfile.ZipFile(args.fields / table.path) as archive:
            archive.extractall(args.fields)
    args.antibodies = args.antibodies or args.fields / "proteinatlas.tsv"
    args.sequences = args.sequences or [args.fields / UNIPROT_HUMAN.path]


def unpack(folder: Path) -> None:
    """The atlas publishes gzipped TIFFs, which image libraries don't read."""
    for path in folder.glob("*.tif.gz"):
        partial = path.with_suffix(".partial")
        partial.write_bytes(gzip.GzipFile(fileobj=io.BytesIO(path.read_bytes())).read())
        partial.rename(path.with_suffix(""))
        path.unlink()


def single_cells(path: Path, proteins: Proteins, seed: int) -> Iterator[Field]:
    """Cells, and each of their two markers; a mosaic is never on both sides."""
    rows = [row for _, row in read_csv(path, ["image_id", "compartment", "um_per_px", "mosaic"])]
    mosaics = {row["mosaic"]: row["compartment"] for row in rows}
    split = ramp_split(mosaics, {mosaic: mosaic for mosaic in mosaics}, seed)
    for row in rows:
        for colour in ("green", *MARKERS):
            gene, labels = MARKERS.get(colour, ("", [row["compartment"].capitalize()]))
            if not set(labels) <= set(HPA_LOCATIONS):
                raise ValueError(f"{path}: {row['compartment']!r} is no location of the Human Protein Atlas")
            yield Field(
                field_id=f"{row['image_id']}_{colour}",
                nucleus=path.parent / "cells" / f"{row['image_id']}_blue.png",
                protein_image=path.parent / "cells" / f"{row['image_id']}_{colour}.png",
                um_per_px=float(row["um_per_px"]),
                protein=(proteins.find(gene) or Protein(gene=gene)) if gene else Protein(),
                labels=tuple(labels),
                cell_line="",
                split=split[row["mosaic"]],
                group="markers" if gene else "cells",
                pad=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=Path, help="folder of the fields")
    parser.add_argument("--fields-um-per-px", type=float, default=0.08, help="pixel size of the fields (default: 0.08)")
    parser.add_argument("--labels", type=Path, nargs="+", default=[], help="labels of the fields")
    parser.add_argument(
        "--locations", type=Path, help="subcellular_location.tsv, where a field has no label of its own"
    )
    parser.add_argument("--reliability", nargs="+", choices=RELIABILITIES, default=["Enhanced", "Supported"])
    parser.add_argument("--antibodies", type=Path, help="proteinatlas.tsv")
    parser.add_argument(
        "--sequences", type=Path, nargs="+", default=[], help="FASTA of UniProt, or tables with sequences"
    )
    parser.add_argument("--cells", type=Path, help="table of single cells")
    parser.add_argument(
        "--exclude", type=Path, nargs="+", default=[], help="proteins that only test, as in build_deeploc.py"
    )
    parser.add_argument("--download", action="store_true", help="fetch what is missing into the folder of the fields")
    add_arguments(parser)
    args = parser.parse_args()
    if not (args.fields or args.cells):
        parser.error("give --fields, --cells or both")
    if args.fields and not args.labels and not args.locations:
        parser.error("--fields needs --labels")
    if args.download and not args.fields:
        parser.error("--download needs --fields, the folder to fill")
    if args.push_to_hub:
        check_login(parser)
    try:
        if args.download:
            print(LICENCE, file=sys.stderr)
            download_tables(args)
        proteins = Proteins(args.sequences)
        fields, unmatched = whole_fields(args, proteins) if args.fields else ([], [])
        if args.cells:
            fields += single_cells(args.cells, proteins, args.seed)
        groups = {"u2os-single-2": ["u2os-single-2"], "all": ["u2os-single-2", "others"]}
        if args.cells:
            groups |= {"cells": ["cells"], "markers": ["markers"]}
        counts = {
            "title": "Human Protein Atlas crops: nucleus, protein and localization",
            "licence": "cc-by-sa-4.0",
            "unmatched": unmatched,
            "lines": Counter(field.cell_line or "not stated" for field in fields),
            "fallback": args.reliability if args.locations else [],
        }
        build(args, fields, HPA_LOCATIONS, groups, "dataset_hpa.md.jinja", counts)
    except DownloadError as error:
        parser.exit(2, f"build_hpa: {error}, or leave out --download to build from what is there\n")
    except (ValueError, OSError) as error:
        parser.exit(2, f"build_hpa: {error}\n")


if __name__ == "__main__":
    main()
