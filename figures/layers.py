"""Single layers at the training size: entropy through the denoising steps, and a map of layers and heads."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import entropylab
import shared
from law_checks import FILES


def draw(ds: xr.Dataset, out: Path) -> None:
    """Two panels; the table has every layer, head and step, means over samples."""
    entropy = ds["entropy"].isel(scaling=0, drop=True).mean("sample")
    table = xr.Dataset({"entropy": entropy, "normalised_entropy": entropy / np.log(ds["tokens"])})
    rows = table.to_dataframe(dim_order=["size", "layer", "head", "step"]).reset_index()
    columns = ["size", "layer", "head", "step", "tokens", "entropy", "normalised_entropy"]
    with plt.rc_context(entropylab.plot.PAPER):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2), layout="constrained")
        entropylab.plot.entropy_vs_step(ds, left, normalised=True)
        entropylab.plot.heads(ds, right)
        shared.name_kind(figure, ds)
        shared.write(figure, out, "layers", rows[columns].dropna(subset="entropy"))


if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
