"""Residue embeddings of sequences from a deepGPS's own encoder, for its evaluation."""

from typing import Any

import numpy as np
import torch

from protloc.batching import token_budget_batches
from training.deepgps.data import ProteinReader

Inputs = dict[str, torch.Tensor]


class EncodedProteins:
    """The encoder's residue embeddings of sequences, each computed once."""

    def __init__(self, model: Any, reader: ProteinReader, max_tokens: int):
        self.model, self.reader, self.max_tokens = model, reader, max_tokens
        self.known: dict[tuple[str, str], Inputs] = {}

    @torch.inference_mode()
    def add(self, proteins: list[tuple[str, str]]) -> None:
        """Pairs of sequence and accession."""
        new = [protein for protein in dict.fromkeys(proteins) if protein not in self.known]
        for part in token_budget_batches([len(sequence) for sequence, _ in new], self.max_tokens):
            inputs = self.reader([new[i][0] for i in part], [new[i][1] for i in part])
            inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
            if self.model.reads_sequence:
                embeddings = self.model.encode_sequence(inputs["input_ids"], inputs["attention_mask"])
            for row, i in enumerate(part):
                found: Inputs = {}
                if self.model.reads_sequence:
                    found["residue_embeddings"] = embeddings[row : row + 1, 1 : len(new[i][0]) + 1].clone()
                    found["residue_mask"] = torch.ones(found["residue_embeddings"].shape[:2], dtype=torch.bool)
                if self.model.reads_structure:
                    found["structure"] = inputs["structure"][row : row + 1]
                self.known[new[i]] = found

    def __getitem__(self, protein: tuple[str, str]) -> Inputs:
        return {name: tensor.to(self.model.device) for name, tensor in self.known[protein].items()}


@torch.inference_mode()
def label_probabilities(model: Any, encoded: EncodedProteins, proteins: list[tuple[str, str]]) -> np.ndarray:
    """`(proteins, labels)`."""
    encoded.add(proteins)
    return np.concatenate([model(**encoded[protein]).logits.softmax(dim=-1).cpu().numpy() for protein in proteins])
