"""The model card says what was measured, and nothing else."""

import json
import re

import pytest

from protloc import ASSETS
from tests.helpers import ROOT
from training.common.cards import render_deepgps_card, render_deeploc_card

TEMPLATE = ROOT / "model_cards" / "deeploc.md.jinja"
DEEPGPS_TEMPLATE = ROOT / "model_cards" / "deepgps.md.jinja"


@pytest.fixture
def results():
    return json.loads((ASSETS / "deeploc" / "evaluation.json").read_text())


def deepgps_results(name: str) -> dict:
    return json.loads((ASSETS / name / "evaluation.json").read_text())


CUTOFFS = [10, 12, 14, 16, 18, 20]  # dB, of training/deepgps/images.py


def numbers(value) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def unmeasured(card: str, results: dict) -> list[str]:
    """Figures of a card that no measured value gives; names of methods and the list of sources hold none."""
    body = card.split("## Sources")[0]
    body = re.sub(r"```.*?```|`[^`]*`|DeepLoc [12]\.0|et al\. \d{4}|95 %|F1", "", body, flags=re.DOTALL)
    body = re.sub(r"^\| (over )?\d+.* residues", "|", body, flags=re.MULTILINE)  # names of groups
    measured = [*numbers(results), results["parameters"] / 1e6]
    known = {f"{abs(value):.{digits}f}" for value in measured for digits in (0, 1, 2, 3)}
    known |= {f"{100 * value:.0f}" for value in measured if 0 <= value <= 1}  # shares in per cent
    return [figure for figure in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", body) if figure not in known]


def test_the_shipped_card_is_rendered_from_the_scores(results):
    card = render_deeploc_card(results, TEMPLATE)
    assert (ASSETS / "deeploc" / "README.md").read_text() == str(card)


def test_every_figure_is_measured(results):
    card = str(render_deeploc_card(results, TEMPLATE))
    assert unmeasured(card, results) == []
    assert len(re.findall(r"0\.\d{3}", card)) > 100
    micro = results["evaluations"]["hpa"]["localization"]["average"]["micro"]["f1"]
    assert f"{micro:.3f}" in card


def test_a_figure_typed_by_hand_is_noticed(results):
    card = str(render_deeploc_card(results, TEMPLATE)).replace(
        "## Limits", "It reaches 0.9876 on 123457 proteins.\n\n## Limits"
    )
    assert unmeasured(card, results) == ["0.9876", "123457"]


@pytest.mark.parametrize(("name", "licence"), [("deepgps", "cc-by-sa-4.0"), ("deepgps-unirep", "other")])
def test_the_card_of_deepgps(name, licence):
    found = deepgps_results(name)
    card = render_deepgps_card(found, DEEPGPS_TEMPLATE)
    assert (ASSETS / name / "README.md").read_text() == str(card)
    assert unmeasured(str(card), found | {"cutoffs": CUTOFFS}) == []
    assert len(re.findall(r"0\.\d{3}", str(card))) > 50
    typed = str(card).replace("## Limits", "It reaches 0.9876.\n\n## Limits")
    assert unmeasured(typed, found | {"cutoffs": CUTOFFS}) == ["0.9876"]
    assert card.data.license == licence and card.data.model_name == f"protloc-{name}"


def test_results_show_the_measured_deepgps():
    """Written by `make ship-deepgps`; every row of figures in its section is one of the card's."""
    page = (ROOT / "docs" / "results.md").read_text()
    section = page.split("## deepGPS on held-out proteins and cells")[1].split("\n## ")[0]
    names = "deepgps", "deepgps-unirep"
    cards = [str(render_deepgps_card(deepgps_results(name), DEEPGPS_TEMPLATE)).splitlines() for name in names]
    rows = [line for line in section.splitlines() if line.startswith("|") and re.search(r"\d\.\d", line)]
    assert len(rows) > 8
    for row in rows:
        assert row in cards[0] + cards[1]


def test_metadata_for_the_hub(results):
    data = render_deeploc_card(results, TEMPLATE).data
    assert data.pipeline_tag == "text-classification" and data.library_name == "transformers"
    values = {(result.dataset_config, result.metric_name): result.metric_value for result in data.eval_results}
    micro = results["evaluations"]["hpa"]["localization"]["average"]["micro"]["f1"]
    assert values["hpa", "F1 (micro)"] == round(micro, 3)


def test_images_page_shows_the_measured_segmenter():
    """Written by `training/nuclei/train.py --folds 5 --report model_cards/nuclei.json`."""
    measured = json.loads((ROOT / "model_cards" / "nuclei.json").read_text())
    page = (ROOT / "docs" / "images.md").read_text()
    for scores in (measured, measured["size_unknown"], measured["classical"]):
        cells = [f"{scores[name]:.3f}" for name in ("f1_50", "f1_75", "mean_average_precision")]
        cells += [f"{scores['found']:,} for {scores['nuclei']:,}", f"{scores['mean_count_error']:.1f}"]
        assert "| " + " | ".join(cells) + " |" in page
