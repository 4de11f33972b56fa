"""
Sanity check: does every kind of deepGPS learn within two minutes, on synthetic proteins with a known localization?

    python -m training.deepgps.sanity_check
    python -m training.deepgps.sanity_check diffusion structure --seconds 60

A protein with the nuclear localization signal PKKKRKV is inside the nucleus; a protein with the same seven residues in
another order is around it. For the structure model, rods are inside and balls are around. On held-out proteins and
nuclei, an image is correct if it is brighter on the side where the protein is. As a control, the residues of the
sequences are shuffled (or the structures are permuted): then no model can be better than chance. The exit code is 1 if
a model is correct in fewer than 95 of 100 cases, or if a control is not at chance level.
"""

import argparse
import random
import sys
import time
from typing import Any

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from transformers import AutoTokenizer

from protloc import ASSETS, DeepGPSConfig, DeepGPSModel
from protloc.models.protein_sequence import AMINO_ACIDS
from training.common.runs import table

SIGNAL = "PKKKRKV"
SIZE = 32  # side of the images in pixels
POINTS = 64
BATCH = 16
NETWORK: dict[str, Any] = {
    "backbone_config": {
        "model_type": "deeploc",
        "embedding_size": 16,
        "conv_filters": 16,
        "conv_widths": [1, 3, 7],
        "second_conv_channels": 32,
        "lstm_size": 32,
        "attention_size": 16,
        "decoder_size": 16,
        "decoder_steps": 1,
        "hidden_size": 16,
        "dropout": 0.0,
    },
    "latent_size": 64,
    "classifier_sizes": [32, 32, 32],
    "dropout": 0.0,
    "unet_channels": [16, 32, 64],
    "attention_head_size": 16,
    "image_size": SIZE,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "condition": {},
    "paper": {"unet": "paper", "pooling": "mean"},
    "diffusion": {"objective": "diffusion", "num_inference_steps": 10},
    "structure": {"inputs": "structure"},
}


def made_up_proteins(count: int, seed: int) -> dict:
    """Sequences, point clouds `(count, points, 6)`, images `(count, 1, H, W)` and labels (1: in the nucleus)."""
    generator, numbers = random.Random(seed), np.random.default_rng(seed)
    labels = numbers.integers(0, 2, count)
    sequences, clouds, nuclei, proteins = [], [], [], []
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for label in labels:
        signal = list(SIGNAL)
        while not label and "".join(signal) == SIGNAL:
            generator.shuffle(signal)
        residues = generator.choices(AMINO_ACIDS, k=generator.randint(20, 50))
        place = generator.randint(0, len(residues))
        sequences.append("".join([*residues[:place], *signal, *residues[place:]]))

        cloud = numbers.normal(size=(POINTS, 3)) * ([1, 0.1, 0.1] if label else [1, 1, 1])
        cloud = cloud @ np.linalg.qr(numbers.normal(size=(3, 3)))[0]  # turned at random
        atoms = np.eye(3)[numbers.integers(0, 3, POINTS)]
        clouds.append(np.concatenate([cloud / np.linalg.norm(cloud, axis=1).max(), atoms], axis=1))

        row, column = numbers.uniform(12, SIZE - 12, 2)
        height, width = numbers.uniform(4, 7, 2)
        inside = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 < 1
        where = inside if label else around(inside)
        nuclei.append(inside * numbers.uniform(0.5, 1) + numbers.normal(0, 0.05, inside.shape))
        proteins.append(where * numbers.uniform(0.5, 1) + numbers.normal(0, 0.05, inside.shape))
    images = {"nucleus": nuclei, "protein": proteins}
    return {
        "sequences": sequences,
        "structure": torch.tensor(np.array(clouds), dtype=torch.float32),
        "labels": torch.tensor(labels),
        **{
            name: torch.tensor(np.array(image), dtype=torch.float32).clamp(0, 1).unsqueeze(1)
            for name, image in images.items()
        },
    }


def around(inside: np.ndarray) -> np.ndarray:
    return binary_dilation(inside, iterations=4) & ~inside


