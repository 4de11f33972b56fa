"""DeepLoc: convolutions, a bidirectional LSTM and an attention decoder over a protein's residues."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_deeploc import DeepLocConfig
from .protein_sequence import clean_sequence, left_out, shorten


@dataclass
class DeepLocModelOutput(ModelOutput):
    """
    Output of [`DeepLocModel`].

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(batch, length, 2 * lstm_size)`): Recurrent states, zero at
            padding.
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): The dense layer over the last context.
        attentions (`torch.FloatTensor` of shape `(batch, decoder_steps, length)`): Each step sums to 1 over the
            residues and is 0 at special tokens and padding.
    """

    last_hidden_state: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    attentions: torch.FloatTensor | None = None


@dataclass
class DeepLocClassifierOutput(ModelOutput):
    """
    Output of [`DeepLocForSequenceClassification`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): Localization loss plus weighted membrane loss, returned
            with `labels` or `membrane_labels`.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Calibrated; a sigmoid (multi-label) or softmax
            (single-label) makes them probabilities.
        membrane_logits (`torch.FloatTensor` of shape `(batch,)`): Calibrated; a sigmoid makes them the probability of
            a membrane protein.
        localizations (`torch.BoolTensor` of shape `(batch, num_labels)`): Labels that reach their threshold, or the
            most probable one where none does, as in the single-label case.
        membrane (`torch.BoolTensor` of shape `(batch,)`): Whether the membrane probability reaches its threshold.
        attentions (`torch.FloatTensor` of shape `(batch, decoder_steps, length)`): As in [`DeepLocModelOutput`].
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): As in [`DeepLocModelOutput`].
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    membrane_logits: torch.FloatTensor | None = None
    localizations: torch.BoolTensor | None = None
    membrane: torch.BoolTensor | None = None
    attentions: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None


class DeepLocConvolutions(nn.Module):
    """Motif detectors of several widths and an optional second convolution (report, 2.1). Padding stays zero."""

    def __init__(self, config: DeepLocConfig):
        super().__init__()
        self.motifs = nn.ModuleList(
            nn.Conv1d(config.embedding_size, config.conv_filters, width, padding=width // 2)
            for width in config.conv_widths
        )
        self.out_channels = config.conv_filters * len(config.conv_widths)
        self.second = None
        if config.second_conv_channels:
            width = config.second_conv_width
            self.second = nn.Conv1d(self.out_channels, config.second_conv_channels, width, padding=width // 2)
            self.out_channels = config.second_conv_channels

    def forward(self, embeddings: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        mask = mask.unsqueeze(1)  # (B, 1, L)
        hidden = embeddings.transpose(1, 2) * mask  # (B, E, L)
        hidden = torch.cat([F.relu(motif(hidden)) for motif in self.motifs], dim=1) * mask  # (B, W * F, L)
        if self.second is not None:
            hidden = F.relu(self.second(hidden)) * mask  # (B, C, L)
        return hidden.transpose(1, 2)


class DeepLocEncoder(nn.Module):
    """
    Bidirectional LSTM that never sees padding.

    The backward direction reads each protein reversed within its own length. That gives what `pack_padded_sequence`
    gives (a test holds them equal) and keeps the dense kernels, without which training on a CPU is many times slower
    (`benchmarks/benchmark_deeploc.py` measures it).
    """

    def __init__(self, config: DeepLocConfig, input_size: int):
        super().__init__()
        self.forward_lstm = nn.LSTM(input_size, config.lstm_size, batch_first=True)
        self.backward_lstm = nn.LSTM(input_size, config.lstm_size, batch_first=True)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        dtype = hidden.dtype
        hidden = hidden.to(next(self.forward_lstm.parameters()).dtype)
        positions = torch.arange(mask.shape[1], device=mask.device)
        lengths = mask.sum(dim=1, keepdim=True)
        reverse = torch.where(mask, lengths - 1 - positions, positions).unsqueeze(-1)  # (B, L, 1), its own inverse
        forward_states, _ = self.forward_lstm(hidden)
        backward_states, _ = self.backward_lstm(hidden.gather(1, reverse.expand_as(hidden)))
        backward_states = backward_states.gather(1, reverse.expand_as(backward_states))
        states = torch.cat([forward_states, backward_states], dim=-1) * mask.unsqueeze(-1)  # (B, L, 2H)
        return states.to(dtype)


class DeepLocAttentionDecoder(nn.Module):
    """An LSTM that looks at the protein several times; its last look is the protein's summary (report, 2.2.2)."""

    def __init__(self, config: DeepLocConfig):
        super().__init__()
        encoder_size = 2 * config.lstm_size
        self.steps = config.decoder_steps
        self.decoder_size = config.decoder_size
        self.key = nn.Linear(encoder_size, config.attention_size)
        self.query = nn.Linear(config.decoder_size, config.attention_size, bias=False)
        self.score = nn.Linear(config.attention_size, 1, bias=False)
        self.cell = nn.LSTMCell(encoder_size, config.decoder_size)
        self.gradient_checkpointing = False

    def attend(self, states, keys, query, residue_mask):
        scores = self.score(torch.tanh(keys + self.query(query).unsqueeze(1))).squeeze(-1).float()  # (B, L)
        weights = scores.masked_fill(~residue_mask, torch.finfo(torch.float32).min).softmax(dim=-1)
        weights = weights * residue_mask  # a sequence without residues attends to nothing
        context = torch.bmm(weights.to(states.dtype).unsqueeze(1), states).squeeze(1)  # (B, 2H)
        return context, weights

    def forward(self, states: torch.Tensor, residue_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = self.key(states)  # (B, L, A)
        query = states.new_zeros(states.shape[0], self.decoder_size)
        memory = torch.zeros_like(query)
        attentions = []
        for _ in range(self.steps):
            if self.gradient_checkpointing and self.training:
                # transformers sets the function when checkpointing is switched on
                checkpoint: Any = self._gradient_checkpointing_func
                context, weights = checkpoint(self.attend, states, keys, query, residue_mask)
            else:
                context, weights = self.attend(states, keys, query, residue_mask)
            query, memory = self.cell(context, (query, memory))
            attentions.append(weights)
        return context, torch.stack(attentions, dim=1)  # (B, 2H), (B, steps, L)


class DeepLocPreTrainedModel(PreTrainedModel):
    config_class = DeepLocConfig
    base_model_prefix = "deeploc"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    # Loaded in bfloat16, the recurrence stays in float32: rounded at each of a thousand steps it moved probabilities by
    # up to 0.02 in trials, all the rest in bfloat16 by less than 0.001.
    _keep_in_fp32_modules_strict = {"encoder"}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module):
        # torch's own initialization, as the recurrent layers need it; transformers' N(0, 0.02) trains slowly here.
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, (nn.LSTM, nn.LSTMCell)):
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
            init.zeros_(module.weight[module.padding_idx])

    def residue_mask(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Boolean mask `(batch, length)` of the residues, without special tokens and padding."""
        special = (input_ids == self.config.cls_token_id) | (input_ids == self.config.eos_token_id)
        return attention_mask.bool() & ~special


class DeepLocModel(DeepLocPreTrainedModel):
    """DeepLoc without heads: residues -> recurrent states, attention, and one vector a protein."""

    def __init__(self, config: DeepLocConfig):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.convolutions = DeepLocConvolutions(config)
        self.encoder = DeepLocEncoder(config, self.convolutions.out_channels)
        self.decoder = DeepLocAttentionDecoder(config)
        self.dense = nn.Linear(2 * config.lstm_size, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def get_input_embeddings(self):
        return self.embeddings

    def set_input_embeddings(self, value):
        self.embeddings = value

    @can_return_tuple
    def forward(
        self, input_ids: torch.LongTensor, attention_mask: torch.LongTensor | None = None, **kwargs
    ) -> DeepLocModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): Token ids, padded on the right. `<cls>` and
                `<eos>` mark the ends for the convolutions and the recurrence; only residues are attended to.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 1 for tokens, 0 for padding.
                Without it every token but `<pad>` counts.

        Returns:
            [`DeepLocModelOutput`]
        """
        mask = attention_mask.bool() if attention_mask is not None else input_ids != self.config.pad_token_id
        residue_mask = self.residue_mask(input_ids, mask)
        hidden = self.convolutions(self.embeddings(input_ids), mask)
        states = self.dropout(self.encoder(self.dropout(hidden), mask))
        context, attentions = self.decoder(states, residue_mask)
        pooled = self.dropout(F.relu(self.dense(context)))
        return DeepLocModelOutput(last_hidden_state=states, pooler_output=pooled, attentions=attentions)


class DeepLocForSequenceClassification(DeepLocPreTrainedModel):
    """DeepLoc with its localization and membrane heads; thresholds and calibration come from the configuration."""

    def __init__(self, config: DeepLocConfig):
        super().__init__(config)
        self.deeploc = DeepLocModel(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.membrane_classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def prepare_sequence(self, text: str) -> tuple[str, slice]:
        """
        Clean a sequence and apply the configuration's length policy.

        Returns:
            `tuple[str, slice]`: What the tokenizer should get, and the residues of the whole that were left out of it.

        Raises:
            ValueError: If the text is no protein sequence, or too long under the policy `"error"`.
        """
        whole = clean_sequence(text)
        read = shorten(whole, self.config.max_length, self.config.length_policy)
        return read, left_out(len(whole), self.config.max_length)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Calibrated logits `(batch, num_labels)` as probabilities: a sigmoid, or a softmax if single-label."""
        multi_label = self.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if multi_label else logits.softmax(dim=-1)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.LongTensor | None = None,
        labels: torch.Tensor | None = None,
        membrane_labels: torch.Tensor | None = None,
        **kwargs,
    ) -> DeepLocClassifierOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): As in [`DeepLocModel`].
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): As in [`DeepLocModel`].
            labels (`torch.Tensor`, *optional*): 0 / 1 of shape `(batch, num_labels)` for
                `multi_label_classification`, class indices of shape `(batch,)` for `single_label_classification`.
            membrane_labels (`torch.Tensor` of shape `(batch,)`, *optional*): 1 membrane, 0 soluble, -1 unknown
                (left out of the loss).

        Returns:
            [`DeepLocClassifierOutput`]
        """
        config = self.config
        outputs = self.deeploc(input_ids, attention_mask)
        # Probabilities are formed in float32 whatever the weights' type.
        logits = self.classifier(outputs.pooler_output).float()
        membrane_logits = self.membrane_classifier(outputs.pooler_output).squeeze(-1).float()
        logits = logits * logits.new_tensor(config.calibration_scale) + logits.new_tensor(config.calibration_bias)
        membrane_logits = membrane_logits * config.membrane_calibration_scale + config.membrane_calibration_bias

        most_probable = F.one_hot(logits.argmax(dim=-1), config.num_labels).bool()
        if config.problem_type == "multi_label_classification":
            localizations = self.probabilities(logits) >= logits.new_tensor(config.thresholds)
            localizations |= most_probable & ~localizations.any(dim=-1, keepdim=True)
        else:
            localizations = most_probable

        loss: Any = None
        if labels is not None:
            if config.problem_type == "multi_label_classification":
                weights = logits.new_tensor(config.positive_weights) if config.positive_weights else None
                loss = F.binary_cross_entropy_with_logits(logits, labels.to(logits), pos_weight=weights)
            else:
                loss = F.cross_entropy(logits, labels)
        if membrane_labels is not None:
            known = membrane_labels >= 0
            membrane_loss = F.binary_cross_entropy_with_logits(
                membrane_logits, membrane_labels.clamp(min=0).to(logits), weight=known.to(logits), reduction="sum"
            ) / known.sum().clamp(min=1)
            loss = config.membrane_loss_weight * membrane_loss + (0 if loss is None else loss)

        return DeepLocClassifierOutput(
            loss=loss,
            logits=logits,
            membrane_logits=membrane_logits,
            localizations=localizations,
            membrane=membrane_logits.sigmoid() >= config.membrane_threshold,
            attentions=outputs.attentions,
            pooler_output=outputs.pooler_output,
        )


DeepLocModel.register_for_auto_class("AutoModel")
DeepLocForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
