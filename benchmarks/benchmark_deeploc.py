"""
Speed of DeepLoc as ratios within one run, since machines are noisy: `make bench`.

    python benchmarks/benchmark_deeploc.py                          # a few minutes on two cores
    python benchmarks/benchmark_deeploc.py --dataset data/deeploc   # also bfloat16 against float32 on real proteins

Proteins are made up (random residues, lengths log-normal as in UniProt: median 400) unless a data set is given.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import made_up_proteins
from datasets import load_dataset
from torch.nn.utils.rnn import pack_padded_sequence
from transformers import utils

from protloc import DeepLocConfig, DeepLocForSequenceClassification
from protloc.models.modeling_deeploc import DeepLocEncoder
from protloc.prediction import load_model, native_bf16, predict


def seconds(function: Callable[[], object], repeats: int = 2) -> float:
    """Best of a few runs, after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def report(what: str, base: float, other: float, unit: str = "s") -> None:
    print(f"| {what} | {base:.3g} {unit} | {other:.3g} {unit} | {base / other:.2f} |", flush=True)


def benchmark_recurrence() -> None:
    """Reading each protein reversed within its length, against packing, for one training step of the encoder."""
    encoder = DeepLocEncoder(DeepLocConfig(lstm_size=192), input_size=128)
    packed = torch.nn.LSTM(128, 192, batch_first=True, bidirectional=True)
    hidden = torch.randn(16, 400, 128)
    lengths = torch.arange(400, 384, -1)
    mask = torch.arange(400) < lengths[:, None]

    def packed_step():
        states, _ = packed(pack_padded_sequence(hidden, lengths, batch_first=True))
        states.data.sum().backward()

    report(
        "training step of the recurrence: packed / reversed within length",
        seconds(packed_step, repeats=1),
        seconds(lambda: encoder(hidden, mask).sum().backward()),
    )


def benchmark_batching(proteins, model, tokenizer) -> None:
    """A token budget over length-sorted proteins, against batches of 16 in the order of the file."""

    def in_file_order():
        for start in range(0, len(proteins), 16):
            prepared = [model.prepare_sequence(sequence) for _, sequence in proteins[start : start + 16]]
            texts = [model.read_text(whole, reads[0]) for whole, reads in prepared]
            with torch.inference_mode():
                model(**tokenizer(texts, padding=True, return_tensors="pt"))

    report(
        "prediction: batches of 16 in file order / token budget",
        seconds(in_file_order, repeats=1),
        seconds(lambda: list(predict(proteins, model, tokenizer)), repeats=1),
    )


def benchmark_dtype(proteins) -> None:
    """bfloat16 against float32: speed, and whether the answers agree."""
    rows, times = {}, {}
    for dtype in ("float32", "bfloat16"):
        model, tokenizer = load_model(dtype=dtype)
        start = time.perf_counter()
        rows[dtype] = list(predict(proteins, model, tokenizer))
        times[dtype] = time.perf_counter() - start
    report("prediction: float32 / bfloat16", times["float32"], times["bfloat16"])

    names = list(model.config.id2label.values())
    scores = {
        dtype: np.array([[row[name] for name in [*names, "membrane_probability"]] for row in table])
        for dtype, table in rows.items()
    }
    called = {
        dtype: np.array([[name in row["localizations"].split("|") for name in names] for row in table])
        for dtype, table in rows.items()
    }
    difference = np.abs(scores["bfloat16"] - scores["float32"]).max()
    agreement = (called["bfloat16"] == called["float32"]).mean()
    native = native_bf16("cpu")
    print(
        f"\nbfloat16 against float32 on {len(proteins)} proteins: largest difference of a probability "
        f"{difference:.4f}, {agreement:.2%} of the labels agree. This CPU has "
        f"{'' if native else 'no '}native bfloat16: `--dtype auto` takes {'bfloat16' if native else 'float32'}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=200)
    parser.add_argument("--dataset", help="data set of datasets_scripts/build_deeploc.py; its validation split is used")
    args = parser.parse_args()
    utils.logging.disable_progress_bar()

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}\n")
    print("| | first | second | ratio |\n|---|---|---|---|")
    command = [str(Path(sys.executable).with_name("protloc")), "--help"]
    report(
        "start: import transformers / protloc --help",
        seconds(lambda: subprocess.run([sys.executable, "-c", "import transformers.modeling_utils"], check=True)),
        seconds(lambda: subprocess.run(command, check=True, capture_output=True)),
    )
    benchmark_recurrence()
    model, tokenizer = load_model(dtype="float32")
    proteins = made_up_proteins(args.proteins)
    benchmark_batching(proteins, model, tokenizer)
    without = DeepLocForSequenceClassification(
        DeepLocConfig(**{**model.config.to_diff_dict(), "second_conv_channels": 0})
    ).eval()
    report(
        "prediction: with / without the second convolution",
        seconds(lambda: list(predict(proteins, model, tokenizer)), repeats=1),
        seconds(lambda: list(predict(proteins, without, tokenizer)), repeats=1),
    )
    if args.dataset:
        split = load_dataset(args.dataset, "deeploc2", split="validation").select(range(args.proteins))
        proteins = list(zip(split["id"], split["sequence"], strict=True))
    benchmark_dtype(proteins)


if __name__ == "__main__":
    main()
