"""
Train the built-in nucleus segmenter on images with labelled nuclei, and evaluate it by cross-validation.

    python -m training.nuclei.train --images FOLDER --folds 5 --report model_cards/nuclei.json
    python -m training.nuclei.train --images FOLDER --out modeling/protloc/assets/nuclei
    python -m training.nuclei.train --images FOLDER --judge 0.2                            # of the weights that ship

FOLDER holds `NAME_image.png` and `NAME_labels.png` (Data Science Bowl 2018; nuclei numbered from 1). Some simulated
fields are added in training, for textured nuclei and for fields without nuclei; the scores don't include them. With
`--folds`, every image is segmented by a network that was not trained on it, and the scores are printed (and written,
for the data cards). With `--out`, the weights of one network trained on all images are written. A network takes some
ten minutes on one CPU core. With `--judge`, the weights that ship are scored on images they did not learn from. Each
time, images are read at their pixel size, and as if it were not known.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from skimage.filters import threshold_local, threshold_otsu
from skimage.measure import regionprops
from skimage.morphology import h_maxima
from skimage.segmentation import watershed
from skimage.transform import resize
from torch.nn import functional as F
from tqdm import trange

from protloc.files import atomic_path
from protloc.microscopy import normalize, simulate
from protloc.nuclei import MIN_AREA, UM_PER_PX, NucleusNet, match_instances, segment

SIZE = 160  # of the training crops
BATCH = 8
SIMULATED = 24  # fields drawn by `protloc.microscopy.simulate` beside the labelled images: textured nuclei, or none


def load(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of a normalized image and its labels, both `(H, W)`."""
    pairs = []
    for path in sorted(folder.glob("*_image.png")):
        image = np.asarray(Image.open(path).convert("L"))
        labels = np.asarray(Image.open(path.with_name(path.name.replace("_image", "_labels"))), dtype=np.int32)
        pairs.append((normalize(image), labels))
    return pairs


def simulated_fields(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Crowded to empty fields at the pixel size of the network, as pairs of an image and its labels."""
    pairs = []
    for seed in range(count):
        field = simulate("nucleoplasm", size=300, um_per_px=UM_PER_PX, seed=seed, cells=seed * 3 if seed % 4 else 0)
        pairs.append((normalize(field.nucleus), field.labels))
    return pairs


def depth(labels: np.ndarray) -> np.ndarray:
    """Distance to the rim of the own nucleus, as a share of the largest one in it."""
    result = np.zeros(labels.shape, dtype=np.float32)
    for region in regionprops(labels):
        inside = np.pad(region.image, 1)
        distance = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        result[region.slice] += (distance / distance.max()).astype(np.float32)
    return result


def crop(image: np.ndarray, labels: np.ndarray, numbers: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random part of a field: enlarged or reduced, turned, with other contrast, blur and noise."""
    scale = np.exp(numbers.uniform(np.log(0.6), np.log(2.0)))
    taken = min(round(SIZE / scale), *image.shape)
    row, column = (numbers.integers(0, side - taken + 1) for side in image.shape)
    window = np.s_[row : row + taken, column : column + taken]
    image = resize(image[window], (SIZE, SIZE), order=1, anti_aliasing=taken > SIZE)
    labels = resize(labels[window], (SIZE, SIZE), order=0, preserve_range=True, anti_aliasing=False).astype(np.int32)
    turns, flipped = numbers.integers(4), numbers.integers(2)
    image, labels = (np.rot90(part[:, ::-1] if flipped else part, int(turns)) for part in (image, labels))
    image = np.clip(image, 0, 1) ** (0.5 * np.exp(numbers.uniform(-0.5, 0.5)))
    if numbers.random() < 0.3:
        image = ndimage.gaussian_filter(image, numbers.uniform(0.3, 1.2))
    image = image * numbers.uniform(0.6, 1.2) + numbers.normal(0, numbers.uniform(0, 0.03), image.shape)
    return np.clip(image, 0, 1).astype(np.float32), labels


def train(pairs: list[tuple[np.ndarray, np.ndarray]], steps: int, seed: int) -> NucleusNet:
    torch.manual_seed(seed)
    numbers = np.random.default_rng(seed)
    shown = pairs + simulated_fields(SIMULATED)
    model = NucleusNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    progress = trange(steps, disable=not sys.stderr.isatty())
    for _ in progress:
        crops = [crop(shown[i][0], shown[i][1], numbers) for i in numbers.integers(0, len(shown), BATCH)]
        images = torch.tensor(np.stack([image for image, _ in crops]))[:, None]
        images = images.contiguous(memory_format=torch.channels_last)
        depths = torch.tensor(np.stack([depth(labels) for _, labels in crops]))
        places = torch.tensor(np.stack([labels > 0 for _, labels in crops])).float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images)
        place, middle = logits.float().unbind(1)
        # The depth is a target everywhere, as 0 outside: what only resembles a nucleus has no core.
        loss = F.binary_cross_entropy_with_logits(place, places) + F.binary_cross_entropy_with_logits(middle, depths)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


