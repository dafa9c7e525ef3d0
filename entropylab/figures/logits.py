"""Standardised logits of some layers at the training size, beside the Gaussian that the law assumes them to be."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import plot
from ..bars import quiet
from ..errors import EntropyLabError
from ..law.naming import short
from ..measuring.logits import sampled_logits
from ..measuring.provenance import provenance
from ..models.prompts import default_settings
from ..pipelines import block_of, layers
from ..plot.logits import standardised
from ..plot.style import legend_above, write
from .measuring import Source, mixed_prompts

CHOSEN, ROWS, STEPS = 4, 4, 4
"""Layers, of all self-attention layers evenly; query rows of each head and step; denoising steps."""


def measured(source: Source) -> xr.Dataset:
    """Logits of some layers: a variable (row, key) for each, rows of all steps, branches and heads together."""
    pipe, (height, width) = source.pipe, source.trained
    settings = default_settings(pipe) | {"num_inference_steps": min(source.steps or STEPS, STEPS)}
    call = {"prompt": mixed_prompts()[:1], "height": height, "width": width, "output_type": "latent"}
    own = [layer.path for layer in layers(pipe) if layer.kind == "self"]

    def run() -> Any:
        return pipe(generator=[torch.Generator("cpu").manual_seed(0)], **call, **settings)

    with quiet(pipe):
        found = sampled_logits(pipe, run, own, ROWS)
    met = list(found)  # in the order in which data meet them
    places = dict.fromkeys(np.linspace(0, len(met) - 1, CHOSEN).round().astype(int).tolist())
    data = {}
    for place, path in enumerate(met[place] for place in places):
        rows = torch.cat([call.flatten(0, -2) for call in found[path]]).numpy().astype(np.float32)
        about = {"units": "nats", "long_name": f"logits of some rows of {path}", "layer": path, "block": block_of(path)}
        data[f"layer{place}"] = ((f"row{place}", f"key{place}"), rows, about)
    return xr.Dataset(data, attrs=provenance(pipe))


def named(ds: xr.Dataset) -> dict[str, np.ndarray]:
    """Short name of every layer -> its logits.

    Raises:
        EntropyLabError: a Dataset that holds no logits.
    """
    found = {name: value for name, value in ds.data_vars.items() if "block" in value.attrs and value.ndim == 2}
    if not found:
        raise EntropyLabError(f"ds must hold logits, as in logits.nc. Got variables {sorted(map(str, ds))}.")
    names = [f"{short(value.attrs['block'])}, N = {value.shape[-1]}" for value in found.values()]
    again = {name for name in names if names.count(name) > 1}
    labels = [f"{name} ({names[:place].count(name)})" if name in again else name for place, name in enumerate(names)]
    return {label: value.values for label, value in zip(labels, found.values(), strict=True)}


def table(ds: xr.Dataset) -> pd.DataFrame:
    """A row for each layer: rows, keys, and the mean over rows of skewness and excess kurtosis."""
    rows = []
    for (label, values), variable in zip(named(ds).items(), ds.data_vars.values(), strict=True):
        _, skewness, kurtosis = standardised(label, values)
        counts = {"rows": values.shape[0], "keys": values.shape[1]}
        rows.append({"layer": variable.attrs["layer"], **counts, "skewness": skewness, "kurtosis": kurtosis})
    return pd.DataFrame(rows)


def draw(ds: xr.Dataset) -> Figure:
    """One panel."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    legend_above(plot.logit_distribution(named(ds), figure.subplots()))
    return figure


def files(ds: xr.Dataset, out: Path) -> list[Path]:
    """Write logits.pdf, .png and .csv into ``out``."""
    with rc_context(plot.PAPER):
        return write(draw(ds), table(ds), out, "logits")
