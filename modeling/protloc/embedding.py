"""Precomputed residue embeddings: sharded safetensors with an index, in the format of transformers' weights."""

import copy
import hashlib
import json
import logging
import os
import random
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
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from . import packed_attention
from .batching import SPECIAL_TOKENS, memory_ran_out, packed_batches, token_budget_batches
from .files import atomic_path, disk_errors, lock, same_settings
from .loading import check_finite, check_tokenizer, choose_device, model_path, naming, one_line
from .models.configuration_deepgps import DeepGPSConfig
from .models.protein_sequence import clean_sequence, split_windows, window_text
from .models.sequence_encoder_deepgps import encode_sequence, load_backbone
from .packed_weights import pack_unirep

logger = logging.getLogger(__name__)

# Parts of an encoder that its states don't depend on, and that deepGPS leaves out
BEHIND_STATES = {"pooler", "contact_head", "decoder", "dense"}
INDEX = "embeddings.safetensors.index.json"
PROJECTION = "projection.safetensors"
PROJECTION_SAMPLE = 1000  # proteins that the principal components are fitted on

T = TypeVar("T")
Window = tuple[int, slice]  # number of the sequence, residues


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
        return json.loads((Path(folder) / INDEX).read_text(encoding="utf-8"))
    except OSError:
        raise ValueError(f"{folder} holds no {INDEX}: make it with protloc embed") from None


