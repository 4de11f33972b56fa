"""The end of a training run: its report, its card, and the push to the Hub."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from httpx2 import HTTPError
from transformers import PreTrainedModel

from protloc.files import set_modes
from protloc.hub import check_login, check_repo_id, push, refusal
from protloc.loading import LOAD_ERRORS
from protloc.staging import EVALUATION
from training.common.cards import UNIREP_LICENSE, render_run_card
from training.common.settings import REPORT, stop

CARDS = Path(__file__).parents[2] / "model_cards"


def check_push(push_to_hub: str | None) -> None:
    """Stop before the training if its model could not be pushed after it."""
    if push_to_hub:
        try:
            check_repo_id(push_to_hub)
            check_login()
        except ValueError as error:
            stop(f"push_to_hub={push_to_hub}: {error}")


def publish(
    config: Any,
    family: str,
    report: dict[str, Any],
    model: PreTrainedModel,
    datasets: Iterable[str | None],
    backbone: str | None,
    evaluation: dict[str, Any] | None = None,
) -> None:
    """
    Write `training.json` and the card of a saved model, and push it where `push_to_hub` says.

    Args:
        datasets, backbone: What it was trained on and built on, by Hub name, folder or name of a shipped model.
        evaluation (`dict`, *optional*): Its scores, for `evaluation.json` and the card `finetuned.md.jinja`.
    """
    output_dir = Path(config.output_dir)
    for weights in output_dir.glob("*.safetensors"):
        set_modes(weights)
    on_hub = sorted({name for name in datasets if name and not Path(name).exists()})
    base_model = backbone if backbone and "/" in backbone and not Path(backbone).exists() else None
    fields: dict[str, Any] = {"datasets": on_hub or None, "base_model": base_model}
    if getattr(model.config.backbone_config, "model_type", None) == "unirep":
        fields |= UNIREP_LICENSE
    template = CARDS / ("finetuned.md.jinja" if evaluation else "run.md.jinja")
    about = report | {"evaluation": evaluation} if evaluation else report
    card = render_run_card(family, about, model.num_parameters(), template, **fields)
    card.save(output_dir / "README.md")
    (output_dir / EVALUATION).unlink(missing_ok=True)  # of an earlier model in this folder
    if evaluation:
        (output_dir / EVALUATION).write_text(json.dumps(evaluation, indent=1) + "\n", encoding="utf-8")
    (output_dir / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"saved {output_dir}")
    if config.push_to_hub:
        try:
            print(push("model", output_dir, config.push_to_hub, config.private))
        except (*LOAD_ERRORS, HTTPError) as error:
            stop(f"{refusal(error)}; `protloc push model {output_dir} {config.push_to_hub}` tries again")
