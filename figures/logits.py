"""Standardised logits of some layers at the training size, beside the Gaussian that the law assumes them to be."""

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
from entropylab.law.names import layer_names
from entropylab.measuring.logits import sampled_logits
from entropylab.models.prompts import default_settings
from entropylab.pipelines import block_of

CHOSEN, ROWS, STEPS = 4, 4, 4
"""Layers, of all self-attention layers evenly; query rows of each head and step; denoising steps."""


def measure(source: shared.Source) -> xr.Dataset:
    """Logits of some layers: a variable (row, key) for each, rows of all steps, branches and heads together."""
    pipe, (height, width) = source.pipe, source.trained
    settings = default_settings(pipe) | {"num_inference_steps": min(source.steps or STEPS, STEPS)}
    settings |= {"height": height, "width": width, "generator": torch.Generator("cpu").manual_seed(0)}
    paths = [layer.path for layer in entropylab.layers(pipe) if layer.kind == "self"]
    prompt = shared.mixed_prompts()[0]
    found = sampled_logits(pipe, lambda: pipe(prompt, output_type="latent", **settings), paths, ROWS)
    met = list(found)  # in the order in which data meet them
    blocks = ("layer", [block_of(path) for path in met])
    names = layer_names(xr.Dataset(coords={"layer": met, "block": blocks}))
    data = {}
    for place in dict.fromkeys(np.linspace(0, len(met) - 1, CHOSEN).round().astype(int).tolist()):
        rows = torch.cat([call.flatten(0, -2) for call in found[met[place]]]).numpy().astype(np.float32)
        about = {"units": "nats", "long_name": f"logits of some rows of {met[place]}", "layer": met[place]}
        about["name"] = f"{names[place]}, N = {rows.shape[1]}"
        data[f"layer{place}"] = ((f"row{place}", f"key{place}"), rows, about)
    return xr.Dataset(data, attrs={"model": str(source.model), "entropylab_version": version("entropylab")})


def draw(ds: xr.Dataset, out: Path) -> None:
    """One panel; the table has a row for each layer, with the mean over rows of skewness and excess kurtosis."""
    named, rows = {value.attrs["name"]: value.values for value in ds.values()}, []
    for value in ds.values():
        logits = value.values.astype(float)
        shape = {"skewness": skew(logits, -1).mean(), "kurtosis": kurtosis(logits, -1).mean()}
        rows.append({"layer": value.attrs["layer"], "rows": len(logits), "keys": logits.shape[1], **shape})
    with plt.rc_context(entropylab.plot.PAPER):
        figure, ax = plt.subplots(figsize=(4.6, 4.2), layout="constrained")
        entropylab.plot.logit_distribution(named, ax)
        shared.write(figure, out, "logits", pd.DataFrame(rows))


FILES = {"logits.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
