"""Figures 3 and 4: pictures from the same seeds below and above the training size, as the model is and rescaled.

python figures/samples.py [--out DIR] [--run pictures.nc]
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from tqdm.auto import tqdm

import entropylab
import shared
from entropylab.models.prompts import default_settings

SIDES = (shared.LOWER, (1.5, 1), shared.HIGHER, (3, 3))
"""Sizes of the pictures, in training sizes; the training size stands beside each."""

PICTURES, BATCH = 6, 4
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
    sizes = source.sizes(SIDES)
    home = label(source.trained)
    data = {home: as_variable(sampled(source, source.trained, "original", prompts), "sample")}
    for size in tqdm(sizes, disable=not source.progress, leave=False):
        pictures = np.stack([sampled(source, size, rule, prompts) for rule in rules.values()])
        data[label(size)] = as_variable(pictures, "scaling", "sample")
    coords = {"scaling": list(rules), "prompt": ("sample", prompts), "seed": ("sample", np.arange(len(prompts)))}
    about = {"model": str(source.model), "train_size": home, "entropylab_version": version("entropylab")}
    return xr.Dataset(data, coords, about)


def sampled(source: shared.Source, size: tuple[int, int], rule: Any, prompts: list[str]) -> np.ndarray:
    """Pictures (sample, y, x, channel) of uint8 at one size under one rule."""
    settings = default_settings(source.pipe) | {"num_inference_steps": source.steps or STEPS}
    found = []
    with entropylab.rescale(source.pipe, rule):
        for start in range(0, len(prompts), BATCH):
            some = prompts[start : start + BATCH]
            seeds = [torch.Generator("cpu").manual_seed(start + place) for place in range(len(some))]
            call = {"height": size[0], "width": size[1], "generator": seeds, "output_type": "np"}
            found.append(source.pipe(some, **call, **settings).images)
    return np.round(255 * np.concatenate(found)).astype(np.uint8)


def label(size: tuple[int, int]) -> str:
    """A size as text."""
    return f"{size[0]}x{size[1]}"


def as_variable(pictures: np.ndarray, *dims: str) -> xr.Variable:
    """An array of pictures with names for its dims, which differ between sizes."""
    height, width = pictures.shape[-3:-1]
    attrs = {"units": "1", "long_name": f"pictures {height}x{width}, 255 is white"}
    return xr.Variable((*dims, f"y{height}", f"x{width}", "channel"), pictures, attrs)


def table(ds: xr.Dataset, size: str) -> pd.DataFrame:
    """How much every picture changed against that of the same seed under "original": a row for rule and prompt.

    ``change`` is the mean over pixels and channels of the absolute difference, of values from 0 to 1. Beside it
    ``other_pictures``, the same between the picture under "original" and those of the other prompts: what no likeness
    at all amounts to. The rows of prompt "mean" are means over prompts.
    """
    pictures = ds[size].values.astype(float) / 255
    original = pictures[list(ds["scaling"].values).index("original")]
    axes = (-3, -2, -1)
    others = [abs(np.roll(original, shift, 0) - original).mean(axes) for shift in range(1, len(original))]
    unlike = np.mean(others, axis=0) if others else np.full(1, np.nan)
    parts = []
    for rule, own in zip(ds["scaling"].values, pictures, strict=True):
        values = pd.DataFrame({"change": abs(own - original).mean(axes), "other_pictures": unlike})
        values = pd.concat([values, values.mean().to_frame().T], ignore_index=True)
        values[["size", "scaling"]] = size, rule
        values["prompt"] = [*ds["prompt"].values, "mean"]
        parts.append(values[["size", "scaling", "prompt", "change", "other_pictures"]])
    rows = pd.concat(parts, ignore_index=True)
    return rows[rows["scaling"] != "original"]


def draw(ds: xr.Dataset, out: Path) -> None:
    """A grid for every size: the training size, then every rule; prompts across."""
    sizes = [str(name) for name, value in ds.items() if "scaling" in value.dims and "channel" in value.dims]
    home = ds.attrs.get("train_size")
    if not sizes or home is None:
        raise entropylab.EntropyLabError(
            f"run must hold pictures, as pictures.nc. Got variables {sorted(map(str, ds))}."
        )
    for size in sizes:
        grid = [ds[home].values, *ds[size].values]
        names = [f"{home}\noriginal", *(f"{size}\n{rule}" for rule in ds["scaling"].values)]
        (height, width), (trained, wide) = ([int(side) for side in text.split("x")] for text in (size, home))
        name = NUMBERED.get((height / trained, width / wide), f"samples_{size}")
        shared.write_pictures(grid, names, ds["prompt"].values.tolist(), out, name, table(ds, size))


if __name__ == "__main__":
    shared.command(__doc__, measure, draw)
