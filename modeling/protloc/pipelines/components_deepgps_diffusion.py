"""
Loads the parts of a deepGPS for diffusers: through transformers, and without protloc.

`training/common/export.py` writes a copy to its folders `model` and `processor`, with the name given in
`model_index.json`. From a folder with weights, diffusers loads no other code from the Hub, so all code is in
`processor`.
"""

from pathlib import Path

import torch
from transformers import AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module


class Model(torch.nn.Module):
    """Stands for `DeepGPSModel`, which it loads."""

    @classmethod
    def from_pretrained(cls, folder: str, torch_dtype: torch.dtype = torch.float32, **kwargs) -> torch.nn.Module:
        kind = get_class_from_dynamic_module("modeling_deepgps.DeepGPSModel", str(Path(folder).parent / "processor"))
        return kind.from_pretrained(folder, dtype=torch_dtype)


class Processor:
    """Stands for `DeepGPSProcessor`, which it loads."""

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs):
        return AutoProcessor.from_pretrained(folder, trust_remote_code=True)
