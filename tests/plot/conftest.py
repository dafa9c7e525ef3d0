"""Axes to draw on, measurements and maps to draw, and what was drawn: the data of the artists."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..datasets import under_both

RULES = ["original", "sqrt_log"]
KINDS = {"up.0.attn1": "self", "up.0.attn2": "cross", "mid.attn1": "self"}


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    """A measurement under two rules."""
    return under_both(slope=0.95, cumulants=True)


@pytest.fixture
def ax() -> Axes:
    return new_axes()


def new_axes() -> Axes:
    return Figure(layout="constrained").subplots()


@pytest.fixture
def maps() -> xr.DataTree:
    """Entropies on two grids at two sizes, the larger one under two rules."""
    groups = {}
    for size, side in (("32x48", 1), ("64x96", 2)):
        groups[f"{size}/fine"] = grid(4 * side, 6 * side, 8.0, ["up.0.attn1", "up.0.attn2"], RULES[:side])
        groups[f"{size}/coarse"] = grid(2 * side, 3 * side, 16.0, ["mid.attn1"], RULES[:side])
    return xr.DataTree.from_dict(groups)


def grid(height: int, width: int, pitch: float, layers: list[str], rules: list[str]) -> xr.Dataset:
    shape = {"scaling": len(rules), "branch": 2, "sample": 2, "step": 3, "layer": len(layers), "head": 2}
    shape |= {"y": height, "x": width}
    values = np.random.default_rng(height).uniform(1, 3, tuple(shape.values()))
    coords = {
        "scaling": rules,
        "branch": ["uncond", "cond"],
        "sample": [0, 1],
        "prompt": ("sample", ["a red heart", "a fox"]),
        "step": [0, 1, 2],
        "layer": layers,
        "kind": ("layer", [KINDS[each] for each in layers]),
        "block": ("layer", [each.rpartition(".")[0] for each in layers]),
        "part": ("layer", ["image"] * len(layers)),
        "tokens": ("layer", [float(height * width)] * len(layers)),
        "order": ("layer", np.arange(len(layers)) + 10 * len(layers)),
        "head": [0, 1],
        "y": (np.arange(height) + 0.5) * pitch,
        "x": (np.arange(width) + 0.5) * pitch,
    }
    return xr.Dataset({"entropy": (tuple(shape), values)}, coords)


def lines(ax: Axes) -> dict[str, Line2D]:
    """The lines that the legend names."""
    return {str(line.get_label()): line for line in ax.get_lines() if not str(line.get_label()).startswith("_")}


def bars(ax: Axes) -> dict[str, ErrorbarContainer]:
    return {str(bar.get_label()): bar for bar in ax.containers if isinstance(bar, ErrorbarContainer)}


def starting(ax: Axes, word: str) -> Line2D:
    (line,) = [line for text, line in lines(ax).items() if text.startswith(word)]
    return line


def heights(bar: ErrorbarContainer) -> np.ndarray:
    """Half the length of every error bar, NaN where there is none."""
    ends = bar.lines[2][0].get_segments()
    return np.array([(end[1, 1] - end[0, 1]) / 2 if len(end) == 2 else np.nan for end in ends])


def x_names(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_xticklabels()]


def y_names(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_yticklabels()]
