"""The law where nothing is fitted: its residual by layer, what explains it, and how near the layers are to freezing."""

from pathlib import Path

import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import plot
from ..law.checks import check
from ..plot.style import legend_above, write, write_table
from .measuring import Source


def measured(source: Source) -> xr.Dataset:
    """What this figure needs on its own: the cumulants up to the fourth, which cost more time than entropy."""
    return source.cumulants()


def draw(ds: xr.Dataset) -> Figure:
    """Three panels; that on skewness and kurtosis only if they were measured."""
    series = {"third", "fourth"} <= set(ds)
    figure = Figure(figsize=(10.8 if series else 7.2, 4.0), layout="constrained")
    axes = figure.subplots(1, 3 if series else 2)
    legend_above(plot.law_residual(ds, axes[0]), 2)
    if series:
        legend_above(plot.residual_vs_cumulants(ds, axes[1]))
    legend_above(plot.phase(ds, axes[-1]))
    return figure


def files(ds: xr.Dataset, out: Path) -> list[Path]:
    """Write law_checks.pdf, .png and .csv (every layer, head and size), and smallest_n.csv, into ``out``."""
    found = check(ds)
    with rc_context(plot.PAPER):
        drawn = write(draw(ds), found.to_frame(), out, "law_checks")
    return [*drawn, write_table(found.smallest(), out, "smallest_n")]
