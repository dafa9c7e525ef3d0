"""Figure 5: attention entropy, and its deficit, against the logarithm of the number of tokens.

python figures/figure5.py [--out DIR] [--run FILE.nc], where FILE.nc is what `entropylab measure` wrote.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

import entropylab
import shared
from entropylab.plot.tokens import table


def measure(source: shared.Source) -> xr.Dataset:
    """The model as it is, at all sizes."""
    return entropylab.measure(source.pipe, source.sizes(), scaling=["original"], **source.sampling())


def draw(ds: xr.Dataset, out: Path) -> None:
    """Two panels: entropy with its fit and the law's prediction, and the deficit with measured sigma^2/2."""
    with plt.rc_context(entropylab.plot.PAPER):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.6), layout="constrained")
        entropylab.plot.entropy_vs_tokens(ds, left)
        entropylab.plot.deficit_vs_tokens(ds, right)
        for ax in (left, right):
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, columnspacing=1.2)
        shared.write(figure, out, "figure5", table(ds))


if __name__ == "__main__":
    shared.command(__doc__, measure, draw)
