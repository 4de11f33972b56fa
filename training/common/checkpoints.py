"""Checkpoints of a training run, which never run code when they are loaded."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_model, save_model
from torch.optim.lr_scheduler import LRScheduler

from protloc.files import set_modes

STATE, AVERAGE = "state.json", "average.safetensors"


@dataclass
class Progress:
    """How far a run has come; saved with each checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches of the epoch that are done
    step: int = 0  # optimizer steps
    best_score: float = float("-inf")
    epochs_since_best: int = 0
    seconds: float = 0.0  # of training and validation, over all sittings
    scores: list[dict[str, float]] = field(default_factory=list)  # on the validation split, by epoch


def save_checkpoint(
    accelerator: Accelerator,
    folder: Path,
    progress: Progress,
    scheduler: LRScheduler,
    average: torch.nn.Module | None,
    kept: int,
) -> None:
    """
    Write beside and rename, so that a kill leaves only whole checkpoints; the oldest ones are deleted.

    Accelerate saves weights (safetensors), optimizer and random state (tensors, loaded with `weights_only`). Progress
    and schedule are JSON and the average is safetensors: `register_for_checkpointing` would pickle them.
    """
    partial_folder = folder / "partial"
    accelerator.save_state(str(partial_folder))
    if accelerator.is_main_process:
        state = {"progress": asdict(progress), "scheduler": scheduler.state_dict()}
        (partial_folder / STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        if average is not None:
            save_model(average, str(partial_folder / AVERAGE))
    accelerator.wait_for_everyone()  # every process writes its random states
    if accelerator.is_main_process:
        set_modes(partial_folder)
        shutil.rmtree(folder / f"step_{progress.step}", ignore_errors=True)
        partial_folder.rename(folder / f"step_{progress.step}")
        for old in checkpoints(folder)[:-kept]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(
    accelerator: Accelerator, checkpoint: Path, scheduler: LRScheduler, average: torch.nn.Module | None
) -> Progress:
    """
    Put back everything that `save_checkpoint` has written.

    Raises:
        OSError, ValueError, RuntimeError, UnpicklingError: If the folder is not a checkpoint of this model.
    """
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    with tensors_only(accelerator.distributed_type == DistributedType.DEEPSPEED):
        accelerator.load_state(str(checkpoint), load_kwargs={"weights_only": True})
    scheduler.load_state_dict(state["scheduler"])
    if average is not None:
        load_model(average, checkpoint / AVERAGE)  # into tensors that are on their device already
    return Progress(**state["progress"])


@contextmanager
def tensors_only(deepspeed: bool = False) -> Iterator[None]:
    """
    Nothing but tensors and plain values is unpickled in the block, whatever a library asks for.

    DeepSpeed asks for everything. Of its own types its optimizer states need the four below, which run no code.
    """
    types: list = []
    if deepspeed:
        from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
        from deepspeed.runtime.zero.config import ZeroStageEnum
        from deepspeed.utils.tensor_fragment import fragment_address

        types = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        with torch.serialization.safe_globals(types):
            yield
    finally:
        del os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, the latest last."""
    return sorted(folder.glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))
