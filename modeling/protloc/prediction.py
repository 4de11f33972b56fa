"""Records -> streamed predictions -> a file that is whole or absent."""

import csv
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel
from yaml import YAMLError

from . import ASSETS
from .batching import SPECIAL_TOKENS, token_budget_batches
from .ensemble import DeepLocEnsemble
from .models.configuration_deeploc import DeepLocConfig
from .models.protein_sequence import AMINO_ACIDS, OTHER_RESIDUES
from .profiles import protein_profile
from .taxonomy import MEMBRANE, SORTING_SIGNALS, SORTING_TREE

logger = logging.getLogger(__name__)

DEFAULT_MODEL = ASSETS / "deeploc"
_CHUNK = 512  # records that are sorted by length together; bounds memory

# What loading a missing or damaged model raises; RuntimeError is for weights that don't fit the configuration.
LOAD_ERRORS = (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError)

Row = dict[str, Any]


def reason(error: Exception) -> str:
    """What an error says, in one line: errors of validation and YAML go on below their first, others leave advice."""
    if isinstance(error, StrictDataclassError | YAMLError):
        return " ".join(str(error).split())
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def native_bf16(device: str) -> bool:
    """Whether a device computes in bfloat16 natively, rather than by emulation, which is slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.startswith("cpu"):
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("sve_bf16"))
    return False


def choose_device(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """What `"auto"` stands for: a CUDA or Apple GPU where there is one, and bfloat16 where it is native."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if native_bf16(device) else "float32"
    return device, getattr(torch, dtype)


def load_config(model: str | Path) -> DeepLocConfig:
    """
    The configuration of a DeepLoc model, by folder or Hub name.

    Raises:
        ValueError: In one sentence, if it can't be loaded or is of another kind.
    """
    try:
        config = AutoConfig.from_pretrained(model)
    except LOAD_ERRORS as error:
        raise ValueError(f"cannot load the model {str(model)!r}: {reason(error)}") from None
    if not isinstance(config, DeepLocConfig):
        raise ValueError(f"{str(model)!r} is a {config.model_type} model; protloc predict needs a deeploc model")
    return config


def check_heads(model: str | Path, config: DeepLocConfig, signals: bool, tree: bool) -> None:
    """`ValueError` if what is asked for a model was not trained with it."""
    for wanted, asked in (("signals", signals), ("tree", tree)):
        if asked and not getattr(config, wanted):
            raise ValueError(f"--{wanted} needs a model trained with model.{wanted}=true; {model} is not")


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
    device, torch_dtype = choose_device(device, dtype)
    config = load_config(model)
    if length_policy is not None:
        config.length_policy = length_policy
    try:
        loaded = AutoModelForSequenceClassification.from_pretrained(model, config=config, dtype=torch_dtype)
        tokenizer = AutoTokenizer.from_pretrained(model)
    except LOAD_ERRORS as error:
        raise ValueError(f"cannot load the model {str(model)!r}: {reason(error)}") from None
    try:
        return loaded.to(device).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"cannot use the device {device!r}: {reason(error)}") from None


def load_ensemble(
    models: Sequence[str | Path], device: str = "auto", dtype: str = "auto", length_policy: str | None = None
) -> tuple[DeepLocEnsemble, Any]:
    """
    Several models as one, and their tokenizer. Arguments and errors are those of `load_model`, and `ValueError` where
    the models don't go together.
    """
    loaded = [load_model(model, device, dtype, length_policy) for model in models]
    return DeepLocEnsemble([model for model, _ in loaded]).eval(), loaded[0][1]


def columns(config: DeepLocConfig, signals: bool = False, tree: bool = False) -> list[str]:
    """The columns of a prediction, in order."""
    head = ["protein_id", "length", "truncated", "localizations", "membrane", "membrane_probability"]
    return (
        head
        + list(config.id2label.values())
        + (["signals", *(f"signal_{name}" for name in SORTING_SIGNALS)] if signals else [])
        + ([f"tree_{name}" for name in SORTING_TREE] if tree else [])
    )


def memory_ran_out(error: Exception) -> bool:
    """Whether an error says that a batch was too large; torch has no type of its own for that on a CPU or Apple GPU."""
    texts = "can't allocate memory", "out of memory"
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in texts)


