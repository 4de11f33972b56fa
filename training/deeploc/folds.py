"""
Cross-validate DeepLoc over homology partitions: out-of-fold scores, decisions and predictions.

    python -m training.deeploc.folds training/configs/folds.yaml
    # many GPUs; another width
    python -m training.deeploc.folds training/configs/folds.yaml --launcher "accelerate launch --multi_gpu" \
        training.model.lstm_size=512
    # predict with the ensemble
    protloc predict proteins.fasta --ensemble runs/folds/fold_*

Each partition validates one model, which is trained on all others. When started again, it resumes. It writes to
`OUTPUT_DIR`:

- `out_of_fold.csv`: for each protein, the prediction of the model that was not trained on its partition, in the format
  of `protloc predict`; and `unlabelled.csv`: the mean prediction of all models for proteins without labels. They can be
  the `teacher` of another training run.
- `decisions.json`: calibration and thresholds fitted to all out-of-fold predictions, for a training run on all
  partitions.
- `out_of_fold.json`: scores. Each partition selected its model's epoch, and all partitions fitted the decisions, so the
  scores are slightly optimistic.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import concatenate_datasets, load_dataset
from omegaconf import MISSING, OmegaConf

from protloc.embedding import PROJECTION, ResidueEmbeddings
from protloc.files import atomic_path
from protloc.loading import load_model, one_line
from training.common.runs import parse, table, train
from training.common.settings import stop
from training.deeploc.data import MEMBRANE_PROBABILITY, encode, load_proteins, load_unlabelled
from training.deeploc.evaluate import intervals, scores
from training.deeploc.train import TrainingConfig
from training.deeploc.validation import DECISIONS, fit_decisions, raw_logits

MULTI_LABEL = "multi_label_classification"


@dataclass
class FoldsConfig:
    output_dir: str = MISSING
    partitions: list[int] = MISSING
    training: dict[str, Any] = MISSING  # fields of `TrainingConfig`; its `train_split` is divided
    unlabelled: str | None = None  # a data set of proteins without labels
    unlabelled_embeddings: str | None = None  # of them, where the training reads embeddings


def check_alike(embeddings: str, others: str) -> None:
    """Stop unless two folders hold embeddings of one encoder, and the same components of them."""
    first, second = ResidueEmbeddings(embeddings), ResidueEmbeddings(others)
    alike = (first.weights, first.size, first.mean) == (second.weights, second.size, second.mean)
    projections = first.projection or {}, second.projection or {}
    if not alike or projections[0].keys() != projections[1].keys():
        stop(f"{others} holds other embeddings than {embeddings}: see training/configs/teacher.yaml")
    if any(not torch.equal(weight, projections[1][name]) for name, weight in projections[0].items()):
        stop(f"{others} holds other components than {embeddings}: copy its {PROJECTION} there before protloc embed")


def check(config: FoldsConfig) -> None:
    """Stop in one sentence at what would fail, or be wrong, after hours."""
    training = OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(TrainingConfig), config.training))
    assert isinstance(training, dict)
    for name in ("companion", "decisions"):
        if training[name]:
            stop(f"training.{name} has seen the partitions that are held out: leave it out")
    if training["model"].get("problem_type", MULTI_LABEL) != MULTI_LABEL:
        stop("training.model.problem_type: cross-validation judges several labels a protein")
    if config.unlabelled:
        everyone = load_dataset(training["dataset"], training["dataset_config"], split=training["train_split"])
        load_unlabelled(config.unlabelled, everyone)
        if training["embeddings"]:
            if not config.unlabelled_embeddings:
                stop("unlabelled_embeddings must name those of the unlabelled proteins")
            check_alike(training["embeddings"], config.unlabelled_embeddings)


def main() -> None:
    config, launcher = parse(__doc__, FoldsConfig)
    try:
        check(config)
        cross_validate(config, launcher)
    except (ValueError, OSError) as error:
        stop(one_line(error))


def cross_validate(config: FoldsConfig, launcher: str) -> None:
    folder = Path(config.output_dir)
    ids, found, unlabelled_logits = [], [], []
    unlabelled = None
    for partition in config.partitions:
        fold = folder / f"fold_{partition}"
        train(launcher, config.training, fold, {"validation_partition": partition})
        model, tokenizer = load_model(fold, dtype="float32")
        training = OmegaConf.load(fold / "training.yaml")
        embeddings = ResidueEmbeddings(training.embeddings) if training.embeddings else None
        source = training.dataset, training.dataset_config, training.train_split
        others, proteins = load_proteins(*source, "", partition)
        everyone = concatenate_datasets([others, proteins])
        if training.limit:
            proteins = proteins.take(min(training.limit, len(proteins)))
        ids.append(np.array(proteins["id"]))
        rows = encode(proteins, model.config, tokenizer, training.profiles, embeddings)
        found.append(raw_logits(model, rows, embeddings))
        if config.unlabelled:
            if config.unlabelled_embeddings:
                embeddings = ResidueEmbeddings(config.unlabelled_embeddings)
            if unlabelled is None:  # read alike by the models of all folds
                unlabelled = load_unlabelled(config.unlabelled, everyone)
                unlabelled_rows = encode(unlabelled, model.config, tokenizer, None, embeddings)
            unlabelled_logits.append(raw_logits(model, unlabelled_rows, embeddings)[:2])

    pooled = [torch.cat(parts) for parts in zip(*found, strict=True)]
    decided = model.config
    fit_decisions(decided, pooled[0], pooled[1], pooled[2], pooled[3])
    names = list(decided.id2label.values())
    write_json(folder / "decisions.json", {name: getattr(decided, name) for name in DECISIONS})
    write_answers(folder / "out_of_fold.csv", np.concatenate(ids), decided, *pooled[:2])
    if unlabelled is not None:
        mean = [torch.stack(parts).mean(dim=0) for parts in zip(*unlabelled_logits, strict=True)]
        write_answers(folder / "unlabelled.csv", np.array(unlabelled["id"]), decided, *mean)

    lines = [["partition", "proteins", "macro AUPRC", "micro F1", "macro F1", "membrane accuracy"]]
    for partition, part in zip(config.partitions, found, strict=True):
        lines.append(summary(str(partition), scores(decisions(model, *part), names)))
    arrays = decisions(model, *pooled)
    result = scores(arrays, names)
    result["intervals"] = intervals(arrays)
    lines.append(summary("all", result))
    write_json(folder / "out_of_fold.json", result)
    print(table(lines))


def answers(config: Any, logits: torch.Tensor, membrane_logits: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Calibrated probabilities `(n, labels)`, and `(n,)` of a membrane protein, of raw logits."""
    calibrated = logits * torch.tensor(config.calibration_scale) + torch.tensor(config.calibration_bias)
    membrane = membrane_logits * config.membrane_calibration_scale + config.membrane_calibration_bias
    return calibrated.sigmoid().numpy(), membrane.sigmoid().numpy()


