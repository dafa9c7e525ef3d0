"""Where attention looks widely: a picture at the training size, at twice the size, and there under the paper's rule."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

import entropylab
import shared

PANELS = ((1, "original"), (2, "original"), (2, "sqrt_log"))
"""Sizes in training sizes, and rules."""

PROMPTS = ("a red car", "a penguin")
"""Each with its own seed. Both come out more than once at twice the training size."""


def measure(source: shared.Source) -> xr.DataTree:
    """Entropy maps, and beside those of each size the pictures: uint8 with dims (scaling, sample, row, column, rgb)."""
    prompts = list(PROMPTS[: source.samples])
    pictures: dict[str, dict[str, np.ndarray]] = {}
    with entropylab.record(source.pipe, maps=True) as rec:
        for side, rule in PANELS:
            height, width = (side * each for each in source.trained)
            images = shared.pictures(source, prompts, (height, width), rule, source.steps)
            pictures.setdefault(f"{height}x{width}", {})[rule] = images
    maps = rec.maps
    for size, found in pictures.items():
        data = {"pictures": (("scaling", "sample", "row", "column", "rgb"), np.stack(list(found.values())))}
        maps[f"{size}/pictures"] = xr.DataTree(xr.Dataset(data, {"scaling": list(found)}))
    return maps


def draw(maps: xr.DataTree, out: Path) -> None:
    """Pictures and their maps on one scale; the table has the means of the maps that are drawn."""
    count = next(iter(maps.children.values()))["pictures"].sizes["sample"]
    with plt.rc_context(entropylab.plot.PAPER):
        figure = plt.figure(figsize=(7.2, 4.4 * count), layout="constrained")
        rows = panels(maps, figure, count)
        shared.write(figure, out, "maps", pd.DataFrame(rows))


def panels(maps: xr.DataTree, figure: Any, count: int) -> list[dict[str, Any]]:
    """Draw so many pictures and their maps, a column for every size and rule; the means of the maps [nats]."""
    shown = [(size, rule) for size in maps.children for rule in maps[size]["pictures"].scaling.values]
    axes, drawn, rows = figure.subplots(2 * count, len(shown), squeeze=False), [], []
    for (size, rule), column in zip(shown, axes.T, strict=True):
        for sample in range(count):
            picture = maps[size]["pictures"].pictures.sel(scaling=rule).values[sample]
            above, below = column[2 * sample : 2 * sample + 2]
            above.imshow(picture)
            above.set_axis_off()
            chosen = {"size": size, "scaling": rule, "sample": sample}
            entropylab.plot.entropy_map(maps, picture, below, colorbar=False, **chosen)
            drawn.append(below.images[-1])
            rows.append({**chosen, "entropy": float(drawn[-1].get_array().mean())})
            below.set_xlabel(f"mean {rows[-1]['entropy']:.2f} nats")
        column[0].set_title(f"{size}, {rule}")
    lowest, highest = zip(*(each.get_clim() for each in drawn), strict=True)
    for each in drawn:
        each.set_clim(min(lowest), max(highest))
    figure.colorbar(drawn[0], ax=axes, label="attention entropy [nats]", shrink=0.5)
    return rows


FILES = {"maps.nc": measure}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
