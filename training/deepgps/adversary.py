"""The discriminator of an adversarial deepGPS, which learns to distinguish drawn images from real ones."""

import torch
from torch import nn
from torch.nn import functional as F


class Discriminator(nn.Module):
    """
    Patch discriminators at full, half and quarter size (Isola et al. 2017; Wang et al. 2018).

    Each looks at nucleus and protein, and has an output for every class, of which that of the image's class counts.
    """

    def __init__(self, num_labels: int, channels: int, scales: int = 3):
        super().__init__()
        self.num_labels = num_labels
        self.scales = nn.ModuleList(patch_discriminator(num_labels, channels) for _ in range(scales))

    def forward(self, nucleus: torch.Tensor, protein: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """
        Args:
            nucleus, protein (`torch.Tensor` of shape `(batch, 1, H, W)`): In [0, 1].
            labels (`torch.LongTensor` of shape `(batch,)`): Negative where unknown, which counts all outputs alike.

        Returns:
            `torch.Tensor` of shape `(batch, patches)`: 1 where a patch looks real, 0 where it looks drawn.
        """
        images = torch.cat([nucleus, protein], dim=1)
        own = F.one_hot(labels.clamp(min=0), self.num_labels).float()  # (B, num_labels)
        counted = torch.where(labels.unsqueeze(1) >= 0, own, torch.full_like(own, 1 / self.num_labels))
        found = []
        for level, scale in enumerate(self.scales):
            seen = F.avg_pool2d(images, 2**level) if level else images
            scores = scale(seen).float()  # (B, num_labels, h, w)
            found.append((scores * counted[:, :, None, None]).sum(dim=1).flatten(1))  # (B, h * w)
        return torch.cat(found, dim=1)


def patch_discriminator(num_labels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(2, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)),
        *(
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.InstanceNorm2d(2 * channels),
            nn.LeakyReLU(0.2),
        ),
        *(
            nn.Conv2d(2 * channels, 4 * channels, 4, stride=2, padding=1),
            nn.InstanceNorm2d(4 * channels),
            nn.LeakyReLU(0.2),
        ),
        *(nn.Conv2d(4 * channels, 4 * channels, 3, padding=1), nn.InstanceNorm2d(4 * channels), nn.LeakyReLU(0.2)),
        nn.Conv2d(4 * channels, num_labels, 3, padding=1),
    )


def discriminator_loss(real: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Least squares (Mao et al. 2017) of scores of real and of drawn images."""
    return (real - 1).square().mean() + drawn.square().mean()


def deception_loss(drawn: torch.Tensor) -> torch.Tensor:
    """How far the scores of drawn images are from those of real ones."""
    return (drawn - 1).square().mean()
