"""
Ablation study: the same data, seed and epochs, one change at a time.

    python -m training.deeploc.ablate training/configs/ablation.yaml

The YAML file defines the common training and, for each variant, the fields that differ. When started again, it resumes.
`OUTPUT_DIR/ablation.json` holds the scores of the printed table.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from training.common.runs import parse, table, train


@dataclass
class AblationConfig:
    output_dir: str = MISSING
    training: dict[str, Any] = MISSING  # fields of `TrainingConfig` that all variants share
    variants: dict[str, dict[str, Any]] = MISSING  # by name, the fields that differ


def main() -> None:
    config, launcher = parse(__doc__, AblationConfig)
    folder = Path(config.output_dir)
    results = {}
    for name, overrides in config.variants.items():
        report = train(launcher, config.training, folder / name, overrides)
        results[name] = {
            "fields": overrides,
            "minutes": report["seconds"] / 60,
            **report["validation"]["best"],
        }
    (folder / "ablation.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    scores = ["macro_auprc", "micro_f1", "macro_f1", "membrane_accuracy"]
    scores = [score for score in scores if all(score in result for result in results.values())]
    rows = [["variant", *(score.replace("_", " ") for score in scores), "minutes"]]
    for name, result in results.items():
        rows.append([name, *(f"{result[score]:.3f}" for score in scores), f"{result['minutes']:.0f}"])
    print(table(rows))


if __name__ == "__main__":
    main()
