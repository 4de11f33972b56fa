"""DeepLoc: convolutions, a bidirectional LSTM and an attention decoder over a protein's residues."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .companion_deeploc import CompanionMixin
from .configuration_deeploc import SORTING_SIGNALS, SORTING_TREE, DeepLocConfig
from .layers_deeploc import POOLING, DeepLocConvolutions, DeepLocEncoder, DeepLocResidueHead, ResidueTable
from .losses_deeploc import (
    attention_loss,
    known_label_loss,
    localization_loss,
    residue_signal_loss,
    tree_log_probabilities,
    tree_loss,
)
from .modeling_unirep import UniRepModel
from .pipeline_files import pipeline_beside
from .residue_features import RESIDUES, VOCABULARY, residue_table
from .safetensors_model import SafetensorsModel
from .windows_deeploc import WindowsMixin


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
        loss (`torch.FloatTensor` of shape `()`, *optional*): The weighted sum of the losses whose labels are given.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`): Calibrated; a sigmoid (multi-label) or softmax
            (single-label) makes them probabilities.
        membrane_logits (`torch.FloatTensor` of shape `(batch,)`, *optional*): Calibrated; a sigmoid gives the
            probability of a membrane protein. Present, like `membrane`, if the configuration has this head.
        localizations (`torch.BoolTensor` of shape `(batch, num_labels)`): Labels that reach their threshold; if none
            does, and for single-label models, the most probable label.
        membrane (`torch.BoolTensor` of shape `(batch,)`, *optional*): Whether the membrane probability reaches its
            threshold.
        tree_logits (`torch.FloatTensor` of shape `(batch, 9)`, *optional*): Decisions of the sorting tree, in the order
            of `SORTING_TREE`, if the configuration has one.
        signal_logits (`torch.FloatTensor` of shape `(batch, 9)`, *optional*): Sorting signals, in the order of
            `SORTING_SIGNALS`, if the configuration has them.
        residue_signal_logits (`torch.FloatTensor` of shape `(batch, length, 10)`, *optional*): For each token, logits
            of no signal and of each signal in the order of `SORTING_SIGNALS`; a softmax makes them probabilities.
        attentions (`torch.FloatTensor` of shape `(batch, decoder_steps, length)`): As in [`DeepLocModelOutput`].
        pooler_output (`torch.FloatTensor` of shape `(batch, hidden_size)`): As in [`DeepLocModelOutput`].
        hidden_states (`tuple[torch.FloatTensor]`, *optional*): `last_hidden_state` of [`DeepLocModelOutput`] alone.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    membrane_logits: torch.FloatTensor | None = None
    localizations: torch.BoolTensor | None = None
    membrane: torch.BoolTensor | None = None
    tree_logits: torch.FloatTensor | None = None
    signal_logits: torch.FloatTensor | None = None
    residue_signal_logits: torch.FloatTensor | None = None
    attentions: torch.FloatTensor | None = None
    pooler_output: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor] | None = None


def without_heads(backbone: Any) -> Any:
    """A transformers encoder without the parts that its states don't need: here they would never be trained."""
    for name in ("pooler", "contact_head"):
        if hasattr(backbone, name):
            setattr(backbone, name, None)
    return backbone


def build_backbone(config: Any) -> Any:
    """An untrained encoder of this configuration. Where protloc is not installed, no Auto class knows UniRep."""
    if config.model_type == "unirep":
        return UniRepModel(config)
    return without_heads(AutoModel.from_config(config, trust_remote_code=False))


