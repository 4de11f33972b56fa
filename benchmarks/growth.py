"""
How time and memory of DeepLoc's prediction grow: `python -m benchmarks.growth` (some minutes on two cores).

Against the length of a protein (read whole, 100 to 35,000 residues: titin's), against the token budget of a batch, and
against the number of proteins, with lengths as in UniProt. The first two take the shipped network. The number of
proteins takes a network of a few thousand weights, so that what is measured is all that surrounds the network: reading,
batching, writing; `--proteins 1000000` goes up to a million. Every point is a process of its own, whose largest memory
is taken. Exponents are slopes in logarithms: 1 is linear, 0 is constant.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.common import compare, save

matplotlib.use("Agg")
LENGTHS = [100, 300, 1000, 3000, 10_000, 35_000]
BUDGETS = [1024, 4096, 16_384, 65_536]

# Runs in a process of its own and prints: seconds, largest memory in MiB, memory before in MiB.
SHIPPED = """
import json, random, resource, sys, time
from protloc.models.protein_sequence import AMINO_ACIDS
from protloc.loading import load_model
from protloc.prediction import predict

length, budget, count = map(int, sys.argv[1:])
model, tokenizer = load_model()
model.config.max_length = max(length, model.config.max_length)
draw = random.Random(0)
proteins = [(str(i), "".join(draw.choices(AMINO_ACIDS, k=length))) for i in range(count)]
list(predict([("warm", "MKV" * 20)], model, tokenizer))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = time.perf_counter()
list(predict(proteins, model, tokenizer, budget))
took = time.perf_counter() - start
print(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, before]))
"""
MANY = """
import itertools, json, random, resource, sys, time
from pathlib import Path
from protloc import DeepLocConfig, DeepLocForSequenceClassification
from protloc.models.protein_sequence import AMINO_ACIDS
from protloc.loading import load_model
from protloc.prediction import columns, predict
from protloc.results import write_rows
from protloc.sequences import read_sequences

count, folder = int(sys.argv[1]), Path(sys.argv[2])
draw = random.Random(0)
pool = "".join(draw.choices(AMINO_ACIDS, k=200_000))
with open(folder / "in.fasta", "w") as file:
    for i in range(count):
        start, length = draw.randrange(190_000), min(max(int(draw.lognormvariate(6, 0.7)), 40), 5000)
        file.write(f">A0A{i:07d}\\n{pool[start:start + length]}\\n")
_, tokenizer = load_model()
config = DeepLocConfig(embedding_size=4, conv_widths=[1], conv_filters=4, second_conv_channels=0, lstm_size=0,
    attention_size=4, decoder_size=4, decoder_steps=1, hidden_size=8)
model = DeepLocForSequenceClassification(config).eval()
list(predict([("warm", "MKV" * 300)] * 64, model, tokenizer))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
start = time.perf_counter()
rows = predict(read_sequences([folder / "in.fasta"]), model, tokenizer)
write_rows(rows, map(str, itertools.count()), folder / "out.csv", {"columns": columns(config)})
took = time.perf_counter() - start
print(json.dumps([took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, before]))
"""


def measure(script: str, *arguments: object) -> tuple[float, float]:
    """Seconds, and the largest memory in MiB."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    took, memory, _ = json.loads(result.stdout.splitlines()[-1])
    return took, memory


def exponent(sizes: list[int], values: list[float]) -> float:
    """Slope over the upper half of a curve in logarithms; below it fixed costs count."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(values[half:]), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=10_000, help="most proteins (default: 10000)")
    parser.add_argument("--longest", type=int, default=35_000, help="most residues (default: 35000)")
    parser.add_argument("--tokens", type=int, default=65_536, help="of the largest batch (default: 65536)")
    parser.add_argument("--save", action="store_true", help="keep exponents and curves in benchmarks/results/")
    args = parser.parse_args()
    lengths = [length for length in LENGTHS if length <= args.longest]
    budgets = [budget for budget in BUDGETS if budget <= args.tokens]
    counts = [10**power for power in range(2, 7) if 10**power <= args.proteins]
    with tempfile.TemporaryDirectory() as folder:
        curves = {
            "residues of a protein": (lengths, [measure(SHIPPED, length, 16_384, 1) for length in lengths]),
            "tokens of a batch": (budgets, [measure(SHIPPED, 400, budget, max(budgets) // 200) for budget in budgets]),
            "proteins": (counts, [measure(MANY, count, folder) for count in counts]),
        }
    ratios = {}
    for name, (sizes, points) in curves.items():
        times, memories = (list(values) for values in zip(*points, strict=True))
        print(f"| {name} | " + " | ".join(f"{size:,}" for size in sizes) + " |")
        print("|---" * (len(sizes) + 1) + "|")
        print("| seconds | " + " | ".join(f"{value:.2f}" for value in times) + " |")
        print("| largest memory, MiB | " + " | ".join(f"{value:,.0f}" for value in memories) + " |")
        print(f"\ntime grows with the power {exponent(sizes, times):.2f}, memory {exponent(sizes, memories):.2f}\n")
        ratios[f"exponent of time against {name}"] = exponent(sizes, times)
    compare("growth", ratios)
    if args.save:
        save("growth", ratios)
        draw(curves)


def draw(curves: dict) -> None:
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots(2, len(curves))
    for column, (name, (sizes, points)) in enumerate(curves.items()):
        for row, what in enumerate(("seconds", "largest memory, MiB")):
            axes[row, column].plot(sizes, [point[row] for point in points], "o-")
            axes[row, column].set(xlabel=name, ylabel=what, xscale="log")
            if row == 0:
                axes[row, column].set_yscale("log")
            else:
                axes[row, column].set_ylim(bottom=0)
            axes[row, column].grid(alpha=0.3)
    figure.savefig(Path(__file__).parent / "results" / "growth.png", dpi=100)


if __name__ == "__main__":
    main()
