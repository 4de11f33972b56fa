"""
What each idea gives: the same data, seed and epochs, one thing changed at a time.

    python training/ablate.py training/configs/ablation.yaml

The YAML names the common training and, for each variant, the fields that differ. Started again after a stop it goes on
where it was. `OUTPUT_DIR/ablation.json` holds what the printed table shows.
"""

import json
from pathlib import Path

from runs import parse, table, train


def main() -> None:
    config, args = parse(__doc__)
    folder = Path(config.output_dir)
    results = {}
    for name, overrides in config.variants.items():
        report = train(args.launcher, config.training, folder / name, dict(overrides or {}))
        results[name] = {
            "fields": dict(overrides or {}),
            "minutes": report["seconds"] / 60,
            **report["validation"]["best"],
        }
    (folder / "ablation.json").write_text(json.dumps(results, indent=2) + "\n")
    scores = ["macro_auprc", "micro_f1", "macro_f1", "membrane_accuracy"]
    rows = [["variant", *(score.replace("_", " ") for score in scores), "minutes"]]
    for name, result in results.items():
        rows.append([name, *(f"{result[score]:.3f}" for score in scores), f"{result['minutes']:.0f}"])
    print(table(rows))


if __name__ == "__main__":
    main()
