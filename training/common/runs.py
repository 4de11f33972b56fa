"""Several training runs in sequence: shared by cross-validation, ablation and search."""

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf

from protloc.staging import EVALUATION
from training.common.settings import merge_settings

TRAIN = ["-m", "training.deeploc.train"]
Config = TypeVar("Config")


def parse(description: str | None, kind: type[Config]) -> tuple[Config, str]:
    """The settings of a series, a dataclass `kind`, from a YAML file and overrides; and how to start a run."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="override the file's values")
    parser.add_argument(
        "--launcher",
        default=shlex.quote(sys.executable),  # it may hold spaces, and backslashes
        help='command that starts a run, such as "accelerate launch --multi_gpu" (default: this Python, one process)',
    )
    args = parser.parse_args()
    return merge_settings(kind, args.config, args.overrides), args.launcher


def train(launcher: str, settings: dict[str, Any], folder: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """
    One run in `folder`, or what is left of it.

    Returns:
        `dict`: What the run wrote to `training.json`.

    Raises:
        SystemExit: If the run fails; it has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    changes = OmegaConf.from_dotlist([f"{name}={value}" for name, value in overrides.items()])
    OmegaConf.save(OmegaConf.merge(settings, changes), folder / "config.yaml")
    options = [str(folder / "config.yaml"), f"output_dir={folder}", "resume=true"]
    try:
        result = subprocess.run([*shlex.split(launcher), *TRAIN, *options])
    except OSError as error:
        print(f"cannot start {launcher!r}: {error.strerror}", file=sys.stderr)
        raise SystemExit(2) from None
    if result.returncode:
        raise SystemExit(result.returncode)
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))


def table(rows: list[list[str]]) -> str:
    """Markdown; the first row is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def training_costs(runs: Sequence[Path], watts: float, hardware: str) -> list[dict[str, Any]]:
    """The cost of each run; of a shipped model, which a run began with, that of its own runs."""
    found: list[dict[str, Any]] = []
    for run in runs:
        if (run / EVALUATION).exists():
            found += json.loads((run / EVALUATION).read_text(encoding="utf-8"))["training"]
        else:
            found.append(training_cost(run, watts, hardware))
    return found


def training_cost(folder: Path, watts: float, hardware: str) -> dict[str, Any]:
    """What a run cost, from its `training.json`, for a card."""
    report = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    hours = report["seconds"] / 3600
    return {
        "command": report["command"],
        "proteins": report["proteins"],
        **{name: report[name] for name in ("crops", "unlabelled") if report.get(name)},
        "epochs": len(report["validation"]["epochs"]),
        "steps": report["steps"],
        "hours": hours,
        "hardware": hardware,
        "watts": watts,
        "kilowatt_hours": hours * watts / 1000,
        "processes": report["processes"],
        **({"remark": report["remark"]} if "remark" in report else {}),
    }
