"""Rules for the scale: how much of the drift each takes away, against how much it changes the pictures."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import entropylab
import shared
from entropylab.law.drift import drift, training_size
from entropylab.scaling.rules import RULES
from samples import STEPS
from sweep import at_home_and_away

PICTURES = 4
"""Whose change is measured, of every rule and size."""


def measure(source: shared.Source) -> xr.Dataset:
    """A lower and a higher size under every rule there is, and ``change``: by how much pictures of a seed differ.

    A mean over pixels, channels and pictures of the absolute difference to "original", of values from 0 to 1.
    """
    sides = (shared.LOWER, shared.HIGHER)
    calibration = source.calibrated(sides)
    rules = {name: name for name in RULES if name != "proportional"}  # whose formula is that of sqrt_log
    rules |= {name: getattr(calibration, name) for name in ("invariant", "predicted", "calibrated")}
    ds = at_home_and_away(source, sides, list(rules.values()), ("sample", "layer"))
    prompts = shared.mixed_prompts()[: min(PICTURES, source.samples or PICTURES)]
    change = xr.full_like(ds["entropy"].isel(sample=0, layer=0, drop=True), np.nan)
    steps = source.steps or STEPS
    for size in source.sizes(sides):
        drawn = {name: shared.pictures(source, prompts, size, rule, steps) / 255 for name, rule in rules.items()}
        for name, pictures in drawn.items():
            change.loc[{"size": "{}x{}".format(*size), "scaling": name}] = abs(pictures - drawn["original"]).mean()
    return ds.assign(change=change.assign_attrs(units="1", long_name="mean absolute difference to the original"))


def draw(ds: xr.Dataset, out: Path) -> None:
    """A panel for every size: the fraction of the layers' drift that is removed, against the pictures' change."""
    rows = drift(ds).query("layer == 'mean' and scaling != 'original'")
    rows = rows.merge(ds["change"].to_dataframe()["change"].reset_index(), on=["size", "scaling"])
    sizes = [str(size) for size in ds["size"].values if size != training_size(ds)]
    shape = (3.6 * len(sizes), 3.0)
    with plt.rc_context(entropylab.plot.PAPER):
        figure, axes = plt.subplots(1, len(sizes), figsize=shape, layout="constrained", sharey=True, squeeze=False)
        for ax, size in zip(axes.flat, sizes, strict=True):
            for rule, part in rows[rows["size"] == size].groupby("scaling", sort=False):
                ax.plot(part["change"], 100 * part["absolute_fraction_removed"], ls="", label=str(rule))
            ax.axhline(100, ls=":", color="black", lw=0.8)
            ax.set(title=f"{size}, trained at {training_size(ds)}", xlabel="change of the pictures (0 to 1)")
        axes[0, 0].set_ylabel("drift of the layers removed [%]")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
        shared.write(figure, out, "rules", rows)


FILES = {"rules.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
