"""The law in two models of the same pictures: slopes, deficits and sigma^2/2 by layer.

One is a U-Net, with self-attention; the other a transformer, with joint attention of image and text.
Beside the figure stands the report of both.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import xarray as xr

import entropylab
import shared
from entropylab.plot.layers import QUANTITIES, layer_lines

SIDES: tuple[shared.Sides, ...] = (shared.LOWER, (0.75, 0.75), (1, 1), (1.5, 1.5), shared.HIGHER)
"""Sizes as multiples of the training size: 32 to 128 pixels for both."""

SAMPLES, STEPS = 6, 4


def measure(source: shared.Source) -> xr.Dataset:
    """One model, with cumulants up to the fourth, under the paper's rule too."""
    return entropylab.measure(
        source.pipe,
        source.sizes(SIDES),
        scaling=list(shared.RULES),
        statistics=("entropy", "sigma2", "third", "fourth"),
        layers=shared.KINDS,
        keep=("sample", "step", "layer", "head"),
        **source.sampling(SAMPLES, STEPS),
    )


def measure_joint(source: shared.Source) -> xr.Dataset:
    """The second model, which learned the same pictures."""
    return measure(shared.Source("emoji-joint", source.samples, source.steps, source.progress))


def draw(unet: xr.Dataset, joint: xr.Dataset, out: Path) -> None:
    """Three panels: slope, deficit and measured sigma^2/2 of every layer, by its place in the model; and the report.

    Of joint layers the panels have the rows that stand for the image: those of text need not do the same.
    """
    runs = {"embedded": unet, "emoji-joint": joint}
    shown = {name: ds.isel(layer=(ds["part"] == "image").values) for name, ds in runs.items()}
    with plt.rc_context(entropylab.plot.PAPER):
        figure, axes = plt.subplots(1, len(QUANTITIES), figsize=(10.2, 3.8), layout="constrained")
        for ax, name in zip(axes, QUANTITIES, strict=True):
            entropylab.plot.by_layer(shown, ax, name=name, kind=shared.KINDS)
        shared.write(figure, out, "two_models", layer_lines(shown, kind=shared.KINDS))
    entropylab.report(list(runs.values()), out / "two_models.html", names=list(runs), overwrite=True)
    print(f"wrote {out / 'two_models.html'}, two_models.md and its figures", flush=True)


FILES = {"two_models_embedded.nc": measure, "two_models_emoji-joint.nc": measure_joint}

if __name__ == "__main__":
    shared.command(__doc__, FILES, draw)
