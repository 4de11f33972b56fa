"""
Speed of `protloc embed` with ESM-2: an ablation study of its optimizations, and the share of the machine's peak.

    python -m benchmarks.embed --proteins proteins.fasta                # the first 200; long on two cores
    python -m benchmarks.embed --shape 8M --count 24 --baseline 16      # made-up proteins; some minutes
    python -m benchmarks.embed --shape 650M --device cuda --count 2000  # on a GPU

Weights are random, of ESM-2's shape. First comes the rate of matrix products of the model's shapes: the ceiling. The
baseline is float32 in padded batches of 8 in the order of the file, on some of the proteins (`--baseline`), since it is
slow. Rounds are interleaved, and medians given; compilation is shown apart. Errors are against the embeddings of the
baseline: the norm of the difference over the norm, of the worst residue and of all of them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch._dynamo.utils import counters
from transformers import AutoTokenizer, EsmConfig, EsmModel, utils

from benchmarks.common import compare, made_up_proteins, save
from protloc.batching import token_budget_batches
from protloc.embedding import Encoder, write_embeddings
from protloc.loading import DEFAULT_MODEL
from protloc.models.protein_sequence import split_windows
from protloc.models.sequence_encoder_deepgps import encode_sequence
from protloc.sequences import read_sequences

SHAPES = {  # hidden size, layers, heads
    "8M": (320, 6, 20),
    "150M": (640, 30, 20),
    "650M": (1280, 33, 20),
}
PADDED_TOKENS = 16_384
Pairs = Iterable[tuple[str, torch.Tensor]]


def save_encoder(folder: Path, shape: str) -> None:
    """ESM-2 with random weights, larger than by default, so that attention is no mere mean."""
    hidden, layers, heads = SHAPES[shape]
    config = EsmConfig(
        vocab_size=33, pad_token_id=1, mask_token_id=32, hidden_size=hidden, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=4 * hidden, position_embedding_type="rotary", token_dropout=True,
        max_position_embeddings=1026, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        emb_layer_norm_before=False, initializer_range=1.25 * hidden**-0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    EsmModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(DEFAULT_MODEL, trust_remote_code=False).save_pretrained(folder)


def operations(sequences: list[str], shape: str) -> float:
    """Floating-point operations for the embeddings of these sequences: linear layers and attention, no padding."""
    hidden, layers, _ = SHAPES[shape]
    total = 0
    for sequence in sequences:
        for [window] in split_windows(len(sequence), 1022, "window"):
            tokens = window.stop - window.start + 2
            total += layers * tokens * (2 * 12 * hidden**2 + 4 * tokens * hidden)
    return total


def peak(shape: str, device: str, dtype: torch.dtype, clock: Callable[[], float]) -> float:
    """Operations a second in the model's matrix products: four of its attention to eight of its feed-forward part."""
    hidden = SHAPES[shape][0]
    rows = 1024 if device == "cpu" else PADDED_TOKENS
    sizes = [(hidden, hidden)] * 4 + [(hidden, 4 * hidden), (4 * hidden, hidden)]
    factors = [[torch.randn(rows, k), torch.randn(n, k)] for k, n in sizes]
    factors = [[factor.to(device, dtype) for factor in pair] for pair in factors]

    def multiply() -> None:
        for left, right in factors * 4:
            torch.nn.functional.linear(left, right)
        if device != "cpu":
            torch.cuda.synchronize()

    multiply()
    times = [seconds(multiply, clock) for _ in range(5)]
    return 4 * sum(2 * rows * k * n for k, n in sizes) / statistics.median(times)


def accelerator(device: str) -> str:
    """What computes, and on a CPU which instructions for bfloat16 it has."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    found = [name for name in ("amx_bf16", "avx512_bf16") if torch.cpu.get_capabilities().get(name)]
    return f"{torch.backends.cpu.get_cpu_capability()} CPU with {' and '.join(found) or 'no bfloat16'}"


def seconds(function: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


@torch.inference_mode()
def padded(encoder: Encoder, sequences: list[str], batches: list[list[int]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The baseline: a padded batch at a time, with transformers' own attention."""
    for batch in batches:
        texts = [sequences[i] for i in batch]
        inputs = encoder.tokenizer(texts, padding=True, return_tensors="pt").to(encoder.device)
        found = encode_sequence(encoder.backbone, encoder.config, inputs["input_ids"], inputs["attention_mask"])
        for sequence, row in zip(texts, found.cpu(), strict=True):
            yield sequence, row[1 : len(sequence) + 1]


