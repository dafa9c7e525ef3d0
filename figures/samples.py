"""Figures 3 and 4: pictures from the same seeds below and above the training size, as the model is and rescaled."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import shared

SIDES = (shared.LOWER, (1.5, 1), shared.HIGHER, (3, 3))
"""Sizes of the pictures, in training sizes; the training size stands beside each."""

PICTURES = 6
STEPS = 8
"""Fewer than the embedded pipeline takes by itself: the pictures at the largest size are most of the work."""

NUMBERED = {shared.LOWER: "figure3", shared.HIGHER: "figure4"}
"""The paper's figures; pictures of other sizes have no number."""


def measure(source: shared.Source) -> xr.Dataset:
    """The pictures: a variable of uint8 for every size, with dims (scaling, sample, y, x, channel).

    No rule changes the training size, whose pictures have no ``scaling``. Sample i starts from seed i.
    """
    rules = {"original": "original", "sqrt_log": "sqrt_log", "calibrated": source.calibrated(SIDES).calibrated}
    prompts = shared.mixed_prompts()[: min(PICTURES, source.samples or PICTURES)]
    steps = source.steps or STEPS
    home = shared.pictures(source, prompts, source.trained, "original", steps)
    found = {
        size: np.stack([shared.pictures(source, prompts, size, rule, steps) for rule in rules.values()])
        for size in source.sizes(SIDES)
    }
    coords = {"scaling": list(rules), "prompt": ("sample", prompts), "seed": ("sample", np.arange(len(prompts)))}
    return dataset(home, found, coords)


def dataset(home: np.ndarray, others: dict[tuple[int, int], np.ndarray], coords: dict[str, Any]) -> xr.Dataset:
    """Pictures at the training size, and those of other sizes under several rules, as one Dataset."""
    data = {}
    for (height, width), pictures in {home.shape[1:3]: home, **others}.items():
        dims = ("scaling", "sample", f"y{height}", f"x{width}", "channel")[-pictures.ndim :]
        about = {"units": "1", "long_name": f"pictures {height}x{width}, 255 is white"}
        data[f"{height}x{width}"] = xr.Variable(dims, pictures, about)
    return xr.Dataset(data, coords, {"train_size": next(iter(data)), "entropylab_version": version("entropylab")})


def table(ds: xr.Dataset, size: str) -> pd.DataFrame:
    """How much every picture changed against that of the same seed under "original": a row for rule and prompt.

    ``change`` is the mean absolute difference, of values from 0 to 1. ``other_pictures`` is the same between pictures
    of different prompts under "original": what no likeness at all amounts to.
    """
    pictures = ds[size].astype(float) / 255
    original = pictures.sel(scaling="original")
    within = original.dims[1:]
    others = [abs(original.roll(sample=shift) - original).mean(within) for shift in range(1, ds.sizes["sample"])]
    unlike = sum(others) / len(others) if others else np.nan * original.mean(within)
    parts = []
    for rule, values in abs(pictures.drop_sel(scaling="original") - original).mean(within).to_pandas().iterrows():
        rows = pd.DataFrame({"prompt": ds["prompt"].values, "change": values, "other_pictures": unlike.values})
        rows.loc[len(rows)] = ["mean", *rows[["change", "other_pictures"]].mean()]
        parts.append(rows.assign(size=size, scaling=rule)[["size", "scaling", *rows]])
    return pd.concat(parts, ignore_index=True)


def draw(ds: xr.Dataset, out: Path) -> None:
    """A grid for every size: the training size, then every rule; prompts across."""
    sizes = [str(name) for name, value in ds.items() if "scaling" in value.dims and "channel" in value.dims]
    home = ds.attrs["train_size"]
    for size in sizes:
        grid = [ds[home].values, *ds[size].values]
        names = [f"{home}\noriginal", *(f"{size}\n{rule}" for rule in ds["scaling"].values)]
        (height, width), (trained, wide) = ([int(side) for side in text.split("x")] for text in (size, home))
        name = NUMBERED.get((height / trained, width / wide), f"samples_{size}")
        shared.write_pictures(grid, names, ds["prompt"].values.tolist(), out, name, table(ds, size))


FILES = {"pictures.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
