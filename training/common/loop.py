"""The training loop of DeepLoc and deepGPS: steps, validation, early stopping, checkpoints and exact resume."""

import atexit
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, TypeVar

import torch
from accelerate import Accelerator, DataLoaderConfiguration, skip_first_batches
from accelerate.tracking import get_available_trackers
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    KwargsHandler,
    ProjectConfiguration,
    gather_object,
    send_to_device,
    set_seed,
)
from torch.distributed.fsdp import StateDictType, register_fsdp_forward_method
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import PreTrainedModel

from protloc import UniRepModel
from protloc.files import lock, replaced_folder
from protloc.loading import LOAD_ERRORS, one_line
from training.common.backbones import merged
from training.common.checkpoints import Progress, checkpoints, load_checkpoint, save_checkpoint
from training.common.settings import choose_precision, stop

Batch = dict[str, torch.Tensor]
Place = tuple[int, int, int]  # seed, epoch, batch
Model = TypeVar("Model", bound=PreTrainedModel)


class LoopConfig(Protocol):
    """The fields of a `TrainingConfig` that the loop uses."""

    output_dir: str
    backbone_training: str
    epochs: int
    gradient_accumulation_steps: int
    max_grad_norm: float
    ema_decay: float
    early_stopping_patience: int
    mixed_precision: str
    checkpoint_steps: int
    checkpoints_kept: int
    log_with: str
    resume: bool
    seed: int


_held = ExitStack()  # the lock of this process's run
atexit.register(_held.close)


def hold(output_dir: Path) -> None:
    """Stop if another process runs in `output_dir`; else no other may, until this one ends or begins another run."""
    _held.close()
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    try:
        _held.enter_context(lock(output_dir.with_name(f"{output_dir.name}.lock"), output_dir))
    except ValueError as error:
        stop(str(error))


def check_launch(accelerator: Accelerator) -> None:
    """Stop if the launcher was asked for other processes than there are: each would be a whole run."""
    # For several processes on CPUs `accelerate launch` sets an address, and starts one process without a rank.
    alone = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "RANK" not in os.environ
    asked = "several" if alone else os.environ.get("WORLD_SIZE", "1")
    if asked != str(accelerator.num_processes):
        stop(
            f"{asked} processes were asked for, and {accelerator.num_processes} trains: on CPUs start them with "
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N -m MODULE, and on GPUs one for each GPU that is there"
        )


