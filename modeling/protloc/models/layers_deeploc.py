"""Layers of DeepLoc: fixed residue features, convolutions, a recurrent encoder, and ways to sum a protein up."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils.generic import maybe_autocast

from .configuration_deeploc import SORTING_SIGNALS, DeepLocConfig
from .residue_features import residue_table


class ResidueTable(nn.Embedding):
    """Fixed numbers of each residue in place of a learned embedding."""

    def __init__(self, name: str):
        super().__init__(*residue_table(name).shape)
        self.name = name
        self.weight.requires_grad = False


class DeepLocConvolutions(nn.Module):
    """
    Motif detectors of several widths (report, 2.1) and a second convolution, each optional. Padding stays zero.
    """

    def __init__(self, config: DeepLocConfig, input_size: int):
        super().__init__()
        self.motifs = nn.ModuleList(
            nn.Conv1d(input_size, config.conv_filters, width, padding=width // 2) for width in config.conv_widths
        )
        self.out_channels = config.conv_filters * len(config.conv_widths) or input_size
        self.second = None
        if config.second_conv_channels:
            width = config.second_conv_width
            self.second = nn.Conv1d(self.out_channels, config.second_conv_channels, width, padding=width // 2)
            self.out_channels = config.second_conv_channels

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mask = mask.unsqueeze(1)  # (B, 1, L)
        hidden = embeddings.transpose(1, 2) * mask  # (B, E, L)
        if self.motifs:
            hidden = torch.cat([F.relu(motif(hidden)) for motif in self.motifs], dim=1) * mask  # (B, W * F, L)
        if self.second is not None:
            hidden = F.relu(self.second(hidden)) * mask  # (B, C, L)
        return hidden.transpose(1, 2)


class DeepLocEncoder(nn.Module):
    """
    Bidirectional LSTM that never sees padding.

    The backward direction reads each protein reversed within its own length. That gives what `pack_padded_sequence`
    gives (a test holds them equal) and keeps the dense kernels, without which training on a CPU is many times slower
    (`benchmarks/deeploc.py` measures it).
    """

    def __init__(self, config: DeepLocConfig, input_size: int):
        super().__init__()
        self.forward_lstm = nn.LSTM(input_size, config.lstm_size, batch_first=True)
        self.backward_lstm = nn.LSTM(input_size, config.lstm_size, batch_first=True)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        dtype = hidden.dtype
        # A quantized LSTM has no such weight, and takes what it gets.
        hidden = hidden.to(getattr(self.forward_lstm, "weight_ih_l0", hidden).dtype)
        batch, length = mask.shape
        positions = torch.arange(length, device=mask.device)
        reverse = torch.where(mask, mask.sum(dim=1, keepdim=True) - 1 - positions, positions)  # (B, L), its own inverse
        rows = (reverse + length * torch.arange(batch, device=mask.device).unsqueeze(1)).flatten()
        # Rounded at each of a thousand steps, the states would be others.
        with maybe_autocast(hidden.device.type, enabled=False):
            forward_states, _ = self.forward_lstm(hidden)
            # Whole rows at once: `gather` would look each number up.
            backward_states, _ = self.backward_lstm(hidden.flatten(0, 1).index_select(0, rows).view(batch, length, -1))
        backward_states = backward_states.flatten(0, 1).index_select(0, rows).view(batch, length, -1)
        states = torch.cat([forward_states, backward_states], dim=-1) * mask.unsqueeze(-1)  # (B, L, 2H)
        return states.to(dtype)


class DeepLocAttentionDecoder(nn.Module):
    """An LSTM that looks at the protein several times; its last look is the protein's summary (report, 2.2.2)."""

    def __init__(self, config: DeepLocConfig, encoder_size: int):
        super().__init__()
        self.steps = config.decoder_steps
        self.decoder_size = config.decoder_size
        self.out_features = encoder_size
        self.key = nn.Linear(encoder_size, config.attention_size)
        self.query = nn.Linear(config.decoder_size, config.attention_size, bias=False)
        self.energy = nn.Linear(config.attention_size, 1, bias=False)
        # The last context is read out, so that a single step needs no cell.
        self.cell: Any = nn.LSTMCell(encoder_size, config.decoder_size) if config.decoder_steps > 1 else None
        self.gradient_checkpointing = False

    def attend(self, states, keys, query, residue_mask):
        energies = self.energy(torch.tanh(keys + self.query(query).unsqueeze(1))).squeeze(-1).float()  # (B, L)
        weights = energies.masked_fill(~residue_mask, torch.finfo(torch.float32).min).softmax(dim=-1)
        weights = weights * residue_mask  # a sequence without residues attends to nothing
        context = torch.bmm(weights.to(states.dtype).unsqueeze(1), states).squeeze(1)  # (B, 2H)
        return context, weights

    def forward(self, states: torch.Tensor, residue_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = self.key(states)  # (B, L, A)
        query = states.new_zeros(states.shape[0], self.decoder_size)
        memory = torch.zeros_like(query)
        context = torch.zeros_like(states[:, 0])
        attentions = []
        for step in range(self.steps):
            if step > 0:
                query, memory = self.cell(context, (query, memory))
            if self.gradient_checkpointing and self.training:
                # transformers sets the function when checkpointing is switched on
                checkpoint: Any = self._gradient_checkpointing_func
                context, weights = checkpoint(self.attend, states, keys, query, residue_mask)
            else:
                context, weights = self.attend(states, keys, query, residue_mask)
            attentions.append(weights)
        return context, torch.stack(attentions, dim=1)  # (B, 2H), (B, steps, L)


class DeepLocLightAttention(nn.Module):
    """
    Light attention (Stärk et al. 2021): each channel has its own softmax over the residues, and its maximum beside it.
    """

    def __init__(self, config: DeepLocConfig, encoder_size: int):
        super().__init__()
        width, channels = config.light_attention_width, config.attention_size
        self.values = nn.Conv1d(encoder_size, channels, width, padding=width // 2)
        self.weights = nn.Conv1d(encoder_size, channels, width, padding=width // 2)
        self.dropout = nn.Dropout(config.dropout)
        self.out_features = 2 * channels

    def forward(self, states: torch.Tensor, residue_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mask = residue_mask.unsqueeze(1)  # (B, 1, L)
        hidden = states.transpose(1, 2) * mask  # (B, E, L)
        values = self.dropout(self.values(hidden))  # (B, C, L)
        lowest = torch.finfo(torch.float32).min
        weights = self.weights(hidden).float().masked_fill(~mask, lowest).softmax(dim=-1) * mask  # (B, C, L)
        largest = values.masked_fill(~mask, torch.finfo(values.dtype).min).amax(dim=-1)
        largest = largest * mask.any(dim=-1)  # a sequence without residues has no maximum
        context = torch.cat([(values * weights.to(values.dtype)).sum(dim=-1), largest], dim=-1)
        return context, weights.mean(dim=1, keepdim=True)  # (B, 2C), (B, 1, L)


class DeepLocRegions(nn.Module):
    """Mean states of the whole protein, of its first and of its last residues: many sorting signals stand there."""

    def __init__(self, config: DeepLocConfig, encoder_size: int):
        super().__init__()
        self.sizes = config.region_sizes
        self.norm = nn.LayerNorm(encoder_size)
        self.out_features = (1 + 2 * len(self.sizes)) * encoder_size

    def weights(self, residue_mask: torch.Tensor) -> torch.Tensor:
        """Weight `(batch, regions, length)` of each residue in each mean."""
        numbers = residue_mask.cumsum(dim=-1)  # 1 at the first residue
        regions = [residue_mask]
        for size in self.sizes:
            regions += [residue_mask & (numbers <= size), residue_mask & (numbers > numbers[:, -1:] - size)]
        weights = torch.stack(regions, dim=1).float()  # (B, R, L)
        return weights / weights.sum(dim=-1, keepdim=True).clamp(min=1)

    def means(self, states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Mean states `(batch, regions, size)` by the `weights` above."""
        return torch.bmm(weights, states.float())

    def join(self, means: torch.Tensor) -> torch.Tensor:
        """One vector `(batch, regions * size)` a protein."""
        return self.norm(means.to(self.norm.weight.dtype)).flatten(1)

    def forward(self, states: torch.Tensor, residue_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights = self.weights(residue_mask)
        return self.join(self.means(states, weights)), weights.mean(dim=1, keepdim=True)  # (B, RE), (B, 1, L)


POOLING: dict[str, Any] = {
    "decoder": DeepLocAttentionDecoder,
    "light_attention": DeepLocLightAttention,
    "regions": DeepLocRegions,
}


class DeepLocResidueHead(nn.Module):
    """
    Which sorting signal each residue belongs to, if any: the encoder's states beside the residue itself, and residual
    convolutions that widen, since states of the encoder blur where a signal ends.
    """

    def __init__(self, config: DeepLocConfig, encoder_size: int):
        super().__init__()
        size, width = config.residue_head_size, 9
        self.states = nn.Linear(encoder_size, size)
        self.residues = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.convolutions = nn.ModuleList(
            nn.Conv1d(size, size, width, padding=width // 2 * dilation, dilation=dilation) for dilation in (1, 2, 4)
        )
        self.signals = nn.Linear(size, 1 + len(SORTING_SIGNALS))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, states: torch.Tensor, input_ids: torch.Tensor, residue_mask: torch.Tensor) -> torch.Tensor:
        """Logits `(batch, length, 10)`: of no signal, and of each in the order of `SORTING_SIGNALS`."""
        mask = residue_mask.unsqueeze(1)  # (B, 1, L)
        hidden = F.relu(self.states(self.dropout(states)) + self.residues(input_ids)).transpose(1, 2) * mask
        for convolution in self.convolutions:
            hidden = hidden + F.relu(convolution(hidden)) * mask
        return self.signals(self.dropout(hidden.transpose(1, 2)))
