"""The `protloc` command behind its argument parser (`protloc_entry`)."""

import argparse
import csv
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import huggingface_hub.utils
import transformers
from tqdm import tqdm

from . import prediction
from .sequences import SequenceError, read_sequences


def predict(args: argparse.Namespace) -> int:
    """`protloc predict`: 0, or 2 after one line on standard error."""
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


def _spool(source: str, copy: Path) -> str:
    """Input is read twice: copy what can be read only once (standard input, pipes)."""
    if source != "-" and (Path(source).is_file() or not Path(source).exists() or Path(source).is_dir()):
        return source
    with sys.stdin.buffer if source == "-" else open(source, "rb") as stream, open(copy, "wb") as file:
        shutil.copyfileobj(stream, file)
    return str(copy)


def _named(error: SequenceError, names: dict[str, str]) -> SequenceError:
    """The error with the name that the user gave the input."""
    name = names[error.file]
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

    show_bars = sys.stderr.isatty()
    if not show_bars:
        transformers.utils.logging.disable_progress_bar()
        huggingface_hub.utils.disable_progress_bars()

    model_name = args.model or prediction.DEFAULT_MODEL
    config = prediction.load_config(model_name)
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

        total = sum(1 for _ in read_sequences(inputs, list_error if skip else None, longest))
    if out:
        listed = out.with_name(out.name + ".errors.csv")
        listed.unlink(missing_ok=True)
        if bad:
            shutil.copyfile(errors, listed)
            print(f"protloc: skipped {bad} bad record(s), listed in {listed}", file=sys.stderr)
    if total == 0:
        raise ValueError("no sequence is left to predict")

    model, tokenizer = prediction.load_model(model_name, args.device, args.dtype, policy)
    settings: dict[str, Any] = {
        "model": str(model_name),
        "dtype": str(model.dtype),
        "length_policy": policy,
        "columns": prediction.columns(config),
    }
    records = read_sequences(inputs, (lambda error: None) if skip else None, longest)
    done = 0
    if out and prediction.partial_path(out).exists():
        done = prediction.skip_finished(records, prediction.read_finished(out, settings), out)
    predicted = prediction.predict(records, model, tokenizer, args.max_tokens_per_batch)
    rows = tqdm(predicted, total=total, initial=done, unit=" proteins", disable=not show_bars)
    if out:
        prediction.write_rows(rows, out, settings)
    else:
        prediction.write_csv(rows, sys.stdout, settings["columns"])
    return 0
