"""How far pictures are from real ones and from each other, in any features: Frechet distance, coverage, recall."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ..errors import EntropyLabError

Array = NDArray[Any]

NEIGHBOURS = 5
"""k of coverage and recall; Naeem et al. use 5, Kynkaanniemi et al. 3."""


def frechet_distance(features: Array, reference: Array) -> float:
    """Frechet distance of two sets of features (pictures, dimension).

    Raises:
        EntropyLabError: fewer than two pictures a feature on either side.

    Source: Heusel et al. 2017; paper, Table 1 (there with the features of Inception).
    """
    check_enough("samples", len(features), features.shape[1])
    check_enough("reference", len(reference), features.shape[1])
    return Moments(reference).distance(features)


class Moments:
    """Mean and covariance of real features (pictures, dimension), ready for the many distances of a bootstrap.

    By eigenvalues of symmetric matrices, in float64. torchmetrics gives the same from those of a product that is not
    symmetric, which takes several times as long.
    """

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


def needed(dimension: int) -> int:
    """How many pictures a Frechet distance in ``dimension`` features needs: two a dimension.

    With no more pictures than dimensions the covariance is singular, and the distance says what the count is rather
    than what the pictures are.
    """
    return 2 * dimension


def check_enough(name: str, count: int, dimension: int) -> None:
    """Raise an EntropyLabError that says how many pictures are needed."""
    if count < needed(dimension):
        raise EntropyLabError(
            f"{name} must be at least {needed(dimension)} pictures for a Frechet distance in {dimension} features, "
            f"two a feature. Got {count}."
        )


def pairwise_distance(distances: Array, chosen: Array) -> float:
    """Mean distance of two of the ``chosen`` pictures, from all distances (pictures, pictures); one that is chosen
    several times is at no distance from itself.
    """
    times = np.bincount(chosen, minlength=len(distances)).astype(float)
    return float(times @ distances @ times / (len(chosen) * (len(chosen) - 1)))


def within(features: Array, reference: Array, of_real: bool, neighbours: int = NEIGHBOURS) -> Array:
    """Whether each real picture and each generated one are near each other: (real, pictures).

    Near is what lies in the ball around the real picture that reaches its k-th real neighbour (``of_real``), or in the
    ball around the generated picture that reaches its k-th generated neighbour. The mean over real pictures of
    ``any(1)`` is the coverage with the former, the recall with the latter.

    Source: coverage, Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models", Eq. 6; recall,
    Kynkaanniemi et al. 2019, "Improved precision and recall metric for assessing generative models", Eqs. 1, 2.
    """
    centres = reference if of_real else features
    if len(centres) <= neighbours:
        raise EntropyLabError(f"features must be of more than {neighbours} pictures. Got {len(centres)}.")
    radii = np.partition(cdist(centres, centres), neighbours, axis=1)[:, neighbours]  # the 0th is the picture itself
    return cdist(reference, features) <= (radii[:, None] if of_real else radii[None])
