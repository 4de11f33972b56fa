"""
Run a training module under FSDP on CPUs: for accelerate, these are GPUs then.

    accelerate launch --config_file training/configs/fsdp.yaml --num_processes 2 tests/fsdp_on_cpus.py MODULE ARGUMENTS
"""

import runpy
import sys

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType


def take_cpu(self) -> None:
    self.device = torch.device("cpu")


PartialState._prepare_backend = lambda *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = take_cpu

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
