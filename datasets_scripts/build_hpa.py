"""
Build the Human Protein Atlas data set: immunofluorescence fields, or single cells -> crops in Parquet.

    python -m datasets_scripts.build_hpa --fields raw/hpa --labels kaggle_2021.tsv --download --out data/hpa
    python -m datasets_scripts.build_hpa --cells cells.csv --dictionary dictionary/index.csv \
        --sequences human_sequences.csv.gz --size 320 --max-overlap 0.9 --out data/hpa-cells

Images of a field are `ID_blue.png` (nucleus) and `ID_green.png` (protein), PNG, JPEG or TIFF, in any folder below
`--fields`. Their labels come from

  --labels TABLE       the public table with cell lines (columns Image, Label, Cellline, optionally Gene), the table of
                       the Kaggle challenge of 2021 (ID, Label as numbers) or HPAv18_targets of 2018 (Id, Target),
                       whose names begin with the gene; several may be given. A column um_per_px gives a field's
                       pixel size
  --locations TABLE    optional: subcellular_location.tsv, for fields of a known gene without a label of their own:
                       gene-level labels of all cell lines, with the given reliabilities

`--antibodies proteinatlas.tsv` gives the gene of the antibody in the image's address. `--cells cells.csv` reads single
cells (columns image_id, compartment, um_per_px and mosaic; images in the folder `cells` beside it). Their genes are
unknown, except for the two markers of each cell (alpha-tubulin, calreticulin). `--dictionary index.csv` reads the
pictures of the atlas's dictionary of compartments (columns file and compartment; beside it the colour composites, with
a scale bar of 10 um at the lower right that gives their pixel size). Their genes are unknown too. The sources of cells
and the pictures of each compartment are split in three, so that the generative model (`train`), the classifier that
judges its images (`validation`) and the real images for the evaluation (`test`) share none.

The data set has these configurations:

    u2os-single-2   proteins with one localization in U-2 OS, cytosol or nucleoplasm (as in deepGPS)
    all             all fields
    cells, markers  the single cells, split by the mosaic they come from; their markers
    dictionary      the dictionary's pictures

`--download` downloads missing files into the folder of the fields: the images of U-2 OS that the table lists, the
atlas's tables and UniProt's human proteome (the table with cell lines is on Kaggle, which requires an account). Add
`--push-to-hub OWNER/NAME` to publish the folder as a data set repository.
"""

import argparse
import dataclasses
import gzip
import io
import random
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datasets_scripts.arguments import positive, push
from datasets_scripts.dictionary import read_index
from datasets_scripts.download import DownloadError, RemoteFile, fetch_archives, fetch_some, is_damaged
from datasets_scripts.fields import Field, add_arguments, build
from datasets_scripts.proteins import MAX_LENGTH, UNIPROT_HUMAN, Protein, Proteins, held_out, split_proteins
from protloc.files import atomic_path
from protloc.tables import read_csv, read_exclusions
from protloc.taxonomy import HPA_LOCATIONS, HPA_SPELLINGS, KAGGLE_2018_LOCATIONS, KAGGLE_LOCATIONS, image_class

U2OS = "U-2 OS"
SINGLE_2 = (["Cytosol"], ["Nucleoplasm"])
MARKERS = {"red": ("TUBA1A", ["Microtubules"]), "yellow": ("CALR", ["Endoplasmic reticulum"])}
RELIABILITIES = ["Enhanced", "Supported", "Approved", "Uncertain"]
TABLES = [
    RemoteFile(f"https://www.proteinatlas.org/download/{name}.tsv.zip", f"{name}.tsv.zip")
    for name in ("proteinatlas", "subcellular_location")
]
LICENCE = "The Human Protein Atlas (proteinatlas.org): CC BY-SA 4.0; cite Thul et al. 2017, Science 356, eaal3321"
IMAGE_OF_2018 = re.compile(r"(?P<gene>ENSG\d+)_(?P<antibody>\d+)_(?P<field>.+)")
IMAGE_NAME = re.compile(r"(?P<field>.+)_blue\.(png|jpe?g|tiff?)(\.gz)?", re.I)


