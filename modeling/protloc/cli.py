"""The `protloc` command behind its argument parser (`protloc_entry`)."""

import argparse
import csv
import hashlib
import itertools
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub.utils
import pyarrow.parquet as pq
import transformers
from httpx2 import HTTPError
from tqdm import tqdm

from . import imaging, prediction
from .profiles import protein_profile
from .sequences import SequenceError, read_sequences

IMAGE_COLUMNS = ["image_label", "image_label_probability"]


def predict(args: argparse.Namespace) -> int:
    """`protloc predict`: 0, or 2 after one line on standard error."""
    logging.basicConfig(format="protloc: %(message)s")
    try:
        with tempfile.TemporaryDirectory() as folder:
            inputs = [_spool(source, Path(folder) / str(i)) for i, source in enumerate(args.inputs)]
            names = dict(zip(inputs, args.inputs, strict=True))
            try:
                return _predict(args, inputs, names, Path(folder) / "errors.csv")
            except SequenceError as error:
                raise ValueError(_named(error, names)) from None
    except BrokenPipeError:  # `protloc predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"protloc: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = f"; --resume goes on with {args.output}" if args.output else ""
        print(f"protloc: stopped{hint}", file=sys.stderr)
        return 130


def embed(args: argparse.Namespace) -> int:
    """`protloc embed`: 0, or 2 after one line on standard error."""
    from . import embedding

    show_bars = _hide_bars()
    try:
        sequences: list[str] = []
        for source in args.inputs:
            if source.endswith(".parquet"):
                column = pq.read_table(source, columns=["sequence"])["sequence"].to_pylist()
                sequences += [sequence for sequence in column if sequence]  # cells of unknown proteins have none
            else:
                sequences += [sequence for _, sequence in read_sequences([source])]
        count = embedding.embed(
            sequences,
            args.output,
            str(args.model or prediction.DEFAULT_MODEL),
            args.device,
            args.dtype,
            args.max_tokens_per_batch,
            args.shard_size * 1_000_000,
            partial(tqdm, unit=" proteins", disable=not show_bars),
            args.compile,
            **{name: getattr(args, name) for name in ("mean", "project", "max_length", "length_policy")},
        )
    except (ValueError, OSError) as error:  # pyarrow's are of both kinds
        print(f"protloc: {prediction.reason(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"protloc: stopped; start again to go on with {args.output}", file=sys.stderr)
        return 130
    print(f"{args.output}: {count} sequences added", file=sys.stderr)
    return 0


def predict_shards(args: argparse.Namespace) -> int:
    """`protloc predict-shards`: 0, or 2 after one line on standard error."""
    from . import shards, shards_ray

    logging.basicConfig(format="protloc: %(message)s")
    show_bars = _hide_bars()
    job = shards.Job(
        inputs=tuple(os.path.abspath(source) for source in args.inputs),
        out=args.output.absolute(),
        model=str(args.model or prediction.DEFAULT_MODEL),
        skip_errors=args.on_error == "skip",
        **{name: getattr(args, name) for name in ("shard_size", "device", "dtype", "length_policy", "signals", "tree")},
        max_tokens_per_batch=args.max_tokens_per_batch,
    )
    try:
        if args.ray:
            done, proteins = shards_ray.run(job, args.workers, show_bars)
        else:
            done, proteins = shards.run(job, show_bars)
    except (ValueError, OSError) as error:
        print(f"protloc: {prediction.reason(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"protloc: stopped; start again to go on with {args.output}", file=sys.stderr)
        return 130
    print(f"protloc: {args.output}: {done} shards predicted, {proteins} proteins", file=sys.stderr)
    return 0


def push(args: argparse.Namespace) -> int:
    """`protloc push`: 0, or 2 after one line on standard error."""
    from . import hub

    _hide_bars()
    to = {name: getattr(args, name) for name in ("private", "create_pr", "revision", "dry_run")}
    try:
        print(hub.push(args.kind, args.folder, args.repo_id, **to, datasets=args.datasets, base_model=args.base_model))
    except (*prediction.LOAD_ERRORS, HTTPError) as error:
        print(f"protloc: {hub.refusal(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("protloc: stopped; push again, a whole push changes nothing", file=sys.stderr)
        return 130
    return 0


def submissions(args: argparse.Namespace) -> int:
    """`protloc submissions`: 0, or 2 after one line on standard error."""
    from . import hub, submissions

    _hide_bars()
    try:
        print(submissions.review(args.action, args.where, args.ids, args.exclude, args.preview))
    except (ValueError, OSError, HTTPError) as error:
        print(f"protloc: {hub.refusal(error)}", file=sys.stderr)
        return 2
    return 0


def _hide_bars() -> bool:
    """Loading bars only on a terminal; whether this is one."""
    show_bars = sys.stderr.isatty()
    if not show_bars:
        transformers.utils.logging.disable_progress_bar()
        huggingface_hub.utils.disable_progress_bars()
    return show_bars


def _spool(source: str, copy: Path) -> str:
    """Input is read twice: copy what can be read only once (standard input, pipes)."""
    if source != "-" and (Path(source).is_file() or not Path(source).exists() or Path(source).is_dir()):
        return source
    with sys.stdin.buffer if source == "-" else open(source, "rb") as stream, open(copy, "wb") as file:
        shutil.copyfileobj(stream, file)
    return str(copy)


def _named(error: SequenceError, names: dict[str, str]) -> SequenceError:
    """The error with the name that the user gave the input."""
    name = names.get(error.file, error.file)
    return SequenceError("standard input" if name == "-" else name, error.reason, error.record, error.line)


def _predict(args: argparse.Namespace, inputs: list[str], names: dict[str, str], errors: Path) -> int:
    out: Path | None = args.output
    if out:
        if any(Path(source).exists() and out.exists() and out.samefile(source) for source in args.inputs):
            raise ValueError(f"{out} is an input: write to another file")
        unfinished = prediction.partial_path(out).exists()
        if unfinished and not args.resume:
            raise ValueError(
                f"{prediction.partial_path(out)} is an unfinished run: add --resume to go on with it, or delete it"
            )
        if args.resume and out.exists() and not unfinished:
            print(f"protloc: {out} is complete, nothing to resume", file=sys.stderr)
            return 0

    show_bars = _hide_bars()
    names_of_models = args.ensemble or [args.model or prediction.DEFAULT_MODEL]
    config = prediction.load_config(names_of_models[0])
    prediction.check_heads(names_of_models[0], config, args.signals, args.tree)
    if (config.input_features == "profile") != (args.profiles is not None):
        if args.profiles:
            raise ValueError(f"{names_of_models[0]} does not read profiles: leave --profiles out")
        raise ValueError(f"{names_of_models[0]} reads profiles: name the folder of <id>.pssm files with --profiles")
    policy = args.length_policy or config.length_policy
    longest = config.max_length if policy == "error" else None

    # All input is checked before anything is predicted, so that a bad record costs no time and leaves no file.
    skip = args.on_error == "skip"
    with open(errors, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "record", "line", "reason"])
        bad = 0

        def list_error(error: SequenceError) -> None:
            nonlocal bad
            bad += 1
            error = _named(error, names)
            writer.writerow([error.file, error.record, error.line, error.reason])
            if out is None:
                print(f"protloc: skipped: {error}", file=sys.stderr)

        total = sum(1 for _ in _read(inputs, list_error if skip else None, longest, args.profiles))
    if out:
        listed = out.with_name(out.name + ".errors.csv")
        listed.unlink(missing_ok=True)
        if bad:
            shutil.copyfile(errors, listed)
            print(f"protloc: skipped {bad} bad record(s), listed in {listed}", file=sys.stderr)
    if total == 0:
        raise ValueError("no sequence is left to predict")

    if args.ensemble:
        model, tokenizer = prediction.load_ensemble(args.ensemble, args.device, args.dtype, policy)
    else:
        model, tokenizer = prediction.load_model(names_of_models[0], args.device, args.dtype, policy)
    if args.nucleus:
        drawer = imaging.load_model(args.image_model or imaging.DEFAULT_MODEL, args.device)
        source = None if args.nucleus == "default" else args.nucleus
        nucleus = drawer[1].image_processor(source, channel=args.nucleus_channel, page=args.nucleus_page)["nucleus"]
    settings: dict[str, Any] = {
        "model": ", ".join(str(name) for name in names_of_models),
        "dtype": str(model.dtype),
        "length_policy": policy,
        "attention": args.attention is not None,
        "columns": prediction.columns(config, args.signals, args.tree) + (IMAGE_COLUMNS if args.nucleus else []),
    }
    if args.nucleus:
        settings["nucleus"] = [args.nucleus, args.nucleus_channel, args.nucleus_page]
        settings["image_model"] = str(args.image_model or imaging.DEFAULT_MODEL)
    records = _read(inputs, (lambda error: None) if skip else None, longest, args.profiles)
    done = 0
    if out and prediction.partial_path(out).exists():
        done = prediction.skip_finished(records, prediction.read_finished(out, settings), out)
    if args.nucleus:
        records, to_draw = itertools.tee(records)
    predicted = prediction.predict(
        *(records, model, tokenizer, args.max_tokens_per_batch),
        profiles=args.profiles,
        signals=args.signals,
        tree=args.tree,
        attention=args.attention is not None,
    )
    if args.attention:
        args.attention.mkdir(parents=True, exist_ok=True)
        predicted = _save_attention(predicted, args.attention)
    if args.nucleus:
        assert out is not None  # the parser has seen to it
        folder = out.parent / "images"
        folder.mkdir(exist_ok=True)
        predicted = _save_images(predicted, imaging.draw(to_draw, nucleus, *drawer, args.max_tokens_per_batch), folder)
    rows = tqdm(predicted, total=total, initial=done, unit=" proteins", disable=not show_bars)
    if out:
        prediction.write_rows(rows, out, settings)
    else:
        prediction.write_csv(rows, sys.stdout, settings["columns"])
    return 0


def _read(
    inputs: list[str], on_error: Callable[[SequenceError], None] | None, longest: int | None, profiles: Path | None
) -> Iterator[tuple[str, str]]:
    """Records whose sequence, and profile if they need one, can be read; the others go to `on_error`, or stop it."""
    for protein_id, sequence in read_sequences(inputs, on_error, longest):
        if profiles:
            try:
                protein_profile(profiles, protein_id, sequence)
            except SequenceError as error:
                if on_error is None:
                    raise
                on_error(SequenceError(error.file, error.reason, protein_id, error.line))
                continue
        yield protein_id, sequence


def _save_attention(rows: Iterator[prediction.Row], folder: Path) -> Iterator[prediction.Row]:
    """Write `<id>.png` and `<id>.csv` for each row, and take the attention out of it."""
    from . import plots  # matplotlib is loaded only where it is needed

    for row in rows:
        sequence, attention = row.pop("sequence"), row.pop("attention")
        name = safe_name(row["protein_id"])
        predicted = row["localizations"].replace("|", ", ")
        figure = plots.attention_along(sequence, attention, row["protein_id"], predicted=predicted)
        plots.save(figure, folder / f"{name}.png")
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["position", "residue", "attention"])
            for position, (residue, weight) in enumerate(zip(sequence, attention, strict=True), start=1):
                writer.writerow([position, residue, f"{weight:.6g}"])
        yield row


def _save_images(
    rows: Iterator[prediction.Row], images: Iterator[dict[str, Any]], folder: Path
) -> Iterator[prediction.Row]:
    """Write `<id>.png` and `<id>.tif` for each row, and add what deepGPS calls the protein."""
    for row, drawn in zip(rows, images, strict=True):
        imaging.save_image(drawn["image"], folder / safe_name(row["protein_id"]))
        label = drawn["label"]
        yield row | dict(zip(IMAGE_COLUMNS, (label, round(max(drawn["scores"].values(), default=0), 6)), strict=True))


def safe_name(protein_id: str) -> str:
    """
    An id as a file name: letters, digits, `.`, `_` and `-`, not hidden and not too long.

    An id that had to be changed, or that has lower case letters (some disks don't tell them apart), gets a digest.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", protein_id)[:100].lstrip(".")
    if safe == protein_id and safe == safe.upper():
        return safe
    return f"{safe}-{hashlib.sha1(protein_id.encode()).hexdigest()[:8]}"
