"""PointNet (Qi et al. 2017): a vector from a cloud of atoms, whatever their order."""

import itertools

import torch
from torch import nn
from torch.nn import functional as F


class PointLayers(nn.Module):
    """The same small perceptron for every point, `(batch, points, in) -> (batch, points, out)`."""

    def __init__(self, *sizes: int):
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.norms = nn.ModuleList(nn.LayerNorm(size) for size in sizes[1:])

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        for linear, norm in zip(self.linears, self.norms, strict=True):
            points = F.relu(norm(linear(points)))
        return points


class Transform(nn.Module):
    """A square matrix for the whole cloud, predicted from it and added to the identity (T-Net)."""

    def __init__(self, size: int, hidden: int):
        super().__init__()
        self.size = size
        self.points = PointLayers(size, hidden, 2 * hidden, 4 * hidden)
        self.matrix = nn.Sequential(nn.Linear(4 * hidden, hidden), nn.ReLU(), nn.Linear(hidden, size * size))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        matrix = self.matrix(self.points(points).amax(dim=1)).unflatten(-1, (self.size, self.size))
        return points @ (matrix + torch.eye(self.size, dtype=points.dtype, device=points.device))


class PointNet(nn.Module):
    """
    Coordinates and channels `(batch, points, 6)` -> `(batch, latent_size)`.

    The input transform turns the three coordinates, the feature transform the 64 features of each point; the maximum
    over points makes the result independent of their order. LayerNorm stands in for BatchNorm, so that a protein alone
    and in a batch gives the same.
    """

    def __init__(self, latent_size: int, hidden: int = 64):
        super().__init__()
        self.input_transform = Transform(3, hidden)
        self.first = PointLayers(6, hidden, hidden)
        self.feature_transform = Transform(hidden, hidden)
        self.second = PointLayers(hidden, hidden, 2 * hidden, latent_size)

    def forward(self, cloud: torch.Tensor) -> torch.Tensor:
        cloud = torch.cat([self.input_transform(cloud[..., :3]), cloud[..., 3:]], dim=-1)
        return self.second(self.feature_transform(self.first(cloud))).amax(dim=1)
