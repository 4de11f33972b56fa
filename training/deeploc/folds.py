"""
Cross-validate DeepLoc over homology partitions; the models together are an ensemble.

    python -m training.deeploc.folds training/configs/folds.yaml
    # many GPUs; another width
    python -m training.deeploc.folds training/configs/folds.yaml --launcher "accelerate launch --multi_gpu" \
        training.model.lstm_size=512
    # the ensemble at work
    protloc predict proteins.fasta --ensemble runs/folds/fold_*

Each partition validates one model (early stopping, calibration, thresholds) that trains on all others. Started again
after a stop it resumes. `OUTPUT_DIR/out_of_fold.json` holds the scores of every protein by the model that
was not trained on its partition: they chose that model's epoch and thresholds, so they are a little optimistic.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import MISSING, OmegaConf

from protloc.loading import load_model
from training.common.runs import parse, table, train
from training.deeploc.data import load_proteins
from training.deeploc.evaluate import intervals, predict_proteins, scores


@dataclass
class FoldsConfig:
    output_dir: str = MISSING
    partitions: list[int] = MISSING
    training: dict[str, Any] = MISSING  # fields of `TrainingConfig`; its `train_split` is divided


def main() -> None:
    config, launcher = parse(__doc__, FoldsConfig)
    folder = Path(config.output_dir)
    folds, rows = [], [["partition", "proteins", "macro AUPRC", "micro F1", "macro F1", "membrane accuracy"]]
    for partition in config.partitions:
        fold = folder / f"fold_{partition}"
        train(launcher, config.training, fold, {"validation_partition": partition})
        model, tokenizer = load_model(fold)
        training = OmegaConf.load(fold / "training.yaml")
        _, proteins = load_proteins(training.dataset, training.dataset_config, training.train_split, "", partition)
        if training.limit:
            proteins = proteins.select(range(min(training.limit, len(proteins))))
        names = list(model.config.id2label.values())
        folds.append(predict_proteins(model, tokenizer, proteins, 16_384, training.profiles))
        rows.append(summary(str(partition), scores(folds[-1], names)))

    pooled = {name: np.concatenate([fold[name] for fold in folds]) for name in folds[0]}
    result = scores(pooled, names)
    result["intervals"] = intervals(pooled)
    rows.append(summary("all", result))
    (folder / "out_of_fold.json").write_text(json.dumps(result, indent=2) + "\n")
    print(table(rows))


def summary(title: str, result: dict) -> list[str]:
    average = result["localization"]["average"]
    values = [average["macro"]["auprc"], average["micro"]["f1"], average["macro"]["f1"]]
    values += [result["membrane"]["accuracy"]] if "membrane" in result else []
    return [title, str(result["localization"]["num_proteins"]), *(f"{value:.3f}" for value in values)]


if __name__ == "__main__":
    main()
