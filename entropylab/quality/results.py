"""The Dataset of an evaluation: figures with their bootstrap errors, and how they change against the first rule."""

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.spatial.distance import cdist
from scipy.special import stdtrit

from ..sizes import Size, size_label
from .cost import Meter
from .distances import Array, Moments, needed, pairwise_distance, within
from .features import Reference

LEVEL = 0.95

MOST_COMPARED = 5000
"""Pictures, and as many real ones, that diversity is measured of at most: it compares all with all."""

Judged = dict[str, Array]
"""Of pictures of one size and method: their ``features`` (pictures, dimension), and figures that are means over them
(``clip_score``, the defects), each (pictures,).
"""

Estimate = Callable[[Array], float]
"""A figure from the indices (pictures,) of the pictures that count, some of which may be there several times."""

FIGURES = {
    "fid": {"fid": "Frechet distance to real pictures, less is better"},
    "clip": {"clip_score": "CLIP score, mean cosine of picture and prompt, more is better"},
    "diversity": {
        "pairwise_distance": "Mean distance of two pictures in the features",
        "coverage": "Coverage, share of real pictures with a generated one near, more is better",
        "recall": "Recall, share of real pictures near a generated one, more is better",
    },
    "defects": {
        "disagreement": "1 - cosine of picture and prompt, rises with incompleteness",
        "cut": "Share of the frame's edge that is not background, rises with incompleteness",
        "excess_agreement": "Agreement of the second-best disjoint part less that of the whole, rises with repetition",
        "self_similarity": "Highest autocorrelation of the edges, rises with repetition",
    },
    "time": {"time": "Time per picture"},
    "memory": {
        "memory": "Peak memory",
        "memory_added": "Peak memory above what was there before sampling, the weights among it",
    },
}
"""The figures of every metric that `entropylab.evaluate` knows, and their names in words."""

COSTS = {"time": "s", "memory": "MiB", "memory_added": "MiB"}
"""Figures that are not of the pictures, and their units; all others have none."""

FORMS = {
    "": (("size", "scaling"), ""),
    "_error": (("size", "scaling"), "standard error of "),
    "_change": (("size", "scaling"), "change against the first rule of "),
    "_interval": (("size", "scaling", "bound"), "95 % interval of "),
    "_change_interval": (("size", "scaling", "bound"), "95 % interval of "),
    "_real": (("size",), "of as many real pictures, "),
}
"""What is known of a figure: the end of its name, its dimensions and its words. Of costs only the first."""


def estimates(judged: Judged, reference: Reference | None, wanted: Container[str]) -> dict[str, Estimate]:
    """Every figure that is ``wanted``, but costs, as a function of the indices that count."""

    def mean_of(values: Array) -> Estimate:
        return lambda chosen: float(values[chosen].mean())

    found = of_features(judged["features"], reference.features, wanted) if reference is not None else {}
    return found | {name: mean_of(values) for name, values in judged.items() if name in wanted}


def of_features(features: Array, reference: Array, wanted: Container[str]) -> dict[str, Estimate]:
    """Frechet distance and diversity.

    The balls of recall are those of all pictures, whichever are drawn: drawn twice, a picture would be its own nearest
    neighbour.
    """
    found: dict[str, Estimate] = {}
    if "fid" in wanted:
        moments = Moments(reference)
        found["fid"] = lambda chosen: moments.distance(features[chosen])
    if "coverage" in wanted:
        compared, real = features[:MOST_COMPARED], reference[:MOST_COMPARED]
        distances, count = cdist(compared, compared), len(compared)

        def share(near: Array) -> Estimate:
            return lambda chosen: float(near[:, chosen[chosen < count]].any(1).mean())

        found["pairwise_distance"] = lambda chosen: pairwise_distance(distances, chosen[chosen < count])
        found["coverage"] = share(within(compared, real, True))
        found["recall"] = share(within(compared, real, False))
    return found


def of_real(reference: Reference, count: int, wanted: Container[str], seed: int = 0) -> dict[str, float]:
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
    found = of_features(features[chosen], features[others], wanted)
    values = {name: estimate(np.arange(count)) for name, estimate in found.items()}
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
    lengths = {"size": len(sizes), "scaling": len(names), "bound": 2}
    variables: dict[str, Any] = {}
    for name, words in (figure for metric in metrics for figure in FIGURES[metric].items()):
        for end, (dims, of) in FORMS.items():
            if not end or name not in COSTS:
                values = np.full([lengths[dim] for dim in dims], np.nan)
                variables[name + end] = (dims, values, {"units": COSTS.get(name, "1"), "long_name": of + words})
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
    label, count, wanted = size_label(size), ds.attrs["samples"], set(map(str, ds))
    for name, (_, meter) in cells.items():
        for cost in COSTS.keys() & wanted:
            ds[cost].loc[label, name] = getattr(meter, cost)
    if reference is not None and reference.size is not None:
        ds["reference_size"].loc[label] = size_label(reference.size)
    found = {name: estimates(judged, reference, wanted) for name, (judged, _) in cells.items()}
    figures = list(next(iter(found.values()), {}))
    if not figures or count < 2:
        return

    def all_of(chosen: Array) -> Array:
        return np.array([[estimate(chosen) for estimate in one.values()] for one in found.values()])

    def put(end: str, rules: Sequence[str], values: Array, draws: Array) -> None:
        errors, bounds = interval(values, draws, count)
        for column, figure in enumerate(figures):
            ds[figure + end].loc[label, rules] = values[:, column]
            ds[f"{figure}{end}_interval"].loc[label, rules] = bounds[:, column]
            if not end:
                ds[f"{figure}_error"].loc[label, rules] = errors[:, column]

    rules, values, draws = list(found), all_of(np.arange(count)), bootstrap(all_of, count, resamples)
    put("", rules, values, draws)
    if ds["scaling"].values[0] in cells and len(rules) > 1:
        put("_change", rules[1:], values[1:] - values[0], draws[1:] - draws[0])
    for figure, value in of_real(reference, count, wanted).items() if reference is not None else ():
        ds[f"{figure}_real"].loc[label] = value
