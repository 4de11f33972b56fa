"""
Export a trained model for other software: a DeepLoc or deepGPS as ONNX, a deepGPS as a diffusers pipeline.

    pip install 'protloc[onnx]'
    python -m training.common.export --model runs/deeploc --onnx deeploc.onnx
    python -m training.common.export --model deepgps --onnx deepgps.onnx
    python -m training.common.export --model runs/deepgps --out runs/deepgps-diffusers

The inputs of the ONNX model are `input_ids` and `attention_mask` `(batch, length)` from the model's tokenizer. A
deepGPS also takes `nucleus` `(batch, 1, side, side)` in [0, 1], of the side that it was trained on. A deepGPS that
draws from noise also takes `noise` `(batch, noises, side, side)`, from `DeepGPSModel.draw_noise`. The outputs are
calibrated `logits`, `membrane_logits` if the model has them, `protein_image` for a deepGPS, and `attentions`. The file
is compared with torch before it is kept.

The pipeline is for a deepGPS that draws in steps. It loads without protloc:

    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)  # or any other
    pipe("MKTAYIAKQRQISFVKSHFSRQ", nucleus="nucleus.tif").images
"""

import argparse
import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from protloc import DeepGPSModel, drawing
from protloc.files import atomic_path, set_modes
from protloc.loading import LOAD_ERRORS, load_model, model_path, one_line
from protloc.pipelines import components_deepgps_diffusion as components
from protloc.pipelines.pipeline_deepgps_diffusion import DeepGPSDiffusionPipeline

EXAMPLES = ["MKTAYIAKQRQISFVKSHFSRQ", "MPKKKRKV"]  # the second one is padded
PROBES = ["MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFF", "MSLLTEVETYVLSIIPSGPLK", "MKKRKV"]
# Of a diffusers pipeline: its index, and the files that the index names
INDEX, PIPELINE, COMPONENTS = "model_index.json", "pipeline", "components_deepgps_diffusion"
TOLERANCE = 1e-4  # of ONNX Runtime to torch


class OutputsByName(torch.nn.Module):
    """A model whose inputs are given in the order of their names, and whose outputs are a tuple of those named."""

    def __init__(self, model: torch.nn.Module, inputs: list[str], outputs: list[str]):
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(**dict(zip(self.inputs, inputs, strict=True)))
        return tuple(found[name] for name in self.outputs)


Prepared = tuple[OutputsByName, Callable[[list[str]], tuple[torch.Tensor, ...]], tuple[int, int]]


def prepare_deeploc(name: str) -> Prepared:
    """A DeepLoc, its inputs for some sequences, and the proteins and tokens that it reads at most."""
    model, tokenizer = load_model(name, "cpu", "float32")
    if model.config.input_features == "profile":
        raise ValueError(f"{name!r} reads profiles, not sequences: it has no ONNX form")

    def inputs_of(sequences: list[str]) -> tuple[torch.Tensor, ...]:
        windows = [model.window_text(text, [slice(0, len(text))]) for text in sequences]
        inputs = tokenizer(windows, padding=True, return_tensors="pt")
        return inputs["input_ids"], inputs["attention_mask"]

    outputs = ["logits"] + ["membrane_logits"] * model.config.membrane + ["attentions"]
    named = OutputsByName(model, ["input_ids", "attention_mask"], outputs)
    return named, inputs_of, (4096, model.config.max_length + 2)


