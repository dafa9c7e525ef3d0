"""The sweep around the formula: entropy and drift at a lower and a higher size against the multiplier of the scale."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr

import entropylab
import shared
from entropylab.law.drift import training_size
from entropylab.plot.rules import sweep_table

NUMBERS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0)
"""Multipliers; "original" is 1."""


def measure(source: shared.Source) -> xr.Dataset:
    """A lower and a higher size under numbers and rules, and the training size as the model is."""
    sides = (shared.LOWER, shared.HIGHER)
    calibration = source.calibrated(sides)
    rules = [*shared.RULES, calibration.invariant, calibration.calibrated, *NUMBERS]
    return at_home_and_away(source, sides, rules, ("sample", "layer", "head"))


def at_home_and_away(
    source: shared.Source, sides: tuple[shared.Sides, ...], rules: list, keep: tuple[str, ...]
) -> xr.Dataset:
    """The training size as the model is, which no rule changes, and other sizes under rules."""
    options = {"keep": keep, **source.sampling(shared.FEW)}
    home = source.measure([source.trained], **options)
    away = source.measure(source.sizes(sides), scaling=rules, **options)
    return xr.concat([home, away], "size", join="outer", combine_attrs="override")


def draw(ds: xr.Dataset, out: Path) -> None:
    """A panel for every size; the table has every layer, not only their mean."""
    sizes = [str(size) for size in ds["size"].values if size != training_size(ds)]
    with plt.rc_context(entropylab.plot.PAPER):
        figure, axes = plt.subplots(1, len(sizes), figsize=(3.6 * len(sizes), 4.2), layout="constrained", squeeze=False)
        for ax, size in zip(axes.flat, sizes, strict=True):
            entropylab.plot.sweep(ds, ax, size=size)
        rows = pd.concat([sweep_table(ds, size=size) for size in sizes], ignore_index=True)
        shared.write(figure, out, "sweep", rows)


FILES = {"sweep.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
