"""
How fast fields become crops: `python -m benchmarks.fields`.

Reading, segmentation, cropping and writing of two-channel fields of 1,024 x 1,024 pixels and 16 bit (simulated), as
`datasets_scripts/build_opencell.py` does them, by one process and by one on each core; and what share of a single
field's time each step has.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch

from datasets_scripts.fields import Field, Settings, process_all, read_field
from datasets_scripts.proteins import Protein
from protloc.crops import crop_row
from protloc.microscopy import OPENCELL_UM_PER_PX, normalize, nucleus_crops, segment_nuclei, simulate

SETTINGS = Settings(208, OPENCELL_UM_PER_PX, "builtin", 0.6)


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fields", type=int, default=24, help="number of fields (default: 24)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fields = []
        for i in range(args.fields):
            path = Path(folder) / f"{i}.tif"
            if i < 4:  # four different ones, copied
                field = simulate("cytoplasmic", size=1024, seed=i, cells=60)
                tifffile.imwrite(path, np.stack([field.nucleus, field.protein]))
            else:
                path.write_bytes((Path(folder) / f"{i % 4}.tif").read_bytes())
            fields.append(Field(str(i), path, None, OPENCELL_UM_PER_PX, Protein(), (), "HEK293T", "train", "all"))

        rates = {}
        for count in sorted({1, multiprocessing.cpu_count()}):
            out = Path(folder) / f"out{count}"
            # The start of the processes, some seconds of imports, is not what a build of thousands waits for.
            start, _ = seconds(partial(process_all, fields[:count], SETTINGS, out, count))
            spent, results = seconds(partial(process_all, fields, SETTINGS, out, count))
            rates[count] = (len(fields) - count) / (spent - (start if count > 1 else 0))
            crops = sum(result["crops"] for result in results)
        print(f"torch {torch.__version__}, {args.fields} fields of 1,024 x 1,024 pixels, {crops} crops\n")
        print("| processes | fields a second | to one process |\n|---|---|---|")
        for count, rate in rates.items():
            print(f"| {count} | {rate:.1f} | {rate / rates[1]:.2f} |")

        torch.set_num_threads(1)
        steps = {}
        steps["read"], (nucleus, protein) = seconds(lambda: read_field(fields[0], SETTINGS))
        steps["segment"], labels = seconds(lambda: segment_nuclei(nucleus, OPENCELL_UM_PER_PX))
        steps["normalize"], images = seconds(lambda: (normalize(nucleus), normalize(protein, robust=False)))
        steps["crop"], found = seconds(lambda: nucleus_crops(images[0], images[1], labels))
        steps["encode"], _ = seconds(lambda: [crop_row(crop) for crop in found])
        print(f"\n| step | share of a field with {len(found)} crops |\n|---|---|")
        for name, spent in steps.items():
            print(f"| {name} | {spent / sum(steps.values()):.0%} |")


if __name__ == "__main__":
    main()
