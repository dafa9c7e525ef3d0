"""How different the pictures are from each other, and how much of what is real they reach."""

import numpy as np
from scipy.spatial.distance import cdist

from ..errors import EntropyLabError
from .intervals import Array

NEIGHBOURS = 5
"""k of both definitions; Naeem et al. use 5, Kynkaanniemi et al. 3."""


def pairwise_distance(distances: Array, chosen: Array) -> float:
    """Mean distance of two of the ``chosen`` pictures, from all distances (pictures, pictures); one that is chosen
    several times is at no distance from itself.
    """
    times = np.bincount(chosen, minlength=len(distances)).astype(float)
    return float(times @ distances @ times / (len(chosen) * (len(chosen) - 1)))


def radii(features: Array, neighbours: int = NEIGHBOURS) -> Array:
    """Distance of each of some features (pictures, dimension) to its k-th nearest neighbour among the others."""
    if len(features) <= neighbours:
        raise EntropyLabError(f"features must be of more than {neighbours} pictures. Got {len(features)}.")
    return np.partition(cdist(features, features), neighbours, axis=1)[:, neighbours]  # the 0th is the picture itself


def within_real(features: Array, reference: Array, neighbours: int = NEIGHBOURS) -> Array:
    """Whether each picture lies in the ball around each real one, to its k-th real neighbour: (real, pictures)."""
    return cdist(reference, features) <= radii(reference, neighbours)[:, None]


def within_generated(features: Array, reference: Array, neighbours: int = NEIGHBOURS) -> Array:
    """Whether each real picture lies in the ball around each generated one that reaches its k-th generated neighbour:
    (real, pictures).
    """
    return cdist(reference, features) <= radii(features, neighbours)[None]


def coverage(features: Array, reference: Array, neighbours: int = NEIGHBOURS) -> float:
    """Share of real pictures whose neighbourhood among the real holds a generated one.

    Source: Naeem et al. 2020, "Reliable fidelity and diversity metrics for generative models", Eq. 6.
    """
    return float(within_real(features, reference, neighbours).any(1).mean())


def recall(features: Array, reference: Array, neighbours: int = NEIGHBOURS) -> float:
    """Share of real pictures in the neighbourhood of some generated one.

    Source: Kynkaanniemi et al. 2019, "Improved precision and recall metric for assessing generative models", Eqs. 1, 2.
    """
    return float(within_generated(features, reference, neighbours).any(1).mean())
