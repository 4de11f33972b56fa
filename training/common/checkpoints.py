"""What a training run saves to go on after a stop."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import Accelerator


@dataclass
class Progress:
    """Where a run stands; saved with each checkpoint."""

    epoch: int = 0
    batch: int = 0  # batches of the epoch that are done
    step: int = 0  # optimizer steps
    best_score: float = float("-inf")
    epochs_since_best: int = 0
    seconds: float = 0.0  # of training and validation, over all sittings
    scores: list[dict[str, float]] = field(default_factory=list)  # on the validation split, by epoch

    def state_dict(self):
        return dict(self.__dict__)

    def load_state_dict(self, state):
        self.__dict__.update(state)


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: Progress, kept: int) -> None:
    """Write beside and rename, so that a kill leaves only whole checkpoints; the oldest ones go."""
    partial_folder = folder / "partial"
    accelerator.save_state(str(partial_folder))
    accelerator.wait_for_everyone()  # every process writes its random states
    if accelerator.is_main_process:
        shutil.rmtree(folder / f"step_{progress.step}", ignore_errors=True)
        partial_folder.rename(folder / f"step_{progress.step}")
        for old in checkpoints(folder)[:-kept]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))
