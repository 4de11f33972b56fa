"""Records -> predictions, as a stream; `results.py` writes them."""

import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, PreTrainedModel

from .batching import SPECIAL_TOKENS, memory_ran_out, token_budget_batches
from .ensemble import DeepLocEnsemble
from .loading import DEFAULT_MODEL, load_model
from .models.configuration_deeploc import DeepLocConfig
from .models.protein_sequence import sequence_text, shortened, tokenize, window_text
from .models.segments_deeploc import find_segments
from .profiles import check_profile, protein_profile
from .sequences import sequence_warning
from .taxonomy import IDENTIFIERS, MEMBRANE, SORTING_SIGNALS, SORTING_TREE

logger = logging.getLogger(__name__)

CHUNK = 512  # records that are sorted by length together; bounds memory

Row = dict[str, Any]


def check_heads(model: str | Path, config: DeepLocConfig, signals: bool, tree: bool, ids: bool) -> None:
    """`ValueError` if a requested head was not trained with the model, or its labels have no identifiers."""
    for wanted, asked in (("signals", signals), ("tree", tree)):
        if asked and not getattr(config, wanted):
            raise ValueError(f"--{wanted} needs a model trained with model.{wanted}=true; {model} is not: leave it out")
    if ids and IDENTIFIERS.keys().isdisjoint(config.id2label.values()):
        raise ValueError(f"--ids knows DeepLoc's ten compartments, and {model} has other labels: leave it out")


def finds_segments(config: DeepLocConfig) -> bool:
    """Whether a model of this configuration, or its companion, predicts segments of sorting signals."""
    return config.residue_signals or bool((config.companion_config or {}).get("residue_signals"))


def segments_text(segments: list[dict[str, Any]]) -> str:
    """Segments in the format of tables: `SP:1-24:0.98|TM:40-60:0.9`, with the mean probability."""
    return "|".join(f"{part['type']}:{part['start']}-{part['end']}:{part['probability']:.4g}" for part in segments)


def table_rows(rows: Iterable[Row], ids: bool = False) -> Iterator[Row]:
    """The rows of `predict` in the format of tables; with `ids`, with `go` and `uniprot_sl` of each localization."""
    for row in rows:
        if "segments" in row:
            row["segments"] = segments_text(row["segments"])
        if ids:
            found = [IDENTIFIERS.get(name, ("", "")) for name in row["localizations"].split("|")]
            row["go"], row["uniprot_sl"] = ("|".join(names) for names in zip(*found, strict=True))
        yield row


def columns(config: DeepLocConfig, signals: bool = False, tree: bool = False, ids: bool = False) -> list[str]:
    """The columns of a prediction, in order."""
    segments = ["segments"] if finds_segments(config) else []
    return (
        ["protein_id", "length", "truncated", "localizations"]
        + ["go", "uniprot_sl"] * ids
        + ["membrane", "membrane_probability"] * config.membrane
        + list(config.id2label.values())
        + (["signals", *segments, *(f"signal_{name}" for name in SORTING_SIGNALS)] if signals else [])
        + ([f"tree_{name}" for name in SORTING_TREE] if tree else [])
        + ["warning"]
    )