class Annotation(NamedTuple):
    labels: list[str]
    cell_line: str
    genes: list[str]
    url: str
    um_per_px: float | None = None


NOTHING = Annotation([], "", [], "")


def read_labels(path: Path, genes_of: dict[str, list[str]]) -> Iterator[tuple[str, Annotation]]:
    """Field and its annotation, from the public table with cell lines or from those of two Kaggle challenges."""
    for place, row in read_csv(path, []):
        if "Target" in row:
            match = IMAGE_OF_2018.fullmatch(row.get("Id", ""))
            if match is None:
                raise ValueError(f"{place}: {row.get('Id', '')!r} is no name as ENSG00000000003_4109_24_H11_1")
            known = dict(enumerate(KAGGLE_2018_LOCATIONS))
            labels = [known.get(int(number), number) for number in re.split(r"[ |]", row["Target"])]
            check_locations(labels, place)
            yield match["field"], Annotation(labels, "", [match["gene"]], f"{match['antibody']}/{match['field']}")
            continue
        if "Label" not in row:
            raise ValueError(f"{path}: no column 'Label' or 'Target'")
        image = row.get("Image") or row.get("ID") or ""
        if not image:
            raise ValueError(f"{place}: no name in column Image or ID")
        if "Image" in row:
            labels = [HPA_SPELLINGS.get(name.strip(), name.strip()) for name in row["Label"].split(",") if name.strip()]
        else:
            names = {str(number): name for number, name in enumerate(KAGGLE_LOCATIONS)}
            labels = [names.get(number, number) for number in row["Label"].split("|")]
        check_locations(labels, place)
        parts = image.split("/")
        antibody = f"HPA{int(parts[-2]):06d}" if len(parts) > 1 and parts[-2].isdigit() else ""
        genes = [row.get("ENSG", ""), row.get("Gene", ""), *genes_of.get(antibody, [])]
        size = row.get("um_per_px")
        if size and not re.fullmatch(r"0*\.\d*[1-9]\d*|[1-9]\d*(\.\d*)?", size):
            raise ValueError(f"{place}: um_per_px {size!r} is no size of a pixel in micrometres")
        line = "U-2 OS" if re.fullmatch("U-?2.?OS", row.get("Cellline", ""), re.I) else row.get("Cellline", "")
        yield (
            parts[-1],
            Annotation(labels, line, [gene for gene in genes if gene], image, float(size) if size else None),
        )


def read_all_labels(paths: list[Path], genes_of: dict[str, list[str]]) -> dict[str, Annotation]:
    """Annotations by field; what a table leaves out of a field, a later one may add."""
    annotations: dict[str, Annotation] = {}
    for path in paths:
        for name, new in read_labels(path, genes_of):
            known = annotations.get(name, NOTHING)
            annotations[name] = Annotation(
                *(mine or other for mine, other in zip(known, new, strict=True))  # type: ignore[arg-type]
            )
    return annotations


def locations_in_u2os(annotations: dict[str, Annotation], sequences: Proteins) -> dict[str, set[str]]:
    """All locations that a protein has in U-2 OS, by its sequence: one image may show one of several."""
    found: dict[str, set[str]] = defaultdict(set)
    for annotation in annotations.values():
        protein = sequences.find(*annotation.genes)
        if annotation.cell_line == U2OS and protein:
            found[protein.sequence] |= set(annotation.labels) - {"Negative"}
    return found


def check_locations(labels: list[str], place: str) -> None:
    unknown = set(labels) - set(HPA_LOCATIONS)
    if unknown:
        raise ValueError(f"{place}: {min(unknown)!r} is no location of the Human Protein Atlas that this build knows")


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
    for place, row in read_csv(path, ["Gene", "Gene name", "Reliability", "Main location", "Additional location"]):
        names = f"{row['Main location']};{row['Additional location']}".split(";")
        labels = [HPA_SPELLINGS.get(name, name) for name in names if name]
        if row["Reliability"] in reliabilities and labels:
            check_locations(labels, place)
            locations[row["Gene"]] = locations[row["Gene name"]] = labels
    return locations