class DeepLocPreTrainedModel(SafetensorsModel):
    config_class = DeepLocConfig
    base_model_prefix = "deeploc"
    main_input_name = "input_ids"
    # Loaded in bfloat16, the recurrence stays in float32: rounded at each of a thousand steps it moved probabilities by
    # up to 0.02 in trials, all the rest in bfloat16 by less than 0.001.
    _keep_in_fp32_modules_strict = {"forward_lstm", "backward_lstm"}  # noqa: RUF012

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
        elif isinstance(module, ResidueTable):
            init.copy_(module.weight, residue_table(module.name))
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
            init.zeros_(module.weight[module.padding_idx])

    def residue_mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Boolean mask `(batch, length)` of the residues, without special tokens and padding."""
        special = (input_ids == self.config.cls_token_id) | (input_ids == self.config.eos_token_id)
        return attention_mask.bool() & ~special


class DeepLocModel(DeepLocPreTrainedModel):
    """DeepLoc without heads: residues -> recurrent states, attention, and one vector per protein."""

    _keys_to_ignore_on_load_unexpected = [r"classifier", r"_head\."]  # noqa: RUF012  # of a checkpoint with heads

    def __init__(self, config: DeepLocConfig):
        super().__init__(config)
        if config.input_features == "profile":
            input_size = len(RESIDUES)
        elif config.input_features == "backbone":
            backbone_config: Any = config.backbone_config
            self.backbone = build_backbone(backbone_config)
            input_size = backbone_config.hidden_size
            if config.projection_size:
                self.projection = nn.Linear(input_size, config.projection_size)
                input_size = config.projection_size
        elif config.input_features == "embedding":
            self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
            input_size = config.embedding_size
        else:
            self.embeddings = ResidueTable(config.input_features)
            input_size = self.embeddings.embedding_dim
        self.convolutions = DeepLocConvolutions(config, input_size)
        encoder_size = self.convolutions.out_channels
        self.encoder = None
        if config.lstm_size:
            self.encoder = DeepLocEncoder(config, encoder_size)
            encoder_size = 2 * config.lstm_size
        self.decoder = POOLING[config.pooling](config, encoder_size)
        self.dense = nn.Linear(self.decoder.out_features, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.post_init()

    def get_input_embeddings(self):
        if self.config.input_features == "backbone":
            return self.backbone.get_input_embeddings()
        return None if self.config.input_features == "profile" else self.embeddings

    def set_input_embeddings(self, value):
        if self.config.input_features == "backbone":
            self.backbone.set_input_embeddings(value)
        else:
            self.embeddings = value

    def read_padding(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Ids `(batch, max_length + 2)` in the report's layout: all that is no known residue is padding, at the end."""
        config = self.config
        known = (input_ids >= VOCABULARY.index("L")) & (input_ids <= VOCABULARY.index("C"))  # the twenty amino acids
        input_ids = input_ids.masked_fill(~known, config.pad_token_id)
        missing = config.max_length + 2 - input_ids.shape[1]
        return F.pad(input_ids, (0, max(0, missing)), value=config.pad_token_id)

    def encode(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        profiles: torch.Tensor | None = None,
        residue_embeddings: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """States `(batch, length, size)` before the attention decoder, and the mask of what it may look at."""
        config = self.config
        if inputs_embeds is not None:
            return self._encode_embedded(inputs_embeds, attention_mask)
        if config.input_features == "backbone":
            return self._encode_with_backbone(input_ids, attention_mask, residue_embeddings)
        inputs: Any = profiles if config.input_features == "profile" else input_ids
        if attention_mask is not None:
            mask = attention_mask.bool()
        elif config.input_features == "profile":
            mask = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        else:
            mask = inputs != config.pad_token_id
        residue_mask = mask if config.input_features == "profile" else self.residue_mask(inputs, mask)

        if config.input_features == "profile":
            hidden = inputs.to(self.dtype)
        elif config.fixed_length:
            hidden = self.embeddings(self.read_padding(inputs))
            residue_mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        else:
            hidden = self.embeddings(inputs)
        seen = residue_mask if config.fixed_length else mask
        hidden = self.dropout(self.convolutions(hidden, seen))
        return self._recur(hidden, seen), residue_mask

    def _recur(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The recurrent states `(batch, length, 2 * lstm_size)` of what the convolutions found."""
        return self.dropout(self.encoder(hidden, mask)) if self.encoder is not None else hidden

    def _encode_embedded(
        self, hidden: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `encode`, from the embeddings of tokens, of which the first and the last of a protein are no residues."""
        if self.config.input_features in ("backbone", "profile") or self.config.fixed_length:
            raise ValueError("inputs_embeds needs a model with an embedding of residues of its own")
        mask = hidden.new_ones(hidden.shape[:2]).bool() if attention_mask is None else attention_mask.bool()
        numbers = mask.cumsum(dim=-1)
        states = self._recur(self.dropout(self.convolutions(hidden, mask)), mask)
        return states, mask & (numbers > 1) & (numbers < numbers[:, -1:])

    def _encode_with_backbone(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        residue_embeddings: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `encode`: of the backbone's states only those of residues count, computed now or before."""
        hidden: Any = residue_embeddings
        residue_mask: Any
        if hidden is None:
            inputs: Any = input_ids
            mask = attention_mask.bool() if attention_mask is not None else inputs != self.config.pad_token_id
            hidden = self.backbone(input_ids=inputs, attention_mask=mask.long()).last_hidden_state[:, 1:]
            residue_mask = self.residue_mask(inputs, mask)[:, 1:]
        elif attention_mask is None:
            residue_mask = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        else:
            residue_mask = attention_mask.bool()
        # Embeddings of a folder may be projected already; the backbone's own states never are.
        projected = residue_embeddings is not None and hidden.shape[-1] == self.config.projection_size
        if self.config.projection_size and not projected:
            hidden = self.projection(hidden)
        hidden = hidden.to(self.dense.weight.dtype)
        states = self._recur(self.dropout(self.convolutions(hidden, residue_mask)), residue_mask)
        if residue_embeddings is None:  # as long as the input again, with the token that begins it
            states, residue_mask = F.pad(states, (0, 0, 1, 0)), F.pad(residue_mask, (1, 0))
        return states, residue_mask

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        profiles: torch.FloatTensor | None = None,
        residue_embeddings: torch.FloatTensor | None = None,
        region_embeddings: torch.FloatTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs,
    ) -> DeepLocModelOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`): Token ids, padded on the right. `<cls>` and
                `<eos>` mark the ends for the convolutions and the recurrence; only residues are attended to.
            attention_mask (`torch.LongTensor` of shape `(batch, length)`, *optional*): 1 for tokens, 0 for padding.
                Without it, every token except `<pad>` counts, or every row of `profiles`.
            profiles (`torch.FloatTensor` of shape `(batch, length, 20)`): Instead of `input_ids` for input features
                `"profile"`: one row per residue, none for special tokens.
            residue_embeddings (`torch.FloatTensor` of shape `(batch, residues, size)`): Instead of `input_ids` for
                input features `"backbone"`: the backbone's states of residues, or their projection, as written by
                `protloc embed`; `attention_mask` is then over residues too.
            region_embeddings (`torch.FloatTensor` of shape `(batch, regions, size)`): Instead of `residue_embeddings`,
                for pooling `"regions"` without convolutions and recurrence: their means over the regions.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, length, embedding_size)`): Instead of `input_ids`: the
                output of `get_input_embeddings()` for them.

        Returns:
            [`DeepLocModelOutput`]

        Raises:
            ValueError: If a sequence is padded on the left.
        """
        if region_embeddings is not None:
            context = self.decoder.join(self.dropout(region_embeddings))
            return DeepLocModelOutput(pooler_output=self.dropout(F.relu(self.dense(context))))
        if attention_mask is not None or input_ids is not None:
            mask: Any = attention_mask if attention_mask is not None else input_ids != self.config.pad_token_id
            # The convolutions and the recurrence begin with the first column.
            if not (mask.is_meta or torch.compiler.is_compiling()) and not mask[:, 0].all():
                raise ValueError("a sequence begins with padding: pad on the right (padding_side='right')")
        states: Any
        states, residue_mask = self.encode(input_ids, attention_mask, profiles, residue_embeddings, inputs_embeds)
        context, attentions = self.decoder(states, residue_mask)
        pooled = self.dropout(F.relu(self.dense(context)))
        if self.config.fixed_length and input_ids is not None:  # as long as the input again
            states, attentions = states[:, : input_ids.shape[1]], attentions[..., : input_ids.shape[1]]
        return DeepLocModelOutput(last_hidden_state=states, pooler_output=pooled, attentions=attentions)


class DeepLocForSequenceClassification(DeepLocPreTrainedModel, WindowsMixin, CompanionMixin):
    """DeepLoc with its heads; thresholds and calibration come from the configuration."""

    tree_names = tuple(SORTING_TREE)
    signal_names = tuple(SORTING_SIGNALS)
    _keys_to_ignore_on_load_unexpected = [r"_head\."]  # noqa: RUF012  # left out of a model for other labels

    def __init__(self, config: DeepLocConfig):
        super().__init__(config)
        self.deeploc = DeepLocModel(config)
        self.tree_only = config.tree and config.problem_type == "single_label_classification"
        if not self.tree_only:
            self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        if config.membrane:
            self.membrane_head = nn.Linear(config.hidden_size, 1)
        if config.tree:
            self.tree_head = nn.Linear(config.hidden_size, len(SORTING_TREE))
        if config.signals:
            self.signal_head = nn.Linear(config.hidden_size, len(SORTING_SIGNALS))
        if config.residue_signals:
            states_size = 2 * config.lstm_size or self.deeploc.convolutions.out_channels
            self.residue_head = DeepLocResidueHead(config, states_size)
        self.companion: Any = None
        if config.companion_config:
            self.companion = DeepLocForSequenceClassification(DeepLocConfig(**config.companion_config))
        self.post_init()

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in `PreTrainedModel`, with the code of `pipeline("protein-localization")`."""
        impl = "pipeline_protein_localization.ProteinLocalizationPipeline"
        about = "protein-localization", impl, "AutoModelForSequenceClassification", "text"
        with pipeline_beside(self.config, save_directory, *about):
            super().save_pretrained(save_directory, *args, **kwargs)

    @classmethod
    def from_backbone_pretrained(cls, backbone: str, **config_fields) -> "DeepLocForSequenceClassification":
        """
        A new DeepLoc on a trained protein language model, as DeepLoc 2.0 on ESM-1b.

        Args:
            backbone (`str`): Folder or Hub name of a transformers encoder with its tokenizer, such as
                `"facebook/esm2_t33_650M_UR50D"` or `"Rostlab/prot_bert"`.
            config_fields: Fields of [`DeepLocConfig`].
        """
        tokenizer = AutoTokenizer.from_pretrained(backbone, trust_remote_code=False)
        eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        config = DeepLocConfig(
            input_features="backbone",
            backbone_config=AutoConfig.from_pretrained(backbone, trust_remote_code=False),
            vocab_size=len(tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            # UniRep begins with <start>, and knows an unknown residue but no mask.
            cls_token_id=tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id,
            eos_token_id=eos,
            mask_token_id=tokenizer.convert_tokens_to_ids(tokenizer.mask_token or "X"),
            spaced_residues=len(tokenizer.tokenize("MKV")) == 1,
            **config_fields,
        )
        model = cls(config)
        model.deeploc.backbone = without_heads(
            AutoModel.from_pretrained(backbone, use_safetensors=True, trust_remote_code=False)
        )
        return model

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Calibrated logits `(batch, num_labels)` as probabilities: a sigmoid, or a softmax if single-label."""
        multi_label = self.config.problem_type == "multi_label_classification"
        return logits.sigmoid() if multi_label else logits.softmax(dim=-1)

    def decide(
        self, logits: torch.Tensor, membrane_logits: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`localizations` and `membrane`, as in [`DeepLocClassifierOutput`], for calibrated logits."""
        most_probable = F.one_hot(logits.argmax(dim=-1), self.config.num_labels).bool()
        localizations = most_probable
        if self.config.problem_type == "multi_label_classification":
            localizations = self.probabilities(logits) >= logits.new_tensor(self.config.thresholds)
            localizations = localizations | (most_probable & ~localizations.any(dim=-1, keepdim=True))
        if membrane_logits is None:
            return localizations, None
        return localizations, membrane_logits.sigmoid() >= self.config.membrane_threshold

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        profiles: torch.FloatTensor | None = None,
        residue_embeddings: torch.FloatTensor | None = None,
        region_embeddings: torch.FloatTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        membrane_targets: torch.Tensor | None = None,
        signal_targets: torch.Tensor | None = None,
        signal_positions: torch.Tensor | None = None,
        output_hidden_states: bool = False,
        residue_signal_targets: torch.Tensor | None = None,
        **kwargs,
    ) -> DeepLocClassifierOutput:
        """
        Args:
            input_ids (`torch.LongTensor` of shape `(batch, length)`), attention_mask, profiles, residue_embeddings,
                region_embeddings, inputs_embeds: As in [`DeepLocModel`].
            labels (`torch.Tensor`, *optional*): 0 / 1 of shape `(batch, num_labels)`, or class indices of shape
                `(batch,)` for `single_label_classification`.
            membrane_targets (`torch.Tensor` of shape `(batch,)`, *optional*): 1 membrane, 0 soluble, -1 unknown
                (left out of the loss).
            signal_targets (`torch.Tensor` of shape `(batch, 9)`, *optional*): 1 if the protein has the sorting signal,
                0 if not, -1 if unknown.
            signal_positions (`torch.Tensor` of shape `(batch, length)`, *optional*): 1 at residues of a known signal.
            output_hidden_states (`bool`): Return `hidden_states` too.
            residue_signal_targets (`torch.Tensor` of shape `(batch, length)`, *optional*): The possible signals of each
                residue, as in `residue_signal_loss`.

        Returns:
            [`DeepLocClassifierOutput`]
        """
        config = self.config
        inputs = input_ids, attention_mask, profiles, residue_embeddings, region_embeddings, inputs_embeds
        outputs = self.deeploc(*inputs)
        # `Any` for mypy, which tells torch.FloatTensor from torch.Tensor.
        logits: Any
        losses: list[Any] = []
        # Probabilities are formed in float32 whatever the weights' type.
        pooled = outputs.pooler_output
        tree_logits: Any = self.tree_head(pooled).float() if config.tree else None
        signal_logits: Any = self.signal_head(pooled).float() if config.signals else None
        membrane_logits: Any = self.membrane_head(pooled).squeeze(-1).float() if config.membrane else None
        logits = tree_log_probabilities(tree_logits) if self.tree_only else self.classifier(pooled).float()
        attentions = outputs.attentions
        residue_signal_logits: Any = None
        if config.residue_signals and input_ids is not None:
            counted = attention_mask.bool() if attention_mask is not None else input_ids != config.pad_token_id
            residues = self.deeploc.residue_mask(input_ids, counted)  # type: ignore[arg-type]
            residue_signal_logits = self.residue_head(outputs.last_hidden_state, input_ids, residues).float()
        if self.companion is not None:
            other: Any = self.ask_companion(input_ids)  # type: ignore[arg-type]
            attentions, residue_signal_logits = other.attentions, other.residue_signal_logits
            logits = (logits + other.logits) / 2
            membrane_logits = (membrane_logits + other.membrane_logits) / 2 if config.membrane else None
            tree_logits = (tree_logits + other.tree_logits) / 2 if config.tree else None
            signal_logits = (signal_logits + other.signal_logits) / 2 if config.signals else None
        logits = logits * logits.new_tensor(config.calibration_scale) + logits.new_tensor(config.calibration_bias)
        if config.membrane:
            membrane_logits = membrane_logits * config.membrane_calibration_scale + config.membrane_calibration_bias

        if labels is not None:
            losses.append(localization_loss(logits, labels, config))
            if config.tree and not self.tree_only:
                losses.append(config.tree_loss_weight * tree_loss(tree_logits, labels))
        if membrane_targets is not None:
            losses.append(config.membrane_loss_weight * known_label_loss(membrane_logits, membrane_targets))
        if signal_targets is not None:
            losses.append(config.signal_loss_weight * known_label_loss(signal_logits, signal_targets))
        if residue_signal_targets is not None:
            losses.append(residue_signal_loss(residue_signal_logits, residue_signal_targets))
        if signal_positions is not None:
            attention = attentions[:, -1]
            losses.append(config.attention_loss_weight * attention_loss(attention, signal_positions))

        decisions: Any = self.decide(logits, membrane_logits)
        return DeepLocClassifierOutput(
            loss=sum(losses[1:], losses[0]) if losses else None,
            logits=logits,
            membrane_logits=membrane_logits,
            localizations=decisions[0],
            membrane=decisions[1],
            tree_logits=tree_logits,
            signal_logits=signal_logits,
            residue_signal_logits=residue_signal_logits,
            attentions=attentions,
            pooler_output=pooled,
            hidden_states=(outputs.last_hidden_state,) if output_hidden_states else None,
        )


DeepLocModel.register_for_auto_class("AutoModel")
DeepLocForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
