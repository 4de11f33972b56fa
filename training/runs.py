"""Several training runs, one after the other: what cross-validation, ablation and search have in common."""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

TRAIN = Path(__file__).with_name("train_deeploc.py")


def parse(description: str | None) -> tuple[Any, argparse.Namespace]:
    """The YAML file with `field=value` overrides, and how to start a run."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="YAML file")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="in place of the file's values")
    parser.add_argument(
        "--launcher",
        default=sys.executable,
        help='what starts a run, such as "accelerate launch --multi_gpu" (default: this Python, one process)',
    )
    args = parser.parse_args()
    try:
        config = OmegaConf.merge(OmegaConf.load(args.config), OmegaConf.from_dotlist(args.overrides))
    except (OmegaConfBaseException, OSError, YAMLError) as error:
        parser.exit(2, f"{Path(parser.prog).stem}: {str(error).strip().splitlines()[0]}\n")
    return config, args


def train(launcher: str, config: Any, folder: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """
    One run, or what is left of it, in `folder`; a run that is complete is not started again.

    Returns:
        `dict`: What the run wrote to `training.json`.
    """
    report = folder / "training.json"
    if not report.exists():
        folder.mkdir(parents=True, exist_ok=True)
        whole = OmegaConf.merge(
            config, OmegaConf.from_dotlist([f"{name}={value}" for name, value in overrides.items()])
        )
        OmegaConf.save(whole, folder / "config.yaml")
        options = [f"output_dir={folder}", "resume=true"]
        result = subprocess.run([*shlex.split(launcher), str(TRAIN), str(folder / "config.yaml"), *options])
        if result.returncode:
            raise SystemExit(result.returncode)
    return json.loads(report.read_text())


def table(rows: list[list[str]]) -> str:
    """Markdown; the first row is the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
