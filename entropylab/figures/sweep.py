"""The sweep around the formula: entropy and drift at a lower and a higher size against the multiplier of the scale."""

from pathlib import Path

import pandas as pd
import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import plot
from ..law.drift import training_size
from ..plot.style import legend_above, write
from ..plot.sweep import table
from .measuring import HIGHER, LOWER, Source


def measured(source: Source) -> xr.Dataset:
    """What this figure needs on its own: a calibration at its two sizes, and the sweep."""
    return source.swept(source.calibrated((LOWER, HIGHER)))


def sizes_of(ds: xr.Dataset) -> list[str]:
    """Labels of the sizes beside the training size."""
    trained = training_size(ds)
    return [str(label) for label in ds["size"].values if label != trained]


def draw(ds: xr.Dataset) -> Figure:
    """A panel for every size."""
    sizes = sizes_of(ds)
    figure = Figure(figsize=(3.6 * len(sizes), 4.2), layout="constrained")
    for ax, size in zip(figure.subplots(1, len(sizes), squeeze=False).flat, sizes, strict=True):
        legend_above(plot.sweep(ds, ax, size=size))
    return figure


def files(ds: xr.Dataset, out: Path) -> list[Path]:
    """Write sweep.pdf, .png and .csv into ``out``; the table has every layer, not only their mean."""
    rows = pd.concat([table(ds, size=size) for size in sizes_of(ds)], ignore_index=True)
    with rc_context(plot.PAPER):
        return write(draw(ds), rows, out, "sweep")
