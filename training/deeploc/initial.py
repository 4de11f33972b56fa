"""The initial model of a DeepLoc training run: untrained, on a trained encoder, or a trained DeepLoc."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from protloc import ASSETS, DeepLocConfig, DeepLocForSequenceClassification
from protloc.embedding import PROJECTION, Encoder, ResidueEmbeddings, weights_digest, write_embeddings
from protloc.loading import LOAD_ERRORS, load_config, model_path, one_line
from protloc.models.configuration_deeploc import BY_LABEL
from protloc.models.protein_sequence import split_windows, window_text
from protloc.taxonomy import COMPARTMENTS
from training.common.backbones import set_backbone_training
from training.common.settings import stop
from training.deeploc.own_proteins import OwnProteins

if TYPE_CHECKING:
    from training.deeploc.train import TrainingConfig

# What a trained model's configuration has of its training's end; the next begins with raw logits
FITTED = ["membrane_threshold", "membrane_calibration_scale", "membrane_calibration_bias", "companion_config"]
HEADS = ("classifier.", "membrane_head.", "tree_head.", "signal_head.")  # may begin anew


def read_embeddings(config: "TrainingConfig") -> ResidueEmbeddings | None:
    """The residue embeddings to train on."""
    if config.embeddings is None:
        return None
    try:
        embeddings = ResidueEmbeddings(config.embeddings)
    except ValueError as error:
        stop(one_line(error))
    if embeddings.mean:
        stop(f"{config.embeddings} holds one embedding a protein: write one a residue, protloc embed without --mean")
    return embeddings


def model_fields(config: "TrainingConfig", own: OwnProteins | None) -> dict[str, Any]:
    """Fields of the model's configuration: those that were given, and those that follow from one's own data."""
    if own is None:
        return dict(config.model)
    for name in ("signals", "residue_signals"):
        if config.model.get(name):
            stop(f"model.{name}: proteins of one's own have no annotated sorting signals to learn from: leave it out")
    kind = "single_label_classification" if own.single_label else "multi_label_classification"
    fields = {"problem_type": kind, **config.model, "membrane": own.has_membrane, "signals": False}
    if own.labels != COMPARTMENTS:
        fields |= {"id2label": dict(enumerate(own.labels)), "label2id": {name: i for i, name in enumerate(own.labels)}}
    return fields


def load_initial(path: str, fields: dict[str, Any]) -> DeepLocForSequenceClassification:
    """
    A trained DeepLoc with its own configuration but for `fields`; heads begin anew where labels are others.

    Raises:
        ValueError: In one sentence, if weights other than those of heads are missing, left over or of another shape.
    """
    loaded = load_config(path)
    # Training begins with raw logits, and no weights of labels.
    kept = {name: value for name, value in loaded.to_dict().items() if name not in (*BY_LABEL, *FITTED)}
    # The head over residues reads states that training changes, and learns nothing here: it would be wrong.
    chosen = {"membrane": loaded.membrane, "signals": loaded.signals, **fields, "residue_signals": False}
    given = ("id2label", "problem_type", "membrane", "signals")
    labels = {name: chosen.pop(name) for name in given if name in chosen}
    model_config = DeepLocConfig.from_dict(kept | chosen, **labels)
    model, found = DeepLocForSequenceClassification.from_pretrained(
        path, config=model_config, output_loading_info=True, ignore_mismatched_sizes=True
    )
    for kind in ("missing", "unexpected", "mismatched"):
        companion = ("companion.",) * (kind == "unexpected")  # `companion` names one of the new model
        for name in sorted(str(key[0] if isinstance(key, tuple) else key) for key in found[f"{kind}_keys"]):
            if not name.startswith(HEADS + companion):
                raise ValueError(f"its weights don't fit the settings of model: {name} is {kind}")
    if model_config.id2label != loaded.id2label and not model.tree_only:
        model.classifier.reset_parameters()
    return model


def build_model(
    config: "TrainingConfig", embeddings: ResidueEmbeddings | None, own: OwnProteins | None
) -> tuple[DeepLocForSequenceClassification, PreTrainedTokenizerBase]:
    """The untrained model and its tokenizer; a projection of the embeddings is part of it, and stays as it is."""
    fields = model_fields(config, own)
    projection = embeddings.projection if embeddings else None
    try:
        if config.initial_weights is not None:
            path = model_path(config.initial_weights)
            model = load_initial(path, fields).float()
        elif config.backbone is not None:
            path = model_path(config.backbone)
            if projection is not None:
                fields["projection_size"] = len(projection["bias"])
            model = DeepLocForSequenceClassification.from_backbone_pretrained(path, **fields)
        else:
            path = str(ASSETS / "deeploc")
            model = DeepLocForSequenceClassification(DeepLocConfig(**fields)).float()
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (*LOAD_ERRORS, TypeError) as error:
        begun = config.initial_weights or config.backbone
        stop(f"cannot build on {begun!r}: {one_line(error)}" if begun else f"model: {one_line(error)}")
    if config.companion:
        try:
            model.check_companion(load_config(config.companion))
        except LOAD_ERRORS as error:
            stop(f"companion={config.companion}: {one_line(error)}")
    if embeddings and embeddings.weights != weights_digest(model.deeploc.backbone):
        stop(f"{config.embeddings} holds embeddings of other weights than {config.backbone}'s: see protloc embed")
    if model.config.input_features == "backbone":
        set_backbone_training(model.deeploc, config.backbone_training, config.lora_rank)
    if projection is not None:
        model.deeploc.projection.load_state_dict(projection)
    if model.config.projection_size:
        model.deeploc.projection.requires_grad_(False)
    return model, tokenizer


def reads_frozen(config: "TrainingConfig", model_config: DeepLocConfig) -> bool:
    """Whether what a model's frozen backbone gives is to be computed once: UniRep steps through each protein."""
    unirep = getattr(model_config.backbone_config, "model_type", None) == "unirep"
    return unirep and not config.embeddings and config.backbone_training == "frozen"


def embed_frozen(
    model: DeepLocForSequenceClassification, tokenizer: PreTrainedTokenizerBase, sequences: Iterable[str], out: Path
) -> None:
    """What a model's frozen backbone, and its projection, give of proteins: once, for `ResidueEmbeddings(out)`."""
    config = model.config
    windows = [
        window_text(whole, window)
        for whole in sequences
        for window in split_windows(len(whole), config.max_length, config.length_policy)
    ]
    out.mkdir(parents=True, exist_ok=True)
    if config.projection_size and not (out / PROJECTION).exists():
        save_file(model.deeploc.projection.state_dict(), out / PROJECTION)
    with tempfile.TemporaryDirectory() as folder:
        model.deeploc.backbone.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        encoder = Encoder(folder)
    write_embeddings(
        encoder, windows, out, progress=lambda wanted: tqdm(wanted, "Embedding"), project=config.projection_size or None
    )
