"""UniRep: a multiplicative LSTM that reads a protein residue by residue (Alley et al. 2019; Krause et al. 2016)."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.utils.generic import can_return_tuple

from .configuration_unirep import UniRepConfig
from .safetensors_model import SafetensorsModel

# Time steps that are computed at once: of more, what tokens contribute has to come from the system anew each time.
STEPS = 4


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

    def forward(
        self, multipliers: torch.Tensor, gates: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor, sizes: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `scan`; with gradient checkpointing, it is computed again when gradients are."""
        if self.gradient_checkpointing and self.training:
            # transformers sets the function when checkpointing is switched on
            checkpoint: Any = self._gradient_checkpointing_func
            return checkpoint(self.scan, multipliers, gates, hidden, cell, sizes)
        return self.scan(multipliers, gates, hidden, cell, sizes)


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

    def read(self, packed: PackedSequence) -> Iterator[torch.Tensor]:
        """
        Hidden states of packed tokens, of some steps at a time.

        Args:
            packed ([`PackedSequence`]): Tokens, all proteins' first before all proteins' second.

        Returns:
            `Iterator[torch.Tensor]`: States `(tokens, hidden_size)`, in the order of `packed.data`.
        """
        sizes = packed.batch_sizes.tolist()
        first, *upper = cast(Iterable[UniRepLayer], self.layers)
        # There are few different tokens: what they contribute is computed once and looked up.
        tables = first.multiplier_input(self.embeddings.weight), first.gates_input(self.embeddings.weight)
        hidden = self.embeddings.weight.new_zeros(sizes[0], self.config.hidden_size)
        carried = [(hidden, hidden.float())] * len(self.layers)  # of each layer, after the step before
        end = 0
        for step in range(0, len(sizes), STEPS):
            some = sizes[step : step + STEPS]
            ids = packed.data[end : (end := end + sum(some))]
            multipliers, gates = (F.embedding(ids, table) for table in tables)
            states, hidden, cell = first(multipliers, gates, *carried[0], some)
            carried[0] = hidden, cell
            for i, layer in enumerate(upper, 1):
                multipliers, gates = layer.multiplier_input(states), layer.gates_input(states)
                states, hidden, cell = layer(multipliers, gates, *carried[i], some)
                carried[i] = hidden, cell
            yield states

    def pack(self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor | None = None) -> PackedSequence:
        """The tokens as `read` takes them; arguments and errors as in `forward`."""
        if attention_mask is None:
            attention_mask = (input_ids != self.config.pad_token_id).long()
        mask = attention_mask.bool()
        lengths = mask.sum(dim=1)
        positions = torch.arange(mask.shape[1], device=mask.device)
        if not torch.equal(mask, positions < lengths[:, None]) or (lengths == 0).any():
            raise ValueError("UniRep reads one token or more of each protein, padded on the right")
        # Sorted by length: each step goes through the proteins that are not yet at their end.
        return pack_padded_sequence(input_ids, lengths.cpu(), batch_first=True, enforce_sorted=False)

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
        packed = self.pack(input_ids, attention_mask)
        data = torch.cat(list(self.read(packed)))
        states = PackedSequence(data, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
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
