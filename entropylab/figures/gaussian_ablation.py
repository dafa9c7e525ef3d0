"""How the law, and what the paper's factor does, decay as tokens leave the Gaussian: simulated attention, no model."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plot
from ..errors import EntropyLabError
from ..law import fit
from ..law.checks import check
from ..law.drift import MEAN, drift
from ..plot.style import BLACK, BLUE, GREEN, MARKERS, ORANGE, PURPLE, VERMILLION, legend_above, write
from ..simulation.dataset import simulate_dataset

SIMULATED = True
"""Needs no pipeline."""

TOKENS = (256, 1024, 4096)
TRAINED = 1024
SIGMA = 1.0
DEPARTURES = (0.0, 0.25, 0.5, 0.75, 1.0)
DISTRIBUTIONS = ("student_t", "skewed", "clustered", "positional", "low_rank")
SETTINGS: dict[str, Any] = {"d": 32, "heads": 2, "queries": 64, "samples": 4}

LOOKS = dict(zip(DISTRIBUTIONS, zip((BLUE, VERMILLION, GREEN, PURPLE, ORANGE), MARKERS, strict=False), strict=True))


def measured(source: Any = None) -> xr.Dataset:
    """Simulated attention of every distribution and departure from the Gaussian, with and without the factor."""
    one = {"sigma": SIGMA, "train_tokens": TRAINED, "scaling": ("original", "sqrt_log"), **SETTINGS}
    home = simulate_dataset(TOKENS, **one)  # without any departure all distributions are this one
    rows = [
        xr.concat(
            [
                simulate_dataset(TOKENS, distribution=name, departure=much, **one) if much else home
                for much in DEPARTURES
            ],
            xr.Variable("departure", list(DEPARTURES)),
            **KEEP,
        )
        for name in DISTRIBUTIONS
    ]
    ds = xr.concat(rows, xr.Variable("distribution", list(DISTRIBUTIONS)), **KEEP)
    return ds.assign_attrs(model="simulated", sigma=SIGMA)


KEEP: dict[str, Any] = {"data_vars": "all", "coords": "minimal", "compat": "override", "combine_attrs": "override"}


def table(ds: xr.Dataset) -> pd.DataFrame:
    """A row for every distribution, departure from the Gaussian, and size. Entropies in nats.

    Residuals are entropy less each prediction, with standard errors over samples; ``slope`` is that of entropy against
    log N over all sizes; ``fraction_removed`` of the drift from the training size by the paper's factor, and
    ``fraction_under_law`` what it should remove, sigma^2 / (2 log T).
    """
    if not {"distribution", "departure"} <= set(ds.dims):
        raise EntropyLabError(f"ds must be simulated, as gaussian_ablation.nc. Got dims {sorted(map(str, ds.dims))}.")
    parts = [
        rows_of(ds.sel(distribution=name, departure=much, drop=True)).assign(distribution=name, departure=much)
        for name in ds["distribution"].values
        for much in ds["departure"].values
    ]
    rows = pd.concat(parts, ignore_index=True)
    return rows[["distribution", "departure", *(n for n in rows if n not in ("distribution", "departure"))]]


def rows_of(ds: xr.Dataset) -> pd.DataFrame:
    """The rows of one distribution and departure, by size."""
    names = ["size", "tokens", "sigma2", "entropy", "correction"]
    names += [f"{name}_residual{end}" for name in ("law", "series", "finite") for end in ("", "_error")]
    rows = check(ds.mean("head", keep_attrs=True)).to_frame()[names]
    line = fit(ds)
    rows = rows.assign(slope=line.slope, slope_error=line.slope_error)
    moved = drift(ds)
    moved = moved[(moved["layer"] == MEAN) & (moved["scaling"] == "sqrt_log")]
    rows = rows.merge(moved[["size", "fraction_removed", "fraction_removed_error"]], on="size")
    trained = float(ds["train_tokens"].item())
    home = float(rows.loc[np.isclose(rows["tokens"], trained), "sigma2"].iloc[0])
    return rows.assign(fraction_under_law=home / (2 * np.log(trained)))


PANELS = (
    ("law_residual", "entropy less log N − σ²/2 [nats]"),
    ("series_residual", "entropy less the series to k4 [nats]"),
    ("fraction_removed", "fraction of the drift that √(log N / log T) removes"),
)


def panel(ax: Axes, rows: pd.DataFrame, name: str, text: str) -> Axes:
    """One column of the table, at the largest size, against the departure from the Gaussian."""
    for distribution, part in rows.groupby("distribution", sort=False):
        color, marker = LOOKS.get(str(distribution), (BLACK, "o"))
        words = str(distribution).replace("_", " ")
        ax.errorbar(
            part["departure"], part[name], part[f"{name}_error"], color=color, marker=marker, capsize=2, label=words
        )
    level = rows["fraction_under_law"].mean() if name == "fraction_removed" else 0.0
    ax.axhline(level, ls=":", color=BLACK, lw=0.8, label="under the law")
    ax.set_xlabel("departure from the Gaussian, share of the variance")
    ax.set_ylabel(text)
    return ax


def draw(rows: pd.DataFrame) -> Figure:
    """Three panels from the table: what the law is off by, the series is off by, and what the factor still does."""
    largest = rows[np.isclose(rows["tokens"], rows["tokens"].max())]
    figure = Figure(figsize=(10.2, 3.8), layout="constrained")
    axes = figure.subplots(1, 3)
    for ax, (name, text) in zip(axes, PANELS, strict=True):
        panel(ax, largest, name, text)
    legend_above(axes[1], 3)
    return figure


def files(ds: xr.Dataset, out: Path) -> list[Path]:
    """Write gaussian_ablation.pdf, .png and .csv into ``out``."""
    rows = table(ds)
    with rc_context(plot.PAPER):
        return write(draw(rows), rows, out, "gaussian_ablation")
