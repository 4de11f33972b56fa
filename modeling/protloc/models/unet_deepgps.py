"""The published image network of deepGPS, for comparison with `UNet2DConditionModel`."""

import torch
from torch import nn
from torch.nn import functional as F


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

    def forward(self, nucleus: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Nucleus `(batch, 1, H, W)` and protein vectors `(batch, keys, latent_size)` -> logits `(batch, 1, H, W)`."""
        skips = []
        hidden = nucleus
        for level, block in enumerate(self.down):
            hidden = block(F.max_pool2d(hidden, 2) if level else hidden)
            skips.append(hidden)
        places = hidden.flatten(2).transpose(1, 2)  # (B, h * w, C)
        fused = F.scaled_dot_product_attention(self.query(places), self.key(latents), self.value(latents))
        hidden = fused.transpose(1, 2).unflatten(2, hidden.shape[2:])
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            hidden = merge(torch.cat([up(hidden), skip], dim=1))
        return self.out(hidden)
