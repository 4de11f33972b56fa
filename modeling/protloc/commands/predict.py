"""`protloc predict`: compartments and membrane type, one row per protein."""

import argparse
import csv
import itertools
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .. import prediction, results
from ..files import check_other, lock, safe_name
from ..loading import DEFAULT_MODEL, load_config, load_ensemble, load_model
from ..packed_weights import pack_unirep
from ..profiles import protein_profile
from ..sequences import SequenceError, Warned, clean_sequence, read_sequences, sequence_warning
from . import progress_bars

IMAGE_COLUMNS = ["image_label", "image_label_probability", "image", "nucleus_found"]


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(format="protloc: %(message)s")
    out: Path | None = args.output
    if out is None and sys.stdout is None:
        raise ValueError("standard output is closed: name a file with -o OUT")
    with ExitStack() as stack:
        if out:
            stack.enter_context(lock(out.with_name(f"{out.name}.lock"), out))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        inputs = [spool(source, Path(folder) / str(i)) for i, source in enumerate(args.inputs)]
        names = dict(zip(inputs, args.inputs, strict=True))
        try:
            return predict(args, inputs, names)
        except SequenceError as error:
            raise named(error, names) from None


def after_interrupt(args: argparse.Namespace) -> str:
    return f"; --resume resumes {args.output}" if args.output else ""


def predict(args: argparse.Namespace, inputs: list[str], names: dict[str, str]) -> int:
    out: Path | None = args.output
    left = out is None or is_left_to_do(out, args)
    show_bars = progress_bars()
    models = args.ensemble or [args.model or DEFAULT_MODEL]
    config = load_config(models[0])
    prediction.check_heads(models[0], config, args.signals, args.tree, args.ids)
    if args.gff3:
        check_other(args.gff3, args.inputs)
    if args.gff3 and not prediction.finds_segments(config):
        raise ValueError(f"--gff3 needs a model that knows where signals are; {models[0]} does not")
    if args.profiles and config.input_features != "profile":
        raise ValueError(f"{models[0]} does not read profiles: leave --profiles out")
    if config.input_features == "profile" and not args.profiles:
        raise ValueError(f"{models[0]} reads profiles: name the folder of <id>.pssm files with --profiles")
    policy = args.length_policy or config.length_policy
    longest = config.max_length if policy == "error" else None

    skip = args.on_error == "skip"
    columns = prediction.columns(config, args.signals, args.tree, args.ids) + (IMAGE_COLUMNS if args.nucleus else [])
    structures = None
    if args.structure:
        from ..structures import Structures  # needs the extra [images]

        structures = Structures(args.structure, args.chain)
    clouds: Callable[[str, str], Any] | None = structures.cloud if structures else None
    reading = longest, args.profiles, clouds

    # All input is checked before anything is predicted, so that a bad record costs no time and leaves no file.
    errors: list[SequenceError] = []
    total, warned = count(read(inputs, errors.append if skip else None, *reading))
    report_errors([named(error, names) for error in errors], out)
    if total == 0:
        print("protloc: no sequence is left to predict", file=sys.stderr)
        return 3
    if warned.count:
        print(f"protloc: warning: {warned}; see the column warning", file=sys.stderr)

    if args.ensemble:
        model, tokenizer = load_ensemble(models, args.device, args.dtype, policy)
    else:
        model, tokenizer = load_model(models[0], args.device, args.dtype, policy)
    settings: dict[str, Any] = {
        "model": ", ".join(str(name) for name in models),
        "dtype": str(model.dtype),
        "length_policy": policy,
        "model_digest": prediction.model_digest(model) if out else None,
        "attention": str(args.attention.absolute()) if args.attention else None,
        "columns": columns,
    }
    if args.nucleus:
        drawer, processor, nuclei = load_drawer(args, structures is not None)
        settings |= drawing_settings(args, drawer, nuclei, structures)

    records = read(inputs, (lambda error: None) if skip else None, *reading)
    if out and not left:
        asked = ((record[0], results.record_digest(*record, args.profiles)) for record in records)
        results.check_complete(out, asked, settings)
        for row in results.read_table(out) if args.nucleus else ():
            for name in str(row["image"]).split("|"):
                if not (out.parent / name).exists():
                    raise ValueError(
                        f"{out} is complete, and its image {name} is gone: delete the table to predict anew"
                    )
        if args.gff3:
            results.write_gff3(results.read_table(out), args.gff3)
        print(f"protloc: {out} is complete, nothing to resume", file=sys.stderr)
        return 0

    done = 0
    if out and results.partial_path(out).exists():
        done, records = results.resume(records, out, settings, args.profiles)
    pack_unirep(model, rows=32)  # behind the digest, which reads the weights
    records, finished = itertools.tee(records)
    if args.nucleus:
        records, *to_draw = itertools.tee(records, 1 + len(nuclei))
    predicted = prediction.predict(
        *(records, model, tokenizer, args.max_tokens_per_batch),
        profiles=args.profiles,
        signals=args.signals,
        tree=args.tree,
        attention=args.attention is not None,
    )
    predicted = prediction.table_rows(predicted, args.ids)
    if args.attention:
        args.attention.mkdir(parents=True, exist_ok=True)
        predicted = save_attention(predicted, args.attention, not args.no_figures)
    if args.nucleus:
        assert out is not None  # the parser has seen to it
        options = drawer, processor, args.max_tokens_per_batch, args.num_samples, args.seed, clouds, args.cell_line
        from ..drawing import draw

        drawn = [draw(part, nucleus.pixels, *options) for part, nucleus in zip(to_draw, nuclei, strict=True)]
        folder = out.with_name(f"{out.name.removesuffix('.gz').rpartition('.')[0]}_images")
        folder.mkdir(exist_ok=True)
        predicted = save_images(predicted, zip(*drawn, strict=True), nuclei, folder, settings["image_model"])
    rows = tqdm(predicted, total=total, initial=done, unit=" proteins", disable=not show_bars)
    if out:
        digests = (results.record_digest(*record, args.profiles) for record in finished)
        results.write_rows(rows, digests, out, settings)
        if args.gff3:
            results.write_gff3(results.read_table(out), args.gff3)
    else:
        results.write_csv(rows, sys.stdout, settings["columns"], flush=True)
    return 0


