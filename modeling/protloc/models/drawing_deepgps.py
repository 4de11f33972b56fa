"""How a deepGPS draws: the inputs of its image network, and drawing in one pass, from noise, or in steps."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_deepgps import DeepGPSConfig
from .unet_deepgps import TextureUNet, remove_grid

# diffusers is imported where it is needed: it takes more than a second, which those who want no image need not wait.
if TYPE_CHECKING:
    from diffusers import DDIMScheduler

DRAWN = 3  # compartments that an adversarial model draws of a protein, each by itself


class DrawingMixin:
    """What a [`DeepGPSModel`] does with its image network."""

    config: DeepGPSConfig
    dtype: torch.dtype
    training: bool
    unet: Any
    null_latent: nn.Parameter | None
    label_latent: nn.Linear
    reads_sequence: bool
    reads_structure: bool

    def condition_on_label(self, pooled: torch.Tensor, logits: Any, labels=None) -> torch.Tensor:
        """
        Pooled vectors `(batch, 1 or 2, latent_size)` -> the same with an embedding of the label added.

        Without it, the image network draws the mean of all possible compartments of a protein, which looks like none of
        them.
        """
        if not self.config.condition_on_label:
            return pooled
        probabilities = (logits.detach() / self.config.label_temperature).softmax(dim=-1)  # (B, num_labels)
        if labels is not None and self.training:
            known = (labels >= 0).unsqueeze(-1)  # (B, 1)
            truth = F.one_hot(labels.clamp(min=0), self.config.num_labels).to(probabilities)  # (B, num_labels)
            probabilities = torch.where(known, truth, probabilities)
        return pooled + self.label_latent(probabilities.to(pooled)).unsqueeze(1)  # (B, 1 or 2, latent_size)

    def seen_of_protein(self, nucleus, latents, mask, pooled) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents, mask and pooled vectors for the image network: none of them without `condition_on_residues`."""
        if self.config.condition_on_residues:
            return latents, mask, pooled
        size, vectors = self.config.latent_size, self.reads_sequence + self.reads_structure
        nothing = nucleus.new_zeros((nucleus.shape[0], 0, size), dtype=self.dtype)
        return nothing, nothing[:, :, 0].bool(), nothing.new_zeros((nucleus.shape[0], vectors, size))

    def known_cell_line(self, cell_line, nucleus) -> torch.Tensor | None:
        """Indices of cell lines, `unknown` where none is given; `None` for a model without cell lines."""
        if not self.config.cell_lines:
            return None
        if cell_line is None:
            unknown = len(self.config.cell_lines)
            return torch.full((nucleus.shape[0],), unknown, dtype=torch.long, device=nucleus.device)
        return cell_line

    def check_labels(self, labels: torch.Tensor | None, nucleus: torch.Tensor) -> None:
        """`ValueError` for compartments that are not drawn as told."""
        if labels is None:
            return
        if self.config.objective != "adversarial" or not self.config.condition_on_label:
            raise ValueError(
                "this model draws no given labels: that takes objective 'adversarial' and condition_on_label"
            )
        if labels.shape != nucleus.shape[:1]:
            raise ValueError(f"give one label for each of {len(nucleus)} nuclei, not labels {tuple(labels.shape)}")
        wrong = labels[(labels < 0) | (labels >= self.config.num_labels)].tolist()
        if wrong:
            raise ValueError(f"the label {wrong[0]} is none of 0 to {self.config.num_labels - 1}")

    def draw(self, images, timestep, latents, mask, pooled, cell_line=None) -> torch.Tensor:
        """One pass of the image network over `(batch, channels, H, W)`, padded to what its scales divide."""
        height, width = images.shape[2:]
        multiple = self.config.patch_size * 2 ** (len(self.config.unet_channels) - 1)
        patch = 1 if isinstance(self.unet, TextureUNet) else self.config.patch_size  # which cuts patches itself
        # At least two pixels at the smallest scale: one can't be reflected or normalized.
        right, below = (max(-side % multiple, 2 * multiple - side) for side in (width, height))
        padded = F.pad(images, (0, right, 0, below), mode="replicate")
        if self.null_latent is not None:
            null = self.null_latent.expand(latents.shape[0], 1, -1)
            latents, mask = torch.cat([null, latents], dim=1), F.pad(mask, (1, 0), value=True)  # (B, 1 + keys, size)
        (drawn,) = self.unet(
            F.pixel_unshuffle(padded, patch),  # (B, channels * patch^2, H / patch, W / patch)
            timestep,
            encoder_hidden_states=latents,
            class_labels=cell_line,
            timestep_cond=pooled.flatten(1),
            encoder_attention_mask=mask,
            return_dict=False,
        )
        drawn = F.pixel_shuffle(drawn, patch)  # (B, 1, H, W), padded
        return drawn[:, :, :height, :width]

    def draw_protein(self, nucleus, latents, mask, pooled, cell_line) -> torch.Tensor:
        """
        Logits `(batch, 1, H, W)` of the protein's image, of a regression model.

        Outside training, the nucleus is reflected beyond its border by `drawing_margin`, and the probabilities of
        `drawing_shifts` drawings are averaged. In a drawing, pixels of a patch differ by their position in it. Each
        shift moves another position to the image's corner, so that every pixel is the mean of all positions, or of a
        diagonal.
        """
        config, patch = self.config, self.config.patch_size
        background = 2 * nucleus.to(self.dtype) - 1
        if self.training:
            return self.draw(background, 0, latents, mask, pooled, cell_line).float()
        height, width = nucleus.shape[2:]
        count = min(patch, config.drawing_shifts)  # shifts along a diagonal are drawn at once
        margin, drawings = max(config.drawing_margin, count - 1), []  # shifts take their pixels from the margin
        known = latents.repeat(count, 1, 1), mask.repeat(count, 1), pooled.repeat(count, 1, 1)
        lines = None if cell_line is None else cell_line.repeat(count)
        for diagonal in range(config.drawing_shifts // count):
            corners = [(margin + place, margin + (place + diagonal) % patch) for place in range(count)]
            padded = []
            for top, left in corners:
                pads = left, 2 * margin - left, top, 2 * margin - top
                mode = "reflect" if left < width and top < height else "replicate"
                padded.append(F.pad(background, pads, mode=mode))
            drawn = self.draw(torch.cat(padded), 0, *known, lines).float()  # (count * B, 1, H + ..., W + ...)
            for part, (top, left) in zip(drawn.unflatten(0, (count, -1)), corners, strict=True):
                drawings.append(part[:, :, top : top + height, left : left + width])
        if len(drawings) == 1:
            return drawings[0]
        return torch.stack(drawings).sigmoid().mean(dim=0).logit(eps=1e-6)

    def draw_noise(self, nucleus: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Noise `(batch, noises, H, W)`: a channel for each of `noise_scales`, smooth over so many pixels."""
        # What a seed draws for a protein must not depend on how many others are drawn with it.
        count, (height, width) = len(nucleus) if generator is None else 1, nucleus.shape[2:]
        place = generator.device if generator is not None else nucleus.device
        channels = []
        for scale in self.config.noise_scales:
            size = max(1, height // scale), max(1, width // scale)
            noise = torch.randn(count, 1, *size, generator=generator, device=place)
            channels.append(F.interpolate(noise, size=(height, width), mode="bilinear"))
        return torch.cat(channels, dim=1).expand(len(nucleus), -1, -1, -1).to(nucleus.device)

    def draw_from_noise(
        self, nucleus, noise, latents, mask, pooled, cell_line, logits: Any = None, labels: Any = None
    ) -> torch.Tensor:
        """
        Images `(batch, 1, H, W)` in [0, 1] of an adversarial model, from noise `(batch, noises, H, W)`.

        Draws the given labels, or else the most probable compartments by the logits. Each is drawn separately, and the
        image is their mean, because a network conditioned on a mixture draws an image that belongs to none of them.
        """
        images = torch.cat([2 * nucleus - 1, noise], dim=1).to(self.dtype)

        def drawn(told: torch.Tensor) -> torch.Tensor:
            image = self.draw(images, 0, latents, mask, told, cell_line).float().sigmoid()
            # The discriminator sees it as it is.
            return image if self.training else remove_grid(image, self.config.patch_size)

        if not self.config.condition_on_label:
            return drawn(pooled)
        if labels is not None:
            truth = F.one_hot(labels.clamp(min=0), self.config.num_labels) * (labels >= 0).unsqueeze(1)  # 0 if unknown
            return drawn(pooled + self.label_latent(truth.to(pooled)).unsqueeze(1))
        shares, likeliest = self.drawn_labels(logits)
        passes = []
        for share, label in zip(shares.unbind(dim=1), likeliest.unbind(dim=1), strict=True):
            truth = F.one_hot(label, self.config.num_labels).to(pooled)  # (B, num_labels)
            image = drawn(pooled + self.label_latent(truth).unsqueeze(1))
            passes.append(share[:, None, None, None] * image)
        return torch.stack(passes).sum(dim=0)

    def drawn_labels(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The most probable compartments, `DRAWN` or all, and their shares `(batch, compartments)`, which sum to 1."""
        probabilities = (logits.float() / self.config.label_temperature).softmax(dim=-1)
        shares, labels = probabilities.topk(min(DRAWN, self.config.num_labels), dim=-1)
        return shares / shares.sum(dim=-1, keepdim=True), labels

    @property
    def scheduler(self) -> "DDIMScheduler":
        """The sampler of a diffusion model; `save_pretrained` writes it beside the weights."""
        from diffusers import DDIMScheduler

        return DDIMScheduler(
            num_train_timesteps=self.config.diffusion_steps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            clip_sample=True,
        )

    def diffusion_loss(self, nucleus, protein, latents, mask, pooled, cell_line) -> torch.Tensor:
        """Squared error of the velocity at a random noise level; some images are drawn without the protein."""
        scheduler = self.scheduler
        clean = 2 * protein.to(self.dtype) - 1
        noise = torch.randn_like(clean)
        timestep = torch.randint(self.config.diffusion_steps, (len(clean),), device=clean.device)
        noisy = scheduler.add_noise(clean, noise, timestep)
        kept = torch.rand(len(clean), 1, device=clean.device) >= self.config.condition_dropout
        images = torch.cat([noisy, 2 * nucleus.to(clean) - 1], dim=1)  # (B, 2, H, W)
        drawn = self.draw(images, timestep, latents, mask & kept, pooled * kept.unsqueeze(-1), cell_line)
        return F.mse_loss(drawn.float(), scheduler.get_velocity(clean, noise, timestep).float())

    def sample(self, background, latents, mask, pooled, cell_line, scheduler, steps, scale, generator) -> torch.Tensor:
        """One image `(batch, 1, H, W)` in [0, 1] for each protein, from noise."""
        scheduler.set_timesteps(steps, device=background.device)
        place = generator.device if generator is not None else background.device
        # What a seed draws for a protein must not depend on how many others are drawn with it.
        shape = background.shape if generator is None else (1, *background.shape[1:])
        noise = torch.randn(shape, generator=generator, device=place, dtype=torch.float32)
        image = noise.expand(background.shape).to(background) * scheduler.init_noise_sigma
        for timestep in scheduler.timesteps:
            images = torch.cat([scheduler.scale_model_input(image, timestep), background], dim=1)  # (B, 2, H, W)
            velocity = self.draw(images, timestep, latents, mask, pooled, cell_line)
            if scale != 1:
                nothing = torch.zeros_like(mask), torch.zeros_like(pooled)
                free = self.draw(images, timestep, latents, *nothing, cell_line)
                velocity = free + scale * (velocity - free)
            image = scheduler.step(velocity, timestep, image).prev_sample
        return ((image.float() + 1) / 2).clamp(0, 1)
