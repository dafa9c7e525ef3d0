"""Figure 6: entropy of every self-attention layer at a lower and a higher size, as the model is and rescaled."""

from pathlib import Path

import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure

from entropylab import plot
from entropylab.drift import drift
from entropylab.plot.style import legend_above, write


def draw(ds: xr.Dataset) -> Figure:
    """One panel: entropy by layer, the training size as reference."""
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    legend_above(plot.stabilization(ds, figure.subplots()), 2)
    return figure


def main(ds: xr.Dataset, out: Path) -> list[Path]:
    """Write figure6.pdf, .png and .csv into ``out``; the table has every size, not only the two drawn."""
    with rc_context(plot.PAPER):
        return write(draw(ds), drift(ds), out, "figure6")


if __name__ == "__main__":
    from regenerate import command

    command([main], __doc__)