def model_digest(model: PreTrainedModel | DeepLocEnsemble) -> str:
    """Identifies a model by its weights, their type (`dtype`), thresholds and calibration."""
    digest = hashlib.sha256()
    for member in getattr(model, "members", [model]):
        config = member.config.to_diff_dict()
        for name in ("transformers_version", "length_policy"):
            config.pop(name, None)
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for name, weight in sorted(member.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def predict(
    records: Iterable[tuple[str, Any]] | Mapping[str, Any],
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
    Predict a stream of proteins in their order, in bounded memory.

    Args:
        records: Pairs of id and sequence, Biopython's `SeqRecord`s, or a mapping of ids to sequences.
        model: A DeepLoc in evaluation mode, from `load_model`, or an ensemble; the shipped model by default.
        tokenizer: Its tokenizer; by default the stock one, which all DeepLoc models without a backbone share.
        max_tokens_per_batch (`int`): Maximum tokens of a batch, including padding. It is halved when memory runs out.
        profiles (`str`, `Path` or `Mapping[str, np.ndarray]`, *optional*): For models that use profiles: a folder with
            `<id>.pssm` for each protein, or arrays `(length, 20)` by id.
        signals, tree, attention (`bool`): Whether to return these too.

    Yields:
        `dict`: `protein_id`, `length` (residues), `truncated` (whether the length policy removed residues),
        `localizations` (joined by `|`, most probable first), `membrane` (`"membrane"` or `"soluble"`) and
        `membrane_probability` if the model has this head, and one probability per label, under its name. With
        `signals`: `signals` (of probability 0.5 or more, joined by `|`), `signal_<name>` and, if the model predicts
        them, `segments` from `find_segments`. With `tree`: `tree_<decision>`, the probability of its first side.
        `warning` says why the sequence may not be a protein (`sequence_warning`), and is empty otherwise. With
        `attention`: `sequence`, and `attention`, the weight `(length,)` of each residue.

    Raises:
        ValueError: For text that is not a sequence, for a sequence that is too long with the length policy `"error"`,
            for a missing profile or the profile of another sequence, and for a protein that needs too much memory.
    """
    if model is None:
        model, _ = load_model()
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(DEFAULT_MODEL, trust_remote_code=False)
    segments = signals and finds_segments(model.config)
    heads = (
        ["logits"] + ["membrane_logits"] * model.config.membrane + ["signal_logits"] * signals + ["tree_logits"] * tree
    )
    iterator = pairs(records)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        prepared = [_prepared(model, *record) for record in chunk]
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
                    raise ValueError(
                        f"memory does not suffice for {name!r} ({tokens} tokens at once): take a machine with more, or "
                        "a --length-policy that reads less of it"
                    ) from None
                max_tokens_per_batch = min(max_tokens_per_batch, tokens) // 2
                logger.warning("memory ran out: continuing with --max-tokens-per-batch %d", max_tokens_per_batch)
                left = [k for pending in batches for k in pending]
                again = token_budget_batches([lengths[k] for k in left], max_tokens_per_batch)
                batches = [[left[k] for k in pending] for pending in again]
                continue
            for place, k in enumerate(batches.pop(0)):
                found[k] = {head: outputs[head][place].cpu() for head in heads}
                if attention or segments:
                    residues = inputs["attention_mask"][place : place + 1].bool()
                    if "input_ids" in inputs:
                        residues = model.residue_mask(inputs["input_ids"][place : place + 1], residues)
                if attention:
                    found[k]["attention"] = outputs.attentions[place, -1][residues[0]].float().cpu()
                if segments:
                    found[k]["residue_signals"] = outputs.residue_signal_logits[place][residues[0]].softmax(dim=-1)
        outputs_of = iter(found)
        for (protein_id, text), (whole, several) in zip(chunk, prepared, strict=True):
            merged = model.merge_windows(len(whole), several, list(itertools.islice(outputs_of, len(several))))
            row = _row(protein_id, len(whole), several, model, merged) | {"warning": sequence_warning(text)}
            if attention:
                row |= {"sequence": whole, "attention": merged["attention"].numpy()}
            yield row


def pairs(records: Iterable[Any] | Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """
    Ids and texts of proteins from Python objects.

    Raises:
        ValueError: With the record that is invalid.
    """
    if isinstance(records, str):
        raise ValueError(f"{shortened(records)} is text, not records: read a file with protloc.sequences.read_fasta")
    items: Iterable[Any] = records.items() if isinstance(records, Mapping) else records
    for number, item in enumerate(items, start=1):
        if hasattr(item, "seq") and isinstance(getattr(item, "id", None), str):
            item = item.id, item.seq
        if not (isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], str)):
            raise ValueError(f"record {number} is no pair of id and sequence: {shortened(item)}")
        try:
            yield item[0], sequence_text(item[1])
        except ValueError as error:
            raise ValueError(f"record {number}, {item[0]!r}: {error}") from None


def _prepared(model: Any, protein_id: str, text: str) -> tuple[str, list[list[slice]]]:
    try:
        return model.prepare_sequence(text)
    except ValueError as error:
        raise ValueError(f"{protein_id!r}: {error}") from None


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
            if chunk[i][0] not in profiles:
                raise ValueError(f"there is no profile of {chunk[i][0]!r}")
            profile = check_profile(profiles[chunk[i][0]], len(prepared[i][0]), chunk[i][0])
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
    logits = heads["logits"][None]
    membrane_logits = heads["membrane_logits"][None] if "membrane_logits" in heads else None
    localizations, membrane = model.decide(logits, membrane_logits)
    scores = model.probabilities(logits)[0].tolist()
    chosen = sorted(localizations[0].nonzero().flatten().tolist(), key=lambda label: -scores[label])
    row = {
        "protein_id": protein_id,
        "length": length,
        "truncated": sum(piece.stop - piece.start for window in windows for piece in window) < length,
        "localizations": "|".join(names[label] for label in chosen),
    }
    if membrane_logits is not None:
        row["membrane"] = MEMBRANE[int(membrane[0])]
        row["membrane_probability"] = round(membrane_logits.sigmoid().item(), 6)
    row |= {name: round(score, 6) for name, score in zip(names, scores, strict=True)}
    if "signal_logits" in heads:
        scores = dict(zip(SORTING_SIGNALS, heads["signal_logits"].sigmoid().tolist(), strict=True))
        row["signals"] = "|".join(sorted((name for name in scores if scores[name] >= 0.5), key=lambda n: -scores[n]))
        if "residue_signals" in heads:
            row["segments"] = find_segments(heads["residue_signals"])
        row |= {f"signal_{name}": round(score, 6) for name, score in scores.items()}
    if "tree_logits" in heads:
        scores = dict(zip(SORTING_TREE, heads["tree_logits"].sigmoid().tolist(), strict=True))
        row |= {f"tree_{name}": round(score, 6) for name, score in scores.items()}
    return row
