"""`pipeline("protein-localization")`: a sequence in, compartments, membrane probability and attention out."""

import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers.pipelines.base import ChunkPipeline


class ProteinLocalizationPipeline(ChunkPipeline):
    """
    Predicts where a protein is found in the cell.

    ```python
    >>> import protloc
    >>> from transformers import pipeline

    >>> locate = pipeline("protein-localization")
    >>> insulin = (
    ...     "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFFYTPKTRREAEDLQVG"
    ...     "QVELGGGPGAGSLQPLALEGSLQKRGIVEQCCTSICSLYQLENYCN"
    ... )
    >>> locate(insulin)["localizations"]
    ['Extracellular']
    ```

    Call it with one or several sequences (one-letter codes; lower case, gaps and a trailing `*` are accepted): a list,
    tuple, `pandas.Series`, numpy array or `datasets` column of text, bytes, or Biopython's `Seq` or `SeqRecord`, and
    optionally `return_attention=False`. A model that uses profiles takes `{"sequence": ..., "profile": (length, 20)}`.
    The result for each sequence has

    - `localizations` (`list[str]`): the labels that reach their threshold, most probable first;
    - `scores` (`dict[str, float]`): the calibrated probability of every label;
    - `membrane` (`float` or `None`): the probability of a membrane protein, if the model has this head;
    - `attention` (`list[float]` or `None`): the weight of each residue in the vector that the heads read, summing to 1;
      0 for residues of a long protein that the length policy removes.

    and, if the model has them, `signals` (`dict[str, float]`, the probability of each sorting signal), `segments`
    (`list[dict]`: `type`, `start`, `end` and `probability` of each, residues counted from 1) and `tree` (`dict[str,
    float]`, the probability of the first side of each decision in the sorting tree).

    Text that is not a protein sequence raises a `ValueError` that names it. Sequences that may not be proteins, such as
    nucleotides, are predicted with a single `UserWarning`.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.eval()  # `pipeline(model=model)` leaves a model in training mode

    def __call__(self, proteins: Any, **kwargs) -> Any:
        if isinstance(proteins, Dataset):
            return super().__call__(proteins, **kwargs)
        if isinstance(proteins, types.GeneratorType):
            return super().__call__(self.model.warned(proteins), **kwargs)
        items = [proteins] if isinstance(proteins, dict) else self.model.sequence_items(proteins)
        items = list(self.model.warned(items))
        if not items:
            return []
        alone = len(items) == 1 and items[0] is proteins
        return super().__call__(proteins if alone else items, **kwargs)

    def _sanitize_parameters(self, return_attention=None):
        return {}, {}, {} if return_attention is None else {"return_attention": return_attention}

    def preprocess(self, protein: str | dict[str, Any]) -> Iterator[dict[str, Any]]:
        """One chunk for each window; most proteins have one."""
        sequence, profile = protein, None
        if isinstance(protein, dict):
            if "sequence" not in protein:
                raise ValueError(f"{protein!r:.60} has no 'sequence'")
            sequence, profile = protein["sequence"], protein.get("profile")
        if (profile is not None) != (self.model.config.input_features == "profile"):
            needs = "a profile" if profile is None else "no profile"
            raise ValueError(f"this model takes {needs}: its input_features are {self.model.config.input_features!r}")
        try:
            whole, windows = self.model.prepare_sequence(sequence)
        except ValueError as error:
            raise ValueError(f"{error} (in {sequence!r:.60})") from None
        if profile is not None:
            profile = np.asarray(profile, dtype=np.float32)
            if len(profile) != len(whole):
                raise ValueError(f"the profile has {len(profile)} rows for {len(whole)} residues")
            if profile.shape != (len(whole), 20) or not np.isfinite(profile).all():
                raise ValueError(f"a profile has rows of 20 finite numbers: this one is {profile.shape}")
        for number, window in enumerate(windows, start=1):
            if profile is None:
                inputs = self.model.tokenize(whole, [window], self.tokenizer)
            else:
                rows = np.concatenate([profile[piece] for piece in window])
                inputs = {"profiles": torch.tensor(rows)[None], "attention_mask": torch.ones(1, len(rows)).long()}
            pieces = [[(piece.start, piece.stop) for piece in window]]
            yield {**inputs, "length": torch.tensor([len(whole)]), "pieces": pieces, "is_last": number == len(windows)}

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:
        names = ("input_ids", "attention_mask", "profiles")
        outputs = self.model(**{name: inputs[name] for name in names if name in inputs})
        residues = inputs["attention_mask"].bool()
        if "input_ids" in inputs:
            residues = self.model.residue_mask(inputs["input_ids"], residues)
        heads = ("logits", "membrane_logits", "signal_logits", "tree_logits")
        along = {"attention": outputs.attentions[:, -1]}  # the last step's context is what the heads read
        if "residue_signal_logits" in outputs:
            along["residue_signals"] = outputs.residue_signal_logits.softmax(dim=-1)
        return {
            **{name: outputs[name] for name in heads if name in outputs},
            **along,
            "residues": residues,
            "length": inputs["length"],
            "pieces": inputs["pieces"],
            "is_last": inputs["is_last"],
        }

    def postprocess(self, outputs: list[dict[str, Any]], return_attention: bool = True) -> dict[str, Any]:
        config = self.model.config
        heads = [name for name in outputs[0] if name.endswith("logits")]
        windows = [[slice(*piece) for piece in output["pieces"][0]] for output in outputs]
        along = [name for name in ("attention", "residue_signals") if name in outputs[0]]
        answers = [
            {name: output[name][0] for name in heads} | {name: output[name][0][output["residues"][0]] for name in along}
            for output in outputs
        ]
        merged = self.model.merge_windows(int(outputs[0]["length"]), windows, answers)
        logits = merged["logits"]
        localizations, _ = self.model.decide(logits[None], None)
        scores = self.model.probabilities(logits[None])[0].tolist()
        chosen = localizations[0].nonzero().flatten().tolist()
        result = {
            "localizations": [config.id2label[i] for i in sorted(chosen, key=lambda i: -scores[i])],
            "scores": {config.id2label[i]: score for i, score in enumerate(scores)},
            "membrane": merged["membrane_logits"].sigmoid().item() if config.membrane else None,
            "attention": merged["attention"].tolist() if return_attention else None,
        }
        if config.signals:
            signals = merged["signal_logits"].sigmoid().tolist()
            result["signals"] = dict(zip(self.model.signal_names, signals, strict=True))
        if "residue_signals" in merged:
            result["segments"] = self.model.find_segments(merged["residue_signals"])
        if config.tree:
            result["tree"] = dict(zip(self.model.tree_names, merged["tree_logits"].sigmoid().tolist(), strict=True))
        return result
