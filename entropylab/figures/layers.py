"""Single layers at the training size: entropy through the denoising steps, and a map of layers and heads."""

from pathlib import Path

import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import plot
from ..plot.layers import steps_table
from ..plot.style import legend_above, write
from .measuring import Source


def measured(source: Source) -> xr.Dataset:
    """What this figure needs on its own: the same as `law_checks`."""
    return source.cumulants()


def draw(ds: xr.Dataset) -> Figure:
    """Two panels."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    legend_above(plot.entropy_vs_step(ds, left, normalised=True), 3)
    plot.heads(ds, right)
    return figure


def files(ds: xr.Dataset, out: Path) -> list[Path]:
    """Write layers.pdf, .png and .csv into ``out``; the table has every layer, head and step."""
    with rc_context(plot.PAPER):
        return write(draw(ds), steps_table(ds), out, "layers")
