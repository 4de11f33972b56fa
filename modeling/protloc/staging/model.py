"""A trained DeepLoc or deepGPS as a model repository."""

import importlib.metadata
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, save_torch_state_dict
from packaging.requirements import Requirement
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

from ..loading import LOAD_ERRORS, one_line
from . import CARD_REPO, EVALUATION, PANEL, PICKLES, files_below, read_card

HANDLER = Path(__file__).parents[1] / "endpoints" / "handler.py"
# What `requirements.txt` of a model repository names: all that its remote code and handler import
REMOTE_CODE_NEEDS = {"deeploc": ["numpy", "pillow", "torch", "transformers"]}
REMOTE_CODE_NEEDS["deepgps"] = [*REMOTE_CODE_NEEDS["deeploc"], "diffusers", "imagecodecs", "tifffile"]


def stage_model(
    folder: Path,
    repo_id: str,
    staging: Path,
    datasets: Sequence[str] = (),
    base_model: str | None = None,
    max_shard_size: str = "5GB",
    **_: Any,
) -> dict[str, Path]:
    """Weights, configuration, remote code, tokenizer, processors, card, evaluation, handler and requirements."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if config.model_type not in REMOTE_CODE_NEEDS:
            raise ValueError(f"it is a {config.model_type} model, neither deeploc nor deepgps")
        with torch.device("meta"):
            auto_class = AutoModelForSequenceClassification if config.model_type == "deeploc" else AutoModel
            model: Any = auto_class.from_config(config, trust_remote_code=False)
        if config.model_type == "deeploc":
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            served = pipeline("protein-localization", model=model, tokenizer=tokenizer, device="meta")
        else:
            processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
            served = pipeline("protein-imaging", model=model, processor=processor, device="meta")
    except LOAD_ERRORS as error:
        raise ValueError(f"{str(folder)!r} holds no model that can be pushed: {one_line(error)}") from None
    weights = stage_weights(folder, model, staging, max_shard_size)
    # Configuration, tokenizer or processor, and the code of today: weights of a model on no device have no size.
    served.save_pretrained(staging / "rest", state_dict={})
    files = {path.name: path for path in (staging / "rest").iterdir() if not path.name.startswith("model.safetensors")}
    files |= weights

    written = files_below(folder, {".md", ".json"})
    if "README.md" not in written:
        raise ValueError(f"{str(folder)!r} has no model card README.md: training and training/*/report.py write one")
    card = read_card(ModelCard, written["README.md"], lambda text: text.replace(CARD_REPO, repo_id))
    if base_model:
        card.data.base_model = base_model
    if datasets:
        card.data.datasets = sorted({*(card.data.datasets or []), *datasets})
        name_datasets(card, datasets)
    card.save(staging / "README.md")
    files["README.md"] = staging / "README.md"
    if EVALUATION in written:
        files[EVALUATION] = written[EVALUATION]
    if (folder / PANEL).exists():
        files[PANEL] = folder / PANEL
    files["handler.py"] = HANDLER
    (staging / "requirements.txt").write_text(requirements(REMOTE_CODE_NEEDS[config.model_type]), encoding="utf-8")
    files["requirements.txt"] = staging / "requirements.txt"
    return files


def stage_weights(folder: Path, model: Any, staging: Path, max_shard_size: str) -> dict[str, Path]:
    """The safetensors as they are, or cut into files of at most `max_shard_size`; their tensors must be the model's."""
    index = folder / "model.safetensors.index.json"
    found = sorted(folder.glob("model-*-of-*.safetensors" if index.exists() else "model.safetensors"))
    if not found:
        pickled = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
        other = f", only the pickle {pickled[0]}, which is never pushed" if pickled else ""
        raise ValueError(
            f"{str(folder)!r} holds no model.safetensors{other}: save the model with `save_pretrained` first"
        )
    shapes: dict[str, list[int]] = {}
    for path in found:
        with safe_open(path, framework="pt") as tensors:
            shapes |= {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in [*wanted, *shapes]:
        if wanted.get(name) != shapes.get(name):
            raise ValueError(
                f"the weights in {str(folder)!r} don't fit its config.json: {name} is {shapes.get(name, 'missing')}, "
                f"and should be {wanted.get(name, 'missing')}"
            )
    if all(path.stat().st_size <= size_in_bytes(max_shard_size) for path in found):
        return {path.name: path for path in [*found, *([index] if index.exists() else [])]}
    (staging / "weights").mkdir()
    state = {name: tensor for path in found for name, tensor in load_file(path).items()}
    save_torch_state_dict(state, staging / "weights", max_shard_size=max_shard_size, metadata={"format": "pt"})
    return {path.name: path for path in (staging / "weights").iterdir()}


def size_in_bytes(text: str) -> int:
    """`5GB` -> 5,000,000,000."""
    number, unit = re.fullmatch(r"(\d+)([KMG]B)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"KB": 10**3, "MB": 10**6, "GB": 10**9}[unit]


def name_datasets(card: Any, datasets: Sequence[str]) -> None:
    """
    Give the scores in a card's metadata the Hub names of their data sets: `me/protloc-hpa` is that of scores on `hpa`.
    """
    for result in card.data.eval_results or []:
        named = [dataset for dataset in datasets if result.dataset_type in re.split(r"[/_-]", dataset)]
        result.dataset_type = named[0] if named else result.dataset_type


def requirements(names: list[str]) -> str:
    """Lines of a `requirements.txt`, with protloc's own lower bounds."""
    needed = [Requirement(text) for text in importlib.metadata.requires("protloc") or []]
    return "".join(f"{needed_.name}{needed_.specifier}\n" for needed_ in needed if needed_.name in names)
