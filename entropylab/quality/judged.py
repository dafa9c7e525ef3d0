"""What is kept of the pictures of one size and method, and the figures that follow from it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from . import diversity
from .frechet import Moments, frechet_distance
from .intervals import Array
from .reference import Reference, needed

MOST_COMPARED = 5000
"""Pictures, and as many real ones, that diversity is measured of at most: it compares all with all."""

Estimate = Callable[[Array], float]
"""A figure from the indices (pictures,) of the pictures that count, some of which may be there several times."""


@dataclass(frozen=True)
class Judged:
    """Pictures of one size and method, as far as figures need them.

    Attributes:
        features: (pictures, dimension).
        scores: cosines with the prompts (pictures,), or None.
        defects: measure of a defect (pictures,) by name.
    """

    features: Array | None = None
    scores: Array | None = None
    defects: dict[str, Array] | None = None


def joined(parts: Sequence[Judged]) -> Judged:
    """What is kept of batches, as of all their pictures."""

    def all_of(values: Sequence[Array | None]) -> Array | None:
        known = [value for value in values if value is not None]
        return np.concatenate(known) if known else None

    defects = [part.defects for part in parts if part.defects is not None]
    by_name = {name: np.concatenate([one[name] for one in defects]) for name in defects[0]} if defects else None
    return Judged(all_of([part.features for part in parts]), all_of([part.scores for part in parts]), by_name)


UNITS = {
    "fid": ("1", "Frechet distance to real pictures, less is better"),
    "clip_score": ("1", "CLIP score, mean cosine of picture and prompt, more is better"),
    "pairwise_distance": ("1", "Mean distance of two pictures in the features"),
    "coverage": ("1", "Coverage, share of real pictures with a generated one near, more is better"),
    "recall": ("1", "Recall, share of real pictures near a generated one, more is better"),
    "disagreement": ("1", "1 - cosine of picture and prompt, rises with incompleteness"),
    "cut": ("1", "Share of the frame's edge that is not background, rises with incompleteness"),
    "excess_agreement": (
        "1",
        "Agreement of the second-best disjoint part less that of the whole, rises with repetition",
    ),
    "self_similarity": ("1", "Highest autocorrelation of the edges, rises with repetition"),
    "time": ("s", "Time per picture"),
    "memory": ("MiB", "Peak memory"),
    "memory_added": ("MiB", "Peak memory above what was there before sampling, the weights among it"),
}
"""Unit and name of every figure."""

FIGURES = {
    "fid": ("fid",),
    "clip": ("clip_score",),
    "diversity": ("pairwise_distance", "coverage", "recall"),
    "defects": ("disagreement", "cut", "excess_agreement", "self_similarity"),
    "time": ("time",),
    "memory": ("memory", "memory_added"),
}
"""The figures of every metric that `entropylab.evaluate` knows."""

COSTS = (*FIGURES["time"], *FIGURES["memory"])
"""Figures that are not of the pictures."""


def estimates(judged: Judged, reference: Reference | None, metrics: Sequence[str]) -> dict[str, Estimate]:
    """Every figure of ``metrics`` but time and memory as a function of the indices that count."""
    found: dict[str, Estimate] = {}
    if judged.features is not None and reference is not None:
        found |= of_features(judged.features, reference.features, metrics)
    if judged.scores is not None and "clip" in metrics:
        found["clip_score"] = mean_of(judged.scores)
    return found | {name: mean_of(values) for name, values in (judged.defects or {}).items()}


def of_features(features: Array, reference: Array, metrics: Sequence[str]) -> dict[str, Estimate]:
    """Frechet distance and diversity.

    The balls of recall are those of all pictures, whichever are drawn: drawn twice, a picture would be its own nearest
    neighbour.
    """
    found: dict[str, Estimate] = {}
    if "fid" in metrics:
        moments = Moments(reference)
        found["fid"] = lambda chosen: moments.distance(features[chosen])
    if "diversity" in metrics:
        compared, real = features[:MOST_COMPARED], reference[:MOST_COMPARED]
        distances = cdist(compared, compared)
        near_real = diversity.within_real(compared, real)
        near_generated = diversity.within_generated(compared, real)

        def of(chosen: Array) -> Array:
            return chosen[chosen < len(compared)]

        found["pairwise_distance"] = lambda chosen: diversity.pairwise_distance(distances, of(chosen))
        found["coverage"] = lambda chosen: float(near_real[:, of(chosen)].any(1).mean())
        found["recall"] = lambda chosen: float(near_generated[:, of(chosen)].any(1).mean())
    return found


def mean_of(values: Array) -> Estimate:
    """The mean over pictures."""
    return lambda chosen: float(values[chosen].mean())


def of_real(reference: Reference, count: int, metrics: Sequence[str], seed: int) -> dict[str, float]:
    """The same figures of as many real pictures against the others; empty if there are too few."""
    features = reference.features
    if len(features) - count < max(needed(features.shape[1]), count):
        return {}
    chosen = some_of(len(features), count, reference.copies, seed)
    others = np.setdiff1d(np.arange(len(features)), chosen)
    found = of_features(features[chosen], features[others], metrics)
    values = {name: estimate(np.arange(count)) for name, estimate in found.items()}
    if "fid" in values:
        values["fid"] = frechet_distance(features[chosen], features[others])
    wanted = {name for metric in metrics for name in FIGURES[metric]}
    return values | {name: float(all_of.mean()) for name, all_of in reference.measures.items() if name in wanted}


def some_of(pictures: int, count: int, copies: int, seed: int) -> Array:
    """Indices of ``count`` of the pictures at random: different ones, as far as there are as many, not their copies."""
    rng = np.random.default_rng(seed)
    different = pictures // copies
    return rng.permutation(different)[:count] * copies if count <= different else rng.permutation(pictures)[:count]
