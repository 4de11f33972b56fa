"""What goes to the Hub beside a model's weights: its card, rendered from measured scores."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

DATASETS = {"hpa": "DeepLoc 2.0's Human Protein Atlas test set", "deeploc2": "DeepLoc 2.0, validation partition"}


def render_model_card(results: dict[str, Any], template: Path) -> ModelCard:
    """
    A model card in which every figure comes from `results`.

    Args:
        results (`dict`): What `training/report_deeploc.py` writes: `evaluations` by name, each as
            `training/evaluate_deeploc.py --out` gives it, `length_policies`, `ablation` and `training`.
        template (`Path`): Jinja template, with `card_data` for the metadata.

    Returns:
        `ModelCard`: Its metadata hold the main scores for the Hub's leaderboards.
    """
    evaluations = results["evaluations"]
    metrics = []
    for evaluation in evaluations.values():
        common: dict[str, Any] = {
            "task_type": "text-classification",
            "dataset_type": evaluation["config"],
            "dataset_name": DATASETS[evaluation["config"]],
            "dataset_split": evaluation["split"],
        }
        average = evaluation["localization"]["average"]
        for kind in ("micro", "macro"):
            metrics.append(
                EvalResult(
                    metric_type="f1",
                    metric_name=f"F1 ({kind})",
                    metric_value=round(average[kind]["f1"], 3),
                    **common,
                )
            )
    card_data = ModelCardData(
        model_name="protloc-deeploc",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["biology", "protein", "subcellular-localization", "deeploc"],
        eval_results=metrics,
    )
    return ModelCard.from_template(card_data, template_path=str(template), **results)


def render_deepgps_card(results: dict[str, Any], template: Path) -> ModelCard:
    """
    The card of a deepGPS, every figure from `results`.

    Args:
        results (`dict`): What `training/report_deepgps.py` writes: `parameters`, `training`, and `evaluations` by
            objective, each as `training/evaluate_deepgps.py --out` gives it.
        template (`Path`): Jinja template, with `card_data` for the metadata.
    """
    metrics = []
    for objective, evaluation in results["evaluations"].items():
        two = evaluation["labels"]["single-2"]["auroc"]
        images = evaluation["images"]["methods"]["model"]
        found = [("auroc", "opencell", "OpenCell test proteins, two classes", "text-classification", two)]
        for name in ("psnr", "ssim"):
            cells = "Human Protein Atlas cells"
            found.append((name, "hpa-cells", cells, "image-to-image", images[name]["mean"]))
        for metric, dataset, title, task, value in found:
            metrics.append(
                EvalResult(
                    task_type=task,
                    dataset_type=dataset,
                    dataset_name=title,
                    metric_type=metric,
                    metric_name=f"{metric.upper()} ({objective})",
                    metric_value=round(value, 3),
                )
            )
    card_data = ModelCardData(
        model_name="protloc-deepgps",
        license="cc-by-sa-4.0",
        library_name="transformers",
        pipeline_tag="image-to-image",
        tags=["biology", "protein", "subcellular-localization", "microscopy", "deepgps"],
        eval_results=metrics,
    )
    return ModelCard.from_template(card_data, template_path=str(template), **results)
