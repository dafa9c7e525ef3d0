"""The Dataset of an evaluation: figures with their bootstrap errors, and how they change against the first rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.spatial.distance import cdist
from scipy.special import stdtrit

from ..sizes import Size, size_label
from .cost import Meter
from .distances import Array, Moments, frechet_distance, needed, pairwise_distance, within
from .features import Reference

LEVEL = 0.95

MOST_COMPARED = 5000
"""Pictures, and as many real ones, that diversity is measured of at most: it compares all with all."""

Estimate = Callable[[Array], float]
"""A figure from the indices (pictures,) of the pictures that count, some of which may be there several times."""

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


@dataclass(frozen=True)
class Judged:
    """Pictures of one size and method, as far as figures need them.

    Attributes:
        features: (pictures, dimension), or None.
        scores: cosines with the prompts (pictures,), or None.
        defects: measure of a defect (pictures,) by name.
    """

    features: Array | None = None
    scores: Array | None = None
    defects: dict[str, Array] | None = None


def joined(parts: Sequence[Judged]) -> Judged:
    """What is kept of batches, as of all their pictures."""
    features = [part.features for part in parts if part.features is not None]
    scores = [part.scores for part in parts if part.scores is not None]
    defects = [part.defects for part in parts if part.defects is not None]
    return Judged(
        np.concatenate(features) if features else None,
        np.concatenate(scores) if scores else None,
        {name: np.concatenate([one[name] for one in defects]) for name in defects[0]} if defects else None,
    )


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
        distances, count = cdist(compared, compared), len(compared)

        def share(near: Array) -> Estimate:
            return lambda chosen: float(near[:, chosen[chosen < count]].any(1).mean())

        found["pairwise_distance"] = lambda chosen: pairwise_distance(distances, chosen[chosen < count])
        found["coverage"] = share(within(compared, real, True))
        found["recall"] = share(within(compared, real, False))
    return found


def mean_of(values: Array) -> Estimate:
    """The mean over pictures."""
    return lambda chosen: float(values[chosen].mean())


def mean_score(scores: Array) -> float:
    """The CLIP score on the paper's scale, mean cosine in [0, 1], from cosines (pictures,)."""
    return max(float(np.mean(scores)), 0.0)


def of_real(reference: Reference, count: int, metrics: Sequence[str], seed: int = 0) -> dict[str, float]:
    """The same figures of as many real pictures against the others; empty if there are too few.

    The ``count`` are chosen at random: different pictures, as far as there are as many, not copies of each other.
    """
    features, rng = reference.features, np.random.default_rng(seed)
    if len(features) - count < max(needed(features.shape[1]), count):
        return {}
    different = len(features) // reference.copies
    few = count <= different
    chosen = rng.permutation(different)[:count] * reference.copies if few else rng.permutation(len(features))[:count]
    others = np.setdiff1d(np.arange(len(features)), chosen)
    found = of_features(features[chosen], features[others], metrics)
    values = {name: estimate(np.arange(count)) for name, estimate in found.items()}
    if "fid" in values:
        values["fid"] = frechet_distance(features[chosen], features[others])
    wanted = {name for metric in metrics for name in FIGURES[metric]}
    return values | {name: float(all_of.mean()) for name, all_of in reference.measures.items() if name in wanted}


def bootstrap(estimate: Callable[[Array], Array], count: int, resamples: int, seed: int = 0) -> Array:
    """``estimate`` of the indices (count,) of pictures drawn with replacement: (..., resamples)."""
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    return np.stack([estimate(chosen) for chosen in drawn], -1)


def interval(value: Array, draws: Array, count: int) -> tuple[Array, Array]:
    """Standard error of an estimate, and its 95 % interval (..., 2): Student's t with the bootstrap's standard error.

    Not the bootstrap's percentiles: a Frechet distance, a coverage or a pairwise distance is biased by the number of
    distinct pictures, of which every draw has fewer, so that percentiles miss the estimate altogether. The interval is
    for what this many pictures give on average. ``draws`` (..., resamples) are those of `bootstrap`.
    """
    error = draws.std(-1, ddof=1) * np.sqrt(count / (count - 1))
    reach = stdtrit(count - 1, (1 + LEVEL) / 2) * error
    return error, np.stack([value - reach, value + reach], -1)