@torch.inference_mode()
def predict(
    records: Iterable[tuple[str, str]],
    model: PreTrainedModel | DeepLocEnsemble | None = None,
    tokenizer: Any = None,
    max_tokens_per_batch: int = 16_384,
    *,
    profiles: str | Path | Mapping[str, np.ndarray] | None = None,
    signals: bool = False,
    tree: bool = False,
    attention: bool = False,
) -> Iterator[Row]:
    """
    Predict proteins as they come, in their order, in bounded memory.

    Args:
        records: Pairs of id and sequence.
        model: A DeepLoc in evaluation mode, as `load_model` gives it, or an ensemble; the shipped model by default.
        tokenizer: Its tokenizer; by default the stock one, which all DeepLoc models without a backbone share.
        max_tokens_per_batch (`int`): The most tokens of a batch, padding included. Where memory runs out, it is halved.
        profiles (`str`, `Path` or `Mapping[str, np.ndarray]`, *optional*): For models of profiles: a folder with
            `<id>.pssm` for each protein, or arrays `(length, 20)` by id.
        signals, tree, attention (`bool`): Give these too.

    Yields:
        `dict`: `protein_id`, `length` (residues), `truncated` (whether the length policy left residues out),
        `localizations` (joined by `|`, most probable first), `membrane` (`"membrane"` or `"soluble"`),
        `membrane_probability`, and one probability a label, under its name. With `signals`: `signals` (of probability
        0.5 or more, joined by `|`) and `signal_<name>`. With `tree`: `tree_<decision>`, the probability of its first
        side. With `attention`: `sequence`, and `attention`, the weight `(length,)` of each residue.

    Raises:
        ValueError: For a text that is no sequence, or, under the length policy `"error"`, one that is too long; for a
            missing profile, or one of another sequence; for a protein that memory does not suffice for.
    """
    if model is None:
        model, _ = load_model()
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL)
    heads = ["logits", "membrane_logits"] + ["signal_logits"] * signals + ["tree_logits"] * tree
    iterator = iter(records)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        prepared = [model.prepare_sequence(sequence) for _, sequence in chunk]
        reads = [(i, read) for i, (_, several) in enumerate(prepared) for read in several]
        lengths = [sum(piece.stop - piece.start for piece in read) for _, read in reads]
        totals: list[dict[str, torch.Tensor]] = [{} for _ in chunk]
        weights = [np.zeros(len(whole)) for whole, _ in prepared] if attention else []
        batches = token_budget_batches(lengths, max_tokens_per_batch)
        while batches:
            batch = [reads[k] for k in batches[0]]
            try:
                inputs = _inputs(batch, chunk, prepared, model, tokenizer, profiles)
                outputs = model(**inputs)
            except (RuntimeError, MemoryError) as error:
                if not memory_ran_out(error):
                    raise
                tokens = sum(lengths[k] + SPECIAL_TOKENS for k in batches[0])
                if len(batch) == 1:
                    name = chunk[batch[0][0]][0]
                    raise ValueError(f"memory does not suffice for {name!r} ({tokens} tokens at once)") from None
                max_tokens_per_batch = min(max_tokens_per_batch, tokens) // 2
                logger.warning("memory ran out: going on with --max-tokens-per-batch %d", max_tokens_per_batch)
                left = [k for pending in batches for k in pending]
                again = token_budget_batches([lengths[k] for k in left], max_tokens_per_batch)
                batches = [[left[k] for k in pending] for pending in again]
                continue
            batches.pop(0)
            for k, (i, read) in enumerate(batch):
                for head in heads:
                    totals[i][head] = totals[i].get(head, 0) + outputs[head][k].cpu() / len(prepared[i][1])
                if attention:
                    residues = inputs["attention_mask"][k : k + 1].bool()
                    if "input_ids" in inputs:
                        residues = model.residue_mask(inputs["input_ids"][k : k + 1], residues)
                    positions = np.concatenate([np.arange(piece.start, piece.stop) for piece in read])
                    look = outputs.attentions[k, -1][residues[0]].float().cpu().numpy()
                    weights[i][positions] += look / len(prepared[i][1])
        for i, (protein_id, _) in enumerate(chunk):
            whole, several = prepared[i]
            row = _row(protein_id, len(whole), several, model, totals[i])
            if attention:
                row |= {"sequence": whole, "attention": weights[i]}
            yield row


