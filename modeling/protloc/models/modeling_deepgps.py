"""deepGPS: a protein's sequence (and structure) and a nucleus image -> its localization as a label and an image."""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .configuration_deepgps import DeepGPSConfig
from .drawing_deepgps import DrawingMixin
from .losses_deepgps import image_loss, place_loss
from .modeling_deeploc import DeepLocModel, build_backbone
from .pipeline_files import pipeline_beside
from .pointnet_deepgps import PointNet
from .safetensors_model import SafetensorsModel
from .sequence_encoder_deepgps import encode_sequence, load_backbone
from .unet_deepgps import make_unet

# diffusers is imported where it is needed: it takes more than a second, which those who want no image need not wait.
if TYPE_CHECKING:
    from diffusers import SchedulerMixin

# Layers that keep torch's own initialization: transformers' N(0, 0.02) stalls the image network.
OWN_INITIALIZATION = (
    nn.Linear,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Embedding,
)


@dataclass
class DeepGPSOutput(ModelOutput):
    """
    Output of [`DeepGPSModel`].

    Args:
        loss (`torch.FloatTensor` of shape `()`, *optional*): The weighted sum of the losses whose targets are given.
        logits (`torch.FloatTensor` of shape `(batch, num_labels)`, *optional*): Of the label head, if there is one.
        protein_image (`torch.FloatTensor` of shape `(batch, 1, H, W)`, *optional*): In [0, 1], of the nucleus's size;
            the mean if several samples are drawn. A diffusion model only returns it from `generate`.
        samples (`torch.FloatTensor` of shape `(batch, num_samples, 1, H, W)`, *optional*): The images drawn by
            `generate`.
        uncertainty (`torch.FloatTensor` of shape `(batch, 1, H, W)`, *optional*): Their standard deviation.
        attentions (`torch.FloatTensor` of shape `(batch, 1, length)`, *optional*): Weight of each token of the sequence
            in the pooled vector for the label; 0 at special tokens and padding, the rest sums to 1.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    protein_image: torch.FloatTensor | None = None
    samples: torch.FloatTensor | None = None
    uncertainty: torch.FloatTensor | None = None
    attentions: torch.FloatTensor | None = None


class SequencePooling(nn.Module):
    """From residues to one vector: their mean, or a mean with learned weights."""

    def __init__(self, config: DeepGPSConfig):
        super().__init__()
        self.score = None
        if config.pooling == "attention":
            size = config.latent_size
            hidden = max(1, size // 4)
            self.score = nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))

    def forward(self, latents: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents `(batch, length, size)` and mask `(batch, length)` -> vectors and weights `(batch, length)`."""
        scores = self.score(latents).squeeze(-1).float() if self.score else torch.zeros_like(mask, dtype=torch.float32)
        weights = scores.masked_fill(~mask, torch.finfo(torch.float32).min).softmax(dim=-1) * mask
        return torch.bmm(weights.to(latents.dtype).unsqueeze(1), latents).squeeze(1), weights


class DeepGPSPreTrainedModel(SafetensorsModel):
    config_class = DeepGPSConfig
    base_model_prefix = ""
    main_input_name = "nucleus"
    _keep_in_fp32_modules_strict = {"forward_lstm", "backward_lstm"}  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, DeepGPSModel) and module.null_latent is not None:
            init.normal_(module.null_latent, std=0.02)
        elif isinstance(module, OWN_INITIALIZATION):
            module.reset_parameters()


