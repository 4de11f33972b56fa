"""
The image network of deepGPS: based on diffusers' `UNet2DConditionModel`, or the published network for comparison.

All are called with the image, the time step, the pooled vectors and the latents of the protein, and return the logits
of its image.
"""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_deepgps import DeepGPSConfig


def make_unet(config: DeepGPSConfig) -> Any:
    """
    The image network that a configuration asks for, with new weights.

    Returns:
        `PaperUNet`, `TextureUNet` or `UNet2DConditionModel`: Called as `PaperUNet.forward`.
    """
    if config.unet == "paper":
        return PaperUNet(list(config.unet_channels), config.latent_size)
    if config.objective == "adversarial":
        return TextureUNet(config)
    return make_patch_unet(
        config, (2 if config.objective == "diffusion" else 1) * config.patch_size**2, config.patch_size**2
    )


def make_patch_unet(config: DeepGPSConfig, in_channels: int, out_channels: int, **options) -> Any:
    """diffusers' network over patches; `options` are further arguments of it."""
    # diffusers takes more than a second to import, which those who want no image need not wait.
    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        raise ImportError("the image network needs diffusers: pip install diffusers, or protloc[images]") from None

    flat = min(2, len(config.unet_channels) - 1)  # levels without attention: at full size it costs much and sees little
    if not config.condition_on_residues:
        flat = len(config.unet_channels)
    attending = len(config.unet_channels) - flat
    return UNet2DConditionModel(
        sample_size=config.image_size // config.patch_size,
        in_channels=in_channels,
        out_channels=out_channels,
        down_block_types=["DownBlock2D"] * flat + ["CrossAttnDownBlock2D"] * attending,
        up_block_types=["CrossAttnUpBlock2D"] * attending + ["UpBlock2D"] * flat,
        mid_block_type="UNetMidBlock2DCrossAttn" if config.condition_on_residues else "UNetMidBlock2D",
        block_out_channels=config.unet_channels,
        layers_per_block=config.unet_layers,
        cross_attention_dim=config.latent_size,
        # The pooled vectors reach every block, with the time step; residues are attended to from a quarter down.
        time_cond_proj_dim=config.latent_size * len(config.inputs.split("+")),
        attention_head_dim=[max(1, size // config.attention_head_size) for size in config.unet_channels],
        norm_num_groups=math.gcd(32, *config.unet_channels),
        num_class_embeds=len(config.cell_lines) + 1 if config.cell_lines else None,
        **options,
    )


class TextureUNet(nn.Module):
    """
    A network that draws one of many possible images from noise, without a frame and with a weak grid only.

    diffusers' network works on patches. Convolutions then double the size until it is full, and see the nucleus and the
    noise at every size. They resize before they convolve, because transposed convolutions and pixel shuffling leave a
    grid (Odena et al. 2016), and pad by reflection, because zeros leave a frame.
    """

    def __init__(self, config: DeepGPSConfig):
        super().__init__()
        self.patch_size = config.patch_size
        seen, channels = 1 + len(config.noise_scales), config.head_channels
        self.patches = make_patch_unet(
            config, seen * config.patch_size**2, 2 * channels, resnet_time_scale_shift="scale_shift"
        )
        sizes = [config.patch_size // 2**level for level in range(1, config.patch_size.bit_length())]  # of a pixel
        self.enlarge = nn.ModuleList(
            nn.Conv2d((channels if level else 2 * channels) + seen * size**2, channels, 3, padding=1)
            for level, size in enumerate(sizes)
        )
        self.out = nn.Conv2d(channels if sizes else 2 * channels, 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.padding != (0, 0):
                module.padding_mode = "reflect"

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | int, **inputs) -> tuple[torch.Tensor]:
        """
        Args:
            sample (`torch.Tensor` of shape `(batch, 1 + noises, H, W)`): The nucleus, and noise.
            timestep, inputs: As of `UNet2DConditionModel`.

        Returns:
            `tuple`: Logits `(batch, 1, H, W)`.
        """
        # Convolutions of a CPU are several times faster with the channels beside each other, and so are GPUs' in bf16.
        sample = sample.contiguous(memory_format=torch.channels_last)
        patches = F.pixel_unshuffle(sample, self.patch_size).contiguous(memory_format=torch.channels_last)
        (hidden,) = self.patches(patches, timestep, **inputs)
        size = self.patch_size
        for enlarge in self.enlarge:
            size //= 2
            hidden = F.interpolate(F.silu(hidden), scale_factor=2, mode="bilinear")
            hidden = enlarge(torch.cat([hidden, F.pixel_unshuffle(sample, size)], dim=1))  # (B, C, H / size, W / size)
        return (self.out(F.silu(hidden)),)  # (B, 1, H, W)


def remove_grid(image: torch.Tensor, period: int) -> torch.Tensor:
    """
    An image `(batch, 1, H, W)` in [0, 1] without the pattern that repeats every `period` pixels over five periods.

    Pixels of a patch differ slightly by their position in it. The detail of an image, averaged over the same positions
    of the surrounding 5 x 5 patches, is this difference: the structure of a cell doesn't repeat.
    """
    before, after = (period - 1) // 2, period // 2
    detail = image - F.avg_pool2d(F.pad(image, (before, after, before, after), mode="replicate"), period, stride=1)
    around = F.pad(detail, (2 * period,) * 4, mode="replicate")
    grid = F.conv2d(around, image.new_full((1, 1, 5, 5), 1 / 25), dilation=period)
    return (image - grid).clamp(0, 1)


class DoubleConvolution(nn.Module):
    """Two 3 x 3 convolutions, each with normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class PaperUNet(nn.Module):
    """
    U-Net whose bottleneck attends to the protein (Yuan et al. 2025, "Generation task").

    The image's places are the queries; keys and values are the protein's vectors: one of the sequence, or two with the
    structure. With one key the softmax is 1 at every place, so that the bottleneck's image is replaced by the protein,
    and the nucleus reaches the output through the skips alone. That is the published design.
    """

    def __init__(self, channels: list[int], latent_size: int):
        super().__init__()
        self.down = nn.ModuleList(
            DoubleConvolution(a, b) for a, b in zip([1, *channels[:-1]], channels, strict=True)
        )  # full size, then half of it each
        deepest = channels[-1]
        self.query = nn.Linear(deepest, deepest)
        self.key = nn.Linear(latent_size, deepest)
        self.value = nn.Linear(latent_size, deepest)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.merge = nn.ModuleList(DoubleConvolution(2 * size, size) for size in channels[-2::-1])
        self.out = nn.Conv2d(channels[0], 1, 1)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | int,
        encoder_hidden_states: torch.Tensor,
        class_labels: torch.Tensor | None = None,
        *,
        timestep_cond: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None = None,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """
        The signature of `UNet2DConditionModel`; this network reads two of its inputs.

        Args:
            sample (`torch.Tensor` of shape `(batch, 1, H, W)`): The nucleus.
            timestep_cond (`torch.Tensor` of shape `(batch, keys * latent_size)`): The pooled vectors of the protein.

        Returns:
            `tuple`: Logits `(batch, 1, H, W)`.
        """
        pooled = timestep_cond.unflatten(1, (-1, self.key.in_features))  # (B, keys, latent_size)
        skips = []
        hidden = sample  # (B, 1, H, W)
        for level, block in enumerate(self.down):
            hidden = block(F.max_pool2d(hidden, 2) if level else hidden)  # (B, C_level, H / 2^level, W / 2^level)
            skips.append(hidden)
        places = hidden.flatten(2).transpose(1, 2)  # (B, h * w, C)
        fused = F.scaled_dot_product_attention(
            self.query(places), self.key(pooled), self.value(pooled)
        )  # (B, h * w, C)
        hidden = fused.transpose(1, 2).unflatten(2, hidden.shape[2:])  # (B, h * w, C) -> (B, C, h, w)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            hidden = merge(torch.cat([up(hidden), skip], dim=1))  # (B, C_level, H / 2^level, W / 2^level)
        return (self.out(hidden),)  # (B, 1, H, W)
