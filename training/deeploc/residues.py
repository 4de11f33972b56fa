"""
Train the head for the segments of sorting signals, on a trained DeepLoc whose other weights are frozen.

    accelerate launch --cpu -m training.deeploc.residues training/configs/residues.yaml

The first argument is a YAML file with fields of `TrainingConfig`; `field=value` overrides it. `dataset` is what
`datasets_scripts.build_residues` writes. The frozen encoder's states are computed once and kept in memory (two bytes
per number: 3.5 GB for 10,000 proteins of the shipped model). The whole model is written to `output_dir`. The command
runs in one process.
"""

from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset, load_dataset
from omegaconf import MISSING
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer, get_scheduler, pipeline

from protloc import DeepLocConfig, DeepLocForSequenceClassification
from protloc.batching import TokenBudgetBatchSampler, token_budget_batches
from protloc.loading import LOAD_ERRORS, load_config, model_path, one_line
from protloc.models.losses_deeploc import residue_signal_loss
from protloc.models.protein_sequence import split_windows, tokenize, window_text
from protloc.taxonomy import SORTING_SIGNALS
from training.common.loop import Batch, Loop, Place, rounded, start_accelerator, steps_per_epoch
from training.common.publish import publish
from training.common.settings import HeadTraining, check_output_dir, check_settings, read_settings, save_settings, stop
from training.deeploc.segments import segment_scores


@dataclass
class TrainingConfig(HeadTraining):
    dataset: str = MISSING  # of datasets_scripts.build_residues, a folder or a Hub repository
    initial_weights: str = "deeploc"  # a trained DeepLoc, by folder or Hub name
    max_tokens_per_batch: int = 10_000
    learning_rate: float = 2e-3


def possible_signals(signals: str, annotated: str) -> list[int]:
    """What each residue may be, as bits: `residue_signal_loss` tells how."""
    everything = (1 << 1 + len(SORTING_SIGNALS)) - 1
    unannotated = everything & ~sum(1 << int(digit) for digit in annotated)
    known = {digit: 1 << int(digit) for digit in "123456789"} | {"0": unannotated, "-": everything}
    return [known[digit] for digit in signals]