def count(records: Iterator[tuple[str, str]]) -> tuple[int, Warned]:
    """How many records there are, and which may be no proteins."""
    total, warned = 0, Warned()
    for protein_id, text in records:
        total += 1
        warned.add(protein_id, sequence_warning(text))
    return total, warned


def load_drawer(args: argparse.Namespace, structures: bool) -> tuple[Any, Any, list[Any]]:
    """The image model, its processor, and the nuclei."""
    from .. import drawing  # pictures need more than sequences do

    drawer, processor = drawing.load_model(
        args.image_model or drawing.DEFAULT_MODEL, args.device, structures=structures
    )
    drawer.config.cell_line_index(args.cell_line)  # before anything is computed
    part = args.nucleus_channel, args.nucleus_page, args.project, args.nucleus_um_per_px
    return drawer, processor, [drawing.read_nucleus(name, processor, *part) for name in args.nucleus]


def drawing_settings(args: argparse.Namespace, drawer: Any, nuclei: list[Any], structures: Any) -> dict[str, Any]:
    """What a resumed run must draw with again."""
    from ..drawing import DEFAULT_MODEL

    settings = {
        "nucleus": [f"{nucleus.name}, SHA-1 {nucleus.digest}" for nucleus in nuclei],
        "image_model": str(args.image_model or DEFAULT_MODEL),
        "image_model_digest": prediction.model_digest(drawer),
        "seed": args.seed,
        "num_samples": args.num_samples,
    }
    if args.cell_line:
        settings["cell_line"] = args.cell_line
    if structures:
        settings |= {"structure": f"{args.structure}, SHA-1 {structures.digest}", "chain": args.chain}
    return settings


def spool(source: str, copy: Path) -> str:
    """Input is read twice: copy what can be read only once (standard input, pipes)."""
    if source != "-" and (Path(source).is_file() or not Path(source).exists() or Path(source).is_dir()):
        return source
    if source == "-" and sys.stdin is None:
        raise ValueError("standard input is closed: name a file")
    with sys.stdin.buffer if source == "-" else open(source, "rb") as stream, open(copy, "wb") as file:
        shutil.copyfileobj(stream, file)
    return str(copy)


def named(error: SequenceError, names: dict[str, str]) -> SequenceError:
    """The error with the name that the user gave the input."""
    name = names.get(error.file, error.file)
    return SequenceError("standard input" if name == "-" else name, error.reason, error.record, error.line, error.unit)


