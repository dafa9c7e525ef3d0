"""Figure 6: entropy of every self-attention layer at a lower and a higher size, as the model is and rescaled."""

from pathlib import Path

import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import plot
from ..law.averages import scalings_of
from ..law.drift import drift
from ..plot.style import legend_above, write
from ..scaling import NEEDS_CALIBRATION
from .measuring import RULES, Source


def measured(source: Source) -> xr.Dataset:
    """What this figure needs on its own: the model as it is, and the paper's rule."""
    return source.measured(RULES)


def draw(ds: xr.Dataset) -> Figure:
    """One panel: entropy by layer, the training size as reference; calibrated rules, which lie on it, are left out."""
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    rules = [rule for rule in scalings_of(ds) if rule not in NEEDS_CALIBRATION]
    legend_above(plot.stabilization(ds, figure.subplots(), scaling=rules), 2)
    return figure


def files(ds: xr.Dataset, out: Path) -> list[Path]:
    """Write figure6.pdf, .png and .csv into ``out``; the table has every size and rule, not only those drawn."""
    with rc_context(plot.PAPER):
        return write(draw(ds), drift(ds), out, "figure6")