def empty(sizes: Sequence[Size], names: Sequence[str], metrics: Sequence[str], count: int) -> xr.Dataset:
    """The Dataset with NaN everywhere."""
    shape = (len(sizes), len(names))
    variables: dict[str, Any] = {}

    def add(name: str, unit: str, long_name: str, dims: Sequence[str], shape: tuple[int, ...]) -> None:
        variables[name] = (dims, np.full(shape, np.nan), {"units": unit, "long_name": long_name})

    for name in (figure for metric in metrics for figure in FIGURES[metric]):
        unit, words = UNITS[name]
        add(name, unit, words, ("size", "scaling"), shape)
        if name in COSTS:
            continue
        add(f"{name}_error", unit, f"standard error of {words}", ("size", "scaling"), shape)
        add(f"{name}_change", unit, f"change against the first rule of {words}", ("size", "scaling"), shape)
        for ending in ("_interval", "_change_interval"):
            add(name + ending, unit, f"95 % interval of {words}", ("size", "scaling", "bound"), (*shape, 2))
        add(f"{name}_real", unit, f"of as many real pictures, {words}", ("size",), shape[:1])
    coords: dict[str, Any] = {
        "size": [size_label(size) for size in sizes],
        "scaling": list(names),
        "bound": ["low", "high"],
        "height": ("size", [size[0] for size in sizes], {"units": "pixels", "long_name": "Height"}),
        "width": ("size", [size[1] for size in sizes], {"units": "pixels", "long_name": "Width"}),
        "reference_size": ("size", np.full(len(sizes), "", dtype=object)),
    }
    return xr.Dataset(variables, coords, {"samples": count})


def fill(
    ds: xr.Dataset, size: Size, cells: dict[str, tuple[Judged, Meter]], reference: Reference | None, resamples: int
) -> None:
    """Put the figures of one size into ``ds``: what the pictures cost, and what they are, by method.

    All methods share the bootstrap's draws, as they share the seeds.
    """
    label, count = size_label(size), ds.attrs["samples"]
    metrics = [metric for metric, figures in FIGURES.items() if set(figures) <= set(ds)]
    for name, (_, meter) in cells.items():
        for cost in COSTS:
            if cost in ds:
                ds[cost].loc[label, name] = getattr(meter, cost)
    if reference is not None and reference.size is not None:
        ds["reference_size"].loc[label] = size_label(reference.size)
    found = {name: estimates(judged, reference, metrics) for name, (judged, _) in cells.items()}
    figures = list(next(iter(found.values()), {}))
    if not figures or count < 2:
        return

    def all_of(chosen: Array) -> Array:
        return np.array([[estimate(chosen) for estimate in one.values()] for one in found.values()])

    def put(ending: str, rules: Sequence[str], values: Array, draws: Array) -> None:
        errors, bounds = interval(values, draws, count)
        for column, figure in enumerate(figures):
            ds[figure + ending].loc[label, rules] = values[:, column]
            ds[f"{figure}{ending}_interval"].loc[label, rules] = bounds[:, column]
            if not ending:
                ds[f"{figure}_error"].loc[label, rules] = errors[:, column]

    rules, values, draws = list(found), all_of(np.arange(count)), bootstrap(all_of, count, resamples)
    put("", rules, by_torchmetrics(values, figures, [judged for judged, _ in cells.values()], reference), draws)
    if ds["scaling"].values[0] in cells and len(rules) > 1:
        put("_change", rules[1:], values[1:] - values[0], draws[1:] - draws[0])
    for figure, value in of_real(reference, count, metrics).items() if reference is not None else ():
        ds[f"{figure}_real"].loc[label] = value


def by_torchmetrics(
    values: Array, figures: Sequence[str], cells: Sequence[Judged], reference: Reference | None
) -> Array:
    """Values (methods, figures) with the Frechet distance by torchmetrics, and the CLIP score on its scale."""
    found = values.copy()
    for row, judged in enumerate(cells):
        if "fid" in figures and judged.features is not None and reference is not None:
            found[row, figures.index("fid")] = frechet_distance(judged.features, reference.features)
        if "clip_score" in figures and judged.scores is not None:
            found[row, figures.index("clip_score")] = mean_score(judged.scores)
    return found