def decisions(model, logits, membrane_logits, labels, membrane_labels) -> dict[str, Any]:
    """The arrays that `scores` takes."""
    probabilities, membrane = answers(model.config, logits, membrane_logits)
    called, in_membrane = model.decide(torch.tensor(probabilities).logit(), torch.tensor(membrane).logit())
    return {
        "labels": labels.int().numpy(),
        "predictions": called.int().numpy(),
        "probabilities": probabilities,
        "membrane_labels": membrane_labels.numpy(),
        "membrane_predictions": in_membrane.int().numpy(),
        "membrane_probabilities": membrane,
    }


def write_answers(
    path: Path, ids: np.ndarray, config: Any, logits: torch.Tensor, membrane_logits: torch.Tensor
) -> None:
    """A table as `protloc predict` writes it."""
    probabilities, membrane = answers(config, logits, membrane_logits)
    rows = pd.DataFrame(probabilities, columns=list(config.id2label.values()))
    rows.insert(0, "protein_id", ids)
    if config.membrane:
        rows.insert(1, MEMBRANE_PROBABILITY, membrane)
    with atomic_path(path) as partial:
        rows.to_csv(partial, index=False, float_format="%.6f")


def write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def summary(title: str, result: dict) -> list[str]:
    average = result["localization"]["average"]
    values = [average["macro"]["auprc"], average["micro"]["f1"], average["macro"]["f1"]]
    values += [result["membrane"]["accuracy"]] if "membrane" in result else []
    return [title, str(result["localization"]["num_proteins"]), *(f"{value:.3f}" for value in values)]


if __name__ == "__main__":
    main()
