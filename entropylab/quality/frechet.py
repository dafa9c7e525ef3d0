"""The Frechet distance between two sets of features, as torchmetrics computes it, and on arrays for the bootstrap."""

import numpy as np
import torch
from torch import Tensor, nn

from .intervals import Array
from .reference import check_enough


class AsTheyAre(nn.Module):
    """Hands torchmetrics features that were extracted already."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.num_features = dimension

    def forward(self, features: Tensor) -> Tensor:
        """The features (batch, dimension)."""
        return features


def frechet_distance(features: Array, reference: Array) -> float:
    """Frechet distance of two sets of features (pictures, dimension), by torchmetrics.

    Raises:
        EntropyLabError: fewer than two pictures a feature on either side.

    Source: Heusel et al. 2017; paper, Table 1 (there with the features of Inception).
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    dimension = features.shape[1]
    check_enough("samples", len(features), dimension)
    check_enough("reference", len(reference), dimension)
    metric = FrechetInceptionDistance(feature=AsTheyAre(dimension))
    metric.update(torch.as_tensor(reference, dtype=torch.float64), real=True)
    metric.update(torch.as_tensor(features, dtype=torch.float64), real=False)
    return float(metric.compute())


class Moments:
    """Mean and covariance of real features, ready for many Frechet distances."""

    def __init__(self, reference: Array) -> None:
        self.mean, self.covariance = reference.mean(0), np.cov(reference, rowvar=False)
        self.trace = np.trace(self.covariance)
        values, vectors = np.linalg.eigh(self.covariance)
        self.root = (vectors * np.sqrt(values.clip(0))) @ vectors.T

    def distance(self, features: Array) -> float:
        """|difference of means|^2 + tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2), for features (pictures, dimension)."""
        covariance = np.cov(features, rowvar=False)
        mixed = np.linalg.eigvalsh(self.root @ covariance @ self.root).clip(0)
        shift = ((features.mean(0) - self.mean) ** 2).sum()
        return float(shift + self.trace + np.trace(covariance) - 2 * np.sqrt(mixed).sum())