class DeepGPSModel(DeepGPSPreTrainedModel, DrawingMixin):
    """
    A protein and a nucleus -> a label and the protein's image in that cell (Yuan et al. 2025).

    The sequence encoder gives a latent vector for each residue, PointNet one for the structure. A perceptron predicts
    the label from the pooled vectors; the image network attends to the vectors and draws the protein on the nucleus.
    """

    def __init__(self, config: DeepGPSConfig):
        super().__init__(config)
        self.reads_sequence = "sequence" in config.inputs
        self.reads_structure = "structure" in config.inputs
        backbone_config: Any = config.backbone_config
        if self.reads_sequence:
            if backbone_config.model_type == "deeploc":
                self.backbone = DeepLocModel(backbone_config)
                # Only its residue embeddings are used; what comes behind them would never be trained.
                del self.backbone.decoder, self.backbone.dense
            else:
                self.backbone = build_backbone(backbone_config)
            if config.projection_size:
                self.projection = nn.Linear(config.sequence_size, config.projection_size)
            self.project = nn.Linear(config.residue_size, config.latent_size)
            self.pooling = SequencePooling(config)
        if self.reads_structure:
            self.pointnet = PointNet(config.latent_size)

        if config.classify:
            inputs = config.latent_size * (self.reads_sequence + self.reads_structure)
            sizes = [inputs, *config.classifier_sizes]
            layers: list[nn.Module] = []
            for size, following in itertools.pairwise(sizes):
                layers += [nn.Linear(size, following), nn.ReLU(), nn.Dropout(config.dropout)]
            self.classifier = nn.Sequential(*layers, nn.Linear(sizes[-1], config.num_labels))
            if config.condition_on_label:
                self.label_latent = nn.Linear(config.num_labels, config.latent_size, bias=False)

        # A learned vector beside the protein's; alone it stands for no protein at all.
        attends = config.unet == "condition" and config.condition_on_residues
        self.null_latent = nn.Parameter(torch.zeros(config.latent_size)) if attends else None
        self.unet = make_unet(config)
        self.post_init()

    @classmethod
    def from_backbone_pretrained(cls, backbone: str, **config_fields) -> "DeepGPSModel":
        """
        A new deepGPS around trained weights of its sequence encoder.

        Args:
            backbone (`str`): Folder or Hub name of a transformers encoder with its tokenizer, such as
                `"facebook/esm2_t33_650M_UR50D"`, or of a DeepLoc.
            config_fields: Fields of [`DeepGPSConfig`].
        """
        loaded, tokens = load_backbone(backbone)
        model = cls(DeepGPSConfig(backbone_config=loaded.config, **{**tokens, **config_fields}))
        if model.reads_sequence:
            model.backbone.load_state_dict(loaded.state_dict(), strict=False)  # but for its own heads
        return model

    def get_input_embeddings(self) -> nn.Module | None:
        """Of the sequence encoder; FSDP asks for them."""
        return self.backbone.get_input_embeddings() if self.reads_sequence else None

    def train(self, mode: bool = True) -> "DeepGPSModel":
        """As in `nn.Module`, but a frozen encoder has no dropout, so that its outputs are the same in training."""
        super().train(mode)
        if self.reads_sequence and not any(weight.requires_grad for weight in self.backbone.parameters()):
            self.backbone.eval()
        return self

    def encode_sequence(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The encoder's embeddings, or their projection, `(batch, length, residue_size)`, of any length."""
        states = encode_sequence(self.backbone, self.config, input_ids, attention_mask)
        return self.projection(states) if self.config.projection_size else states

    def residue_mask(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Boolean mask `(batch, length)` of the residues, without special tokens and padding."""
        special = (input_ids == self.config.cls_token_id) | (input_ids == self.config.eos_token_id)
        return attention_mask.bool() & ~special

    def read_protein(
        self, input_ids, attention_mask, residue_embeddings, residue_mask, structure
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Any]:
        """
        Encode the protein.

        Returns:
            `tuple`: Latents `(batch, keys, latent_size)` of residues and structure, their mask `(batch, keys)`, the
            pooled vectors `(batch, 1 or 2, latent_size)`, and the weights of the pooling.
        """
        latents, masks, pooled, weights = [], [], [], None
        if self.reads_sequence:
            if residue_embeddings is None:
                residue_mask = self.residue_mask(input_ids, attention_mask)
                residue_embeddings = self.encode_sequence(input_ids, attention_mask)
            residue_mask = residue_mask.bool()
            latents.append(self.project(residue_embeddings.to(self.project.weight.dtype)))  # (B, length, latent_size)
            masks.append(residue_mask)
            vector, weights = self.pooling(latents[0], residue_mask)  # (B, latent_size), (B, length)
            pooled.append(vector)
        if self.reads_structure:
            pooled.append(self.pointnet(structure.to(self.dtype)))  # (B, latent_size)
            latents.append(pooled[-1].unsqueeze(1))  # (B, 1, latent_size)
            masks.append(torch.ones_like(structure[:, :1, 0], dtype=torch.bool))
        return torch.cat(latents, dim=1), torch.cat(masks, dim=1), torch.stack(pooled, dim=1), weights

    def name_labels(self, logits: torch.Tensor) -> tuple[str, dict[str, float]]:
        """
        Logits `(num_labels,)` of one protein -> its label and the probability of every label.

        The label is the most probable one; for a multi-label model, all labels of 0.5 or more, joined by `|`.
        """
        multi_label = self.config.problem_type == "multi_label_classification"
        probabilities = (logits.sigmoid() if multi_label else logits.softmax(dim=-1)).tolist()
        scores = {self.config.id2label[i]: score for i, score in enumerate(probabilities)}
        ranked = sorted(scores, key=lambda label: -scores[label])
        chosen = [label for label in ranked if scores[label] >= 0.5] if multi_label else ranked[:1]
        return "|".join(chosen), scores

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers, with the code of `pipeline("protein-imaging")` and the sampler of a diffusion model."""
        about = "protein-imaging", "pipeline_protein_imaging.ProteinImagingPipeline", "AutoModel", "multimodal"
        with pipeline_beside(self.config, save_directory, *about):
            super().save_pretrained(save_directory, *args, **kwargs)
        if self.config.objective == "diffusion":
            self.scheduler.save_pretrained(save_directory)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        nucleus: torch.FloatTensor | None = None,
        structure: torch.FloatTensor | None = None,
        residue_embeddings: torch.FloatTensor | None = None,
        residue_mask: torch.Tensor | None = None,
        cell_line: torch.LongTensor | None = None,
        labels: torch.Tensor | None = None,
        protein: torch.FloatTensor | None = None,
        noise: torch.FloatTensor | None = None,
        **kwargs,
    ) -> DeepGPSOutput:
        """
        Args:
            input_ids, attention_mask (`torch.LongTensor` of shape `(batch, length)`): Of the sequence, padded on the
                right.
            nucleus (`torch.FloatTensor` of shape `(batch, 1, H, W)`, *optional*): In [0, 1]; without it, no image is
                drawn.
            structure (`torch.FloatTensor` of shape `(batch, points, 6)`): Point clouds from `protloc.structures`.
            residue_embeddings (`torch.FloatTensor` of shape `(batch, length, residue_size)`), residue_mask (`(batch,
                length)`): Precomputed embeddings of the residues by the encoder, or their projection, instead of
                `input_ids`.
            cell_line (`torch.LongTensor` of shape `(batch,)`, *optional*): Index into `config.cell_lines`; one past
                the end, which is also the default, is `unknown`.
            labels (`torch.Tensor`, *optional*): Class indices `(batch,)`, -100 if unknown; 0 / 1 if multi-label,
                `(batch, num_labels)`. An adversarial model draws these compartments; for an unknown label it draws no
                particular compartment.
            protein (`torch.FloatTensor` of shape `(batch, 1, H, W)`, *optional*): The real image, in [0, 1].
            noise (`torch.FloatTensor` of shape `(batch, noises, H, W)`, *optional*): Noise for an adversarial model,
                from `draw_noise`; by default that of seed 0, and in training new noise each time.

        Returns:
            [`DeepGPSOutput`]
        """
        config = self.config
        latents: Any = None
        mask, pooled, weights = latents, latents, latents
        # A network that is told the label alone learns from images whose protein isn't known.
        given = input_ids, residue_embeddings, structure
        if config.condition_on_residues or any(part is not None for part in given):
            latents, mask, pooled, weights = self.read_protein(
                input_ids, attention_mask, residue_embeddings, residue_mask, structure
            )
        losses: list[Any] = []
        logits: Any = None
        if config.classify and pooled is not None:
            logits = self.classifier(pooled.flatten(1)).float()  # (B, num_labels)
            if labels is not None:
                multi_label = config.problem_type == "multi_label_classification"
                loss = (
                    F.binary_cross_entropy_with_logits(logits, labels.to(logits))
                    if multi_label
                    else F.cross_entropy(logits, labels, reduction="sum") / (labels >= 0).sum().clamp(min=1)
                )
                losses.append(config.label_loss_weight * loss)

        protein_image: Any = None
        if nucleus is not None:
            line = self.known_cell_line(cell_line, nucleus)
            if config.objective == "adversarial":
                known = self.seen_of_protein(nucleus, latents, mask, pooled)
                seed = None if self.training else torch.Generator().manual_seed(0)
                beginning = self.draw_noise(nucleus, seed) if noise is None else noise
                protein_image = self.draw_from_noise(nucleus, beginning, *known, line, logits, labels)  # (B, 1, H, W)
                if protein is not None:
                    losses.append(config.image_loss_weight * place_loss(protein_image, protein.float()))
            elif config.objective == "regression":
                pooled = self.condition_on_label(pooled, logits, labels)
                drawn = self.draw_protein(nucleus, latents, mask, pooled, line)  # (B, 1, H, W)
                protein_image = drawn.sigmoid()  # (B, 1, H, W)
                if protein is not None:
                    losses.append(config.image_loss_weight * image_loss(drawn, protein.float(), config.image_loss))
            elif protein is not None:
                pooled = self.condition_on_label(pooled, logits, labels)
                loss = self.diffusion_loss(nucleus, protein, latents, mask, pooled, line)
                losses.append(config.image_loss_weight * loss)
        return DeepGPSOutput(
            loss=sum(losses[1:], losses[0]) if losses else None,
            logits=logits,
            protein_image=protein_image,
            attentions=weights.unsqueeze(1) if weights is not None else None,
        )

    @torch.no_grad()
    def generate(
        self,
        nucleus: torch.FloatTensor,
        num_samples: int = 1,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        scheduler: "SchedulerMixin | None" = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        structure: torch.FloatTensor | None = None,
        residue_embeddings: torch.FloatTensor | None = None,
        residue_mask: torch.Tensor | None = None,
        cell_line: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
    ) -> DeepGPSOutput:
        """
        Predict the label and draw the given number of image samples.

        A regression model always draws the same image, so its samples are equal and its uncertainty is 0.

        Args:
            nucleus, input_ids, attention_mask, structure, residue_embeddings, residue_mask, cell_line: As in `forward`.
            num_samples (`int`): Number of images per protein.
            num_inference_steps (`int`, *optional*), guidance_scale (`float`, *optional*): For diffusion; override the
                configuration.
            generator (`torch.Generator`, *optional*): Generator of the noise; the same seed gives the same samples, for
                a protein alone and in any batch.
            scheduler (`SchedulerMixin`, *optional*): Another diffusers sampler, made `from_config` of the model's own.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): Compartments that an adversarial model draws
                instead of the predicted ones; a model that is not conditioned on residues then needs no protein.

        Returns:
            [`DeepGPSOutput`] with `samples`, their mean as `protein_image`, and `uncertainty`.

        Raises:
            ValueError: For a number of samples or steps below 1, more steps than in training, labels that the model
                can't draw, and images or logits that are not finite.
        """
        config = self.config
        if num_samples < 1:
            raise ValueError(f"num_samples must be 1 or more, got {num_samples}")
        steps = config.num_inference_steps if num_inference_steps is None else num_inference_steps
        if not 1 <= steps <= config.diffusion_steps:
            raise ValueError(f"num_inference_steps must be from 1 to {config.diffusion_steps}, got {steps}")
        self.check_labels(labels, nucleus)
        latents: Any = None
        mask, pooled, weights, logits = latents, latents, latents, latents
        if labels is None or config.condition_on_residues:
            latents, mask, pooled, weights = self.read_protein(
                input_ids, attention_mask, residue_embeddings, residue_mask, structure
            )
            logits = self.classifier(pooled.flatten(1)).float() if config.classify else None
        line = self.known_cell_line(cell_line, nucleus)
        samples: Any
        if config.objective == "adversarial":
            seen = self.seen_of_protein(nucleus, latents, mask, pooled)
            noises = [self.draw_noise(nucleus, generator) for _ in range(num_samples)]
            drawn = [self.draw_from_noise(nucleus, noise, *seen, line, logits, labels) for noise in noises]
            samples = torch.stack(drawn, dim=1)
        elif config.objective == "regression":
            pooled = self.condition_on_label(pooled, logits)
            image = self.draw_protein(nucleus, latents, mask, pooled, line).sigmoid()
            samples = image.unsqueeze(1).expand(-1, num_samples, -1, -1, -1)
        else:
            scale = config.guidance_scale if guidance_scale is None else guidance_scale
            options = scheduler or self.scheduler, steps, scale, generator
            pooled = self.condition_on_label(pooled, logits)
            background = 2 * nucleus.to(self.dtype) - 1
            known = latents, mask, pooled, line
            samples = torch.stack([self.sample(background, *known, *options) for _ in range(num_samples)], dim=1)
        if not samples.isfinite().all() or (logits is not None and not logits.isfinite().all()):
            raise ValueError("the model answers with NaN or infinite numbers: its weights or its inputs are damaged")
        return DeepGPSOutput(
            logits=logits,
            protein_image=samples.mean(dim=1),
            samples=samples,
            uncertainty=samples.std(dim=1, correction=0),
            attentions=weights.unsqueeze(1) if weights is not None else None,
        )


DeepGPSModel.register_for_auto_class("AutoModel")
