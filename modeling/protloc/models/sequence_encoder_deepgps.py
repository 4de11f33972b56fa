"""The sequence encoder of deepGPS: loading, and states of residues."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from .configuration_deepgps import DeepGPSConfig
from .configuration_unirep import check_numbers
from .modeling_deeploc import DeepLocModel
from .modeling_unirep import UniRepModel
from .protein_sequence import split_windows


def load_backbone(name: str, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, dict[str, int]]:
    """
    A sequence encoder, and the fields of [`DeepGPSConfig`] that its tokens need.

    Args:
        name (`str`): Folder or Hub name of a transformers encoder with its tokenizer, of a DeepLoc or of a UniRep.
        dtype (`torch.dtype`): Of its weights.
    """
    backbone_config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    check_numbers(backbone_config)
    kind = backbone_config.model_type
    if kind == "deeploc":
        model = DeepLocModel.from_pretrained(name, dtype=dtype)
        return model, {"cls_token_id": model.config.cls_token_id, "eos_token_id": model.config.eos_token_id}
    if kind == "unirep":
        unirep = UniRepModel.from_pretrained(name, dtype=dtype)
        return unirep, {"cls_token_id": unirep.config.bos_token_id, "eos_token_id": unirep.config.eos_token_id}
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    loaded = AutoModel.from_pretrained(name, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    return loaded, {"cls_token_id": tokenizer.cls_token_id, "eos_token_id": eos}


def encode_sequence(
    backbone: Any, config: DeepGPSConfig, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """
    The encoder's states `(batch, length, sequence_size)`; sequences over `max_length` in overlapping windows.

    States of residues in several windows are averaged. A protein's windows don't depend on its batch.
    """
    if backbone.config.model_type == "deeploc":  # a recurrence reads any length
        return backbone.encode(input_ids, attention_mask)[0]
    if backbone.config.model_type == "unirep":
        return backbone(input_ids, attention_mask).last_hidden_state
    if input_ids.shape[1] <= config.max_length + 2:
        return backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    windows = []  # (protein, start, stop) in residues
    for protein, tokens in enumerate(attention_mask.sum(dim=1).tolist()):
        pieces = [window[0] for window in split_windows(tokens - 2, config.max_length, "window")]
        windows += [(protein, piece.start, piece.stop) for piece in pieces]
    dtype = backbone.dtype
    states = torch.zeros(*input_ids.shape, config.sequence_size, dtype=dtype, device=input_ids.device)
    counts = torch.zeros(*input_ids.shape, 1, dtype=dtype, device=input_ids.device)
    for start in range(0, len(windows), len(input_ids)):  # as many at once as there are proteins
        some = windows[start : start + len(input_ids)]
        longest = max(stop - begin for _, begin, stop in some) + 2
        ids = input_ids.new_full((len(some), longest), backbone.config.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, (protein, begin, stop) in enumerate(some):
            ids[row, 0], ids[row, stop - begin + 1] = config.cls_token_id, config.eos_token_id
            ids[row, 1 : stop - begin + 1] = input_ids[protein, begin + 1 : stop + 1]
            mask[row, : stop - begin + 2] = 1
        found = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        for row, (protein, begin, stop) in enumerate(some):
            states[protein, begin + 1 : stop + 1] += found[row, 1 : stop - begin + 1]
            counts[protein, begin + 1 : stop + 1] += 1
    return states / counts.clamp(min=1)