class ResidueEmbeddings:
    """
    Reads the embeddings that `embed` wrote, memory-mapped, in any order.

    Args:
        folder (`str` or `Path`)

    Raises:
        ValueError: If the folder holds no embeddings.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        index = read_index(folder)
        self.weights: str = index["metadata"]["weights"]  # `weights_digest` of the encoder
        self.size: int = index["metadata"]["size"]
        self.mean: bool = index["metadata"]["mean"]
        # Of states with `size` principal components: weight `(size, encoder's size)` and bias `(size,)`
        self.projection: dict[str, torch.Tensor] | None = read_projection(self.folder)
        self._files: dict[str, str] = index["weight_map"]
        self._open = lru_cache(maxsize=None)(lambda name: safe_open(self.folder / name, "pt"))

    def __contains__(self, sequence: str) -> bool:
        return sequence_key(sequence) in self._files

    def __getitem__(self, sequence: str) -> torch.Tensor:
        """float16 states `(length, size)` of a sequence from `clean_sequence`; with `mean`, `(size,)`."""
        self.check(sequence)
        key = sequence_key(sequence)
        return self._open(self._files[key]).get_tensor(key)

    def check(self, sequence: str) -> None:
        """`ValueError` if a sequence has no embedding here."""
        if sequence not in self:
            raise ValueError(
                f"{self.folder} has no embedding of {sequence[:20]}... ({len(sequence)} residues): add it with protloc "
                "embed, with the model's --max-length and --length-policy"
            )

    def __reduce__(self):  # worker processes open the files anew
        return ResidueEmbeddings, (self.folder,)


def read_projection(folder: Path) -> dict[str, torch.Tensor] | None:
    """The linear map that the states of a folder went through, if any."""
    return load_file(folder / PROJECTION) if (folder / PROJECTION).exists() else None


class Encoder:
    """
    A sequence encoder with its tokenizer.

    Encoders of packed sequences (ESM-2, BERT) get no padding; others get batches of similar length.

    Args:
        model (`str`): Folder or Hub name of a transformers encoder or of a DeepLoc, or `"unirep"`.
        device, dtype (`str`): As for `load_model`.
        compile (`bool`): Compile the encoder, which takes minutes; only for encoders of packed sequences.

    Raises:
        ValueError: In one sentence, if the model can't be loaded or compiled, or the device can't be used.
    """

    def __init__(self, model: str, device: str = "auto", dtype: str = "auto", compile: bool = False):
        self.name = model
        self.device, torch_dtype = choose_device(device, dtype)
        with naming(model):
            path = model_path(model)
            backbone, tokens = load_backbone(path, torch_dtype)
            check_finite(backbone)
            self.tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
            check_tokenizer(self.tokenizer, backbone.config.vocab_size)
            # A copy, since a configuration that takes another in resets how its attention is computed.
            self.config = DeepGPSConfig(backbone_config=copy.deepcopy(backbone.config), **tokens)
        self.digest = weights_digest(backbone)
        try:
            self.backbone: Any = backbone.to(self.device).eval()
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"cannot use the device {device!r}: {one_line(error)}") from None
        self.spaced = len(self.tokenizer.tokenize("MKV")) == 1  # ProtBert
        self.recurrent = backbone.config.model_type in ("deeploc", "unirep")  # reads any length
        self.packed = packed_attention.reads_packed(backbone.config)
        # Of a CPU a small batch keeps to the caches; a recurrence steps as often for a large batch as for a small one.
        self.max_tokens_per_batch = 1024 if self.packed and self.device.startswith("cpu") else 16_384
        self.max_proteins_per_batch = None
        self.unirep = backbone.config.model_type == "unirep"
        if self.unirep:  # a step is one product, and pays for many proteins
            self.max_tokens_per_batch, self.max_proteins_per_batch = 131_072, 128
            # States of a batch, kept for the next: where pages are slow to come, new ones took a sixth of the time.
            self._states = torch.empty(0, backbone.config.hidden_size, device=self.device, dtype=backbone.dtype)
            pack_unirep(backbone, self.max_proteins_per_batch)
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

        Sequences longer than the `max_length` of [`DeepGPSConfig`] are read in the windows of `encode_sequence`.
        """
        found: dict[int, list[tuple[slice, torch.Tensor]]] = {}  # by the number of the sequence
        for windows, inputs in prefetch(self._batches(sequences, max_tokens_per_batch or self.max_tokens_per_batch)):
            for (i, residues), states in zip(windows, self._encode_in_parts(sequences, windows, inputs), strict=True):
                found.setdefault(i, []).append((residues, states))
                if len(found[i]) == len(self._windows(sequences[i])):
                    yield sequences[i], _joined(len(sequences[i]), found.pop(i))

    def _windows(self, sequence: str) -> list[slice]:
        limit = len(sequence) if self.recurrent else self.config.max_length
        return [read for [read] in split_windows(len(sequence), limit, "window")]

    def _batches(
        self, sequences: Sequence[str], max_tokens: int
    ) -> Iterator[tuple[list[Window], dict[str, torch.Tensor]]]:
        windows = [(i, window) for i, sequence in enumerate(sequences) for window in self._windows(sequence)]
        lengths = [residues.stop - residues.start for _, residues in windows]
        if self.packed:
            batches = packed_batches(lengths, max_tokens)
        else:
            batches = token_budget_batches(lengths, max_tokens, self.max_proteins_per_batch)
        for batch in batches:
            chosen = [windows[k] for k in batch]
            yield chosen, self._inputs(sequences, chosen)

    def _inputs(self, sequences: Sequence[str], windows: list[Window]) -> dict[str, torch.Tensor]:
        texts = [window_text(sequences[i], [residues], self.spaced) for i, residues in windows]
        if self.packed:
            return packed_attention.pack(self.tokenizer(texts)["input_ids"])
        return dict(self.tokenizer(texts, padding=True, return_tensors="pt"))

    def _encode_in_parts(
        self, sequences: Sequence[str], windows: list[Window], inputs: dict[str, torch.Tensor]
    ) -> list[torch.Tensor]:
        """States of the residues of each read; where memory runs out, of half of them at a time."""
        try:
            return self._encode(inputs, windows)
        except (RuntimeError, MemoryError) as error:
            if not memory_ran_out(error):
                raise
        if len(windows) == 1:
            length = windows[0][1].stop - windows[0][1].start
            raise ValueError(
                f"memory does not suffice for {sequences[windows[0][0]][:20]}... ({length} residues at once)"
            )
        half = len(windows) // 2
        logger.warning("memory ran out: a batch of %d proteins is halved; lower --max-tokens-per-batch", len(windows))
        return [
            states
            for part in (windows[:half], windows[half:])
            for states in self._encode_in_parts(sequences, part, self._inputs(sequences, part))
        ]

    @torch.inference_mode()
    def _encode(self, inputs: dict[str, torch.Tensor], windows: list[Window]) -> list[torch.Tensor]:
        """States of the residues of each read."""
        inputs = {name: x if name == "max_length_q" else x.to(self.device) for name, x in inputs.items()}
        lengths = [residues.stop - residues.start for _, residues in windows]
        if self.packed:
            rows = self.backbone(**inputs).last_hidden_state[0].cpu().split([n + SPECIAL_TOKENS for n in lengths])
        elif self.unirep:
            rows = self._read_unirep(inputs["input_ids"], inputs["attention_mask"])
        else:
            rows = encode_sequence(self.backbone, self.config, inputs["input_ids"], inputs["attention_mask"]).cpu()
        found = [row[1 : n + 1] for row, n in zip(rows, lengths, strict=True)]
        if not all(states.isfinite().all() for states in found):
            raise ValueError(f"{self.name} answers with NaN or infinite numbers: its weights are damaged")
        return found

    def _read_unirep(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[torch.Tensor]:
        """States of all tokens of each protein, without those of padding."""
        packed = self.backbone.pack(input_ids, attention_mask)
        if len(self._states) < len(packed.data):
            self._states = self._states.new_empty(len(packed.data), self._states.shape[1])
        end = 0
        for states in self.backbone.read(packed):
            self._states[end : (end := end + len(states))] = states
        starts = packed.batch_sizes.cumsum(0) - packed.batch_sizes  # of each step's tokens
        places = (
            starts[:n] + rank
            for n, rank in zip(attention_mask.sum(dim=1).tolist(), packed.unsorted_indices.tolist(), strict=True)
        )
        return [self._states[place.to(self.device)].cpu() for place in places]


def _joined(length: int, parts: list[tuple[slice, torch.Tensor]]) -> torch.Tensor:
    """States of a sequence from those of its windows: their mean where they overlap."""
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
    The same items, prepared by a thread, up to `ahead` items in advance.

    Errors of the thread are raised here. If closed early, it waits for the item in preparation.
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
    """Identifies an encoder's weights: a digest of the sum and the sum of squares of every parameter."""
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
    *,
    mean: bool = False,
    project: int | None = None,
    max_length: int | None = None,
    length_policy: str = "middle",
) -> int:
    """
    Write the embeddings of sequences to `out`, each sequence once; existing embeddings are kept.

    Shards are written atomically, and the index lists only complete shards: an interrupted run resumes.

    Args:
        sequences (`Iterable[str]`)
        out (`Path`): A folder.
        model (`str`), device, dtype, compile: As for [`Encoder`].
        max_tokens_per_batch (`int`, *optional*): The default depends on the encoder.
        shard_bytes (`int`): Maximum bytes of a file.
        progress: Wraps the list of sequences that are computed.
        mean (`bool`): Write the mean over the residues instead of every residue's embedding.
        project (`int`, *optional*): Write this number of principal components, fitted on `PROJECTION_SAMPLE` of the
            proteins when the folder is created; the projection is kept in the folder for the model that reads it.
        max_length (`int`, *optional*), length_policy (`str`): Embed only the part of a longer protein that a model with
            these settings reads: each window is a separate sequence. Without a maximum, every protein is read whole.

    Returns:
        `int`: Number of new sequences.

    Raises:
        ValueError: If `out` holds embeddings of another model or kind, another process writes to it, the model can't be
            loaded, the disk is full, or there is not enough memory for a protein.
    """
    encoder = Encoder(model, device, dtype, compile)
    wholes = map(clean_sequence, sequences)
    windows = (
        window_text(whole, window)
        for whole in wholes
        for window in split_windows(len(whole), max_length or len(whole), length_policy)
    )
    return write_embeddings(
        encoder, windows, out, max_tokens_per_batch, shard_bytes, progress, mean=mean, project=project
    )


