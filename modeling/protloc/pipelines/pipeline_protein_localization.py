"""`pipeline("protein-localization")`: a sequence in, compartments, membrane probability and attention out."""

import torch
from transformers import Pipeline


class ProteinLocalizationPipeline(Pipeline):
    """
    Where a protein is found in the cell.

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

    Call it with a sequence or a list of sequences (one-letter codes; lower case, gaps and a trailing `*` are fine), and
    optionally `return_attention=False`. Each sequence gives

    - `localizations` (`list[str]`): the labels that reach their threshold, most probable first;
    - `scores` (`dict[str, float]`): the calibrated probability of every label;
    - `membrane` (`float`): the probability of a membrane protein;
    - `attention` (`list[float]` or `None`): the weight of each residue in the summary that the heads read, summing to
      1; 0 for residues of a long protein that the length policy left out.

    A text that is no protein sequence raises `ValueError`.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.eval()  # `pipeline(model=model)` leaves a model in training mode

    def _sanitize_parameters(self, return_attention=None):
        return {}, {}, {} if return_attention is None else {"return_attention": return_attention}

    def preprocess(self, sequence: str) -> dict[str, torch.Tensor]:
        read, left_out = self.model.prepare_sequence(sequence)
        inputs = self.tokenizer(read, return_tensors="pt")
        return {**inputs, "left_out": torch.tensor([[left_out.start, left_out.stop]])}

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs = self.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return {
            "scores": self.model.probabilities(outputs.logits),
            "membrane": outputs.membrane_logits.sigmoid(),
            "localizations": outputs.localizations,
            "attention": outputs.attentions[:, -1],  # the last step's context is what the heads read
            "residue_mask": self.model.residue_mask(inputs["input_ids"], inputs["attention_mask"]),
            "left_out": inputs["left_out"],
        }

    def postprocess(self, outputs: dict[str, torch.Tensor], return_attention: bool = True) -> dict:
        labels = self.model.config.id2label
        scores = outputs["scores"][0].tolist()
        chosen = [i for i, on in enumerate(outputs["localizations"][0].tolist()) if on]
        attention = None
        if return_attention:
            read = outputs["attention"][0][outputs["residue_mask"][0]].tolist()
            start, stop = outputs["left_out"][0].tolist()
            attention = read[:start] + [0.0] * (stop - start) + read[start:]
        return {
            "localizations": [labels[i] for i in sorted(chosen, key=lambda i: -scores[i])],
            "scores": {labels[i]: score for i, score in enumerate(scores)},
            "membrane": outputs["membrane"].item(),
            "attention": attention,
        }
