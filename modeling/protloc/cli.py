"""The `protloc` command behind its argument parser (`protloc_entry`)."""

import argparse
import csv
import os
import shutil
import sys
import tempfile
from pathlib import Path

import huggingface_hub.utils
import transformers
from tqdm import tqdm

from . import prediction
from .sequences import SequenceError, read_sequences


def predict(args: argparse.Namespace) -> int:
    """`protloc predict`: 0, or 2 after one line on standard error."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            spool = Path(folder) / "input"
            inputs = [str(spool) if source == "-" else source for source in args.inputs]
            if "-" in args.inputs:  # input is read twice
                with open(spool, "wb") as file:
                    shutil.copyfileobj(sys.stdin.buffer, file)
            try:
                return _predict(args, inputs, spool)
            except SequenceError as error:
                raise _with_its_name(error, spool) from None
    except ValueError as error:
        print(f"protloc: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `protloc predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        hint = f"; --resume goes on with {args.output}" if args.output else ""
        print(f"protloc: stopped{hint}", file=sys.stderr)
        return 130


def _predict(args: argparse.Namespace, inputs: list[str], spool: Path) -> int:
    out: Path | None = args.output
    if out and not args.resume and prediction.partial_path(out).exists():
        raise ValueError(
            f"{prediction.partial_path(out)} is an unfinished run: add --resume to go on with it, or delete it"
        )
    if out and args.resume and out.exists() and not prediction.partial_path(out).exists():
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
    bad: list[SequenceError] = []
    skip = args.on_error == "skip"
    total = sum(1 for _ in read_sequences(inputs, bad.append if skip else None, longest))
    if bad:
        _report([_with_its_name(error, spool) for error in bad], out)
    if total == 0:
        raise ValueError("no sequence is left to predict")

    records = read_sequences(inputs, (lambda error: None) if skip else None, longest)
    done = 0
    if out and prediction.partial_path(out).exists():
        done = prediction.skip_finished(records, prediction.read_finished(out), out)
    model, tokenizer = prediction.load_model(model_name, args.device, args.dtype, policy)
    predicted = prediction.predict(records, model, tokenizer, args.max_tokens_per_batch)
    rows = tqdm(predicted, total=total, initial=done, unit=" proteins", disable=not show_bars)
    if out:
        prediction.write_rows(rows, out, prediction.columns(config))
    else:
        prediction.write_csv(rows, sys.stdout, prediction.columns(config))
    return 0


def _with_its_name(error: SequenceError, spool: Path) -> SequenceError:
    if error.file != str(spool):
        return error
    return SequenceError("standard input", error.reason, error.record, error.line)


def _report(bad: list[SequenceError], out: Path | None) -> None:
    """List skipped records in `OUT.errors.csv`, or on standard error where there is no OUT."""
    if out is None:
        for error in bad:
            print(f"protloc: skipped: {error}", file=sys.stderr)
        return
    path = out.with_name(out.name + ".errors.csv")
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "record", "line", "reason"])
        writer.writerows([error.file, error.record, error.line, error.reason] for error in bad)
    print(f"protloc: skipped {len(bad)} bad record(s), listed in {path}", file=sys.stderr)
