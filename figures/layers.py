"""Single layers at the training size: entropy through the denoising steps, and a map of layers and heads.

python figures/layers.py [--out DIR] [--run law.nc]
"""

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

import entropylab
import shared
from entropylab.plot.layers import steps_table
from law_checks import measure


def draw(ds: xr.Dataset, out: Path) -> None:
    """Two panels; the table has every layer, head and step."""
    with plt.rc_context(entropylab.plot.PAPER):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 4.2), layout="constrained")
        entropylab.plot.entropy_vs_step(ds, left, normalised=True)
        entropylab.plot.heads(ds, right)
        shared.write(figure, out, "layers", steps_table(ds))


if __name__ == "__main__":
    shared.command(__doc__, measure, draw)
