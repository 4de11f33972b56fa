"""
Speed of DeepLoc against a plain implementation of its report (the baseline), as ratios within one run.

    python -m benchmarks.deeploc                          # some minutes on two cores
    python -m benchmarks.deeploc --dataset data/deeploc   # real proteins, for what bfloat16 changes too

The baseline has the shipped network's sizes and random weights, pads every protein to 1,000 residues, looks each
residue up in BLOSUM62 in Python, computes in float32 and takes 128 proteins at a time in the order of the file.
Proteins are made up (random residues, lengths log-normal as in UniProt: median 400) unless a data set is given.
Residues beyond the first 1,000 are not counted.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_dataset
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader
from transformers import utils

from benchmarks.common import compare, made_up_proteins, matmul_rate, save, seconds
from protloc import DeepLocConfig
from protloc.batching import TokenBudgetBatchSampler
from protloc.loading import load_model, native_bf16
from protloc.models.layers_deeploc import DeepLocEncoder
from protloc.models.residue_features import BLOSUM62
from protloc.prediction import predict
from training.deeploc.data import collate, encode

LENGTH, BATCH = 1000, 128  # of the plain implementation
TRAIN_TOKENS = 16_384  # of a batch of training/configs/deeploc.yaml
UNKNOWN = [0.0] * 20


class PlainDeepLoc(nn.Module):
    """A plain implementation of the report's network, of the shipped one's sizes."""

    def __init__(self, config: DeepLocConfig):
        super().__init__()
        filters, hidden = config.conv_filters, config.lstm_size
        self.motifs = nn.ModuleList(nn.Conv1d(20, filters, width, padding="same") for width in config.conv_widths)
        self.second = nn.Conv1d(filters * len(config.conv_widths), config.second_conv_channels, 3, padding="same")
        self.lstm = nn.LSTM(config.second_conv_channels, hidden, batch_first=True, bidirectional=True)
        self.key = nn.Linear(2 * hidden, config.attention_size)
        self.query = nn.Linear(config.decoder_size, config.attention_size)
        self.score = nn.Linear(config.attention_size, 1)
        self.cell = nn.LSTMCell(2 * hidden, config.decoder_size)
        self.dense = nn.Linear(2 * hidden, config.hidden_size)
        self.heads = nn.Linear(config.hidden_size, config.num_labels + 1)
        self.steps = config.decoder_steps

    def forward(self, residues: torch.Tensor) -> torch.Tensor:
        hidden = residues.transpose(1, 2)
        hidden = torch.cat([motif(hidden).relu() for motif in self.motifs], dim=1)
        states, _ = self.lstm(self.second(hidden).relu().transpose(1, 2))
        query = memory = states.new_zeros(len(states), self.cell.hidden_size)
        for _ in range(self.steps):
            scores = self.score(torch.tanh(self.key(states) + self.query(query)[:, None]))
            context = (scores.softmax(dim=1) * states).sum(dim=1)
            query, memory = self.cell(context, (query, memory))
        return self.heads(self.dense(context).relu())


def plain_inputs(sequences: list[str]) -> torch.Tensor:
    rows = [[BLOSUM62.get(residue, UNKNOWN) for residue in sequence[:LENGTH]] for sequence in sequences]
    return torch.tensor([row + [UNKNOWN] * (LENGTH - len(row)) for row in rows])


def residues(proteins: list[tuple[str, str]]) -> int:
    return sum(min(len(sequence), LENGTH) for _, sequence in proteins)


def benchmark_prediction(proteins: list[tuple[str, str]], ratios: dict[str, float]) -> None:
    """Ablation study of the optimizations, from the baseline to `--dtype auto`."""
    model, tokenizer = load_model(dtype="float32")
    plain = PlainDeepLoc(model.config).eval()
    auto, _ = load_model(dtype="auto")
    some = proteins[:BATCH]

    @torch.inference_mode()
    def in_file_order():
        for start in range(0, len(some), 16):
            prepared = [model.prepare_sequence(sequence) for _, sequence in some[start : start + 16]]
            texts = [model.window_text(whole, windows[0]) for whole, windows in prepared]
            model(**tokenizer(texts, padding=True, return_tensors="pt"))

    @torch.inference_mode()
    def plainly():
        plain(plain_inputs([sequence for _, sequence in some])).sigmoid()

    rates = {
        "baseline": residues(some) / seconds(plainly),
        "tokens in place of a table, padded to the longest of 16": residues(some) / seconds(in_file_order),
        "batches of similar length under a token budget (--dtype float32)": residues(proteins)
        / seconds(lambda: list(predict(proteins, model, tokenizer))),
        f"{str(auto.dtype).removeprefix('torch.')} (--dtype auto)": residues(proteins)
        / seconds(lambda: list(predict(proteins, auto, tokenizer))),
    }
    print("| prediction | residues a second | speed-up over the row above | over the baseline |\n|---|---|---|---|")
    last = rates["baseline"]
    for name, rate in rates.items():
        print(f"| {name} | {rate:,.0f} | {rate / last:.2f} | {rate / rates['baseline']:.2f} |")
        last = rate
    names = list(rates)
    ratios["prediction in float32 / baseline"] = rates[names[2]] / rates["baseline"]
    ratios["prediction with --dtype auto / baseline"] = rates[names[3]] / rates["baseline"]
    print(f"\nproteins a minute with --dtype auto: {rates[names[3]] / residues(proteins) * len(proteins) * 60:,.0f}")


def benchmark_training(proteins: list[tuple[str, str]], ratios: dict[str, float]) -> None:
    """Steps of training as training/deeploc/train.py takes them, against the baseline; the share of waiting."""
    model, tokenizer = load_model(dtype="float32")
    config = model.config
    numbers = np.random.default_rng(0)
    table = Dataset.from_dict(
        {
            "id": [name for name, _ in proteins],
            "sequence": [sequence for _, sequence in proteins],
            "labels": [[int(numbers.integers(10))] for _ in proteins],
            "membrane": numbers.integers(0, 2, len(proteins)),
            "signals": [""] * len(proteins),
        }
    )
    rows = encode(table, config, tokenizer, None)
    sampler = TokenBudgetBatchSampler(list(rows["length"]), TRAIN_TOKENS)
    loader = DataLoader(rows, batch_sampler=sampler, collate_fn=partial(collate, pad_token_id=config.pad_token_id))
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    waited = worked = trained = 0.0
    clock = time.perf_counter()
    for number, batch in enumerate(loader):
        arrived = time.perf_counter()
        batch.pop("protein")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=native_bf16("cpu")):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if number > 0:  # the first warms up
            waited += arrived - clock
            worked += time.perf_counter() - arrived
            trained += float(batch["attention_mask"].sum()) - 2 * len(batch["labels"])
        clock = time.perf_counter()

    plain = PlainDeepLoc(config)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4)

    def step(some: list[tuple[str, str]]) -> None:
        logits = plain(plain_inputs([sequence for _, sequence in some]))
        nn.functional.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)).backward()
        optimizer.step()
        optimizer.zero_grad()

    batches = [proteins[start : start + BATCH // 4] for start in range(0, 3 * (BATCH // 4), BATCH // 4)]
    step(batches[0])
    start = time.perf_counter()
    for some in batches[1:]:
        step(some)
    plain_rate = sum(map(residues, batches[1:])) / (time.perf_counter() - start)
    rate = trained / (waited + worked)
    print("| training | residues a second | speed-up over the baseline | waiting for data |\n|---|---|---|---|")
    print(f"| baseline, {BATCH // 4} at a time | {plain_rate:,.0f} | 1 | |")
    print(f"| the training's loop | {rate:,.0f} | {rate / plain_rate:.2f} | {waited / (waited + worked):.1%} |")
    ratios["training / baseline"] = rate / plain_rate


def benchmark_recurrence(ratios: dict[str, float]) -> None:
    """Reversal of each protein within its length, against packing, for one training step of the encoder."""
    encoder = DeepLocEncoder(DeepLocConfig(lstm_size=192), input_size=128)
    packed = torch.nn.LSTM(128, 192, batch_first=True, bidirectional=True)
    hidden = torch.randn(16, 400, 128)
    lengths = torch.arange(400, 384, -1)
    mask = torch.arange(400) < lengths[:, None]

    def packed_step():
        states, _ = packed(pack_padded_sequence(hidden, lengths, batch_first=True))
        states.data.sum().backward()

    one, other = seconds(packed_step, 1), seconds(lambda: encoder(hidden, mask).sum().backward(), 1)
    print(f"a training step of the recurrence, packed / reversed within length: {one / other:.1f}")
    ratios["recurrence: packed / reversed"] = one / other


def benchmark_start(ratios: dict[str, float]) -> None:
    """From the command to its first row, to what importing torch and transformers takes by itself; alternating."""
    protloc = str(Path(sys.executable).with_name("protloc"))
    proteins = Path(__file__).parents[1] / "examples" / "proteins.fasta"

    def until_a_row() -> None:
        command = [protloc, "predict", str(proteins)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout
            process.stdout.readline()  # the header
            process.stdout.readline()
            process.kill()  # it would only end

    commands = {"import": [sys.executable, "-c", "import torch, transformers.modeling_utils"]}
    commands["help"] = [protloc, "--help"]
    runs: dict[str, Callable[[], object]] = {"first row": until_a_row}
    runs |= {name: partial(subprocess.run, command, capture_output=True) for name, command in commands.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(5):
        for name, run in runs.items():
            times[name].append(seconds(run, 1, warm=False))
    first, imports, helped = (statistics.median(values) for values in times.values())
    print(
        f"first row of `protloc predict` after {first:.1f} s, {first / imports:.2f} times what importing torch and ",
        end="",
    )
    print(f"transformers takes; --help after {helped:.2f} s")
    ratios["first row / imports of torch and transformers"] = first / imports


def benchmark_dtype(proteins: list[tuple[str, str]]) -> None:
    """What bfloat16 changes of the predictions."""
    rows = {}
    for dtype in ("float32", "bfloat16"):
        model, tokenizer = load_model(dtype=dtype)
        rows[dtype] = list(predict(proteins, model, tokenizer))
    names = list(model.config.id2label.values())
    scores, called = (
        {dtype: np.array([[read(row, name) for name in columns] for row in table]) for dtype, table in rows.items()}
        for columns, read in (
            ([*names, "membrane_probability"], lambda row, name: row[name]),
            (names, lambda row, name: name in row["localizations"].split("|")),
        )
    )
    print(
        f"bfloat16 against float32 on {len(proteins)} proteins: largest difference of a probability "
        f"{np.abs(scores['bfloat16'] - scores['float32']).max():.4f}, "
        f"{(called['bfloat16'] == called['float32']).mean():.2%} of the labels agree."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", type=int, default=512)
    parser.add_argument("--dataset", help="data set of datasets_scripts/build_deeploc.py; its validation split is used")
    parser.add_argument("--save", action="store_true", help="keep the ratios in benchmarks/results/")
    args = parser.parse_args()
    if args.proteins < BATCH:
        parser.error(f"--proteins must be at least {BATCH}, a batch of the plain network")
    utils.logging.disable_progress_bar()
    proteins = made_up_proteins(args.proteins)
    if args.dataset:
        split = load_dataset(args.dataset, "deeploc2", split="validation").select(range(args.proteins))
        proteins = list(zip(split["id"], split["sequence"], strict=True))

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}; ")
    for dtype in (torch.float32, torch.bfloat16):
        print(f"matrix products in {dtype}: {matmul_rate(dtype) / 1e9:,.0f} GFLOP a second")
    print(f"native bfloat16: {native_bf16('cpu')}\n")
    ratios: dict[str, float] = {}
    for benchmark in (benchmark_prediction, benchmark_training):
        benchmark(proteins, ratios)
        print(flush=True)
    benchmark_recurrence(ratios)
    benchmark_start(ratios)
    benchmark_dtype(proteins)
    print()
    compare("deeploc", ratios)
    if args.save:
        save("deeploc", ratios)


if __name__ == "__main__":
    main()
