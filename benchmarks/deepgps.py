"""
Time and memory of deepGPS at the paper's size, with random weights: `python -m benchmarks.deepgps`.

ESM-2 with 650 million parameters and image networks of 64 ... 1,024 channels (`paper`) and 64 ... 512 (`condition`) on
nuclei of 208 x 208. Times are of one pass over a batch without gradients, as ratios to the published network's within
one run. Some minutes and 8 GB of memory on a CPU. `--train STEPS` times steps of training instead, on residue
embeddings that were computed before: crops a second, memory, and the share of the arithmetic peak, which is what a
large matrix product reaches in the same run.

Measured on one core of an AVX-512 server (torch 2.13, float32, one protein of 500 residues): encoder 8.3 s, image
0.75 s with `paper` (34 M parameters), 3.8 times that with `condition` (69 M), 81 times with 20 steps of diffusion; at
most 8.3 GiB of memory. Training on another one with bfloat16 (`--train 3 --batch 4`, 0.19 TFLOP a second at best):
`paper` 0.82 crops a second, 86 % of the peak; `condition` 0.16, 55 %; diffusion 0.17, 59 %; at most 11.5 GiB.
"""

import argparse
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import matmul_rate, synchronize
from protloc import DeepGPSConfig, DeepGPSModel
from protloc.loading import native_bf16
from protloc.models.configuration_deepgps import ESM2_8M

SMALL_ESM2 = {**ESM2_8M, "model_type": "esm"}
ESM2_650M = {
    **SMALL_ESM2,
    "hidden_size": 1280,
    "num_hidden_layers": 33,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "paper": {"unet": "paper", "unet_channels": [64, 128, 256, 512, 1024], "pooling": "mean"},
    "condition": {},
    "diffusion, 20 steps": {"objective": "diffusion", "num_inference_steps": 20},
}


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def inference(args: argparse.Namespace) -> None:
    ids = torch.randint(4, 24, (args.batch, args.length + 2), device=args.device)
    ids[:, 0], ids[:, -1] = 0, 2
    nucleus: Any = torch.rand(args.batch, 1, 208, 208, device=args.device)
    rows = []
    for name, fields in NETWORKS.items():
        model = random_model(args, **fields)
        mask = torch.ones_like(ids)
        encoder = seconds(partial(model.encode_sequence, ids, mask))
        protein: dict[str, Any] = {"residue_embeddings": model.encode_sequence(ids, mask), "residue_mask": mask}
        model.generate(nucleus, **protein, num_inference_steps=1)  # to warm up
        image = seconds(partial(model.generate, nucleus, **protein))
        millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.backbone, model.unet)]
        rows.append([name, *millions, encoder, image])
        del model
    print("| image network | encoder | image network | encoder | image | image, to the paper's |")
    print("|---|---|---|---|---|---|")
    for name, backbone, unet, encoder, image in rows:
        print(
            f"| {name} | {backbone:.0f} M | {unet:.0f} M | {encoder:.2f} s | {image:.2f} s | {image / rows[0][4]:.2f} |"
        )


def random_model(args: argparse.Namespace, **fields: Any) -> DeepGPSModel:
    if args.small:
        fields = fields | {"unet_channels": [8, 16], "latent_size": 16, "classifier_sizes": [8]}
    config = DeepGPSConfig(backbone_config=SMALL_ESM2 if args.small else ESM2_650M, **fields)
    with torch.device("meta"):  # transformers' own initialization of 650 million numbers takes minutes
        model = DeepGPSModel(config).eval()
    model.to_empty(device=args.device)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 0.02)
    for buffer in model.buffers():
        buffer.fill_(1)
    return model


def training(args: argparse.Namespace) -> None:
    dtype = torch.bfloat16 if native_bf16(args.device) else torch.float32
    peak = matmul_rate(dtype, 4096, args.device)
    nucleus, protein = torch.rand(2, args.batch, 1, 208, 208, device=args.device)
    hidden = (SMALL_ESM2 if args.small else ESM2_650M)["hidden_size"]
    inputs: dict[str, Any] = {
        "residue_embeddings": torch.randn(args.batch, args.length, hidden, device=args.device),
        "residue_mask": torch.ones(args.batch, args.length, dtype=torch.bool, device=args.device),
        "labels": torch.zeros(args.batch, dtype=torch.long, device=args.device),
    }
    print(f"{dtype}, {peak / 1e12:.2f} TFLOP a second in a matrix product\n")
    print("| image network | crops a second | to the paper's | share of the peak |")
    print("|---|---|---|---|")
    first = None
    for name, fields in NETWORKS.items():
        model = random_model(args, **fields).train()
        del model.backbone  # its embeddings are given
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)

        def step(model=model, optimizer=optimizer) -> None:
            with torch.autocast(args.device.split(":")[0], dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
                loss = model(nucleus=nucleus, protein=protein, **inputs).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            synchronize(args.device)

        with FlopCounterMode(display=False) as counter:
            step()
        start = time.perf_counter()
        for _ in range(args.train):
            step()
        speed = args.train * args.batch / (time.perf_counter() - start)
        first = first or speed
        share = speed / args.batch * counter.get_total_flops() / peak
        print(f"| {name.split(',')[0]} | {speed:.2f} | {speed / first:.2f} | {share:.0%} |", flush=True)
        del model, optimizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1, help="proteins at once (default: 1)")
    parser.add_argument("--length", type=int, default=500, help="residues of each (default: 500)")
    parser.add_argument("--train", type=int, metavar="STEPS", help="time steps of training")
    parser.add_argument("--small", action="store_true", help="networks of a few weights, to see that all runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {args.batch} proteins of "
          f"{args.length} residues\n")  # fmt: skip
    if args.train:
        training(args)
    else:
        with torch.no_grad():
            inference(args)
    if args.device == "cpu":
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    else:
        memory = torch.cuda.max_memory_allocated() / 2**30
    print(f"\nAt most {memory:.1f} GiB of memory.")


if __name__ == "__main__":
    main()
