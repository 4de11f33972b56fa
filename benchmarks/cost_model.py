"""
What a proteome and all of UniProtKB cost, on paper: `python -m benchmarks.cost_model` (a minute or two on two cores).

Rates of this machine are MEASURED in this run: starting, cutting the input, reading and checking, tokenising,
computing, making rows, writing. An H200 is ESTIMATED from assumptions, all of them printed: its published peak, the
share of it that is reached (a guess), and the floating-point operations of the model, which are counted. The host
beside it is taken to be as fast as one core here.

A process does the stages of a shard one after another, so one process a GPU takes their sum; with several, the GPU
computes for one while others read, and what is slower counts. The input is cut by one process, before all else.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import EsmConfig, EsmModel, PreTrainedModel, utils

from protloc import prediction
from protloc.loading import load_model
from protloc.models.protein_sequence import AMINO_ACIDS
from protloc.prediction import columns, predict
from protloc.sequences import check_records
from protloc.shards import cut, read_shard, write_part

PROTEINS = {"human proteome": (20_000, 560), "UniProtKB": (250_000_000, 350)}  # proteins, and their mean length
HEADER = 90  # bytes of a header line in UniProt's FASTA
ESM_650M = {
    "vocab_size": 33,
    "pad_token_id": 1,
    "mask_token_id": 32,
    "hidden_size": 1280,
    "num_attention_heads": 20,
    "intermediate_size": 5120,
    "position_embedding_type": "rotary",
}
ESM_LAYERS = 2  # measured in place of all, which are alike
ESM_OF_ALL = 33 / ESM_LAYERS


@dataclass
class Rates:
    """Seconds of one process, which computes with all threads and does the rest with one."""

    start: float  # once
    cut: float  # for a byte
    read: float  # for a residue, as are the next two
    tokenise: float
    compute: dict[str, float]
    rows: float  # for a protein
    write: float  # for a protein
    written: float  # bytes for a protein


class Stopwatch:
    """Calls a function, and adds up how long it takes."""

    def __init__(self, function: Callable):
        self.function, self.seconds = function, 0.0

    def __call__(self, *args, **kwargs):
        start = time.perf_counter()
        result = self.function(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return result


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def made_up_fasta(path: Path, count: int, mean_length: int) -> list[tuple[str, str]]:
    """Random residues, lengths log-normal as in UniProt."""
    generator = random.Random(0)
    lengths = [max(int(generator.lognormvariate(0, 0.6) / 1.197 * mean_length), 40) for _ in range(count)]
    proteins = [
        (f"tr|{i:010}|P", "".join(generator.choices(AMINO_ACIDS, k=length))) for i, length in enumerate(lengths)
    ]
    with open(path, "w", encoding="utf-8") as file:
        for name, sequence in proteins:
            lines = "\n".join(sequence[i : i + 60] for i in range(0, len(sequence), 60))
            file.write(f">{name} ".ljust(HEADER - 1, "x") + f"\n{lines}\n")
    return proteins


def measure(read_proteins: int, predicted_proteins: int, mean_length: int) -> Rates:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "proteins.fasta"
        proteins = made_up_fasta(path, read_proteins, mean_length)
        shards = cut([str(path)], 1000, folder)
        cutting = timed(lambda: cut([str(path)], 1000, folder)) / path.stat().st_size
        reading = timed(lambda: [list(check_records(read_shard(s), s.name, set())) for s in shards])
        reading /= sum(len(sequence) for _, sequence in proteins)

        start = timed(
            lambda: subprocess.run(
                [sys.executable, "-c", "from protloc import loading, shards; loading.load_model()"],
                check=True,
                capture_output=True,
            )
        )
        model, tokenizer = load_model()
        list(predict(proteins[:8], model, tokenizer))  # warms up
        model.forward = forward = Stopwatch(model.forward)
        prediction.tokenize = tokenize = Stopwatch(prediction.tokenize)
        some = proteins[:predicted_proteins]
        rows: list[dict] = []
        total = timed(lambda: rows.extend(predict(some, model, tokenizer)))
        residues = sum(len(sequence) for _, sequence in some)
        making_rows = (total - forward.seconds - tokenize.seconds) / len(some)

        out = folder / "part-00000.parquet"
        # As no two proteins are alike, no two rows are, which would be smaller when compressed.
        numbers = [name for name, value in rows[0].items() if isinstance(value, float)]
        many: list[dict] = [
            {**rows[i % len(rows)], "protein_id": proteins[i][0]}
            | {name: round(random.random(), 6) for name in numbers}
            for i in range(10_000)
        ]
        writing = timed(lambda: write_part(many, columns(model.config), out)) / len(many)
        written = out.stat().st_size / len(many)

    layers = esm_layers().to(model.dtype)
    tokens = torch.randint(4, 24, (8, mean_length))
    mask = torch.ones_like(tokens)
    with torch.inference_mode():
        layers(tokens, mask)  # warms up
        esm = timed(lambda: layers(tokens, mask)) / tokens.numel() * ESM_OF_ALL
    return Rates(
        start=start,
        cut=cutting,
        read=reading,
        tokenise=tokenize.seconds / residues,
        compute={"DeepLoc": forward.seconds / residues, "ESM-2 650M": esm},
        rows=making_rows,
        write=writing,
        written=written,
    )


def esm_layers(**options) -> EsmModel:
    config = EsmConfig(**{**ESM_650M, "num_hidden_layers": ESM_LAYERS}, **options)
    return EsmModel(config, add_pooling_layer=False).eval()


def flops_per_residue(model: PreTrainedModel, length: int) -> float:
    tokens = torch.full((1, length), 5, device=model.device)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    return counter.get_total_flops() / length


def table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    print("| " + " | ".join(names) + " |")
    print("|---" * len(list(names)) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def duration(seconds: float) -> str:
    units = {"years": 365.25 * 86_400, "days": 86_400, "h": 3600, "min": 60, "s": 1}
    unit = next((unit for unit, size in units.items() if seconds >= 2 * size), "s")
    number = seconds / units[unit]
    return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=300, help="predicted to measure (default: 300)")
    parser.add_argument("--peak", type=float, default=989, help="TFLOP/s of an H200 in bfloat16, dense (default: 989)")
    parser.add_argument("--deeploc-share", type=float, default=0.02, help="of the peak that DeepLoc reaches, whose "
                        "recurrence goes residue by residue (default: 0.02, a guess)")  # fmt: skip
    parser.add_argument("--esm-share", type=float, default=0.4, help="that ESM-2 reaches (default: 0.4, a guess)")
    parser.add_argument("--processes", type=int, default=16, help="that share a GPU in the last rows (default: 16)")
    args = parser.parse_args()
    utils.logging.disable_progress_bar()

    length = PROTEINS["UniProtKB"][1]
    rates = measure(20_000, args.proteins, length)
    model = load_model()[0]
    dtype = str(model.dtype).removeprefix("torch.")
    # Only products are counted: on torch's meta device an LSTM is made of them, and attention in its plain form is.
    flops = {
        "DeepLoc": flops_per_residue(model.to("meta"), length),
        "ESM-2 650M": flops_per_residue(esm_layers(attn_implementation="eager"), length) * ESM_OF_ALL,
    }
    shares = {"DeepLoc": args.deeploc_share, "ESM-2 650M": args.esm_share}
    gpu = {name: flops[name] / (args.peak * 1e12 * shares[name]) for name in flops}

    print(f"MEASURED here ({torch.get_num_threads()} threads, {dtype}), proteins of {length} residues on average\n")
    measured = {
        "start of a process, with DeepLoc": f"{rates.start:.1f} s",
        "cutting FASTA": f"{1e-6 / rates.cut:,.0f} MB/s",
        "reading and checking": f"{1 / rates.read:,.0f} residues/s",
        "tokenising": f"{1 / rates.tokenise:,.0f} residues/s",
        "making rows": f"{1 / rates.rows:,.0f} proteins/s",
        "writing Parquet": f"{1 / rates.write:,.0f} proteins/s, {rates.written:.0f} bytes each",
    }
    measured |= {f"computing, {name}": f"{1 / seconds:,.0f} residues/s" for name, seconds in rates.compute.items()}
    table(("stage", "rate"), measured.items())
    print(f"\n{ESM_LAYERS} layers of ESM-2 650M's 33 were measured, with random weights.\n")

    print(f"ESTIMATED, an H200: {args.peak:.0f} TFLOP/s published\n")
    table(
        ("model", "counted for a residue", "share of the peak (guess)", "so it computes"),
        (
            (name, f"{flops[name] / 1e6:,.1f} MFLOP", f"{shares[name]:.0%}", f"{1 / gpu[name]:,.0f} residues/s")
            for name in flops
        ),
    )

    print("\nASSUMED:", "; ".join(f"{name}, {n:,} proteins of {mean} residues" for name, (n, mean) in PROTEINS.items()))
    print("\nTime of each stage, of all processes side by side; the largest stage is the bottleneck.\n")
    machines = {
        "this CPU (measured)": (0, 1),
        "1 H200 (estimate)": (1, 1),
        f"1 H200, {args.processes} processes (estimate)": (1, args.processes),
        "64 H200 (estimate)": (64, 64),
        f"64 H200, {64 * args.processes} processes (estimate)": (64, 64 * args.processes),
    }
    names = ("cut", "read", "tokenise", "compute", "make rows", "write")
    rows = []
    for name in flops:
        for what, (count, mean) in PROTEINS.items():
            size = count * (HEADER + mean * 61 / 60 + 1)
            for machine, (gpus, processes) in machines.items():
                compute = count * mean * (gpu[name] / gpus if gpus else rates.compute[name])
                reading = [count * mean * seconds / processes for seconds in (rates.read, rates.tokenise)]
                writing = [count * seconds / processes for seconds in (rates.rows, rates.write)]
                stages = dict(zip(names, (size * rates.cut, *reading, compute, *writing), strict=True))
                # What one process does between two of its computations, another may compute in.
                worked = max(compute, sum(reading + writing) + compute * max(gpus, 1) / processes)
                total = rates.start + stages["cut"] + worked
                bottleneck = max({**stages, "start": rates.start}.items(), key=lambda stage: stage[1])[0]
                sizes = f"{size / 1e9:.3f} GB, {count * rates.written / 1e9:.3f} GB"
                rows.append((name, what, machine, *map(duration, stages.values()), duration(total), bottleneck, sizes))
    table(("model", "proteins", "machine", *names, "in all", "bottleneck", "FASTA in, Parquet out"), rows)


if __name__ == "__main__":
    main()
