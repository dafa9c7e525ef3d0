"""The Dataset of an evaluation: figures with their bootstrap errors, and how they change against the first rule."""

from collections.abc import Callable, Container, Mapping, Sequence

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


def figures_of(metrics: Sequence[str]) -> list[str]:
    """The figures of metrics, but for costs."""
    return [name for metric in metrics for name in FIGURES[metric] if name not in COSTS]


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


def resampled(found: Mapping[str, Estimate], count: int, resamples: int, seed: int = 0) -> Array:
    """Figures of all pictures, then of as many drawn with replacement, each time anew: (figures, 1 + resamples).

    The draws are the same for every size and method, as are the seeds of the pictures.
    """
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count))
    return np.array([[estimate(chosen) for chosen in (np.arange(count), *drawn)] for estimate in found.values()])


def new_draws(sizes: Sequence[Size], methods: Sequence[str], metrics: Sequence[str], resamples: int) -> xr.DataArray:
    """Where what `resampled` gives is put for every size and method, with NaN everywhere."""
    coords = {"size": [size_label(size) for size in sizes], "scaling": list(methods), "figure": figures_of(metrics)}
    shape = [*map(len, coords.values()), 1 + resamples]
    return xr.DataArray(np.full(shape, np.nan), coords, (*coords, "draw"))


def interval(draws: xr.DataArray, count: int) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """A figure of so many pictures, its standard error, and its 95 % interval (..., bound).

    ``draws`` (..., draw) are as of `resampled`. Student's t with the bootstrap's standard error, not the bootstrap's
    percentiles: a Frechet distance, a coverage or a pairwise distance is biased by the number of distinct pictures, of
    which every draw has fewer, so that percentiles miss the estimate altogether. The interval is for what this many
    pictures give on average. Of one picture there is none.
    """
    value, spread = draws.isel(draw=0), draws.isel(draw=slice(1, None)).std("draw", ddof=1, skipna=False)
    error = spread * (np.sqrt(count / (count - 1)) if count > 1 else np.nan)
    reach = stdtrit(max(1, count - 1), (1 + LEVEL) / 2) * error
    bounds = xr.concat([value - reach, value + reach], xr.Variable("bound", ["low", "high"]))
    return value, error, bounds.transpose(..., "bound")


def summarised(
    draws: xr.DataArray,
    sizes: Sequence[Size],
    metrics: Sequence[str],
    count: int,
    real: Mapping[Size, Mapping[str, float]],
    meters: Mapping[tuple[Size, str], Meter],
) -> xr.Dataset:
    """The Dataset: figures by ``draws`` (size, scaling, figure, draw), those of real pictures, and costs."""
    change = draws - draws.isel(scaling=0, drop=True)
    change[:, 0] = np.nan
    value, error, bounds = interval(draws, count)
    difference, _, bounds_of_difference = interval(change, count)
    forms = {
        "": (value, ""),
        "_error": (error, "standard error of "),
        "_change": (difference, "change against the first rule of "),
        "_interval": (bounds, "95 % interval of "),
        "_change_interval": (bounds_of_difference, "95 % interval of "),
    }
    methods = draws["scaling"].values.tolist()
    height, width = np.array(sizes).T
    ds = xr.Dataset(
        coords={
            "size": draws["size"],
            "scaling": methods,
            "bound": ["low", "high"],
            "height": ("size", height, {"units": "pixels", "long_name": "Height"}),
            "width": ("size", width, {"units": "pixels", "long_name": "Width"}),
        },
        attrs={"samples": count},
    )
    for name, words in (figure for metric in metrics for figure in FIGURES[metric].items()):
        if name in COSTS:
            known = [[getattr(meters.get((size, method)), name, np.nan) for method in methods] for size in sizes]
            ds[name] = ("size", "scaling"), known, {"units": COSTS[name], "long_name": words}
            continue
        for end, (found, of) in forms.items():
            ds[name + end] = found.sel(figure=name, drop=True).assign_attrs(units="1", long_name=of + words)
        of_real = [real.get(size, {}).get(name, np.nan) for size in sizes]
        ds[f"{name}_real"] = "size", of_real, {"units": "1", "long_name": f"of as many real pictures, {words}"}
    return ds
