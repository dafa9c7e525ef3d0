"""Figures 3 and 4: pictures from the same seeds below and above the training size, as the model is and rescaled."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import plot
from ..bars import progress_bar, quiet
from ..calibration import Calibration
from ..errors import EntropyLabError
from ..measuring.provenance import provenance
from ..models.prompts import default_settings
from ..plot.style import write
from ..scaling import rescale
from ..sizes import Size, size_label
from .measuring import HIGHER, LOWER, Source, mixed_prompts

SIDES = (LOWER, (1.5, 1), HIGHER, (3, 3))
"""Sizes of the pictures, in training sizes; the training size stands beside each."""

PICTURES = 6
STEPS = 8
"""Fewer than the embedded pipeline takes by itself: the pictures at the largest size are most of the work."""
BATCH = 4

WIDTH = 0.85
"""Of a picture in the figure [inches]."""


def measured(source: Source, calibration: Calibration | None = None) -> xr.Dataset:
    """The pictures as a Dataset: a variable of uint8 for every size, named after it.

    Dims (scaling, sample, y, x, channel); no ``scaling`` at the training size, which no rule changes. Sample i starts
    from seed i, whatever its size and rule.
    """
    found = calibration or source.calibrated(SIDES)
    rules = {"original": "original", "sqrt_log": "sqrt_log", "calibrated": found.calibrated}
    count = min(PICTURES, source.samples or PICTURES)
    sizes = source.sizes(SIDES)
    pixels = sum(height * width for height, width in [source.trained, *sizes * len(rules)])
    with quiet(source.pipe), progress_bar(pixels * count, source.progress) as bar:
        home = as_variable(sampled(source, source.trained, "original", count, bar), "sample")
        away = {
            size_label(size): as_variable(
                np.stack([sampled(source, size, rule, count, bar) for rule in rules.values()]), "scaling", "sample"
            )
            for size in sizes
        }
    coords = {
        "scaling": list(rules),
        "prompt": ("sample", mixed_prompts()[:count]),
        "seed": ("sample", np.arange(count)),
    }
    attrs = provenance(source.pipe) | {"train_size": size_label(source.trained)}
    return xr.Dataset({size_label(source.trained): home} | away, coords, attrs)


def as_variable(pictures: np.ndarray, *dims: str) -> xr.Variable:
    """An array of pictures with names for its dims, which differ between sizes."""
    height, width = pictures.shape[-3:-1]
    attrs = {"units": "1", "long_name": f"pictures {height}x{width}, 255 is white"}
    return xr.Variable((*dims, f"y{height}", f"x{width}", "channel"), pictures, attrs)


def sampled(source: Source, size: Size, rule: Any, count: int, bar: Any) -> np.ndarray:
    """Pictures (sample, y, x, channel) of uint8 at one size under one rule."""
    height, width = size
    settings = default_settings(source.pipe) | {"num_inference_steps": source.steps or STEPS}
    found = []
    for start in range(0, count, BATCH):
        seeds = range(start, min(start + BATCH, count))
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        prompts = [mixed_prompts()[seed] for seed in seeds]
        call = {"prompt": prompts, "height": height, "width": width, "generator": generators, "output_type": "np"}
        with rescale(source.pipe, rule):
            found.append(source.pipe(**call, **settings).images)
        bar.update(height * width * len(seeds))
    return np.round(255 * np.concatenate(found)).astype(np.uint8)


def sizes_of(ds: xr.Dataset) -> list[str]:
    """Labels of the sizes under several rules.

    Raises:
        EntropyLabError: a Dataset that holds no pictures.
    """
    found = [str(name) for name, value in ds.data_vars.items() if {"scaling", "channel"} <= set(value.dims)]
    if not found or "train_size" not in ds.attrs:
        raise EntropyLabError(f"ds must hold pictures, as in pictures.nc. Got variables {sorted(map(str, ds))}.")
    return found


def table(ds: xr.Dataset) -> pd.DataFrame:
    """How much every picture changed against that of the same seed under "original": a row for size, rule and prompt.

    ``change`` is the mean over pixels and channels of the absolute difference, of values from 0 to 1. Beside it
    ``other_pictures``, the same between the picture under "original" and those of the other prompts: what no likeness
    at all amounts to. The rows of prompt "mean" are means over prompts.
    """
    rows = []
    for size in sizes_of(ds):
        pictures = ds[size].astype(float) / 255
        original = pictures.sel(scaling="original")
        shifts = range(1, ds.sizes["sample"])
        others = [difference(original.roll(sample=shift), original).values for shift in shifts]
        unlike = np.mean(others, axis=0) if others else np.full(1, np.nan)
        for rule in ds["scaling"].values[1:]:
            change = difference(pictures.sel(scaling=rule), original)
            values = pd.DataFrame({"change": change.values, "other_pictures": unlike})
            values = pd.concat([values, values.mean().to_frame().T], ignore_index=True)
            names = {"size": size, "scaling": rule, "prompt": [*ds["prompt"].values, "mean"]}
            rows.append(values.assign(**names)[[*names, "change", "other_pictures"]])
    return pd.concat(rows, ignore_index=True)


def difference(one: xr.DataArray, other: xr.DataArray) -> xr.DataArray:
    """Mean absolute difference of pictures, by sample."""
    return abs(one.drop_vars("scaling", errors="ignore") - other.drop_vars("scaling", errors="ignore")).mean(
        one.dims[1:]
    )


def draw(ds: xr.Dataset, size: str) -> Figure:
    """One grid: the training size, then every rule at one size; prompts across."""
    home = ds.attrs["train_size"]
    grid = [ds[home].values, *ds[size].values]
    names = [f"{home}\noriginal", *(f"{size}\n{rule}" for rule in ds["scaling"].values)]
    tall = sum(row.shape[1] / row.shape[2] for row in grid)
    figure = Figure(figsize=(0.8 + WIDTH * len(grid[0]), 0.5 + WIDTH * tall), layout="constrained")
    plot.samples(grid, figure.subplots(), rows=names, columns=ds["prompt"].values.tolist())
    return figure


def files(ds: xr.Dataset, out: Path) -> list[Path]:
    """Write figure3, figure4 and samples_SIZE, each as .pdf, .png and .csv, into ``out``."""
    rows = table(ds)
    with rc_context(plot.PAPER):
        drawn = [
            write(draw(ds, size), rows[rows["size"] == size], out, name_of(size, ds.attrs["train_size"]))
            for size in sizes_of(ds)
        ]
    return [path for paths in drawn for path in paths]


def name_of(size: str, trained: str) -> str:
    """The paper's figure 3 is of a size about half as tall and wide as in training, 4 of one larger; others have none.

    Args:
        size: label of the size.
        trained: label of the training size.
    """
    (height, width), (tall, wide) = ([int(side) for side in text.split("x")] for text in (size, trained))
    numbered = {LOWER: "figure3", HIGHER: "figure4"}
    return numbered.get((height / tall, width / wide), f"samples_{size}")