def fit_projection(encoder: Encoder, sequences: Sequence[str], size: int) -> dict[str, torch.Tensor]:
    """
    Principal components of the states of a sample's residues, each protein counting the same.

    Returns:
        `dict`: `weight` `(size, encoder's size)` and `bias` `(size,)`, such that `states @ weight.T + bias` are the
        components; the rows of `weight` are orthonormal.

    Raises:
        ValueError: If there are more components than dimensions of the encoder's states.
    """
    width = encoder.config.sequence_size
    if size > width:
        raise ValueError(f"--project {size} is more than the {width} numbers of {encoder.name}: choose fewer")
    sample = random.Random(0).sample(list(sequences), min(PROJECTION_SAMPLE, len(sequences)))
    total, products = torch.zeros(width, dtype=torch.double), torch.zeros(width, width, dtype=torch.double)
    for sequence, states in encoder.states(sample):
        rows = states.float()
        total += rows.mean(dim=0).double()
        products += (rows.T @ rows / len(sequence)).double()
    mean = total / len(sample)
    _, vectors = torch.linalg.eigh(products / len(sample) - torch.outer(mean, mean))
    weight = vectors.flip(1)[:, :size].T  # the largest eigenvalues come last
    return {"weight": weight.float().contiguous(), "bias": -(weight @ mean).float()}


