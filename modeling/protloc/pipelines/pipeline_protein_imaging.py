"""`pipeline("protein-imaging")`: a protein and a nucleus in, a label and the protein's image out."""

import types
from typing import Any

import torch
from transformers import Pipeline


class ProteinImagingPipeline(Pipeline):
    """
    Predicts the label of a protein and its image in a cell.

    Call it with `{"sequence": str, "nucleus": image or None, "structure": point cloud}`, or a list of them. An image is
    a PIL image, an array, a path, bytes or a data URL, at OpenCell's 0.206 um per pixel, as in training; `None` stands
    for the default nucleus. Optional arguments are `num_samples`, `num_inference_steps`, `guidance_scale`, `seed` (0 by
    default), `cell_line` (one of the model's, also as a key of a protein), and `channel`, `page` and `project` of the
    image's file. The result for each protein has

    - `label` (`str`): the most probable label; several labels joined by `|` for a multi-label model, empty if none;
    - `scores` (`dict[str, float]`): the probability of every label;
    - `image` (`PIL.Image.Image`): one grey channel of the same size as the nucleus, the mean of the samples;
    - `uncertainty` (`PIL.Image.Image` or `None`): the standard deviation of several samples, if they vary,
      stretched so that 0.5 is white.

    Raises `ValueError` for text that is not a sequence, an unknown cell line and an image that can't be read; warns
    once about sequences that may not be proteins, such as nucleotides.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model.eval()  # `pipeline(model=model)` leaves a model in training mode

    def save_pretrained(self, save_directory, **kwargs):
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)  # which the base class leaves out

    def __call__(self, proteins: Any, **kwargs) -> Any:
        if isinstance(proteins, types.GeneratorType):
            proteins = self.processor.warned(proteins)
        elif isinstance(proteins, dict):
            (proteins,) = self.processor.warned([proteins])
        elif isinstance(proteins, list):
            proteins = list(self.processor.warned(proteins))
        return super().__call__(proteins, **kwargs)

    def _sanitize_parameters(self, channel=None, page=None, project=None, cell_line=None, seed=None, **generation):
        reading = {"channel": channel, "page": page, "project": project, "cell_line": cell_line}
        reading = {name: value for name, value in reading.items() if value is not None}
        if seed is not None:
            generation["seed"] = seed
        return reading, generation, {}

    def preprocess(self, protein: dict[str, Any], cell_line: str | None = None, **reading) -> dict[str, Any]:
        if not isinstance(protein, dict):
            raise ValueError(f'a protein is {{"sequence": ..., "nucleus": ...}}, got {str(protein)[:40]!r}')
        line = self.model.config.cell_line_index(protein.get("cell_line", cell_line))
        inputs = self.processor(
            text=protein.get("sequence"),
            images=protein.get("nucleus"),
            structure=protein.get("structure"),
            **reading,
        )
        wanted = ["nucleus"] + ["structure"] * self.model.reads_structure
        wanted += ["input_ids", "attention_mask"] * self.model.reads_sequence
        missing = [name for name in wanted if name not in inputs]
        if missing:
            part = "structure" if "structure" in missing else "sequence"
            raise ValueError(f"this model reads {self.model.config.inputs}: the protein comes without a {part}")
        return {name: inputs[name] for name in wanted} | {"cell_line": torch.tensor([line])}

    def _forward(self, inputs: dict[str, Any], seed: int = 0, **generation) -> dict[str, Any]:
        # The same call gives the same image; another seed gives another cell.
        outputs = self.model.generate(**inputs, generator=torch.Generator().manual_seed(seed), **generation)
        drawn = {"protein_image": outputs.protein_image, "samples": outputs.samples, "uncertainty": outputs.uncertainty}
        return drawn | ({"logits": outputs.logits} if "logits" in outputs else {})

    def postprocess(self, outputs: dict[str, Any]) -> dict[str, Any]:
        label, scores = self.model.name_labels(outputs["logits"][0]) if "logits" in outputs else ("", {})
        draw = self.processor.image_processor.postprocess
        uncertainty = None
        if outputs["samples"].shape[1] > 1 and self.model.config.objective != "regression":
            (uncertainty,) = draw(2 * outputs["uncertainty"])
        (image,) = draw(outputs["protein_image"])
        return {"label": label, "scores": scores, "image": image, "uncertainty": uncertainty}
