"""Records -> streamed predictions -> a file that is whole or absent."""

import csv
import itertools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from . import ASSETS
from .batching import token_budget_batches
from .models.configuration_deeploc import DeepLocConfig
from .taxonomy import MEMBRANE

DEFAULT_MODEL = ASSETS / "deeploc"
_CHUNK = 512  # records that are sorted by length together; bounds memory

# What loading a missing or damaged model raises; RuntimeError is for weights that don't fit the configuration.
LOAD_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)

Row = dict[str, Any]


def native_bf16(device: str) -> bool:
    """Whether a device computes in bfloat16 natively, rather than by emulation, which is slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.startswith("cpu"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("sve_bf16"))
    return False


def load_config(model: str | Path) -> DeepLocConfig:
    """
    The configuration of a DeepLoc model, by folder or Hub name.

    Raises:
        ValueError: In one sentence, if it can't be loaded or is of another kind.
    """
    try:
        config = AutoConfig.from_pretrained(model)
    except LOAD_ERRORS as error:
        raise ValueError(f"cannot load the model {str(model)!r}: {str(error).strip().splitlines()[0]}") from None
    if not isinstance(config, DeepLocConfig):
        raise ValueError(f"{str(model)!r} is a {config.model_type} model; protloc predict needs a deeploc model")
    return config


def load_model(
    model: str | Path = DEFAULT_MODEL, device: str = "auto", dtype: str = "auto", length_policy: str | None = None
) -> tuple[PreTrainedModel, Any]:
    """
    A model ready to predict, and its tokenizer.

    Args:
        model (`str` or `Path`): Folder or Hub name.
        device (`str`): `"auto"` takes a CUDA or Apple GPU where there is one, else the CPU.
        dtype (`str`): `"float32"`, `"bfloat16"`, or `"auto"`: bfloat16 where the device has it natively, else float32.
        length_policy (`str`, *optional*): In place of the model's own.

    Raises:
        ValueError: In one sentence, if the model or the device can't be had.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if native_bf16(device) else "float32"
    config = load_config(model)
    if length_policy is not None:
        config.length_policy = length_policy
    try:
        loaded = AutoModelForSequenceClassification.from_pretrained(model, config=config, dtype=getattr(torch, dtype))
        tokenizer = AutoTokenizer.from_pretrained(model)
    except LOAD_ERRORS as error:
        raise ValueError(f"cannot load the model {str(model)!r}: {str(error).strip().splitlines()[0]}") from None
    try:
        return loaded.to(device).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {device!r}: {str(error).splitlines()[0]}") from None


def columns(config: DeepLocConfig) -> list[str]:
    """The columns of a prediction, in order."""
    head = ["protein_id", "length", "truncated", "localizations", "membrane", "membrane_probability"]
    return head + list(config.id2label.values())


@torch.inference_mode()
def predict(
    records: Iterable[tuple[str, str]],
    model: PreTrainedModel | None = None,
    tokenizer: Any = None,
    max_tokens_per_batch: int = 16_384,
) -> Iterator[Row]:
    """
    Predict proteins as they come, in their order, in bounded memory.

    Args:
        records: Pairs of id and sequence.
        model: A DeepLoc in evaluation mode, as `load_model` gives it; the shipped model by default.
        tokenizer: Its tokenizer; by default the stock one, which all DeepLoc models share.
        max_tokens_per_batch (`int`): The most tokens of a batch, padding included.

    Yields:
        `dict`: `protein_id`, `length` (residues), `truncated` (whether the length policy left residues out),
        `localizations` (joined by `|`, most probable first), `membrane` (`"membrane"` or `"soluble"`),
        `membrane_probability`, and one probability a label, under its name.

    Raises:
        ValueError: For a text that is no sequence, or, under the length policy `"error"`, one that is too long.
    """
    if model is None:
        model, _ = load_model()
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    names = list(model.config.id2label.values())
    iterator = iter(records)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        prepared = [model.prepare_sequence(sequence) for _, sequence in chunk]
        texts = [text for text, _ in prepared]
        rows: list[Row] = [{} for _ in chunk]
        for batch in token_budget_batches([len(text) for text in texts], max_tokens_per_batch):
            inputs = tokenizer([texts[i] for i in batch], padding=True, return_tensors="pt").to(model.device)
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            scores = model.probabilities(outputs.logits).tolist()
            membrane_scores = outputs.membrane_logits.sigmoid().tolist()
            for k, i in enumerate(batch):
                left_out = prepared[i][1].stop - prepared[i][1].start
                chosen = outputs.localizations[k].nonzero().flatten().tolist()
                chosen.sort(key=lambda label: -scores[k][label])
                rows[i] = {
                    "protein_id": chunk[i][0],
                    "length": len(texts[i]) + left_out,
                    "truncated": left_out > 0,
                    "localizations": "|".join(names[label] for label in chosen),
                    "membrane": MEMBRANE[int(outputs.membrane[k])],
                    "membrane_probability": round(membrane_scores[k], 6),
                    **{name: round(score, 6) for name, score in zip(names, scores[k], strict=True)},
                }
        yield from rows