def start_accelerator(config: LoopConfig, *handlers: KwargsHandler) -> Accelerator:
    """Processes, devices and precision of a run, whose folder no other process may write; seeds everything."""
    trackers = [str(tracker) for tracker in get_available_trackers()]
    if config.log_with not in trackers:
        stop(f"log_with={config.log_with}: this tracker is not installed; there are {', '.join(trackers)}")
    # What the launcher sets for DeepSpeed, by its own defaults
    os.environ["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"] = str(config.gradient_accumulation_steps)
    os.environ["ACCELERATE_GRADIENT_CLIPPING"] = str(config.max_grad_norm)
    accelerator = Accelerator(
        mixed_precision=choose_precision(config.mixed_precision),
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.log_with,
        project_config=ProjectConfiguration(config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")),
        # Batches vary in size, and the sampler already gives every process as many.
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        kwargs_handlers=list(handlers),
    )
    check_launch(accelerator)
    # Gradients that die out over a thousand residues become numbers with which CPUs compute many times slower.
    torch.set_flush_denormal(True)
    if accelerator.is_main_process:
        hold(Path(config.output_dir))
    set_seed(config.seed)
    if accelerator.distributed_type == DistributedType.FSDP:
        check_fsdp(accelerator.state.fsdp_plugin, config)
    return accelerator


def end_training(accelerator: Accelerator) -> None:
    """
    Free the networks, which the caller holds no longer, then the connections of the processes.

    In the other order the wrapper of a network, as the last to know the connections, closes them while it holds
    Python's lock; gloo's threads may wait for that lock, and the process never ends (PyTorch's issue 56297).
    """
    accelerator.free_memory()
    accelerator.end_training()


def check_fsdp(plugin: FullyShardedDataParallelPlugin, config: LoopConfig) -> None:
    """Stop where weights that are cut over processes don't do."""
    if config.ema_decay or config.backbone_training == "lora":
        stop("moving averages and low-rank updates need whole weights: under FSDP give ema_decay=0 and no lora")
    if plugin.state_dict_type != StateDictType.FULL_STATE_DICT:
        stop("sharded checkpoints are read by pickle, which runs code: set fsdp_state_dict_type to FULL_STATE_DICT")


def equal_batches(accelerator: Accelerator, loader: Any) -> Iterator[tuple[Batch, bool]]:
    """
    This process's batches of a loader, and whether each counts.

    Under FSDP a pass needs all processes. One with fewer batches than another passes its last again, or some batch
    where it has none.
    """
    missing = max(gather_object([len(loader)])) - len(loader)
    batch = None
    for batch in loader:
        yield dict(batch), True
    for _ in range(missing):
        batch = batch or send_to_device(loader.collate_fn([loader.dataset[0]]), accelerator.device)
        yield dict(batch), False


def steps_per_epoch(accelerator: Accelerator, batches: int) -> int:
    """Optimizer steps of an epoch of so many batches, those of all processes together."""
    return math.ceil(batches / accelerator.num_processes / accelerator.gradient_accumulation_steps)


def hyper_parameters(config: Any) -> dict[str, Any]:
    """The settings of a run as trackers take them: `model.dropout` and the like, lists as text."""
    flat = {name: value for name, value in asdict(config).items() if name != "model"}
    flat |= {f"model.{name}": value for name, value in config.model.items()}
    return {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in flat.items()}


def check_finite(name: str, value: float) -> None:
    """Stop before numbers that are none reach a checkpoint."""
    if not math.isfinite(value):
        stop(f"{name} is {value}: lower learning_rate, or raise warmup_fraction")


def rounded(model: torch.nn.Module) -> Batch:
    """
    The weights as they are stored: in bfloat16, at half the size of float32.

    A UniRep and the projection of its states keep their type: rounded at each of a thousand steps, its states would be
    others than those that training read from a folder of embeddings.
    """
    exact = [f"{name}." for name, part in model.named_modules() if isinstance(part, UniRepModel)]
    exact += [f"{name}." for name, _ in model.named_modules() if name.split(".")[-1] == "projection"]
    return {
        name: value.bfloat16() if value.is_floating_point() and not name.startswith(tuple(exact)) else value
        for name, value in model.state_dict().items()
    }


class Loop:
    """
    A run from its latest checkpoint, or its beginning, to the model of its best epoch.

    Args:
        accelerator (`Accelerator`): Of `start_accelerator`.
        config (`LoopConfig`)
        model (`PreTrainedModel`): Before `prepare`, as all others.
        optimizer (`torch.optim.Optimizer`)
        scheduler: Steps once for every optimizer step. Accelerate would step it once for each process.
        loader (`DataLoader`): Of training batches; its batch sampler has as many for every process, and `set_epoch`:
            the order depends on the seed and the epoch alone.
        validation_loader (`DataLoader`)
        criterion (`str`): The validation score that chooses the epoch and stops early.
        maximize (`bool`): Whether a higher `criterion` is better.

    `model` is the one to train, `judged` the one that is validated and kept: itself unwrapped, or its moving average.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        config: LoopConfig,
        model: PreTrainedModel,
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler,
        loader: DataLoader,
        validation_loader: DataLoader,
        *,
        criterion: str,
        maximize: bool,
    ):
        self.accelerator, self.config, self.scheduler = accelerator, config, scheduler
        self.sampler: Any = loader.batch_sampler
        self.criterion, self.sign = criterion, 1 if maximize else -1
        self.output_dir, self.folder = Path(config.output_dir), Path(config.output_dir) / "checkpoints"
        self.average: AveragedModel | None = None
        if config.ema_decay:
            averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
            self.average = averaged.to(accelerator.device)
        # All in one call: FSDP and DeepSpeed ask for it.
        self.model, self.optimizer, self.loader, self.validation_loader = accelerator.prepare(
            model, optimizer, loader, validation_loader
        )
        if hasattr(model, "generate"):
            register_fsdp_forward_method(self.model, "generate")  # gathers weights as `forward` does
        self.judged: Any = self.average.module if self.average else accelerator.unwrap_model(self.model)
        name = "tensorboard" if config.log_with == "tensorboard" else "protloc"  # TensorBoard's folder in the logs
        accelerator.init_trackers(name, config=hyper_parameters(config))
        self.progress = Progress()
        if config.resume and checkpoints(self.folder):
            self._resume(checkpoints(self.folder)[-1])

    def _resume(self, latest: Path) -> None:
        try:
            self.progress = load_checkpoint(self.accelerator, latest, self.scheduler, self.average)
        except (*LOAD_ERRORS, UnpicklingError, KeyError, TypeError) as error:
            stop(f"cannot resume from {latest}: {one_line(error)}; delete this folder to resume from the one before it")
        self.accelerator.print(f"resumed from {latest}: epoch {self.progress.epoch}, batch {self.progress.batch}")

    def run(
        self,
        backward: Callable[[Batch, Place], dict[str, torch.Tensor | float]],
        validate: Callable[[], dict[str, float]],
        subject: str,
    ) -> None:
        """
        Args:
            backward: Adds the gradients of a batch, and returns what is logged; `"loss"` must be finite.
            validate: Scores of `judged` on the validation split, with `criterion` among them.
            subject (`str`): What is validated, such as `"200 validation proteins"`.
        """
        progress = self.progress
        self.model.train()
        while progress.epoch < self.config.epochs and progress.epochs_since_best < self.config.early_stopping_patience:
            clock = self._train_epoch(backward)
            scores = validate()
            progress.seconds += time.monotonic() - clock
            progress.scores.append(scores)
            self.accelerator.log({f"validation/{name}": value for name, value in scores.items()}, progress.step)
            found = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
            self.accelerator.print(f"epoch {progress.epoch + 1}: {subject}, {found}")
            check_finite(f"the {self.criterion.replace('_', ' ')} of the validation split", scores[self.criterion])
            progress.epoch, progress.batch = progress.epoch + 1, 0
            self._keep_if_best(self.sign * scores[self.criterion])
            self._save()

    def _train_epoch(self, backward: Callable[[Batch, Place], dict[str, torch.Tensor | float]]) -> float:
        """Train what is left of the epoch; the time when it ended."""
        accelerator, progress = self.accelerator, self.progress
        self.sampler.set_epoch(progress.epoch)
        bar = tqdm(
            skip_first_batches(self.loader, progress.batch),
            desc=f"Epoch {progress.epoch + 1}/{self.config.epochs}",
            initial=progress.batch,
            total=len(self.loader),
            disable=not accelerator.is_local_main_process,
            mininterval=5,
        )
        clock = time.monotonic()
        for batch in bar:
            # Noise, masking and dropout depend on the batch's place alone: a resumed run equals an uninterrupted one.
            place = (self.config.seed, progress.epoch, progress.batch)
            torch.manual_seed(hash((*place, accelerator.process_index)))
            with accelerator.accumulate(self.model):
                losses = backward(batch, place)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            progress.batch += 1
            progress.seconds += time.monotonic() - clock
            clock = time.monotonic()
            if accelerator.sync_gradients:
                self._end_step({name: float(value) for name, value in losses.items()}, bar)
        return clock

    def _end_step(self, losses: dict[str, float], bar: tqdm) -> None:
        if not math.isfinite(losses["loss"]):
            bar.close()  # the message comes after it
        check_finite(f"the training loss of step {self.progress.step + 1}", losses["loss"])
        self.scheduler.step()
        if self.average:
            self.average.update_parameters(self.accelerator.unwrap_model(self.model))
        self.progress.step += 1
        logged = {f"train/{name}": value for name, value in losses.items()}
        self.accelerator.log({**logged, "train/lr": self.scheduler.get_last_lr()[0]}, self.progress.step)
        bar.set_postfix(loss=f"{losses['loss']:.4f}")
        if self.progress.step % self.config.checkpoint_steps == 0:
            self._save()

    def _keep_if_best(self, score: float) -> None:
        self.progress.epochs_since_best += 1
        if score <= self.progress.best_score:
            return
        self.progress.best_score, self.progress.epochs_since_best = score, 0
        # Gathered from all processes where the weights are cut over them (FSDP); merged and averaged ones are whole.
        weights = None
        if self.accelerator.distributed_type == DistributedType.FSDP:
            weights = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            with replaced_folder(self.output_dir / "best") as folder:
                merged(self.judged).save_pretrained(folder, state_dict=weights)

    def _save(self) -> None:
        options = self.progress, self.scheduler, self.average, self.config.checkpoints_kept
        save_checkpoint(self.accelerator, self.folder, *options)

    def best_model(self, kind: type[Model]) -> Model:
        """The model of the best epoch, its weights rounded as they are stored: what is calibrated is what ships."""
        self.accelerator.wait_for_everyone()
        best: Any = kind.from_pretrained(self.output_dir / "best").to(self.accelerator.device)
        best.load_state_dict(rounded(best))
        return best.eval()

    def report(self, module: str, **data: int) -> dict[str, Any]:
        """What `training.json` holds: the command, the settings, counts of the data, time, steps and scores."""
        arguments = [argument for argument in sys.argv[1:] if argument != "resume=true"]
        settings: Any = self.config
        return {
            "command": shlex.join(["python", "-m", module, *arguments]),
            "processes": self.accelerator.num_processes,
            "training": asdict(settings),
            **data,
            "seconds": self.progress.seconds,
            "steps": self.progress.step,
            "validation": {
                "best": max(self.progress.scores, key=lambda scores: self.sign * scores[self.criterion]),
                "epochs": self.progress.scores,
            },
        }
