"""Figure 5: attention entropy, and its deficit, against the logarithm of the number of tokens."""

from pathlib import Path

import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import plot
from ..plot.style import legend_above, write
from ..plot.tokens import table
from .measuring import Source


def measured(source: Source) -> xr.Dataset:
    """What this figure needs on its own: the model as it is."""
    return source.measured(["original"])


def draw(ds: xr.Dataset) -> Figure:
    """Two panels: entropy with its fit and the law's prediction, and the deficit with measured sigma^2/2."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    plot.entropy_vs_tokens(ds, left)
    plot.deficit_vs_tokens(ds, right)
    for ax in (left, right):
        legend_above(ax, 2)
    return figure


def files(ds: xr.Dataset, out: Path) -> list[Path]:
    """Write figure5.pdf, .png and .csv into ``out``."""
    with rc_context(plot.PAPER):
        return write(draw(ds), table(ds), out, "figure5")
