"""
Write a trained model for other software: a DeepLoc as ONNX, a deepGPS as a diffusers pipeline.

    pip install 'protloc[onnx]'
    python -m training.common.export --model runs/deeploc --onnx deeploc.onnx
    python -m training.common.export --model runs/deepgps --out runs/deepgps-diffusers

The ONNX file takes `input_ids` and `attention_mask` `(batch, length)` as the model's tokenizer gives them, and gives
calibrated `logits`, `membrane_logits` where the model has them, and `attentions`. Before it is kept it is compared with
torch.

The pipeline loads as

    import protloc
    from diffusers import DiffusionPipeline
    pipe = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)  # or any other
    pipe("MKTAYIAKQRQISFVKSHFSRQ", nucleus="nucleus.tif").images
"""

import argparse
import inspect
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoProcessor

from protloc import DeepGPSModel
from protloc.files import atomic_path, set_modes
from protloc.loading import LOAD_ERRORS, load_model, one_line
from protloc.pipelines.pipeline_deepgps_diffusion import DeepGPSDiffusionPipeline

EXAMPLES = ["MKTAYIAKQRQISFVKSHFSRQ", "MPKKKRKV"]  # the second one is padded
PROBES = ["MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSHLVEALYLVCGERGFF", "MSLLTEVETYVLSIIPSGPLK", "MKKRKV"]
TOLERANCE = 1e-4  # of ONNX Runtime to torch


class OutputsByName(torch.nn.Module):
    """A DeepLoc whose outputs are a tuple of those named, as ONNX has them."""

    def __init__(self, model: torch.nn.Module, outputs: list[str]):
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.model(input_ids, attention_mask)
        return tuple(found[name] for name in self.outputs)


def export_onnx(name: str, out: Path) -> None:
    """
    Write a DeepLoc as ONNX, for batches of any size and proteins of any length that it reads.

    Raises:
        ValueError: If the model can't be loaded or exported, or ONNX Runtime gives other numbers than torch.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch exports with
    except ModuleNotFoundError as error:
        raise ValueError(f"ONNX needs {error.name}: pip install 'protloc[onnx]'") from None
    model, tokenizer = load_model(name, "cpu", "float32")
    if model.config.input_features == "profile":
        raise ValueError(f"{name!r} reads profiles, not sequences: it has no ONNX form")

    def inputs_of(sequences: list[str]) -> tuple[torch.Tensor, ...]:
        windows = [model.window_text(text, [slice(0, len(text))]) for text in sequences]
        inputs = tokenizer(windows, padding=True, return_tensors="pt")
        return inputs["input_ids"], inputs["attention_mask"]

    outputs = ["logits"] + ["membrane_logits"] * model.config.membrane + ["attentions"]
    names, flat = ["input_ids", "attention_mask"], OutputsByName(model, outputs)
    batch = torch.export.Dim("batch", min=1, max=4096)
    length = torch.export.Dim("length", min=3, max=model.config.max_length + 2)
    program: Any = torch.onnx.export(
        flat,
        inputs_of(EXAMPLES),
        dynamo=True,
        input_names=names,
        output_names=outputs,
        dynamic_shapes={name: {0: batch, 1: length} for name in names},
    )
    with atomic_path(out) as partial:
        program.save(partial)
        session = onnxruntime.InferenceSession(partial)
        for probe in (inputs_of(PROBES), inputs_of(PROBES[:1])):
            try:
                found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, probe, strict=True)})
            except Exception as error:  # ONNX Runtime has a family of its own
                raise ValueError(
                    f"{str(out)!r}: it can't be exported for proteins of any length: {one_line(error)}"
                ) from None
            with torch.no_grad():
                expected = flat(*probe)
            for output, one, other in zip(outputs, found, expected, strict=True):
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
    set_modes(out)
    shutil.copyfile(inspect.getfile(DeepGPSDiffusionPipeline), out / "pipeline.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub name")
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--onnx", type=Path, metavar="FILE", help="write a DeepLoc as ONNX")
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
