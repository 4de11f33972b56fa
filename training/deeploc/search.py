"""
Search hyper-parameters of DeepLoc with Optuna, to maximize the macro AUPRC on the validation split.

    python -m training.deeploc.search training/configs/search.yaml
    python -m training.deeploc.search training/configs/search.yaml trials=50 --launcher "accelerate launch --multi_gpu"

The YAML file defines the common training and the search space: `[low, high]`, `[low, high, log]` or `{choices: [...]}`
for each field. Trials are kept in `OUTPUT_DIR/study.db`: when started again, the search resumes, first with the
interrupted trial. `optuna-dashboard sqlite:///OUTPUT_DIR/study.db` shows the study.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import MISSING
from optuna.trial import TrialState

from training.common.runs import parse, table, train


@dataclass
class SearchConfig:
    output_dir: str = MISSING
    trials: int = MISSING
    training: dict[str, Any] = MISSING  # fields of `TrainingConfig` that all trials share
    space: dict[str, Any] = MISSING  # by field of `TrainingConfig`
    seed: int = 0


def suggest(trial: optuna.Trial, name: str, space) -> float | int | str:
    if "choices" in space:
        return trial.suggest_categorical(name, list(space["choices"]))
    low, high, log = space[0], space[1], "log" in space[2:]
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)


def main() -> None:
    config, launcher = parse(__doc__, SearchConfig)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}",
        study_name="deeploc",
        direction="maximize",
        load_if_exists=True,
    )
    space = config.space
    if study.user_attrs.get("space", space) != space:  # Optuna can't compare trials of different spaces
        print(f"search: {folder} searches another space: choose another output_dir", file=sys.stderr)
        raise SystemExit(2)
    study.set_user_attr("space", space)
    # A seed of its own for each start: the same one would draw the first trials again.
    study.sampler = optuna.samplers.TPESampler(seed=config.seed + len(study.trials))
    for cut_off in study.get_trials(states=[TrialState.RUNNING]):  # resumed from its checkpoints
        if "folder" in cut_off.user_attrs:
            study.enqueue_trial(cut_off.params, user_attrs={"folder": cut_off.user_attrs["folder"]})
        study.tell(cut_off.number, state=TrialState.FAIL)
    while len(study.get_trials(states=[TrialState.COMPLETE])) < config.trials:
        trial = study.ask()
        if "folder" not in trial.user_attrs:
            trial.set_user_attr("folder", f"trial_{trial.number}")
        overrides = {name: suggest(trial, name, space[name]) for name in space}
        try:
            report = train(launcher, config.training, folder / trial.user_attrs["folder"], overrides)
        except SystemExit:
            study.tell(trial, state=TrialState.FAIL)  # not tried again
            raise
        study.tell(trial, report["validation"]["best"]["macro_auprc"])

    done = sorted(study.get_trials(states=[TrialState.COMPLETE]), key=lambda trial: trial.values[0], reverse=True)
    best = {"macro_auprc": done[0].value, "fields": done[0].params, "folder": done[0].user_attrs["folder"]}
    (folder / "best.json").write_text(json.dumps(best, indent=2) + "\n", encoding="utf-8")
    rows = [[*space, "macro AUPRC"]]
    rows += [[f"{trial.params[name]:.4g}" if isinstance(trial.params[name], float) else str(trial.params[name])
              for name in space] + [f"{trial.value:.3f}"] for trial in done]  # fmt: skip
    print(table(rows))


if __name__ == "__main__":
    main()
