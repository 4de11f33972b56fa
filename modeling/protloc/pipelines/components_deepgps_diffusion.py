"""
How diffusers loads the parts of a deepGPS: through transformers, and where protloc is not installed.

A copy lies in the folders `model` and `processor` of what `training/common/export.py` writes, under the name that
`model_index.json` has. Of a folder with weights diffusers takes no other code from the Hub, so that all of it lies in
`processor`.
"""

from pathlib import Path

import torch
from transformers import AutoProcessor
from transformers.dynamic_module_utils import get_class_from_dynamic_module


class Model(torch.nn.Module):
    """Named in place of `DeepGPSModel`, which it loads."""

    @classmethod
    def from_pretrained(cls, folder: str, torch_dtype: torch.dtype = torch.float32, **kwargs) -> torch.nn.Module:
        kind = get_class_from_dynamic_module("modeling_deepgps.DeepGPSModel", str(Path(folder).parent / "processor"))
        return kind.from_pretrained(folder, dtype=torch_dtype)


class Processor:
    """Named in place of `DeepGPSProcessor`, which it loads."""

    @classmethod
    def from_pretrained(cls, folder: str, **kwargs):
        return AutoProcessor.from_pretrained(folder, trust_remote_code=True)