def prepare_deepgps(name: str) -> Prepared:
    """A deepGPS, its inputs for sequences on a made-up nucleus, and the proteins and tokens that it reads at most."""
    model, processor = drawing.load_model(name, "cpu", "float32")
    config = model.config
    if config.objective == "diffusion":
        raise ValueError(f"{name!r} draws in steps, which ONNX has not: export it as a diffusers pipeline with --out")

    def inputs_of(sequences: list[str]) -> tuple[torch.Tensor, ...]:
        tokens = processor.tokenize(sequences)
        numbers = torch.Generator().manual_seed(0)
        nuclei = torch.rand(len(sequences), 1, config.image_size, config.image_size, generator=numbers)
        noise = [model.draw_noise(nuclei, numbers).contiguous()] * from_noise
        return tokens["input_ids"], tokens["attention_mask"], nuclei, *noise

    from_noise = config.objective == "adversarial"
    outputs = ["logits"] * config.classify + ["protein_image", "attentions"]
    named = OutputsByName(model, ["input_ids", "attention_mask", "nucleus"] + ["noise"] * from_noise, outputs)
    # From 64 drawings on diffusers copies them, and torch would have to show that it needn't; the file takes any batch.
    together = min(config.patch_size, config.drawing_shifts)
    return named, inputs_of, (63 // together, config.max_length + 2)


def export_onnx(name: str, out: Path) -> None:
    """
    Write a DeepLoc or deepGPS as ONNX, for batches of any size and proteins of any length that it reads at once.

    Raises:
        ValueError: If the model can't be loaded or exported, or ONNX Runtime gives other numbers than torch.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch exports with
    except ModuleNotFoundError as error:
        raise ValueError(f"ONNX needs {error.name}: pip install 'protloc[onnx]'") from None
    kind = AutoConfig.from_pretrained(model_path(name), trust_remote_code=False).model_type
    named, inputs_of, (most, longest) = (prepare_deepgps if kind == "deepgps" else prepare_deeploc)(name)
    batch = torch.export.Dim("batch", min=1, max=most)
    length = torch.export.Dim("length", min=3, max=longest)
    images = "nucleus", "noise"  # of one size
    shapes = tuple({0: batch} if name in images else {0: batch, 1: length} for name in named.inputs)
    program: Any = torch.onnx.export(
        named,
        inputs_of(EXAMPLES),
        dynamo=True,
        input_names=named.inputs,
        output_names=named.outputs,
        dynamic_shapes=(shapes,),
    )
    with atomic_path(out) as partial:
        program.save(partial)
        session = onnxruntime.InferenceSession(partial)
        for probe in (inputs_of(PROBES), inputs_of(PROBES[:1])):
            given = {name: tensor.numpy() for name, tensor in zip(named.inputs, probe, strict=True)}
            try:
                found = session.run(None, given)
            except Exception as error:  # ONNX Runtime has a family of its own
                raise ValueError(
                    f"{str(out)!r}: it can't be exported for proteins of any length: {one_line(error)}"
                ) from None
            with torch.no_grad():
                expected = named(*probe)
            for output, one, other in zip(named.outputs, found, expected, strict=True):
                if not np.allclose(one, other.numpy(), rtol=TOLERANCE, atol=TOLERANCE):
                    raise ValueError(f"ONNX Runtime gives other {output} than torch: it can't be exported")


def export_diffusers(name: str, out: Path) -> None:
    """
    Write a deepGPS of objective 'diffusion' as a diffusers pipeline.

    Raises:
        ValueError: If it is another model.
    """
    model = AutoModel.from_pretrained(name, trust_remote_code=False)
    if not isinstance(model, DeepGPSModel):
        raise ValueError(f"{name!r} is a {model.config.model_type} model, not a deepgps")
    if model.config.objective != "diffusion":
        raise ValueError(f"{name!r} has the objective {model.config.objective!r}, not 'diffusion'")
    processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
    DeepGPSDiffusionPipeline(model.eval(), model.scheduler, processor).save_pretrained(out)
    for path in (out / "model").glob("*.py"):
        path.rename(out / "processor" / path.name)
    for part in ("model", "processor"):
        shutil.copyfile(components.__file__, out / part / f"{COMPONENTS}.py")
    shutil.copyfile(inspect.getfile(DeepGPSDiffusionPipeline), out / f"{PIPELINE}.py")
    index = json.loads((out / INDEX).read_text(encoding="utf-8"))
    index["_class_name"] = [PIPELINE, DeepGPSDiffusionPipeline.__name__]
    index |= {"model": [COMPONENTS, "Model"], "processor": [COMPONENTS, "Processor"]}
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    set_modes(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--onnx", type=Path, metavar="FILE", help="write a DeepLoc or deepGPS as ONNX")
    kinds.add_argument("--out", type=Path, metavar="DIR", help="write a deepGPS as a diffusers pipeline")
    args = parser.parse_args()
    try:
        if args.onnx:
            export_onnx(args.model, args.onnx)
        else:
            export_diffusers(args.model, args.out)
    except LOAD_ERRORS as error:
        parser.exit(2, f"training.common.export: {one_line(error)}\n")
    print(args.onnx or args.out)


if __name__ == "__main__":
    main()
