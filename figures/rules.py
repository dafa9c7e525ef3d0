"""Rules for the scale: how much of the drift each takes away, against how much it changes the pictures.

python figures/rules.py [--out DIR] [--run rules.nc]
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import entropylab
import samples
import shared
from entropylab.law.drift import drift, training_size
from entropylab.scaling.rules import RULES

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
    options = {"layers": "self", "keep": ("sample", "layer"), **source.sampling(shared.FEW)}
    home = entropylab.measure(source.pipe, [source.trained], **options)
    away = entropylab.measure(source.pipe, source.sizes(sides), scaling=list(rules.values()), **options)
    ds = xr.concat([home, away], "size", join="outer", combine_attrs="override")
    prompts = shared.mixed_prompts()[: min(PICTURES, source.samples or PICTURES)]
    change = xr.full_like(ds["entropy"].isel(sample=0, layer=0, drop=True), np.nan)
    for size in source.sizes(sides):
        drawn = {name: samples.sampled(source, size, rule, prompts) / 255 for name, rule in rules.items()}
        for name, pictures in drawn.items():
            place = {"size": samples.label(size), "scaling": name}
            change.loc[place] = abs(pictures - drawn["original"]).mean()
    return ds.assign(change=change.assign_attrs(units="1", long_name="mean absolute difference to the original"))


def draw(ds: xr.Dataset, out: Path) -> None:
    """A panel for every size: the fraction of the layers' drift that is removed, against the pictures' change."""
    rows = drift(ds).query("layer == 'mean' and scaling != 'original'")
    rows = rows.merge(ds["change"].to_dataframe()["change"].reset_index(), on=["size", "scaling"])
    sizes = [str(size) for size in ds["size"].values if size != training_size(ds)]
    with plt.rc_context(entropylab.plot.PAPER):
        figure, axes = plt.subplots(1, len(sizes), figsize=(3.6 * len(sizes), 3.0), layout="constrained", sharey=True)
        for ax, size in zip(np.atleast_1d(axes), sizes, strict=True):
            for rule, part in rows[rows["size"] == size].groupby("scaling", sort=False):
                ax.plot(part["change"], 100 * part["absolute_fraction_removed"], ls="", label=str(rule))
            ax.axhline(100, ls=":", color="black", lw=0.8)
            ax.set_title(f"{size}, trained at {training_size(ds)}")
            ax.set_xlabel("change of the pictures (0 to 1)")
        np.atleast_1d(axes)[0].set_ylabel("drift of the layers removed [%]")
        figure.legend(*np.atleast_1d(axes)[0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
        shared.write(figure, out, "rules", rows)


if __name__ == "__main__":
    shared.command(__doc__, measure, draw)