def partial_path(out: Path) -> Path:
    """Where the rows of an unfinished run lie."""
    return out.with_name(out.name + ".partial")


def read_finished(out: Path, settings: dict[str, Any]) -> Iterator[str]:
    """
    Ids of the rows that an unfinished run has written; a row that was cut off is removed first.

    Raises:
        ValueError: If that run had other settings.
    """
    path = partial_path(out)
    with open(path, "r+b") as file:
        file.seek(0, os.SEEK_END)
        end = file.tell()
        while end > 0:  # back to the last line end
            start = max(0, end - 65_536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            end = start + newline + 1
            if newline >= 0:
                break
        file.truncate(end)
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file):
            content = json.loads(line)
            if number > 0:
                yield content["protein_id"]
            elif content != settings:
                changed = next(name for name in settings if content.get(name) != settings[name])
                raise ValueError(
                    f"{path} was begun with {changed} {content.get(changed)!r}, not {settings[changed]!r}: "
                    "give the settings of the unfinished run, or delete that file to start anew"
                )


def skip_finished(records: Iterator[tuple[str, str]], finished: Iterable[str], out: Path) -> int:
    """
    Take the records off that an unfinished run has predicted, and count them.

    Raises:
        ValueError: If the unfinished run was over other inputs.
    """
    count = 0
    for count, done in enumerate(finished, start=1):
        record_id, _ = next(records, (None, ""))
        if record_id != done:
            raise ValueError(
                f"{partial_path(out)} has {done!r} in row {count} where the input has {record_id!r}: "
                "give the inputs of the unfinished run, or delete that file to start anew"
            )
    return count


def write_rows(rows: Iterable[Row], out: Path, settings: dict[str, Any]) -> None:
    """
    Write predictions to a `.csv`, `.jsonl` or `.parquet` file, which appears only when it is complete.

    Until then rows are appended to `OUT.partial`, from which a killed run resumes; its first line holds the settings.
    """
    partial = partial_path(out)
    with open(partial, "a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps(settings) + "\n")
        for row in rows:
            file.write(json.dumps(row) + "\n")
    complete = out.with_name(out.name + ".complete")
    with open(partial, encoding="utf-8") as file:
        next(file)
        if out.suffix == ".parquet":
            write_parquet((json.loads(line) for line in file), complete)
        else:
            with open(complete, "w", newline="", encoding="utf-8") as table:
                if out.suffix == ".csv":
                    write_csv((json.loads(line) for line in file), table, settings["columns"])
                else:
                    table.writelines(file)
    os.replace(complete, out)
    partial.unlink()


def write_csv(rows: Iterable[Row], file: IO[str], names: list[str]) -> None:
    """Write rows as CSV to an open text file, each as it comes (a reader may be waiting at a pipe's end)."""
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(row)
        file.flush()


def write_parquet(rows: Iterator[Row], path: Path) -> None:
    """Write rows as Parquet in row groups of bounded size."""
    writer = None
    while group := list(itertools.islice(rows, 65_536)):
        table = pa.Table.from_pylist(group)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()
