"""Standardised logits of some layers at the training size, beside the Gaussian that the law assumes them to be.

python figures/logits.py [--out DIR] [--run logits.nc]
"""

import re
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from scipy.stats import kurtosis, skew

import entropylab
import shared
from entropylab.measuring.logits import sampled_logits
from entropylab.models.prompts import default_settings

CHOSEN, ROWS, STEPS = 4, 4, 4
"""Layers, of all self-attention layers evenly; query rows of each head and step; denoising steps."""


def measure(source: shared.Source) -> xr.Dataset:
    """Logits of some layers: a variable (row, key) for each, rows of all steps, branches and heads together."""
    pipe, (height, width) = source.pipe, source.trained
    settings = default_settings(pipe) | {"num_inference_steps": min(source.steps or STEPS, STEPS)}
    prompts, seeds = shared.mixed_prompts()[:1], [torch.Generator("cpu").manual_seed(0)]
    found = sampled_logits(
        pipe,
        lambda: pipe(prompts, height=height, width=width, output_type="latent", generator=seeds, **settings),
        [layer.path for layer in entropylab.layers(pipe) if layer.kind == "self"],
        ROWS,
    )
    met = list(found)  # in the order in which data meet them
    data = {}
    for place in dict.fromkeys(np.linspace(0, len(met) - 1, CHOSEN).round().astype(int).tolist()):
        rows = torch.cat([call.flatten(0, -2) for call in found[met[place]]]).numpy().astype(np.float32)
        about = {"units": "nats", "long_name": f"logits of some rows of {met[place]}", "layer": met[place]}
        data[f"layer{place}"] = ((f"row{place}", f"key{place}"), rows, about)
    return xr.Dataset(data, attrs={"model": str(source.model), "entropylab_version": version("entropylab")})


def draw(ds: xr.Dataset, out: Path) -> None:
    """One panel; the table has a row for each layer, with the mean over rows of skewness and excess kurtosis."""
    layers = [value for value in ds.values() if "layer" in value.attrs and value.ndim == 2]
    if not layers:
        raise entropylab.EntropyLabError(f"run must hold logits, as logits.nc. Got variables {sorted(map(str, ds))}.")
    named, rows = {}, []
    for value in layers:
        block = re.search(r"([a-z]+)_block(?:s\.(\d+))?", value.attrs["layer"])
        name = " ".join(filter(None, block.groups())) if block else value.attrs["layer"]
        name = f"{name}, N = {value.shape[-1]}"
        again = sum(other.split(" (")[0] == name for other in named)
        named[f"{name} ({again})" if again else name] = value.values
        shapes = {
            "skewness": skew(value.values.astype(float), -1),
            "kurtosis": kurtosis(value.values.astype(float), -1),
        }
        rows.append(
            {"layer": value.attrs["layer"], "rows": value.shape[0], "keys": value.shape[1]}
            | {name: shape.mean() for name, shape in shapes.items()}
        )
    with plt.rc_context(entropylab.plot.PAPER):
        figure, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
        entropylab.plot.logit_distribution(named, ax)
        shared.write(figure, out, "logits", pd.DataFrame(rows))


if __name__ == "__main__":
    shared.command(__doc__, measure, draw)
