"""Losses between a drawn protein image and the real one."""

import torch
from torch.nn import functional as F


def structural_similarity(one: torch.Tensor, other: torch.Tensor, window: int = 11, sigma: float = 1.5) -> torch.Tensor:
    """
    Mean SSIM (Wang et al. 2004) of images `(batch, 1, H, W)` in [0, 1], under a Gaussian window; differentiable.

    Returns:
        `torch.Tensor` of shape `(batch,)`.
    """
    distances = torch.arange(window, dtype=one.dtype, device=one.device) - window // 2
    weights = torch.exp(-(distances**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    kernel = (weights[:, None] * weights)[None, None]  # (1, 1, window, window)

    def blur(image):
        with torch.autocast(image.device.type, enabled=False):  # variances are small differences
            return F.conv2d(image, kernel)

    mean_one, mean_other = blur(one), blur(other)
    variance_one = blur(one * one) - mean_one**2
    variance_other = blur(other * other) - mean_other**2
    covariance = blur(one * other) - mean_one * mean_other
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_one * mean_other + c1) * (2 * covariance + c2)
    similarity = similarity / ((mean_one**2 + mean_other**2 + c1) * (variance_one + variance_other + c2))
    return similarity.mean(dim=(1, 2, 3))


def image_loss(logits: torch.Tensor, protein: torch.Tensor, kind: str) -> torch.Tensor:
    """
    Difference of a drawn image from the real one.

    Args:
        logits (`torch.Tensor` of shape `(batch, 1, H, W)`): Before the sigmoid.
        protein (`torch.Tensor` of shape `(batch, 1, H, W)`): In [0, 1].
        kind (`str`): `"mse"`, `"mae"`, `"bce"`, `"mae+ssim"` (MAE + 1 - SSIM) or `"mse+ssim"` (MSE + (1 - SSIM) / 10,
            which keeps the PSNR and makes the background black).
    """
    if kind == "bce":
        return F.binary_cross_entropy_with_logits(logits, protein)
    image = logits.sigmoid()
    if kind == "mse":
        return F.mse_loss(image, protein)
    if kind == "mse+ssim":
        return F.mse_loss(image, protein) + 0.1 * (1 - structural_similarity(image, protein).mean())
    loss = F.l1_loss(image, protein)
    return loss if kind == "mae" else loss + 1 - structural_similarity(image, protein).mean()


def place_loss(image: torch.Tensor, protein: torch.Tensor) -> torch.Tensor:
    """
    Mean absolute difference of images `(batch, 1, H, W)` in [0, 1], each smoothed over 16 pixels.

    It measures position and brightness, and leaves the texture to a discriminator.
    """
    return (F.avg_pool2d(image, 16, stride=8) - F.avg_pool2d(protein, 16, stride=8)).abs().mean()
