"""The law in two models of the same pictures, a U-Net and a transformer: slopes, deficits and sigma^2/2 by layer."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import xarray as xr
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import plot
from ..measurement import measure
from ..models import load
from ..models.prompts import embedded_name
from ..netcdf import save
from ..opening import open_dataset
from ..plot.compare import QUANTITIES, layer_lines
from ..plot.style import legend_above, write
from ..reporting import report
from .measuring import HIGHER, LOWER, RULES, TRAINED, Sides, Source

SEVERAL = True
"""Draws several runs."""

NAME = "two_models"
FIRST, OTHER = "embedded", "emoji-dit"
"""The models; the second learned the same pictures as the embedded one."""

SIDES: tuple[Sides, ...] = (LOWER, (0.75, 0.75), TRAINED, (1.5, 1.5), HIGHER)
"""Sizes as multiples of the training size: 32 to 128 pixels for both."""

SAMPLES, STEPS = 2, 4


def measured(source: Source) -> dict[str, xr.Dataset]:
    """Both models at the same sizes, prompts and seeds, with cumulants up to the fourth, under the paper's rule too.

    Args:
        source: the first model; the second is `OTHER`.
    """
    sources = {FIRST: source, OTHER: replace(source, pipe=load(OTHER))}
    return {name: one(own) for name, own in sources.items()}


def one(source: Source) -> xr.Dataset:
    """What is measured of one model."""
    return measure(
        source.pipe,
        source.sizes(SIDES),
        scaling=list(RULES),
        statistics=("entropy", "sigma2", "third", "fourth"),
        layers="self",
        keep=("sample", "step", "layer", "head"),
        **{**source.sampling(SAMPLES), "steps": source.steps or STEPS},
    )


def draw(runs: Mapping[str, xr.Dataset]) -> Figure:
    """Three panels: slope, deficit and measured sigma^2/2 of every layer, by its place in the model."""
    figure = Figure(figsize=(10.2, 3.8), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(QUANTITIES)), QUANTITIES, strict=True):
        legend_above(plot.by_layer(runs, ax, name=name), 3)
    return figure


def files(runs: Mapping[str, xr.Dataset], out: Path) -> list[Path]:
    """Write two_models.pdf, .png and .csv, and the report side by side: two_models.html, .md and its figures."""
    with rc_context(plot.PAPER):
        drawn = write(draw(runs), layer_lines(runs), out, NAME)
    return [*drawn, *report(list(runs.values()), out / f"{NAME}.html", names=list(runs), overwrite=True)]


def kept(source: Source, out: Path) -> list[Path]:
    """Measure both, save each in a file of its own, and draw; nothing if the first is not the embedded pipeline."""
    if embedded_name(source.pipe) != FIRST:
        return []
    runs = measured(source)
    for name, ds in runs.items():
        save(ds, path_of(out, name), overwrite=True)
    return [*(path_of(out, name) for name in runs), *files(runs, out)]


def redrawn(run: Path, out: Path) -> list[Path]:
    """Draw what `kept` left in a folder, if it did."""
    found = {name: path_of(run, name) for name in (FIRST, OTHER)}
    if not all(path.is_file() for path in found.values()):
        return []
    return files({name: open_dataset(path) for name, path in found.items()}, out)


def path_of(folder: Path, name: str) -> Path:
    """The file of one model."""
    return folder / f"{NAME}_{name}.nc"
