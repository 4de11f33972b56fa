"""Records -> streamed predictions -> a file that is whole or absent."""

import csv
import itertools
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedModel

from .batching import SPECIAL_TOKENS, token_budget_batches
from .ensemble import DeepLocEnsemble
from .files import atomic_path, same_settings
from .loading import DEFAULT_MODEL, load_model
from .models.configuration_deeploc import DeepLocConfig
from .models.protein_sequence import tokenize, window_text
from .profiles import protein_profile
from .taxonomy import MEMBRANE, SORTING_SIGNALS, SORTING_TREE

logger = logging.getLogger(__name__)

_CHUNK = 512  # records that are sorted by length together; bounds memory

Row = dict[str, Any]


def check_heads(model: str | Path, config: DeepLocConfig, signals: bool, tree: bool) -> None:
    """`ValueError` if what is asked for a model was not trained with it."""
    for wanted, asked in (("signals", signals), ("tree", tree)):
        if asked and not getattr(config, wanted):
            raise ValueError(f"--{wanted} needs a model trained with model.{wanted}=true; {model} is not")


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
        tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL, trust_remote_code=False)
    heads = ["logits", "membrane_logits"] + ["signal_logits"] * signals + ["tree_logits"] * tree
    iterator = iter(records)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        prepared = [model.prepare_sequence(sequence) for _, sequence in chunk]
        windows = [(i, window) for i, (_, several) in enumerate(prepared) for window in several]
        lengths = [sum(piece.stop - piece.start for piece in window) for _, window in windows]
        found: list[dict[str, torch.Tensor]] = [{} for _ in windows]
        batches = token_budget_batches(lengths, max_tokens_per_batch)
        while batches:
            batch = [windows[k] for k in batches[0]]
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
                logger.warning("memory ran out: continuing with --max-tokens-per-batch %d", max_tokens_per_batch)
                left = [k for pending in batches for k in pending]
                again = token_budget_batches([lengths[k] for k in left], max_tokens_per_batch)
                batches = [[left[k] for k in pending] for pending in again]
                continue
            for place, k in enumerate(batches.pop(0)):
                found[k] = {head: outputs[head][place].cpu() for head in heads}
                if attention:
                    residues = inputs["attention_mask"][place : place + 1].bool()
                    if "input_ids" in inputs:
                        residues = model.residue_mask(inputs["input_ids"][place : place + 1], residues)
                    found[k]["attention"] = outputs.attentions[place, -1][residues[0]].float().cpu()
        outputs_of = iter(found)
        for (protein_id, _), (whole, several) in zip(chunk, prepared, strict=True):
            merged = model.merge_windows(len(whole), several, list(itertools.islice(outputs_of, len(several))))
            row = _row(protein_id, len(whole), several, model, merged)
            if attention:
                row |= {"sequence": whole, "attention": merged["attention"].numpy()}
            yield row


def _inputs(batch, chunk, prepared, model, tokenizer, profiles) -> dict[str, torch.Tensor]:
    """Model inputs for windows, given as pairs of protein number and slices."""
    if model.config.input_features != "profile":
        texts = [window_text(prepared[i][0], window) for i, window in batch]
        return {name: values.to(model.device) for name, values in tokenize(texts, tokenizer).items()}
    if profiles is None:
        raise ValueError("this model reads profiles: name the folder of <id>.pssm files with --profiles")
    rows = []
    for i, window in batch:
        if isinstance(profiles, Mapping):
            profile = np.asarray(profiles[chunk[i][0]], dtype=np.float32)
        else:
            profile = protein_profile(Path(profiles), chunk[i][0], prepared[i][0])
        rows.append(torch.tensor(np.concatenate([profile[piece] for piece in window])))
    ones = [torch.ones(len(profile), dtype=torch.long) for profile in rows]
    return {
        "profiles": pad_sequence(rows, batch_first=True).to(model.device),
        "attention_mask": pad_sequence(ones, batch_first=True).to(model.device),
    }


def _row(protein_id: str, length: int, windows: list, model, heads: dict[str, torch.Tensor]) -> Row:
    names = list(model.config.id2label.values())
    logits, membrane_logits = heads["logits"][None], heads["membrane_logits"][None]
    localizations, membrane = model.decide(logits, membrane_logits)
    scores = model.probabilities(logits)[0].tolist()
    chosen = sorted(localizations[0].nonzero().flatten().tolist(), key=lambda label: -scores[label])
    row = {
        "protein_id": protein_id,
        "length": length,
        "truncated": sum(piece.stop - piece.start for window in windows for piece in window) < length,
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
            else:
                way_out = "give the settings of the unfinished run, or delete that file to start anew"
                same_settings(content, settings, path, way_out)


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
    with open(partial, encoding="utf-8") as file, atomic_path(out) as complete:
        next(file)
        if out.suffix == ".parquet":
            write_parquet((json.loads(line) for line in file), complete)
        else:
            with open(complete, "w", newline="", encoding="utf-8") as table:
                if out.suffix == ".csv":
                    write_csv((json.loads(line) for line in file), table, settings["columns"])
                else:
                    table.writelines(file)
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    while group := list(itertools.islice(rows, 65_536)):
        table = pa.Table.from_pylist(group)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()
