"""
Copy a trained model into the package.

    python -m training.common.ship --run runs/deeploc --out modeling/protloc/assets/deeploc

Copies weights, tokenizer and configurations, without the remote code of a folder for the Hub and the references to it.
A model on UniRep is copied without its encoder: the encoder's weights are under another licence, and `load_model` takes
them from the installed package. A deepGPS on UniRep is also copied without its image network, which is that of the
shipped deepGPS. `make ship` and `make ship-deepgps` then evaluate the model and write its card.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from protloc import ASSETS
from protloc.files import atomic_path
from protloc.loading import DRAWING_PREFIXES, ENCODER_PREFIX, WEIGHTS

TOKENIZER = "tokenizer.json"
IMAGE_CONFIGURATIONS = ["preprocessor_config.json", "processor_config.json"]  # of a deepGPS
LEFT_OUT = ["auto_map", "custom_pipelines", "_name_or_path", "is_local", "local_files_only"]


def without_references(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration, and those nested in it, without what names remote code or the place of its origin."""
    return {
        name: without_references(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in LEFT_OUT
    }


def ship(run: Path, out: Path, drawer: Path = ASSETS / "deepgps" / WEIGHTS, labels: Path | None = None) -> None:
    """
    Args:
        run (`Path`): Folder of a training run that is complete.
        out (`Path`): Folder in the package.
        drawer (`Path`): Weights of the deepGPS whose image network one on UniRep has.
        labels (`Path`, *optional*): Folder of the deepGPS whose labels are kept, if the run continued the training of
            its image network.

    Raises:
        FileNotFoundError: If the run has no weights, tokenizer or configuration.
        ValueError: If a deepGPS on UniRep has another image network.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    names = ["config.json", "tokenizer_config.json"]
    names += [name for name in IMAGE_CONFIGURATIONS if (run / name).exists()]
    if (config.get("backbone_config") or {}).get("model_type") == "unirep":
        names = ["config.json"]
        if labels:
            raise ValueError(f"{run} is on UniRep, and has its own labels: leave --labels out")
        weights = load_file(run / WEIGHTS)
        left_out = ENCODER_PREFIX[config["model_type"]], *DRAWING_PREFIXES
        kept = {name: weights[name] for name in weights if not name.startswith(left_out)}
        drawn = {name: weights[name] for name in weights if name.startswith(DRAWING_PREFIXES)}
        known = load_file(drawer) if drawn else {}
        if any(name not in known or not torch.equal(weight, known[name]) for name, weight in drawn.items()):
            raise ValueError(f"{run} draws otherwise than {drawer.parent.name}: train its labels from those weights")
        with atomic_path(out / WEIGHTS) as partial:
            save_file(kept, partial, {"format": "pt"})
    else:
        weights = load_file(run / WEIGHTS)
        if labels:
            others = load_file(labels / WEIGHTS)
            names_alike = (
                json.loads((labels / "config.json").read_text(encoding="utf-8"))["id2label"] == config["id2label"]
            )
            shapes, found = ({name: part.shape for name, part in some.items()} for some in (weights, others))
            if shapes != found or not names_alike:
                raise ValueError(
                    f"{labels} and {run} have other layers or labels: give the model that the run began with"
                )
            weights = {name: (weights if name.startswith(DRAWING_PREFIXES) else others)[name] for name in weights}
        with atomic_path(out / WEIGHTS) as partial:
            save_file(weights, partial, {"format": "pt"})
        shutil.copyfile(run / TOKENIZER, out / TOKENIZER)
    for name in names:
        config = without_references(json.loads((run / name).read_text(encoding="utf-8")))
        (out / name).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--out", type=Path, required=True, help="folder in the package")
    parser.add_argument("--labels", type=Path, help="deepGPS whose labels are kept, with the run's image network")
    args = parser.parse_args()
    try:
        ship(args.run, args.out, labels=args.labels)
    except ValueError as error:
        parser.exit(2, f"training.common.ship: {error}\n")
    except FileNotFoundError as error:
        parser.exit(2, f"training.common.ship: {args.run} has no {Path(error.filename).name}: give a complete run\n")


if __name__ == "__main__":
    main()
