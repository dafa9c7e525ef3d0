"""The Dataset of an evaluation: figures with their errors, and how they change against the first rule."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from ..sizes import Size, size_label
from .clip import mean_score
from .cost import Meter
from .frechet import frechet_distance
from .intervals import Array, bootstrap_draws, interval
from .judged import COSTS, FIGURES, UNITS, Judged, estimates, of_real
from .reference import Reference

BOUNDS = ("low", "high")


def empty(sizes: Sequence[Size], names: Sequence[str], metrics: Sequence[str], count: int) -> xr.Dataset:
    """The Dataset with NaN everywhere."""
    shape = (len(sizes), len(names))
    variables: dict[str, Any] = {}
    for name in (figure for metric in metrics for figure in FIGURES[metric]):
        unit, long_name = UNITS[name]
        kinds = {"": "", "_error": "standard error of "} | {"_change": "change against the first rule of "}
        measured = name not in COSTS
        for ending, words in kinds.items() if measured else [("", "")]:
            attrs = {"units": unit, "long_name": words + long_name}
            variables[name + ending] = (("size", "scaling"), np.full(shape, np.nan), attrs)
        for ending in ("_interval", "_change_interval") if measured else ():
            attrs = {"units": unit, "long_name": f"95 % interval of {long_name}"}
            variables[name + ending] = (("size", "scaling", "bound"), np.full((*shape, 2), np.nan), attrs)
        if measured:
            attrs = {"units": unit, "long_name": f"of as many real pictures, {long_name}"}
            variables[f"{name}_real"] = (("size",), np.full(len(sizes), np.nan), attrs)
    coords: dict[str, Any] = {
        "size": [size_label(size) for size in sizes],
        "scaling": list(names),
        "bound": list(BOUNDS),
        "height": ("size", [size[0] for size in sizes], {"units": "pixels", "long_name": "Height"}),
        "width": ("size", [size[1] for size in sizes], {"units": "pixels", "long_name": "Width"}),
        "reference_size": ("size", np.full(len(sizes), "", dtype=object)),
    }
    return xr.Dataset(variables, coords, {"samples": count})


def fill(
    ds: xr.Dataset, size: Size, cells: dict[str, tuple[Judged, Meter]], reference: Reference | None, resamples: int
) -> None:
    """Put the figures of one size into ``ds``: of the pictures, and what they cost."""
    for (name, (_, meter)), cost in product(cells.items(), COSTS):
        if cost in ds:
            ds[cost].loc[size_label(size), name] = getattr(meter, cost)
    if reference is not None and reference.size is not None:
        ds["reference_size"].loc[size_label(size)] = size_label(reference.size)
    judged = {name: found for name, (found, _) in cells.items()}
    fill_figures(ds, size_label(size), judged, reference, metrics_of(ds), resamples)


def metrics_of(ds: xr.Dataset) -> list[str]:
    """The metrics whose figures ``ds`` has room for."""
    return [metric for metric, figures in FIGURES.items() if set(figures) <= set(ds)]


def fill_figures(
    ds: xr.Dataset,
    size: str,
    cells: dict[str, Judged],
    reference: Reference | None,
    metrics: Sequence[str],
    resamples: int,
) -> None:
    """Put the figures of one size into ``ds``; all methods share the bootstrap's draws, as they share the seeds."""
    count = ds.attrs["samples"]
    found = {name: estimates(judged, reference, metrics) for name, judged in cells.items()}
    figures = list(next(iter(found.values()), {}))
    if not figures or count < 2:
        return
    everyone = np.arange(count)

    def all_of(chosen: Array) -> Array:
        return np.array([[found[name][figure](chosen) for figure in figures] for name in cells])

    values, draws = all_of(everyone), bootstrap_draws(all_of, count, resamples, seed=0)
    for row, name in enumerate(cells):
        for column, figure in enumerate(figures):
            value = by_torchmetrics(figure, cells[name], reference, values[row, column])
            put(ds, figure, size, name, interval(np.array(value), draws[row, column], count))
            if row and first_rule(ds) in cells:
                change = values[row, column] - values[0, column]
                moved = interval(np.array(change), draws[row, column] - draws[0, column], count)
                ds[f"{figure}_change"].loc[size, name] = float(change)
                ds[f"{figure}_change_interval"].loc[size, name] = [float(moved.low), float(moved.high)]
    for figure, value in of_real(reference, count, metrics, seed=0).items() if reference is not None else ():
        ds[f"{figure}_real"].loc[size] = value


def first_rule(ds: xr.Dataset) -> str:
    """The rule that changes are counted from."""
    return str(ds["scaling"].values[0])


def put(ds: xr.Dataset, figure: str, size: str, name: str, found: Any) -> None:
    """A figure with error and interval into its place."""
    ds[figure].loc[size, name] = float(found.value)
    ds[f"{figure}_error"].loc[size, name] = float(found.error)
    ds[f"{figure}_interval"].loc[size, name] = [float(found.low), float(found.high)]


def by_torchmetrics(figure: str, judged: Judged, reference: Reference | None, value: float) -> float:
    """The Frechet distance by torchmetrics and the CLIP score on its scale; other figures as they are."""
    if figure == "fid" and judged.features is not None and reference is not None:
        return frechet_distance(judged.features, reference.features)
    if figure == "clip_score" and judged.scores is not None:
        return mean_score(judged.scores)
    return value
