"""What the benchmarks share: proteins where none are given, and ratios kept from one commit to the next."""

import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from protloc.models.protein_sequence import AMINO_ACIDS

RESULTS = Path(__file__).parent / "results"


def made_up_proteins(count: int) -> list[tuple[str, str]]:
    """Ids and random residues; lengths log-normal as in UniProt (median 400)."""
    generator = random.Random(0)
    lengths = [min(max(int(generator.lognormvariate(6, 0.7)), 40), 5000) for _ in range(count)]
    return [(f"p{i}", "".join(generator.choices(AMINO_ACIDS, k=length))) for i, length in enumerate(lengths)]


def save(name: str, ratios: dict[str, float]) -> None:
    """Keep a run's ratios, by what was measured, in `benchmarks/results/<name>.json`, to be committed."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(ratios, indent=2) + "\n", encoding="utf-8")


def compare(name: str, ratios: dict[str, float]) -> None:
    """Print a run's ratios to those that are committed, where there are any: below 1 something became slower."""
    path = RESULTS / f"{name}.json"
    committed = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for what, ratio in ratios.items():
        if what in committed:
            print(
                f"{what}: {ratio:.2f}, committed {committed[what]:.2f}, now / committed {ratio / committed[what]:.2f}"
            )


def seconds(function: Callable[[], object], repeats: int = 3, warm: bool = True) -> float:
    """Median of a few runs, after one to warm up."""
    if warm:
        function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def matmul_rate(dtype: torch.dtype, side: int = 2048, device: str = "cpu") -> float:
    """Operations a second of a large matrix product: the ceiling of everything else."""
    one = torch.randn(side, side, device=device, dtype=dtype)

    def multiply() -> None:
        one @ one
        synchronize(device)

    return 2 * side**3 / seconds(multiply, 5)
