"""The settings of a training run: a YAML file and overrides -> a checked dataclass."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import yaml
from accelerate.utils import parse_flag_from_env
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from protloc.loading import native_bf16, one_line
from training.common.checkpoints import checkpoints

# What may differ when a run resumes
MAY_CHANGE = ["output_dir", "epochs", "early_stopping_patience", "checkpoint_steps", "checkpoints_kept", "resume"]
MAY_CHANGE += ["push_to_hub", "private", "log_with"]
SETTINGS, REPORT = "training.yaml", "training.json"  # in `output_dir`: written when a run begins and when it has ended
CHOICES = {"backbone_training": ["frozen", "full", "lora"], "mixed_precision": ["auto", "no", "bf16", "fp16"]}
Settings = TypeVar("Settings")


@dataclasses.dataclass
class HeadTraining:
    """Settings of a run that trains a head alone, in one process; the rest of the model stays."""

    output_dir: str = MISSING
    model: dict[str, Any] = dataclasses.field(default_factory=dict)  # fields of the model's configuration
    limit: int | None = None  # proteins of each split, for a quick try
    epochs: int = 10
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_fraction: float = 0.05
    gradient_accumulation_steps: int = 1
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    early_stopping_patience: int = 3
    backbone_training: str = "frozen"
    mixed_precision: str = "no"
    checkpoint_steps: int = 500
    checkpoints_kept: int = 1
    log_with: str = "tensorboard"
    resume: bool = False
    push_to_hub: str | None = None
    private: bool = False
    seed: int = 0


def stop(message: str) -> NoReturn:
    """End with exit code 2; the message begins with the name of the module that runs: `training.deeploc.train: ...`."""
    name = ".".join(Path(sys.argv[0]).with_suffix("").parts[-3:])
    print(f"{name}: {message}", file=sys.stderr)
    raise SystemExit(2)


def load_yaml(path: str | Path) -> Any:
    """A YAML file; `base: other.yaml` in it names one in the same folder whose fields it overrides."""
    config: Any = OmegaConf.load(path)
    if not isinstance(config, DictConfig) or "base" not in config:
        return config
    base = Path(path).parent / config.pop("base")
    return OmegaConf.merge(load_yaml(base), config)


def merge_settings(kind: type[Settings], path: str | Path, overrides: list[str]) -> Settings:
    """The dataclass `kind` from a YAML file and `field=value` overrides; stops in one sentence where they don't fit."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(kind), load_yaml(path), OmegaConf.from_dotlist(overrides))
        settings: Any = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, OSError, yaml.YAMLError) as error:
        place = getattr(error, "full_key", None)
        stop(f"{place}: {one_line(error)}" if place else one_line(error))
    return settings


def read_settings(kind: type[Settings], doc: str | None) -> Settings:
    """The dataclass `kind`, from the YAML file that the first argument names and from `field=value` arguments."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(doc)
        raise SystemExit(0 if arguments else 2)
    config: Any = merge_settings(kind, arguments[0], arguments[1:])
    if config.mixed_precision == "False":  # YAML reads `no` as a boolean
        config.mixed_precision = "no"
    return config


def check_settings(config: Any, model_config: type, choices: dict[str, list[str]]) -> None:
    """Stop in one sentence at what no run can begin with, of the settings that all trainings have."""
    # A configuration takes any keyword, and a misspelt one would train the default for hours.
    unknown = config.model.keys() - {known.name for known in dataclasses.fields(model_config)}
    if unknown:
        stop(f"model.{min(unknown)} is no field of {model_config.__name__}")
    if config.limit is not None and config.limit < 1:
        stop(f"limit must be 1 or more, got {config.limit}")
    for name, known in (CHOICES | choices).items():
        if getattr(config, name) not in known:
            stop(f"{name} must be one of {', '.join(known)}, got {getattr(config, name)!r}")


def choose_precision(mixed_precision: str) -> str:
    """What `auto` stands for: what accelerate was launched with, or bf16 where the hardware has it, else no."""
    if mixed_precision != "auto":
        return mixed_precision
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")  # "no" by default
    if launched != "no":
        return launched
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return "bf16" if native_bf16("cpu" if on_cpu else "cuda") else "no"


def check_output_dir(config: Any) -> None:
    """Stop if `output_dir` holds a run that is not to be resumed, or can't be."""
    output_dir = Path(config.output_dir)
    if checkpoints(output_dir / "checkpoints") or (output_dir / REPORT).exists():
        if not config.resume:
            stop(f"{output_dir} holds a run: add resume=true to resume it, or choose another output_dir")
        compare_settings(config, output_dir)


def compare_settings(config: Any, output_dir: Path) -> None:
    """
    Stop if the run to resume was begun with other settings, which would change the training half-way, or if it is
    complete.
    """
    begun: Any = OmegaConf.to_container(OmegaConf.load(output_dir / SETTINGS))
    before, now = (
        {**{f"model.{name}": value for name, value in settings.pop("model").items()}, **settings}
        for settings in (dict(begun), dataclasses.asdict(config))
    )
    for name in [*now, *before]:
        if name not in MAY_CHANGE and before.get(name) != now.get(name):
            stop(
                f"{output_dir} was begun with {name}={before.get(name)}, not {now.get(name)}: resume with the settings "
                "of that run, or choose another output_dir"
            )
    if begun["epochs"] == config.epochs and (output_dir / REPORT).exists():
        print(f"{output_dir} is complete")
        raise SystemExit(0)


def save_settings(config: Any) -> None:
    """Write the settings of a run that begins into its `output_dir`."""
    output_dir = Path(config.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(OmegaConf.structured(config), output_dir / SETTINGS)
