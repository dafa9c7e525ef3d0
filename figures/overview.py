"""The first picture of README: where attention looks widely, and how widely at every size."""

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

import entropylab
import figure5
import maps
import shared


def draw(mapped: xr.DataTree, ds: xr.Dataset, out: Path) -> None:
    """A picture at every size and rule above its map, and beside them entropy against log N in the widest layers."""
    trained = entropylab.plot.predictions(ds)["train_tokens"].max()
    with plt.rc_context(entropylab.plot.PAPER):
        figure = plt.figure(figsize=(9, 3.5), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.55, 1))
        maps.panels(mapped, left, 1)
        ax = entropylab.plot.entropy_predicted(ds, right.subplots(), trained=trained)
        ax.set_title(shared.title(ds, trained))
        ax.legend(loc="upper left")
        shared.write(figure, out, "overview")


FILES = maps.FILES | figure5.FILES

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