def classical(image: np.ndarray) -> np.ndarray:
    """What to beat: a local threshold, the distance to the background, and a watershed."""
    smooth = ndimage.gaussian_filter(image, 1)
    mask = smooth > np.maximum(threshold_local(smooth, 51), threshold_otsu(smooth) / 2)
    mask = ndimage.binary_fill_holes(ndimage.binary_opening(mask))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 1)
    cores, _ = ndimage.label(h_maxima(distance, 0.75), np.ones((3, 3)))
    labels = watershed(-distance, cores, mask=mask)
    small = np.bincount(labels.ravel()) < MIN_AREA
    return np.where(small[labels], 0, labels)


def measure(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Scores of `(true labels, found labels)`."""
    matches = [match_instances(true, found) for true, found in pairs]
    true, found = (sum(match[key] for match in matches) for key in ("true", "found"))
    return {
        "images": len(pairs),
        "nuclei": true,
        "found": found,
        "f1_50": 2 * sum(match["matched"][0] for match in matches) / (true + found),
        "f1_75": 2 * sum(match["matched"][5] for match in matches) / (true + found),
        "mean_average_precision": float(np.mean([match["average_precision"] for match in matches])),
        "mean_count_error": float(np.mean([abs(match["true"] - match["found"]) for match in matches])),
    }


def with_and_without_size(found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Scores of `(true labels, found at the right pixel size, found without it)`."""
    known = measure([(true, labels) for true, labels, _ in found])
    return known | {"size_unknown": measure([(true, labels) for true, _, labels in found])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder of NAME_image.png and NAME_labels.png")
    parser.add_argument("--folds", type=int, help="number of folds of the cross-validation")
    parser.add_argument("--report", type=Path, help="JSON file for the scores of the cross-validation")
    parser.add_argument("--steps", type=int, default=2000, help="training steps (default: 2000)")
    parser.add_argument("--judge", type=float, metavar="UM", help="score the weights that ship; UM per pixel")
    parser.add_argument("--out", type=Path, help="folder for the weights of a network trained on all images")
    args = parser.parse_args()
    if not args.out and not args.judge and (args.folds or 0) < 2:
        parser.error("give --out, --judge, or --folds of 2 or more")
    pairs = load(args.images)
    if not pairs:
        parser.exit(2, f"training.nuclei.train: {args.images} holds no image NAME_image.png\n")
    if args.judge:
        found = [(true, segment(image, args.judge), segment(image, None)) for image, true in pairs]
        print(json.dumps(with_and_without_size(found), indent=2))
    if args.folds:
        results = []
        for fold in range(args.folds):
            held_out = pairs[fold :: args.folds]
            model = train([pair for i, pair in enumerate(pairs) if i % args.folds != fold], args.steps, seed=fold)
            # The images have no pixel size: they are read as they are.
            found = [(true, segment(image, UM_PER_PX, model), segment(image, None, model)) for image, true in held_out]
            print(f"fold {fold}: {json.dumps(with_and_without_size(found))}", flush=True)
            results += found
        without = measure([(labels, classical(image)) for image, labels in pairs])
        scores = {"folds": args.folds, "steps": args.steps, **with_and_without_size(results), "classical": without}
        report = json.dumps(scores, indent=2)
        print(report)
        if args.report:
            args.report.write_text(report + "\n", encoding="utf-8")
    if args.out:
        model = train(pairs, args.steps, seed=0)
        args.out.mkdir(parents=True, exist_ok=True)
        with atomic_path(args.out / "model.safetensors") as partial:
            save_file({name: weight.half().contiguous() for name, weight in model.state_dict().items()}, partial)


if __name__ == "__main__":
    main()