def whole_fields(args: argparse.Namespace, sequences: Proteins) -> tuple[list[Field], list[tuple[str, str]], str]:
    """The fields that have labels, with their protein if it is known; what is missing of others; how they are split."""
    genes_of = read_antibodies(args.antibodies) if args.antibodies else {}
    annotations = read_all_labels(args.labels, genes_of)
    locations = read_locations(args.locations, args.reliability) if args.locations else {}
    proteins, labels_of = {}, {}
    unmatched = download_images(annotations, args) if args.download else []
    paths: dict[str, Path] = {}
    for path in sorted(args.fields.rglob("*_blue.*")):
        match = IMAGE_NAME.fullmatch(path.name)
        if match is None:
            if not path.name.endswith((".part", ".etag")):
                unmatched.append((path.name, "no PNG, JPEG or TIFF file"))
            continue
        name = match["field"]
        if path.suffix == ".gz" and path.with_suffix("").exists():
            continue  # it is there unpacked
        annotation = annotations.get(name, NOTHING)
        protein = sequences.find(*annotation.genes) or Protein()
        if annotation.genes:  # by its name where the table has one, not only an Ensembl gene
            protein = dataclasses.replace(protein, gene=protein.gene or annotation.genes[-1])
        labels = annotation.labels or next((locations[gene] for gene in annotation.genes if gene in locations), [])
        if not labels:
            unmatched.append((name, "no table names a label for this image"))
        elif len(protein.sequence) > MAX_LENGTH:
            unmatched.append((name, f"{protein.gene}: longer than {MAX_LENGTH} residues"))
        elif name in paths:
            raise ValueError(f"{paths[name]} and {path} are of one field: move one of them away")
        else:
            if not protein.sequence:
                unmatched.append((name, "no table names a gene with a sequence: the crops have none"))
            proteins[name], labels_of[name], paths[name] = protein, labels, path

    seen = {name for name, _ in unmatched} | paths.keys()
    unmatched += [(name, "a table has its label, and there is no image") for name in annotations if name not in seen]

    classes = {name: labels[0] if len(labels) == 1 else "several" for name, labels in labels_of.items()}
    splits, rule = split_proteins(proteins, classes, args)
    unmatched += [(name, f"not in {args.split_file}") for name in proteins if name not in splits]
    fields = []
    in_u2os = locations_in_u2os(annotations, sequences)
    for name, side in splits.items():
        cell_line, labels = annotations.get(name, NOTHING).cell_line, labels_of[name]
        is_single = cell_line == U2OS and sorted(in_u2os.get(proteins[name].sequence, ())) in SINGLE_2
        fields.append(
            Field(
                field_id=name,
                nucleus=paths[name],
                protein_image=protein_image(paths[name]),
                um_per_px=annotations.get(name, NOTHING).um_per_px or args.fields_um_per_px,
                protein=proteins[name],
                labels=tuple(labels),
                cell_line=cell_line,
                split=side,
                group="u2os-single-2" if is_single else "others",
            )
        )
    return fields, unmatched, rule


def protein_image(nucleus: Path) -> Path:
    """The image beside that of the nucleus, as it is there: gzipped or not."""
    path = nucleus.with_name(re.sub("_blue", "_green", nucleus.name, flags=re.I))
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(f"{path.name}.gz")
    return other if other.exists() and not path.exists() else path


def wanted_images(annotations: dict[str, Annotation], folder: Path) -> Iterator[RemoteFile]:
    whole = (path for path in folder.rglob("*.*") if not path.name.endswith((".part", ".etag", ".gz")))
    there = {path.name.split(".")[0] for path in whole}
    for name, annotation in annotations.items():
        if annotation.url.startswith("http") and annotation.cell_line == U2OS:
            for colour in ("blue", "green"):
                if f"{name}_{colour}" not in there:
                    yield RemoteFile(f"{annotation.url}_{colour}.tif.gz", f"{name}_{colour}.tif.gz")


