"""The states of a sequence encoder, computed once: sharded safetensors with an index, as transformers keeps weights."""

import copy
import hashlib
import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from . import packed_attention
from .batching import SPECIAL_TOKENS, packed_batches, token_budget_batches
from .files import atomic_path
from .loading import LOAD_ERRORS, choose_device, one_line
from .models.configuration_deepgps import DeepGPSConfig
from .models.protein_sequence import clean_sequence, split_windows, window_text
from .models.sequence_states_deepgps import encode_sequence, load_backbone

# Parts of an encoder that its states don't depend on, and that deepGPS leaves out
BEHIND_STATES = {"pooler", "contact_head", "decoder", "dense"}
INDEX = "states.safetensors.index.json"

T = TypeVar("T")
Read = tuple[int, slice]  # number of the sequence, residues


def sequence_key(sequence: str) -> str:
    """The name of a sequence's states: its SHA-1."""
    return hashlib.sha1(sequence.encode()).hexdigest()


def read_index(folder: str | Path) -> dict[str, Any]:
    """
    The index of a folder that `embed` wrote: `metadata` and `weight_map`.

    Raises:
        ValueError: If there is none.
    """
    try:
        return json.loads((Path(folder) / INDEX).read_text())
    except OSError:
        raise ValueError(f"{folder} holds no {INDEX}: make it with protloc embed") from None