def model_inputs(model: DeepGPSModel, data: dict, tokenizer, chosen: np.ndarray) -> dict[str, torch.Tensor]:
    inputs = {"nucleus": data["nucleus"][chosen]}
    if model.reads_structure:
        inputs["structure"] = data["structure"][chosen]
    if model.reads_sequence:
        tokens = tokenizer([data["sequences"][i] for i in chosen], padding=True, return_tensors="pt")
        inputs |= {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
    return inputs


def train(model: DeepGPSModel, data: dict, tokenizer, seconds: float) -> int:
    """Steps done in that time; the learning rate falls with it, linearly."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    numbers = np.random.default_rng(0)
    start, steps = time.monotonic(), 0
    while (passed := (time.monotonic() - start) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - passed)
        chosen = numbers.choice(len(data["labels"]), BATCH, replace=False)
        targets = {name: data[name][chosen] for name in ("labels", "protein")}
        loss = model(**model_inputs(model, data, tokenizer, chosen), **targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
    return steps


@torch.no_grad()
def right_sides(model: Any, data: dict, tokenizer) -> tuple[float, float, float]:
    """Shares of images that are brighter where the protein is, and of right labels; mean PSNR of the images in dB."""
    model.eval()
    inputs = model_inputs(model, data, tokenizer, np.arange(len(data["labels"])))
    outputs = model.generate(**inputs, generator=torch.Generator().manual_seed(0))
    right = []
    for drawn, nucleus, label in zip(outputs.protein_image, data["nucleus"], data["labels"], strict=True):
        inside = nucleus[0].numpy() > 0.25
        brighter = drawn[0].numpy()[inside].mean() > drawn[0].numpy()[around(inside)].mean()
        right.append(brighter == bool(label))
    labels = (outputs.logits.argmax(dim=-1) == data["labels"]).float().mean().item()
    errors = (outputs.protein_image - data["protein"]).square().mean(dim=(1, 2, 3))
    return float(np.mean(right)), labels, (-10 * errors.log10()).mean().item()


def shuffled(data: dict) -> dict:
    """The same nuclei and places with proteins that can't tell them."""
    generator = random.Random(0)
    order = torch.randperm(len(data["labels"]), generator=torch.Generator().manual_seed(0))
    sequences = ["".join(generator.sample(sequence, len(sequence))) for sequence in data["sequences"]]
    return {**data, "sequences": sequences, "structure": data["structure"][order]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", help=f"some of {', '.join(VARIANTS)} (default: all)")
    parser.add_argument("--seconds", type=float, default=120, help="seconds of training for each (default: 120)")
    args = parser.parse_args()
    unknown = set(args.variants) - VARIANTS.keys()
    if unknown:
        parser.error(f"unknown variant {min(unknown)!r}: choose from {', '.join(VARIANTS)}")

    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "deeploc", trust_remote_code=False)
    training, held_out = made_up_proteins(4000, seed=1), made_up_proteins(200, seed=2)
    titles = ["images right", "labels right", "PSNR", "images right, shuffled"]
    rows = [["model", "parameters", "steps", "steps a second", *titles]]
    good = True
    for name in args.variants or VARIANTS:
        torch.manual_seed(0)
        model = DeepGPSModel(DeepGPSConfig(**{**NETWORK, **VARIANTS[name]}))
        steps = train(model, training, tokenizer, args.seconds)
        images, labels, psnr = right_sides(model, held_out, tokenizer)
        control, _, _ = right_sides(model, shuffled(held_out), tokenizer)
        speed = f"{steps / args.seconds:.1f}"
        shares = [f"{images:.1%}", f"{labels:.1%}", f"{psnr:.1f} dB", f"{control:.1%}"]
        rows.append([name, f"{model.num_parameters():,}", str(steps), speed, *shares])
        good &= images >= 0.95 and 0.4 <= control <= 0.6
        print("\n".join(table(rows).splitlines()[0 if len(rows) == 2 else -1 :]), flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
