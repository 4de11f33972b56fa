"""The states of a sequence encoder, computed once: sharded safetensors with an index, as transformers keeps weights."""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer

from .batching import token_budget_batches
from .models.configuration_deepgps import DeepGPSConfig
from .models.protein_sequence import clean_sequence, read_text
from .models.sequence_states_deepgps import encode_sequence, load_backbone
from .prediction import LOAD_ERRORS, choose_device, reason

# Parts of an encoder that its states don't depend on, and that deepGPS leaves out
BEHIND_STATES = {"pooler", "contact_head", "decoder", "dense"}
INDEX = "states.safetensors.index.json"
_CHUNK = 512  # sequences that are sorted by length together


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

    Args:
        model (`str`): Folder or Hub name of a transformers encoder or of a DeepLoc.
        device, dtype (`str`): As for `load_model`.

    Raises:
        ValueError: In one sentence, if the model can't be loaded or the device can't be used.
    """

    def __init__(self, model: str, device: str = "auto", dtype: str = "auto"):
        self.device, torch_dtype = choose_device(device, dtype)
        try:
            backbone, tokens = load_backbone(model, torch_dtype)
            self.tokenizer = AutoTokenizer.from_pretrained(model)
        except LOAD_ERRORS as error:
            raise ValueError(f"cannot load the model {model!r}: {reason(error)}") from None
        self.digest = weights_digest(backbone)
        try:
            self.backbone: Any = backbone.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"cannot use the device {device!r}: {reason(error)}") from None
        # A copy, since a configuration that takes another in resets how its attention is computed.
        self.config = DeepGPSConfig(backbone_config=copy.deepcopy(backbone.config), **tokens)
        self.spaced = len(self.tokenizer.tokenize("MKV")) == 1  # ProtBert

    def states(self, sequences: Iterable[str], max_tokens_per_batch: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Clean sequences with bfloat16 states `(length, sequence_size)` of their residues, in any order."""
        iterator = iter(sequences)
        while chunk := list(islice(iterator, _CHUNK)):
            for batch in token_budget_batches([len(sequence) for sequence in chunk], max_tokens_per_batch):
                texts = [read_text(chunk[i], [slice(0, len(chunk[i]))], self.spaced) for i in batch]
                inputs = self.tokenizer(texts, padding=True, return_tensors="pt").to(self.device)
                with torch.inference_mode():
                    found = encode_sequence(self.backbone, self.config, inputs["input_ids"], inputs["attention_mask"])
                for row, i in zip(found, batch, strict=True):
                    yield chunk[i], row[1 : len(chunk[i]) + 1].bfloat16().cpu()


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
    max_tokens_per_batch: int = 16_384,
    shard_bytes: int = 1_000_000_000,
    progress: Callable[[list[str]], Iterable[str]] = iter,
) -> int:
    """
    Write the states of sequences to `out`, each sequence once; those that it holds already stay.

    A shard appears whole, and the index names only whole shards: what a kill leaves behind is gone on with.

    Returns:
        `int`: How many sequences were new.

    Raises:
        ValueError: If `out` holds states of another model, or the model can't be loaded.
    """
    encoder = Encoder(model, device, dtype)
    out.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"metadata": {"model": model, "weights": encoder.digest}, "weight_map": {}}
    if (out / INDEX).exists():
        index = read_index(out)
        if index["metadata"]["weights"] != encoder.digest:
            raise ValueError(
                f"{out} holds states of {index['metadata']['model']}, not of these weights of {model}: choose another "
                "folder"
            )
    weight_map = index["weight_map"]
    unique = dict.fromkeys(map(clean_sequence, sequences))
    wanted = [sequence for sequence in unique if sequence_key(sequence) not in weight_map]
    shard: dict[str, torch.Tensor] = {}

    def write() -> None:
        name = f"states-{len(set(weight_map.values())):05d}.safetensors"
        save_file(shard, out / (name + ".partial"))
        (out / (name + ".partial")).rename(out / name)
        weight_map.update(dict.fromkeys(shard, name))
        partial = out / (INDEX + ".partial")
        partial.write_text(json.dumps(index))
        partial.rename(out / INDEX)
        shard.clear()

    size = 0
    found_states = encoder.states(wanted, max_tokens_per_batch)
    for _, (sequence, found) in zip(progress(wanted), found_states, strict=True):
        index["metadata"]["sequence_size"] = found.shape[1]
        if shard and size + found.nbytes > shard_bytes:
            write()
            size = 0
        shard[sequence_key(sequence)] = found.clone()
        size += found.nbytes
    if shard:
        write()
    return len(wanted)