def errors(found: dict[str, torch.Tensor], true: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Relative error of the worst residue, and of all together."""
    worst, squares, norms = 0.0, 0.0, 0.0
    for sequence, embeddings in found.items():
        if sequence in true:
            difference, norm = (embeddings.float() - true[sequence]).norm(dim=1), true[sequence].norm(dim=1)
            worst = max(worst, (difference / norm).max().item())
            squares, norms = squares + difference.square().sum().item(), norms + norm.square().sum().item()
    return worst, (squares / norms) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--proteins", metavar="FASTA", help="FASTA, CSV or TSV (default: made up)")
    parser.add_argument("--count", type=int, default=200, help="proteins, the first of the file (default: 200)")
    parser.add_argument("--baseline", type=int, default=40, help="proteins of the baselines, the first (default: 40)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--shape", choices=SHAPES, default="150M")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--one-thread",
        action="store_true",
        help="count the CPU time of one thread, which others on the machine disturb less than the time on the clock",
    )
    parser.add_argument("--save", action="store_true", help="keep the ratios in benchmarks/results")
    args = parser.parse_args()
    utils.logging.disable_progress_bar()
    clock = time.process_time if args.one_thread else time.perf_counter
    if args.one_thread:
        torch.set_num_threads(1)

    pairs = list(read_sequences([args.proteins])) if args.proteins else made_up_proteins(args.count)
    sequences = list(dict.fromkeys(sequence for _, sequence in pairs))[: args.count]
    few = sequences[: args.baseline]
    eights = [list(range(i, min(i + 8, len(few)))) for i in range(0, len(few), 8)]
    lengths = [len(sequence) for sequence in sequences]

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        save_encoder(model, args.shape)
        encoders = {dtype: Encoder(str(model), args.device, dtype) for dtype in ("float32", "bfloat16")}
        compiled = Encoder(str(model), args.device, "bfloat16", compile=True)
        whole = [0]  # of files, which no two rounds share

        def written() -> Pairs:
            whole[0] += 1
            write_embeddings(compiled, sequences, Path(folder) / str(whole[0]))
            return []

        def attention(dtype: str, name: str) -> Encoder:
            encoders[dtype].backbone.set_attn_implementation(name)
            return encoders[dtype]

        budget = token_budget_batches(lengths, PADDED_TOKENS)
        steps: dict[str, tuple[list[str], str, Callable[[], Pairs]]] = {
            "float32, 8 in file order (the baseline)":
                (few, "float32", lambda: padded(attention("float32", "sdpa"), few, eights)),
            "float32, packed (--dtype float32)":
                (sequences, "float32", lambda: attention("float32", "protloc_packed").states(sequences)),
            "bfloat16, 8 in file order":
                (few, "bfloat16", lambda: padded(attention("bfloat16", "sdpa"), few, eights)),
            "+ sorted by length, under a token budget":
                (sequences, "bfloat16", lambda: padded(attention("bfloat16", "sdpa"), sequences, budget)),
            "+ packed without padding":
                (sequences, "bfloat16", lambda: attention("bfloat16", "protloc_packed").states(sequences)),
            "+ compiled, weights frozen (--compile)": (sequences, "bfloat16", lambda: compiled.states(sequences)),
            "+ written, while the next are encoded": (sequences, "bfloat16", written),
        }  # fmt: skip

        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {accelerator(args.device)}")
        print(
            f"ESM-2 of the {args.shape} shape on {args.device}; {len(sequences)} proteins of {sum(lengths)} residues; "
            f"the baselines take the first {len(few)} of them, {sum(map(len, few))} residues\n"
        )
        print(f"compilation: {seconds(lambda: list(compiled.states(sequences[:2])), clock):.0f} s", flush=True)
        true: dict[str, torch.Tensor] = {}
        wrong: dict[str, tuple[float, float]] = {}
        times: dict[str, list[float]] = {what: [] for what in steps}
        peaks: dict[str, list[float]] = {dtype: [] for dtype in encoders}
        for _ in range(args.repeats):
            for dtype, measured in peaks.items():
                measured.append(peak(args.shape, args.device, getattr(torch, dtype), clock))
            for what, (some, _, run) in steps.items():
                start = clock()
                found = dict(run())
                times[what].append(clock() - start)
                true = true or found  # the baseline comes first
                if found:
                    wrong[what] = errors(found, true)
                print(f"{what}: {sum(map(len, some)) / times[what][-1]:.0f} residues/s", flush=True)
        print(f"compiled graphs after all batches: {counters['stats']['unique_graphs']}\n")

    ceiling = {dtype: statistics.median(measured) for dtype, measured in peaks.items()}
    for dtype, rate in ceiling.items():
        print(f"matrix products in {dtype}: {rate / 1e9:.0f} GFLOPS")
    print("\n| | residues/s | of the peak | speed-up over the baseline | the row above | error: worst residue | all |")
    print("|---|---|---|---|---|---|---|")
    rates = {what: sum(map(len, steps[what][0])) / statistics.median(times[what]) for what in steps}
    baseline = before = rates[next(iter(steps))]
    for what, (some, dtype, _) in steps.items():
        share = operations(some, args.shape) / statistics.median(times[what]) / ceiling[dtype]
        if what == "bfloat16, 8 in file order":
            before = baseline
        error = "{:.1e} | {:.1e}".format(*wrong[what]) if what in wrong else "|"
        gave = rates[what] / before
        print(f"| {what} | {rates[what]:.0f} | {share:.0%} | {rates[what] / baseline:.2f} | {gave:.2f} | {error} |")
        before = rates[what]
    name = f"embed_{args.shape}_{args.device}"
    ratios = {what: rate / baseline for what, rate in rates.items()}
    compare(name, ratios)
    if args.save:
        save(name, ratios)


if __name__ == "__main__":
    main()