def tokenize(texts: Sequence[str], tokenizer: Any) -> dict[str, torch.Tensor]:
    """
    Padded `input_ids` and `attention_mask` `(batch, tokens)` of clean sequences, spaced (ProtBert) or not.

    What the tokenizer gives, but that goes through a protein residue by residue, for milliseconds: longer than a GPU
    takes to predict it.
    """
    ids = np.zeros(128, dtype=np.int64)
    letters = list(AMINO_ACIDS + OTHER_RESIDUES)
    ids[[ord(letter) for letter in letters]] = np.ravel(tokenizer(letters, add_special_tokens=False)["input_ids"])
    begin, *end = tokenizer("")["input_ids"]  # <cls> and <eos>, or UniRep's <start>
    proteins = [ids[np.frombuffer(text.replace(" ", "").encode(), dtype=np.uint8)] for text in texts]
    rows = [torch.from_numpy(np.concatenate([[begin], protein, end]).astype(np.int64)) for protein in proteins]
    return {
        "input_ids": pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    }


def _inputs(batch, chunk, prepared, model, tokenizer, profiles) -> dict[str, torch.Tensor]:
    """Model inputs for reads, given as pairs of protein number and slices."""
    if model.config.input_features != "profile":
        texts = [model.read_text(prepared[i][0], read) for i, read in batch]
        return {name: values.to(model.device) for name, values in tokenize(texts, tokenizer).items()}
    if profiles is None:
        raise ValueError("this model reads profiles: name the folder of <id>.pssm files with --profiles")
    rows = []
    for i, read in batch:
        if isinstance(profiles, Mapping):
            profile = np.asarray(profiles[chunk[i][0]], dtype=np.float32)
        else:
            profile = protein_profile(Path(profiles), chunk[i][0], prepared[i][0])
        rows.append(torch.tensor(np.concatenate([profile[piece] for piece in read])))
    ones = [torch.ones(len(profile), dtype=torch.long) for profile in rows]
    return {
        "profiles": pad_sequence(rows, batch_first=True).to(model.device),
        "attention_mask": pad_sequence(ones, batch_first=True).to(model.device),
    }


def _row(protein_id: str, length: int, reads: list, model, heads: dict[str, torch.Tensor]) -> Row:
    names = list(model.config.id2label.values())
    logits, membrane_logits = heads["logits"][None], heads["membrane_logits"][None]
    localizations, membrane = model.decide(logits, membrane_logits)
    scores = model.probabilities(logits)[0].tolist()
    chosen = sorted(localizations[0].nonzero().flatten().tolist(), key=lambda label: -scores[label])
    row = {
        "protein_id": protein_id,
        "length": length,
        "truncated": sum(piece.stop - piece.start for read in reads for piece in read) < length,
        "localizations": "|".join(names[label] for label in chosen),
        "membrane": MEMBRANE[int(membrane[0])],
        "membrane_probability": round(membrane_logits.sigmoid().item(), 6),
        **{name: round(score, 6) for name, score in zip(names, scores, strict=True)},
    }
    if "signal_logits" in heads:
        scores = dict(zip(SORTING_SIGNALS, heads["signal_logits"].sigmoid().tolist(), strict=True))
        row["signals"] = "|".join(sorted((name for name in scores if scores[name] >= 0.5), key=lambda n: -scores[n]))
        row |= {f"signal_{name}": round(score, 6) for name, score in scores.items()}
    if "tree_logits" in heads:
        scores = dict(zip(SORTING_TREE, heads["tree_logits"].sigmoid().tolist(), strict=True))
        row |= {f"tree_{name}": round(score, 6) for name, score in scores.items()}
    return row


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
                both = {**content, **settings}
                changed = next(name for name in both if content.get(name) != settings.get(name))
                raise ValueError(
                    f"{path} was begun with {changed} {content.get(changed)!r}, not {settings.get(changed)!r}: "
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