def write_embeddings(
    encoder: Encoder,
    sequences: Iterable[str],
    out: Path,
    max_tokens_per_batch: int | None = None,
    shard_bytes: int = 1_000_000_000,
    progress: Callable[[list[str]], Iterable[str]] = iter,
    *,
    mean: bool = False,
    project: int | None = None,
) -> int:
    """As `embed`, with a loaded encoder and clean sequences."""
    out.mkdir(parents=True, exist_ok=True)
    with lock(out / ".lock", out):
        return _write_embeddings(
            encoder, sequences, out, max_tokens_per_batch, shard_bytes, progress, mean=mean, project=project
        )


def _write_embeddings(
    encoder: Encoder,
    sequences: Iterable[str],
    out: Path,
    max_tokens_per_batch: int | None,
    shard_bytes: int,
    progress: Callable[[list[str]], Iterable[str]],
    *,
    mean: bool,
    project: int | None,
) -> int:
    size = project or encoder.config.sequence_size
    metadata = {"model": encoder.name, "weights": encoder.digest, "size": size, "mean": mean, "project": project}
    index: dict[str, Any] = {"metadata": metadata, "weight_map": {}}
    if (out / INDEX).exists():
        index = read_index(out)
        held = {name: index["metadata"].get(name) for name in metadata}
        # Weights tell models apart, wherever they are kept.
        same_settings(held | {"model": encoder.name}, metadata, out, f"it is of {held['model']}; choose another folder")
    weight_map = index["weight_map"]
    unique = dict.fromkeys(sequences)
    wanted = [sequence for sequence in unique if sequence_key(sequence) not in weight_map]
    way_out = "make room and start again: what is done stays"
    projection = None
    if project:
        if not (out / PROJECTION).exists():
            fitted = fit_projection(encoder, wanted, project)
            with disk_errors(out / PROJECTION, way_out), atomic_path(out / PROJECTION) as partial:
                save_file(fitted, partial)
        projection = read_projection(out)
    shard: dict[str, torch.Tensor] = {}

    def write() -> None:
        name = f"embeddings-{len(set(weight_map.values())):05d}.safetensors"
        with disk_errors(out / name, way_out), atomic_path(out / name) as partial:
            save_file(shard, partial)
        weight_map.update(dict.fromkeys(shard, name))
        with disk_errors(out / INDEX, way_out), atomic_path(out / INDEX) as partial:
            partial.write_text(json.dumps(index), encoding="utf-8")
        shard.clear()

    shard_size = 0
    # The encoder works in a thread, so that it computes while this one writes.
    with closing(prefetch(encoder.states(wanted, max_tokens_per_batch), ahead=16)) as pairs:
        for _, (sequence, states) in zip(progress(wanted), pairs, strict=True):
            found = states.float()
            if mean:
                found = found.mean(dim=0)
            if projection is not None:
                found = torch.nn.functional.linear(found, **projection)
            found = found.half()
            if not found.isfinite().all():
                raise ValueError(f"{encoder.name} gives numbers that float16 can't hold for {sequence[:20]}...")
            if shard and shard_size + found.nbytes > shard_bytes:
                write()
                shard_size = 0
            shard[sequence_key(sequence)] = found.clone()  # of its own, not a part of the batch
            shard_size += found.nbytes
    if shard:
        write()
    return len(wanted)
