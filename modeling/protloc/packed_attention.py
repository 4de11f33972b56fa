"""Attention among sequences that lie one after the other, without padding, for transformers' models."""

from itertools import pairwise
from typing import Any, cast

import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedConfig

NAME = "protloc_packed"  # for `set_attn_implementation`


@torch.library.custom_op("protloc::packed_attention", mutates_args=())
def packed_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: torch.Tensor,
    scale: float,
) -> torch.Tensor:
    """
    Each sequence attends to itself alone.

    An operator of its own, so that `torch.compile` makes one graph for whatever lengths are packed.

    Args:
        query, key, value (`torch.Tensor` of shape `(1, heads, tokens, head_size)`)
        starts (`torch.IntTensor` of shape `(sequences + 1,)`): Where each sequence starts, and where the last one ends.
        longest (`torch.LongTensor` of shape `()`, on the CPU): Tokens of the longest sequence. An `int` would make two
            graphs: one for when it is the number of all tokens, and one for when it is not.
        scale (`float`): Factor of the products of queries and keys.

    Returns:
        `torch.Tensor` of shape `(1, tokens, heads, head_size)`.
    """
    if query.is_cuda and query.dtype == torch.bfloat16:  # FlashAttention has no float32
        q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))  # (tokens, heads, head_size)
        most = int(longest)
        return cast(torch.Tensor, varlen_attn(q, k, v, starts, starts, most, most, scale=scale))[None]
    out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
    for start, end in pairwise(starts.tolist()):
        q, k, v = (part[:, :, start:end] for part in (query, key, value))
        out[:, start:end] = scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)
    return out


@packed_attention.register_fake
def _(query, key, value, starts, longest, scale):
    return torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float,
    cu_seq_lens_q: torch.Tensor,
    max_length_q: torch.Tensor,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    return packed_attention(query, key, value, cu_seq_lens_q, max_length_q, scaling), None


AttentionInterface.register(NAME, _attention)


def reads_packed(config: PreTrainedConfig) -> bool:
    """Whether an encoder lets positions start anew, from 0, with each sequence: ESM-2 and BERT do."""
    return config.model_type == "bert" or (config.model_type == "esm" and config.position_embedding_type == "rotary")


def pack(input_ids: list[list[int]]) -> dict[str, torch.Tensor]:
    """What the model is called with to read tokenized sequences together; its states are `(1, tokens, size)`."""
    lengths = torch.tensor([len(ids) for ids in input_ids])
    return {
        "input_ids": torch.tensor([[token for ids in input_ids for token in ids]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int(),
        "max_length_q": lengths.max(),
    }