def build_model(config: TrainingConfig) -> tuple[DeepLocForSequenceClassification, Any]:
    """The trained model with a new head, all else frozen, and its tokenizer."""
    try:
        load_config(config.initial_weights)
        path = model_path(config.initial_weights)
        fields = {**config.model, "residue_signals": True}
        model_config = DeepLocConfig.from_pretrained(path, **fields)
        model, loaded = DeepLocForSequenceClassification.from_pretrained(
            path, config=model_config, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except LOAD_ERRORS as error:
        stop(f"cannot start from {config.initial_weights!r}: {one_line(error)}")
    missing = [name for name in loaded["missing_keys"] if not name.startswith("residue_head.")]
    if missing:
        stop(f"{config.initial_weights!r} has no weights {missing[0]!r}: give a trained DeepLoc")
    model.requires_grad_(False)
    model.residue_head.requires_grad_(True)
    return model, tokenizer


@torch.inference_mode()
def encode(proteins: Dataset, model: DeepLocForSequenceClassification, tokenizer: Any) -> list[Batch]:
    """For each protein `states` (float16), `input_ids` and `possible` of the residues that the model reads."""
    windows = []
    for row in proteins:
        [*_, window] = split_windows(len(row["sequence"]), model.config.max_length, "end")
        sequence = window_text(row["sequence"], window)
        windows.append((sequence, possible_signals(row["signals"][: len(sequence)], row["annotated"])))
    found: list[Batch] = [{} for _ in windows]
    batches = token_budget_batches([len(sequence) for sequence, _ in windows], 16_384)
    for batch in tqdm(batches, desc="Encoding", mininterval=5):
        inputs = tokenize([windows[i][0] for i in batch], tokenizer)
        states, _ = model.deeploc.encode(**{name: values.to(model.device) for name, values in inputs.items()})
        for row, i in enumerate(batch):
            length = len(windows[i][0])
            found[i] = {
                "states": states[row, 1 : length + 1].half().cpu(),
                "input_ids": inputs["input_ids"][row, 1 : length + 1].clone(),
                "possible": torch.tensor(windows[i][1], dtype=torch.int32),
            }
    return found


def collate(rows: list[Batch]) -> Batch:
    return {name: pad_sequence([row[name] for row in rows], batch_first=True) for name in rows[0]}


def residue_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Logits `(batch, residues, 10)`; ids are those of `<cls>` at padding, which the mask hides."""
    return model.residue_head(batch["states"].float(), batch["input_ids"], batch["possible"] > 0)


def main() -> None:
    config: TrainingConfig = read_settings(TrainingConfig, __doc__)
    check_settings(config, DeepLocConfig, {})
    check_output_dir(config)
    accelerator = start_accelerator(config)
    if accelerator.num_processes > 1:
        stop(f"runs in one process, not in {accelerator.num_processes}: the head is small")
    model, tokenizer = build_model(config)
    try:
        train_set, validation_set = (load_dataset(config.dataset, split=name) for name in ("train", "validation"))
    except (ValueError, OSError) as error:
        stop(f"cannot read the data: {one_line(error)}")
    if config.limit:
        train_set, validation_set = (part.take(min(config.limit, len(part))) for part in (train_set, validation_set))
    save_settings(config)
    model.eval().to(accelerator.device)
    rows, validation_rows = (encode(part, model, tokenizer) for part in (train_set, validation_set))
    lengths, validation_lengths = ([len(row["possible"]) for row in part] for part in (rows, validation_rows))
    sampler = TokenBudgetBatchSampler(lengths, config.max_tokens_per_batch, config.seed)
    train_loader: Any = DataLoader(rows, batch_sampler=sampler, collate_fn=collate)  # type: ignore[arg-type]
    batches = token_budget_batches(validation_lengths, 2 * config.max_tokens_per_batch)
    validation_loader: Any = DataLoader(validation_rows, batch_sampler=batches, collate_fn=collate)  # type: ignore[arg-type]

    trained = list(model.residue_head.parameters())
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = steps_per_epoch(accelerator, len(train_loader)) * config.epochs
    scheduler = get_scheduler("cosine", optimizer, round(config.warmup_fraction * steps), steps)
    accelerator.print(f"{len(rows)} proteins, {steps} steps, {sum(weight.numel() for weight in trained):,} weights")
    loop = Loop(
        *(accelerator, config, model, optimizer, scheduler, train_loader, validation_loader),
        criterion="loss",
        maximize=False,
    )

    def backward(batch: Batch, place: Place) -> dict[str, torch.Tensor | float]:
        loss = residue_signal_loss(residue_logits(loop.model, batch), batch["possible"])
        accelerator.backward(loss)
        return {"loss": loss.detach()}

    @torch.no_grad()
    def validate() -> dict[str, float]:
        loop.judged.eval()
        found: list[Any] = [None] * len(validation_rows)
        total, count = 0.0, 0
        for numbers, batch in zip(batches, loop.validation_loader, strict=True):
            logits, counted = residue_logits(loop.judged, batch), int((batch["possible"] > 0).sum())
            total, count = total + residue_signal_loss(logits, batch["possible"]).item() * counted, count + counted
            for row, i in enumerate(numbers):
                found[i] = logits[row, : validation_lengths[i]].softmax(dim=-1)
        loop.judged.train()
        scores = segment_scores(validation_set, found)
        return {"loss": total / count} | {f"{name}_f1": part["f1"] for name, part in scores.items()}

    loop.run(backward, validate, f"{len(validation_rows)} validation proteins")

    best = loop.best_model(DeepLocForSequenceClassification)
    locator = pipeline("protein-localization", model=best, tokenizer=tokenizer)
    locator.save_pretrained(config.output_dir, state_dict=rounded(best))
    report = loop.report("training.deeploc.residues", proteins=len(rows))
    publish(config, "deeploc", report, best, [config.dataset], config.initial_weights)
    accelerator.end_training()


if __name__ == "__main__":
    main()
