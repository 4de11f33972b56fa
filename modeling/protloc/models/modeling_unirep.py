"""UniRep: a multiplicative LSTM that reads a protein residue by residue (Alley et al. 2019; Krause et al. 2016)."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.utils.generic import can_return_tuple

from .configuration_unirep import UniRepConfig
from .safetensors_model import SafetensorsModel

STEPS = 16  # time steps whose input products are computed at once: enough for the product, few enough for the caches


class UniRepLayer(nn.Module):
    """
    One multiplicative LSTM (Krause et al. 2016, equations 6 to 8): the input chooses the recurrent transition.

    The published weights are normalized by row; here they are stored as the products that this comes to.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.multiplier_input = nn.Linear(input_size, hidden_size, bias=False)
        self.multiplier_hidden = nn.Linear(hidden_size, hidden_size, bias=False)
        self.gates_input = nn.Linear(input_size, 4 * hidden_size)  # input, forget, output, update
        self.gates_hidden = nn.Linear(hidden_size, 4 * hidden_size, bias=False)
        self.gradient_checkpointing = False

    def scan(
        self, multipliers: torch.Tensor, gates: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor, sizes: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Some time steps of packed sequences.

        Args:
            multipliers (`torch.Tensor` of shape `(tokens, hidden_size)`), gates (`(tokens, 4 * hidden_size)`): What the
                tokens of these steps contribute, all proteins' first token before all proteins' second.
            hidden, cell (`torch.Tensor` of shape `(proteins, hidden_size)`): States after the step before.
            sizes (`list[int]`): Proteins that each step goes through; never more than in the step before.

        Returns:
            `tuple`: Hidden states `(tokens, hidden_size)`; `hidden` and `cell` after the last step.
        """
        states = []
        for multiplier, gate in zip(multipliers.split(sizes), gates.split(sizes), strict=True):
            hidden, cell = hidden[: len(gate)], cell[: len(gate)]
            summed = gate + self.gates_hidden(multiplier * self.multiplier_hidden(hidden))  # (P, 4H)
            # A cell sums over the whole protein: it stays in float32.
            i, f, o, u = summed.float().chunk(4, dim=-1)
            cell = f.sigmoid() * cell + i.sigmoid() * u.tanh()
            hidden = (o.sigmoid() * cell.tanh()).to(gate.dtype)
            states.append(hidden)
        return torch.cat(states), hidden, cell

    def forward(self, inputs: torch.Tensor, ids: torch.Tensor | None, batch_sizes: list[int]) -> torch.Tensor:
        """
        Args:
            inputs (`torch.Tensor` of shape `(tokens, input_size)`): In the order of `PackedSequence.data`; with `ids`,
                the embedding `(vocab_size, input_size)`.
            ids (`torch.LongTensor` of shape `(tokens,)`, *optional*): Tokens in that order. There are few different
                ones, so that their products are computed once and looked up.
            batch_sizes (`list[int]`): As in `PackedSequence`.

        Returns:
            `torch.Tensor` of shape `(tokens, hidden_size)`.
        """
        if ids is not None:
            tables = self.multiplier_input(inputs), self.gates_input(inputs)  # (V, H), (V, 4H)
        hidden = inputs.new_zeros(batch_sizes[0], self.multiplier_hidden.in_features)
        cell = hidden.float()
        states, start = [], 0
        for step in range(0, len(batch_sizes), STEPS):
            sizes = batch_sizes[step : step + STEPS]
            part = slice(start, start := start + sum(sizes))
            if ids is not None:
                multipliers, gates = (F.embedding(ids[part], table) for table in tables)
            else:
                multipliers, gates = self.multiplier_input(inputs[part]), self.gates_input(inputs[part])
            if self.gradient_checkpointing and self.training:
                # transformers sets the function when checkpointing is switched on
                checkpoint: Any = self._gradient_checkpointing_func
                found, hidden, cell = checkpoint(self.scan, multipliers, gates, hidden, cell, sizes)
            else:
                found, hidden, cell = self.scan(multipliers, gates, hidden, cell, sizes)
            states.append(found)
        return torch.cat(states)


class UniRepPreTrainedModel(SafetensorsModel):
    config_class = UniRepConfig
    base_model_prefix = "unirep"
    main_input_name = "input_ids"

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            init.xavier_normal_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)


class UniRepModel(UniRepPreTrainedModel):
    """UniRep without its head: residues -> hidden states. A residue's state depends only on the residues before it."""

    _keys_to_ignore_on_load_unexpected = [r"lm_head"]  # noqa: RUF012  # of a checkpoint with the head

    def __init__(self, config: UniRepConfig):
        super().__init__(config)
        # The published weights have a row of padding too, never read.
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        sizes = [config.embedding_size] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(UniRepLayer(size, config.hidden_size) for size in sizes)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings

    def set_input_embeddings(self, value):
        self.embeddings = value

    @can_return_tuple
    def forward(
        self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor | None = None, **kwargs
    ) -> BaseModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): Token ids, padded on the right: `<start>`, then
                the residues, and no stop.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 1 for tokens, 0 for padding.
                Without it, every token except padding counts.

        Returns:
            [`BaseModelOutput`]: `last_hidden_state` of shape `(batch, length, hidden_size)`, zero at padding.

        Raises:
            ValueError: For a protein without tokens, or with padding that is not on the right.
        """
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        mask = attention_mask.bool()
        lengths = mask.sum(dim=1)
        positions = torch.arange(mask.shape[1], device=mask.device)
        if not torch.equal(mask, positions < lengths[:, None]) or (lengths == 0).any():
            raise ValueError("UniRep reads one token or more of each protein, padded on the right")
        # Sorted by length: each step goes through the proteins that are not yet at their end.
        packed = pack_padded_sequence(input_ids, lengths.cpu(), batch_first=True, enforce_sorted=False)
        sizes = packed.batch_sizes.tolist()
        states = self.layers[0](self.embeddings.weight, packed.data, sizes)
        for layer in self.layers[1:]:
            states = layer(states, None, sizes)
        states = PackedSequence(states, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        hidden, _ = pad_packed_sequence(states, batch_first=True, total_length=input_ids.shape[1])
        return BaseModelOutput(last_hidden_state=hidden)


class UniRepForCausalLM(UniRepPreTrainedModel):
    """UniRep with its head, which predicts the next residue."""

    def __init__(self, config: UniRepConfig):
        super().__init__(config)
        self.unirep = UniRepModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size - 1)  # any token but padding
        self.post_init()

    def get_output_embeddings(self):
        return None  # its rows are not the vocabulary's

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs,
    ) -> CausalLMOutput:
        """
        Args:
            input_ids, attention_mask: As in [`UniRepModel`].
            labels (`torch.LongTensor` of shape `(batch, length)`, *optional*): The tokens, and -100 for tokens that
                don't count; the model shifts them by one.

        Returns:
            [`CausalLMOutput`]: `logits` of shape `(batch, length, vocab_size)` of the next token, the lowest number for
            padding; `loss`, the mean cross-entropy in nats, if labels are given.
        """
        hidden = self.unirep(input_ids, attention_mask).last_hidden_state
        logits = self.lm_head(hidden).float()
        logits = F.pad(logits, (1, 0), value=torch.finfo(torch.float32).min)  # (B, L, V)
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return CausalLMOutput(loss=loss, logits=logits)


UniRepModel.register_for_auto_class("AutoModel")
UniRepForCausalLM.register_for_auto_class("AutoModelForCausalLM")