class SequenceStates:
    """
    Reads the states that `embed` wrote.

    Args:
        folder (`str` or `Path`)

    Raises:
        ValueError: If the folder holds none.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        index = read_index(folder)
        self.weights: str = index["metadata"]["weights"]  # `weights_digest` of the encoder
        self.size: int = index["metadata"]["sequence_size"]
        self._files: dict[str, str] = index["weight_map"]
        self._open = lru_cache(maxsize=None)(lambda name: safe_open(self.folder / name, "pt"))

    def __contains__(self, sequence: str) -> bool:
        return sequence_key(sequence) in self._files

    def __getitem__(self, sequence: str) -> torch.Tensor:
        """bfloat16 states `(length, sequence_size)` of the residues of a sequence as `clean_sequence` gives it."""
        key = sequence_key(sequence)
        if key not in self._files:
            raise ValueError(f"{self.folder} has no states of {sequence[:20]}...: add it with protloc embed")
        return self._open(self._files[key]).get_tensor(key)

    def __reduce__(self):  # worker processes open the files anew
        return SequenceStates, (self.folder,)


class Encoder:
    """
    A sequence encoder with its tokenizer.

    Encoders that read packed sequences (ESM-2, BERT) are given no padding; others get batches of similar length.

    Args:
        model (`str`): Folder or Hub name of a transformers encoder or of a DeepLoc.
        device, dtype (`str`): As for `load_model`.
        compile (`bool`): Compile the encoder, which takes minutes and must read packed sequences.

    Raises:
        ValueError: In one sentence, if the model can't be loaded or compiled, or the device can't be used.
    """

    def __init__(self, model: str, device: str = "auto", dtype: str = "auto", compile: bool = False):
        self.name = model
        self.device, torch_dtype = choose_device(device, dtype)
        try:
            backbone, tokens = load_backbone(model, torch_dtype)
            self.tokenizer = AutoTokenizer.from_pretrained(model)
        except LOAD_ERRORS as error:
            raise ValueError(f"cannot load the model {model!r}: {one_line(error)}") from None
        self.digest = weights_digest(backbone)
        try:
            self.backbone: Any = backbone.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"cannot use the device {device!r}: {one_line(error)}") from None
        # A copy, since a configuration that takes another in resets how its attention is computed.
        self.config = DeepGPSConfig(backbone_config=copy.deepcopy(backbone.config), **tokens)
        self.spaced = len(self.tokenizer.tokenize("MKV")) == 1  # ProtBert
        self.recurrent = backbone.config.model_type == "deeploc"  # reads any length
        self.packed = packed_attention.reads_packed(backbone.config)
        # Of a CPU a small batch keeps to the caches; a recurrence steps as often for a large batch as for a small one.
        self.max_tokens_per_batch = 1024 if self.packed and self.device.startswith("cpu") else 16_384
        if self.packed:
            backbone.set_attn_implementation(packed_attention.NAME)
        if compile:
            if not self.packed:
                raise ValueError(f"only ESM-2 and BERT are compiled, and {model} is none: leave --compile out")
            if shutil.which(os.environ.get("CXX", "g++")) is None:
                raise ValueError(
                    "--compile needs a C++ compiler: install g++, name yours in CXX, or leave --compile out"
                )
            # Frozen weights are laid out once as the CPU's products want them.
            frozen = self.device.startswith("cpu")
            self.backbone = torch.compile(backbone, dynamic=True, options={"freezing": frozen})

    def states(
        self, sequences: Sequence[str], max_tokens_per_batch: int | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """
        Clean sequences with states `(length, sequence_size)` of their residues on the CPU, in any order.

        Those over the `max_length` of [`DeepGPSConfig`] are read in the windows of `encode_sequence`.
        """
        found: dict[int, list[tuple[slice, torch.Tensor]]] = {}  # by the number of the sequence
        for reads, inputs in prefetch(self._batches(sequences, max_tokens_per_batch or self.max_tokens_per_batch)):
            for (i, residues), states in zip(reads, self._encode(inputs, reads), strict=True):
                found.setdefault(i, []).append((residues, states))
                if len(found[i]) == len(self._reads(sequences[i])):
                    yield sequences[i], _joined(len(sequences[i]), found.pop(i))

    def _reads(self, sequence: str) -> list[slice]:
        limit = len(sequence) if self.recurrent else self.config.max_length
        return [read for [read] in split_windows(len(sequence), limit, "window")]

    def _batches(
        self, sequences: Sequence[str], max_tokens: int
    ) -> Iterator[tuple[list[Read], dict[str, torch.Tensor]]]:
        reads = [(i, read) for i, sequence in enumerate(sequences) for read in self._reads(sequence)]
        lengths = [residues.stop - residues.start for _, residues in reads]
        for batch in (packed_batches if self.packed else token_budget_batches)(lengths, max_tokens):
            texts = [
                window_text(sequences[i], [residues], self.spaced) for i, residues in map(reads.__getitem__, batch)
            ]
            if self.packed:
                inputs = packed_attention.pack(self.tokenizer(texts)["input_ids"])
            else:
                inputs = dict(self.tokenizer(texts, padding=True, return_tensors="pt"))
            yield [reads[k] for k in batch], inputs

    @torch.inference_mode()
    def _encode(self, inputs: dict[str, torch.Tensor], reads: list[Read]) -> list[torch.Tensor]:
        """States of the residues of each read."""
        inputs = {name: x if name == "max_length_q" else x.to(self.device) for name, x in inputs.items()}
        lengths = [residues.stop - residues.start for _, residues in reads]
        if self.packed:
            rows = self.backbone(**inputs).last_hidden_state[0].cpu().split([n + SPECIAL_TOKENS for n in lengths])
        else:
            rows = encode_sequence(self.backbone, self.config, inputs["input_ids"], inputs["attention_mask"]).cpu()
        return [row[1 : n + 1] for row, n in zip(rows, lengths, strict=True)]


def _joined(length: int, parts: list[tuple[slice, torch.Tensor]]) -> torch.Tensor:
    """States of a sequence from those of its reads: their mean where they overlap."""
    if len(parts) == 1:
        return parts[0][1]
    total = torch.zeros(length, parts[0][1].shape[1])
    counts = torch.zeros(length, 1)
    for residues, states in parts:
        total[residues] += states
        counts[residues] += 1
    return (total / counts).to(parts[0][1].dtype)


def prefetch(items: Iterable[T], ahead: int = 2) -> Generator[T]:
    """
    The same items, made by a thread up to `ahead` of them before they are asked for.

    Its errors are raised here. Closed early, it waits for the one item that is being made.
    """
    iterator, end = iter(items), object()
    thread = ThreadPoolExecutor(1)
    try:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(ahead))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, iterator, end))
            yield cast(T, item)
    finally:
        thread.shutdown(cancel_futures=True)


def weights_digest(backbone: torch.nn.Module) -> str:
    """Tells encoders of other weights apart: a digest of the sum and the sum of squares of every parameter."""
    digest = hashlib.sha1()
    for name, weight in sorted(backbone.named_parameters()):
        if name.split(".")[0] not in BEHIND_STATES:
            rounded = weight.detach().bfloat16().double()
            digest.update(f"{name} {rounded.sum():.6e} {rounded.square().sum():.6e}".encode())
    return digest.hexdigest()[:16]


def embed(
    sequences: Iterable[str],
    out: Path,
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    max_tokens_per_batch: int | None = None,
    shard_bytes: int = 1_000_000_000,
    progress: Callable[[list[str]], Iterable[str]] = iter,
    compile: bool = False,
) -> int:
    """
    Write the states of sequences to `out`, each sequence once; those that it holds already stay.

    A shard appears whole, and the index names only whole shards: what a kill leaves behind is gone on with.

    Returns:
        `int`: How many sequences were new.

    Raises:
        ValueError: If `out` holds states of another model, or the model can't be loaded.
    """
    encoder = Encoder(model, device, dtype, compile)
    return write_states(encoder, sequences, out, max_tokens_per_batch, shard_bytes, progress)


def write_states(
    encoder: Encoder,
    sequences: Iterable[str],
    out: Path,
    max_tokens_per_batch: int | None = None,
    shard_bytes: int = 1_000_000_000,
    progress: Callable[[list[str]], Iterable[str]] = iter,
) -> int:
    """What `embed` does, with an encoder that is loaded."""
    out.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"metadata": {"model": encoder.name, "weights": encoder.digest}, "weight_map": {}}
    if (out / INDEX).exists():
        index = read_index(out)
        if index["metadata"]["weights"] != encoder.digest:
            raise ValueError(
                f"{out} holds states of {index['metadata']['model']}, not of these weights of {encoder.name}: choose "
                "another folder"
            )
    weight_map = index["weight_map"]
    unique = dict.fromkeys(map(clean_sequence, sequences))
    wanted = [sequence for sequence in unique if sequence_key(sequence) not in weight_map]
    shard: dict[str, torch.Tensor] = {}

    def write() -> None:
        name = f"states-{len(set(weight_map.values())):05d}.safetensors"
        with atomic_path(out / name) as partial:
            save_file(shard, partial)
        weight_map.update(dict.fromkeys(shard, name))
        with atomic_path(out / INDEX) as partial:
            partial.write_text(json.dumps(index))
        shard.clear()

    size = 0
    # The encoder works in a thread, so that it goes on while this one writes.
    with closing(prefetch(encoder.states(wanted, max_tokens_per_batch), ahead=16)) as pairs:
        for _, (sequence, states) in zip(progress(wanted), pairs, strict=True):
            found = states.bfloat16()
            index["metadata"]["sequence_size"] = found.shape[1]
            if shard and size + found.nbytes > shard_bytes:
                write()
                size = 0
            shard[sequence_key(sequence)] = found.clone()  # of its own, not a part of the batch
            size += found.nbytes
    if shard:
        write()
    return len(wanted)
