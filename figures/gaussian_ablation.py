"""How the law, and what the paper's factor does, decay as tokens leave the Gaussian: simulated attention, no model."""

from itertools import product
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

import entropylab
import shared
from entropylab.law.drift import drift

TOKENS = (256, 1024, 4096)
TRAINED = 1024
SIGMA = 1.0
DEPARTURES = (0.0, 0.25, 0.5, 0.75, 1.0)
DISTRIBUTIONS = ("student_t", "skewed", "clustered", "positional", "low_rank")
SETTINGS: dict[str, Any] = {"d": 32, "heads": 2, "queries": 64, "samples": 4}

PANELS = {
    "law_residual": "entropy less log N − σ²/2 [nats]",
    "series_residual": "entropy less the series to k4 [nats]",
    "fraction_removed": "fraction of the drift that √(log N / log T) removes",
}
RESIDUALS = [f"{name}_residual{end}" for name in ("law", "series", "gaussian") for end in ("", "_error")]


def measure(source: shared.Source) -> xr.Dataset:
    """Simulated attention of every distribution and departure from the Gaussian, with and without the factor."""
    one = {"sigma": SIGMA, "train_tokens": TRAINED, "scaling": ("original", "sqrt_log"), **SETTINGS}
    keep: dict[str, Any] = {"data_vars": "all", "coords": "minimal", "compat": "override", "combine_attrs": "override"}
    home = entropylab.simulate_dataset(TOKENS, **one)  # without any departure all distributions are this one
    rows = []
    for name in DISTRIBUTIONS:
        away = [entropylab.simulate_dataset(TOKENS, distribution=name, departure=d, **one) for d in DEPARTURES if d]
        rows.append(xr.concat([home, *away], xr.Variable("departure", list(DEPARTURES)), **keep))
    ds = xr.concat(rows, xr.Variable("distribution", list(DISTRIBUTIONS)), **keep)
    return ds.assign_attrs(model="simulated", sigma=SIGMA)


def table(ds: xr.Dataset) -> pd.DataFrame:
    """A row for every distribution, departure from the Gaussian, and size. Entropies in nats.

    ``fraction_removed`` is of the drift from the training size, by the paper's factor; ``fraction_under_law`` what it
    should remove, sigma^2 / (2 log T).
    """
    parts = {}
    for name, departure in product(ds["distribution"].values, ds["departure"].values):
        one = ds.sel(distribution=name, departure=departure, drop=True)
        found = entropylab.check(one.mean("head", keep_attrs=True)).to_frame()
        line, moved = entropylab.fit(one), drift(one).query("layer == 'mean' and scaling == 'sqrt_log'")
        rows = found[["size", "tokens", "sigma2", "entropy", "correction", *RESIDUALS]]
        rows = rows.assign(slope=line.slope, slope_error=line.slope_error)
        rows = rows.merge(moved[["size", "fraction_removed", "fraction_removed_error"]], on="size")
        trained = one["train_tokens"].item()
        home = rows.loc[np.isclose(rows["tokens"], trained), "sigma2"].iloc[0]
        parts[name, departure] = rows.assign(fraction_under_law=float(home) / (2 * np.log(trained)))
    return pd.concat(parts, names=["distribution", "departure"]).reset_index([0, 1]).reset_index(drop=True)


def draw(ds: xr.Dataset, out: Path) -> None:
    """Three panels, at the largest size: what the law is off by, the series is off by, what the factor still does."""
    rows = table(ds)
    largest = rows[np.isclose(rows["tokens"], rows["tokens"].max())]
    with plt.rc_context(entropylab.plot.PAPER):
        figure, axes = plt.subplots(1, len(PANELS), figsize=(10.2, 3.8), layout="constrained")
        for ax, (name, text) in zip(axes, PANELS.items(), strict=True):
            for distribution, part in largest.groupby("distribution", sort=False):
                words = str(distribution).replace("_", " ")
                ax.errorbar(part["departure"], part[name], part[f"{name}_error"], capsize=2, label=words)
            level = largest["fraction_under_law"].mean() if name == "fraction_removed" else 0.0
            ax.axhline(level, ls=":", marker="", color="black", lw=0.8, label="under the law")
            ax.set(xlabel="departure from the Gaussian, share of the variance", ylabel=text)
        axes[1].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
        shared.write(figure, out, "gaussian_ablation", rows)


FILES = {"gaussian_ablation.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