def download_images(annotations: dict[str, Annotation], args: argparse.Namespace) -> list[tuple[str, str]]:
    """
    The images of U-2 OS; of antibodies that were withdrawn the atlas gives the JPEG alone. Those that it refuses, why.
    """
    try:
        damaged = [path for path in args.fields.glob("*.tif.gz") if is_damaged(path)]
        for path in damaged:
            print(f"{path} is cut off or damaged, and is fetched again", file=sys.stderr)
            path.unlink()
        refused = fetch_some(wanted_images(annotations, args.fields), args.fields, args.parallel)
        pictures = [
            RemoteFile(re.sub(r"\.tif\.gz$", ".jpg", file.url), re.sub(r"\.tif\.gz$", ".jpg", file.path))
            for file in refused
        ]
        missing = fetch_some(pictures, args.fields, args.parallel)
    finally:
        unpack(args.fields)
    return [(file.path, f"the atlas gives neither TIFF nor JPEG ({error})") for file, error in missing.items()]


def download_tables(args: argparse.Namespace) -> None:
    """The atlas's tables and UniProt's sequences, where no others are given."""
    fetch_archives([*TABLES, UNIPROT_HUMAN], args.fields, args.parallel)
    for table in TABLES:
        with zipfile.ZipFile(args.fields / table.path) as archive:
            archive.extractall(args.fields)
    args.antibodies = args.antibodies or args.fields / "proteinatlas.tsv"
    args.sequences = args.sequences or [args.fields / UNIPROT_HUMAN.path]


def unpack(folder: Path) -> None:
    """The atlas publishes gzipped TIFFs, which other image libraries don't read; damaged ones stay as they are."""
    for path in folder.glob("*.tif.gz"):
        if is_damaged(path):
            continue
        with atomic_path(path.with_suffix("")) as partial:
            partial.write_bytes(gzip.GzipFile(fileobj=io.BytesIO(path.read_bytes())).read())
        path.unlink()


def single_cells(path: Path, sequences: Proteins, args: argparse.Namespace) -> Iterator[Field]:
    """
    Cells, and each of their two markers. A mosaic is in one split: markers of `--exclude`, which only test, are left
    out where their cell is in another.
    """
    rows = []
    for place, row in read_csv(path, ["image_id", "compartment", "um_per_px", "mosaic"]):
        row["compartment"] = row["compartment"].capitalize()
        check_locations([row["compartment"]], place)
        rows.append(row)
    ids, sums = read_exclusions(args.exclude)
    mosaics = {row["mosaic"]: row["compartment"] for row in rows}
    split = three_splits(mosaics, args.seed)
    for row in rows:
        for colour in ("green", *MARKERS):
            gene, labels = MARKERS.get(colour, ("", [row["compartment"]]))
            protein = sequences.find(gene) or Protein(gene=gene)
            if held_out(protein, ids, sums) and split[row["mosaic"]] != "test":
                continue
            yield Field(
                field_id=f"{row['image_id']}_{colour}",
                nucleus=path.parent / "cells" / f"{row['image_id']}_blue.png",
                protein_image=path.parent / "cells" / f"{row['image_id']}_{colour}.png",
                um_per_px=float(row["um_per_px"]),
                protein=protein,
                labels=tuple(labels),
                cell_line="",
                split=split[row["mosaic"]],
                group="markers" if gene else "cells",
                source_image=row["mosaic"],
                pad=True,
            )


