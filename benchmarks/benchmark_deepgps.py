"""
Time and memory of deepGPS at the paper's size, with random weights: `python benchmarks/benchmark_deepgps.py`.

ESM-2 with 650 million parameters and image networks of 64 ... 1,024 channels (`paper`) and 64 ... 512 (`condition`) on
nuclei of 208 x 208. Times are of one pass over a batch without gradients, as ratios to the published network's within
one run. Some minutes and 8 GB of memory on a CPU.

Measured on one core of an AVX-512 server (torch 2.13, float32, one protein of 500 residues): encoder 8.3 s, image
0.75 s with `paper` (34 M parameters), 3.8 times that with `condition` (69 M), 81 times with 20 steps of diffusion; at
most 8.3 GiB of memory.
"""

import argparse
import resource
import time

import torch

from protloc import DeepGPSConfig, DeepGPSModel
from protloc.models.configuration_deepgps import ESM2_8M

ESM2_650M = {
    **ESM2_8M,
    "model_type": "esm",
    "hidden_size": 1280,
    "num_hidden_layers": 33,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
}
NETWORKS = {
    "paper": {"unet": "paper", "unet_channels": [64, 128, 256, 512, 1024], "pooling": "mean"},
    "condition": {},
    "diffusion, 20 steps": {"objective": "diffusion", "num_inference_steps": 20},
}


def seconds(function) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1, help="proteins at once (default: 1)")
    parser.add_argument("--length", type=int, default=500, help="residues of each (default: 500)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.device}, {torch.get_num_threads()} threads, {args.batch} proteins of "
          f"{args.length} residues\n")  # fmt: skip

    ids = torch.randint(4, 24, (args.batch, args.length + 2), device=args.device)
    ids[:, 0], ids[:, -1] = 0, 2
    nucleus = torch.rand(args.batch, 1, 208, 208, device=args.device)
    rows = []
    for name, fields in NETWORKS.items():
        config = DeepGPSConfig(backbone_config=ESM2_650M, **fields)
        with torch.device("meta"):  # transformers' own initialization of 650 million numbers takes minutes
            model = DeepGPSModel(config).eval()
        model.to_empty(device=args.device)
        for parameter in model.parameters():
            parameter.normal_(0, 0.02)
        for buffer in model.buffers():
            buffer.fill_(1)
        mask = torch.ones_like(ids)
        encoder = seconds(lambda model=model, mask=mask: model.encode_sequence(ids, mask))
        states = {"sequence_states": model.encode_sequence(ids, mask), "sequence_mask": mask}
        model.generate(nucleus, **states, num_inference_steps=1)  # to warm up
        image = seconds(lambda model=model, states=states: model.generate(nucleus, **states))
        millions = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (model.backbone, model.unet)]
        rows.append([name, *millions, encoder, image])
        del model
    print("| image network | encoder | image network | encoder | image | image, to the paper's |")
    print("|---|---|---|---|---|---|")
    for name, backbone, unet, encoder, image in rows:
        print(
            f"| {name} | {backbone:.0f} M | {unet:.0f} M | {encoder:.2f} s | {image:.2f} s | {image / rows[0][4]:.2f} |"
        )
    if args.device == "cpu":
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    else:
        memory = torch.cuda.max_memory_allocated() / 2**30
    print(f"\nAt most {memory:.1f} GiB of memory.")


if __name__ == "__main__":
    main()