def is_left_to_do(out: Path, args: argparse.Namespace) -> bool:
    """
    Whether there is something to predict, or `OUT` is complete.

    Raises:
        ValueError: If `OUT` is an input, or unfinished and not to be resumed.
    """
    check_other(out, args.inputs)
    partial = results.partial_path(out)
    if partial.exists() and not args.resume:
        raise ValueError(f"{partial} is an unfinished run: add --resume to resume it, or delete it")
    return partial.exists() or not (args.resume and out.exists())


def read(
    inputs: list[str],
    on_error: Callable[[SequenceError], None] | None,
    longest: int | None,
    profiles: Path | None,
    clouds: Callable[[str, str], Any] | None,
) -> Iterator[tuple[str, str]]:
    """
    Ids and texts whose sequence, and profile and structure if they need them, can be read; the others go to `on_error`,
    or stop it.
    """
    for protein_id, text in read_sequences(inputs, on_error, longest, raw=True):
        try:
            if profiles:
                protein_profile(profiles, protein_id, clean_sequence(text))
            if clouds:
                clouds(protein_id, clean_sequence(text))
        except SequenceError as error:
            if on_error is None:
                raise
            on_error(SequenceError(error.file, error.reason, protein_id, error.line))
            continue
        yield protein_id, text


def report_errors(errors: list[SequenceError], out: Path | None) -> None:
    """List skipped records in `OUT.errors.csv`, or on standard error; a list of an earlier run goes."""
    if out is None:
        for error in errors:
            print(f"protloc: skipped: {error}", file=sys.stderr)
        if errors:
            print(f"protloc: skipped {len(errors)} bad record(s)", file=sys.stderr)
        return
    listed = out.with_name(out.name + ".errors.csv")
    listed.unlink(missing_ok=True)
    if errors:
        with open(listed, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file", "record", "line", "reason"])
            writer.writerows([error.file, error.record, error.line, error.reason] for error in errors)
        print(f"protloc: skipped {len(errors)} bad record(s), listed in {listed}", file=sys.stderr)


def save_attention(rows: Iterator[prediction.Row], folder: Path, figures: bool) -> Iterator[prediction.Row]:
    """Write `<id>.csv`, and `<id>.png` with `figures`, for each row, and take the attention out of it."""
    if figures:
        from .. import plots  # matplotlib is loaded only where it is needed

    for row in rows:
        sequence, attention = row.pop("sequence"), row.pop("attention")
        name = safe_name(row["protein_id"])
        if figures:
            predicted = row["localizations"].replace("|", ", ")
            figure = plots.attention_along(sequence, attention, row["protein_id"], predicted=predicted)
            plots.save(figure, folder / f"{name}.png")
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["position", "residue", "attention"])
            for position, (residue, weight) in enumerate(zip(sequence, attention, strict=True), start=1):
                writer.writerow([position, residue, f"{weight:.6g}"])
        yield row


def save_images(
    rows: Iterator[prediction.Row],
    images: Iterator[tuple[dict[str, Any], ...]],
    nuclei: Sequence[Any],
    folder: Path,
    model: str,
) -> Iterator[prediction.Row]:
    """
    Write `<id>.png` and `<id>.tif` of each row, with the nucleus's number where there are several, and add where they
    are, whether a nucleus is seen under them, and what deepGPS calls the protein.
    """
    from ..drawing import save_image

    found = "|".join(str(nucleus.found).lower() for nucleus in nuclei)
    for row, drawn in zip(rows, images, strict=True):
        paths = []
        for number, (image, nucleus) in enumerate(zip(drawn, nuclei, strict=True), start=1):
            ending = f".{number}" if len(nuclei) > 1 else ""
            path = folder / f"{safe_name(row['protein_id'])}{ending}"
            said = f"{row['protein_id']} drawn on the nucleus {nucleus.name} by {model}: a prediction, not a micrograph"
            save_image(image["image"], path, said)
            if image["uncertainty"].any():
                spread = path.with_name(f"{path.name}.uncertainty")
                save_image(image["uncertainty"], spread, f"standard deviation of the samples of {said}")
            paths.append(f"{folder.name}/{path.name}.png")
        label, scores = drawn[0]["label"], drawn[0]["scores"]
        values = label, round(max(scores.values(), default=0), 6), "|".join(paths), found
        yield row | dict(zip(IMAGE_COLUMNS, values, strict=True))
