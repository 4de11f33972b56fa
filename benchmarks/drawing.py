"""
Ablation study of the optimizations of the shipped deepGPS: `python -m benchmarks.drawing`.

A protein of 500 residues is drawn on several nuclei of 208 x 208. The baseline takes one nucleus at a time in float32
and encodes the protein for each. Diffusion is the same network with random weights. Training is a step over eight crops
of known labels, without its opponent; its baseline is float32. Medians within one run; differences are of pixels in
[0, 1].
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from transformers import AutoModel

from benchmarks.common import compare, save, seconds
from protloc import ASSETS, DeepGPSConfig, DeepGPSModel
from protloc.loading import native_bf16

RESIDUES = 500


@torch.inference_mode()
def drawing(name: str, model: Any, steps: int, number: int, side: int, ratios: dict[str, float]) -> None:
    """Speed-up of each optimization, on top of those before it."""
    ids = torch.randint(4, 24, (1, RESIDUES + 2), generator=torch.Generator().manual_seed(0))
    ids[:, 0], ids[:, -1] = 0, 2
    mask = torch.ones_like(ids)
    nuclei = torch.rand(number, 1, side, side, generator=torch.Generator().manual_seed(0))

    def generate(some: torch.Tensor, **protein) -> torch.Tensor:
        noise = torch.Generator().manual_seed(0)
        return model.generate(some, generator=noise, num_inference_steps=steps, **protein).protein_image.float()

    def plain() -> torch.Tensor:
        return torch.cat([generate(one, input_ids=ids, attention_mask=mask) for one in nuclei.split(1)])

    def encoded_once(at_once: int = 1) -> torch.Tensor:
        states = model.encode_sequence(ids, mask).expand(at_once, -1, -1)
        known = {"residue_embeddings": states, "residue_mask": mask.bool().expand(at_once, -1)}
        return torch.cat([generate(some, **known) for some in nuclei.split(at_once)])

    def together() -> torch.Tensor:
        return encoded_once(number)

    optimizations: list[tuple[str, Callable[[], Any], Callable[[], torch.Tensor]]] = [
        ("baseline, float32", lambda: None, plain),
        ("protein encoded once", lambda: None, encoded_once),
        (f"{number} nuclei at once", lambda: None, together),
        ("channels_last", lambda: model.unet.to(memory_format=torch.channels_last), together),
        ("bfloat16", lambda: model.bfloat16(), together),
        ("torch.compile of the image network", lambda: model.unet.compile(), together),
    ]
    rates: list[float] = []
    for optimization, change, run in optimizations:
        change()
        rates.append(number / seconds(run))
        if len(rates) == 1:
            first = run()
        off = f"{(run() - first).abs().max():.4f}" if model.config.objective == "adversarial" else ""
        above = rates[-1] / rates[-2] if len(rates) > 1 else 1
        speed_up = rates[-1] / rates[0]
        print(f"| {name} | {optimization} | {rates[-1]:.2f} | {above:.2f} | {speed_up:.2f} | {off} |", flush=True)
        ratios[f"{name}: {optimization} / baseline"] = speed_up


def training(model: Any, number: int, side: int, ratios: dict[str, float]) -> None:
    """A step of `training.deepgps.train` in its mixed precision, against one in float32."""
    nucleus, protein = torch.rand(2, number, 1, side, side)
    inputs = {"labels": torch.zeros(number, dtype=torch.long)}
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step(mixed: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
            loss = model(nucleus=nucleus, protein=protein, **inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    rates = [1 / seconds(partial(step, mixed)) for mixed in (False, native_bf16("cpu"))]
    print("\n| training | steps a second | speed-up over the baseline |\n|---|---|---|")
    print(f"| baseline, float32 | {rates[0]:.2f} | 1 |")
    print(f"| mixed precision | {rates[1]:.2f} | {rates[1] / rates[0]:.2f} |")
    ratios["training: mixed precision / baseline"] = rates[1] / rates[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=int, default=8, help="drawn on (default: 8)")
    parser.add_argument("--side", type=int, default=208, help="pixels of a nucleus (default: 208)")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 10, 25], help="of diffusion (default: 4 10 25)")
    parser.add_argument("--save", action="store_true", help="keep the ratios in benchmarks/results/")
    args = parser.parse_args()
    shipped = AutoModel.from_pretrained(ASSETS / "deepgps", trust_remote_code=False).eval()
    torch.manual_seed(0)
    fields = {"objective": "diffusion", "condition_on_residues": True}
    diffusion = DeepGPSModel(DeepGPSConfig(**{**shipped.config.to_dict(), **fields})).eval()
    ratios: dict[str, float] = {}
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, native bfloat16: {native_bf16('cpu')}\n")
    print("| | drawing | images a second | speed-up over the row above | over the baseline | largest difference |")
    print("|---|---|---|---|---|---|")
    drawing("shipped", copy.deepcopy(shipped), 1, args.nuclei, args.side, ratios)
    for steps in args.steps:
        drawing(f"diffusion, {steps} steps", copy.deepcopy(diffusion), steps, 2, args.side, ratios)
    training(copy.deepcopy(shipped), args.nuclei, args.side, ratios)
    print()
    compare("drawing", ratios)
    if args.save:
        save("drawing", ratios)


if __name__ == "__main__":
    main()