def dictionary_pictures(path: Path, seed: int) -> tuple[list[Field], list[tuple[str, str]]]:
    """The dictionary's pictures, and those without a scale bar, whose pixel size isn't known."""
    fields, unmatched, compartments = [], [], {}
    for picture, compartment, um_per_px in read_index(path):
        check_locations([compartment], str(path))
        if um_per_px is None:
            unmatched.append((picture.name, "no scale bar is seen in the picture"))
            continue
        compartments[picture.name] = image_class([compartment]) or compartment
        fields.append(
            Field(
                field_id=picture.name,
                nucleus=picture,
                protein_image=picture,
                um_per_px=um_per_px,
                protein=Protein(),
                labels=(compartment,),
                cell_line="",
                split="train",
                group="dictionary",
                pad=True,
                composite=True,
            )
        )
    split = three_splits(compartments, seed)
    return [dataclasses.replace(field, split=split[field.field_id]) for field in fields], unmatched


def three_splits(classes: dict[str, str], seed: int) -> dict[str, str]:
    """
    Sources -> `train`, `validation` or `test`, by the class of each: of three or more a quarter, at least one, are to
    validation and as many to test; of fewer all train.
    """
    by_class = defaultdict(list)
    for source in sorted(classes):
        by_class[classes[source]].append(source)
    split: dict[str, str] = {}
    for name, sources in by_class.items():
        random.Random(f"{seed} {name}").shuffle(sources)
        count = max(1, len(sources) // 4) if len(sources) >= 3 else 0
        sides = ["validation"] * count + ["test"] * count + ["train"] * (len(sources) - 2 * count)
        split.update(zip(sources, sides, strict=True))
    return split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=Path, help="folder of the fields")
    parser.add_argument("--fields-um-per-px", type=positive, default=0.08, help="their pixel size (default: 0.08)")
    parser.add_argument("--labels", type=Path, nargs="+", default=[], help="labels of the fields")
    parser.add_argument(
        "--locations", type=Path, help="subcellular_location.tsv, for fields without a label of their own"
    )
    parser.add_argument("--reliability", nargs="+", choices=RELIABILITIES, default=["Enhanced", "Supported"])
    parser.add_argument("--antibodies", type=Path, help="proteinatlas.tsv")
    parser.add_argument(
        "--sequences", type=Path, nargs="+", default=[], help="FASTA of UniProt, or tables with sequences"
    )
    parser.add_argument("--cells", type=Path, help="table of single cells")
    parser.add_argument("--dictionary", type=Path, help="table of the pictures of the atlas's dictionary")
    parser.add_argument("--download", action="store_true", help="download missing files into the folder of the fields")
    add_arguments(parser)
    args = parser.parse_args()
    if not (args.fields or args.cells or args.dictionary):
        parser.error("give --fields, --cells or --dictionary")
    if args.fields and not args.labels:
        parser.error("--fields needs --labels")
    if args.download and not args.fields:
        parser.error("--download needs --fields, the folder to fill")
    try:
        if args.download:
            print(LICENCE, file=sys.stderr)
            download_tables(args)
        sequences = Proteins(args.sequences)
        fields, unmatched, rule = whole_fields(args, sequences) if args.fields else ([], [], "")
        if args.cells:
            fields += single_cells(args.cells, sequences, args)
        if args.dictionary:
            pictures, without = dictionary_pictures(args.dictionary, args.seed)
            fields, unmatched = fields + pictures, unmatched + without
        groups = {"u2os-single-2": ["u2os-single-2"], "all": ["u2os-single-2", "others"]}
        groups |= {name: [name] for name in ("cells", "markers", "dictionary")}
        counts = {
            "title": "Human Protein Atlas crops: nucleus, protein and localization",
            "licence": "cc-by-sa-4.0",
            "unmatched": unmatched,
            "split_rule": rule,
            "fallback": args.reliability if args.locations else [],
        }
        build(args, fields, HPA_LOCATIONS, groups, "dataset_hpa.md.jinja", counts)
    except DownloadError as error:
        parser.exit(2, f"build_hpa: {error}, or leave out --download to build from what is there\n")
    except (ValueError, OSError, EOFError, ImportError, zipfile.BadZipFile) as error:
        parser.exit(2, f"build_hpa: {error}\n")
    push(parser, args.out, args.push_to_hub, args.private)


if __name__ == "__main__":
    main()
