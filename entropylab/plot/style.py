"""The look of the figures, as a value: ``with matplotlib.rc_context(PAPER): ...``; and how a figure is written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties

BLACK, GREY, BLUE, VERMILLION, GREEN, PURPLE, ORANGE = (
    "#000000",
    "#9a9a9a",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
)
"""Okabe and Ito's colours, which the colour-blind can tell apart; marks and lines differ too, for print in grey."""

COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK)
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "X")
MORE_MARKERS = (*MARKERS, "P", "*", "<", ">")
"""So many that no colour and marker come together twice among thirty."""

FEW = 4
"""Entries of a legend that find room within an Axes."""

# Any, because matplotlib types the keys one by one, and newly with every release.
PAPER: Any = {
    "axes.linewidth": 0.6,
    "axes.prop_cycle": cycler(color=COLORS) + cycler(linestyle=DASHES) + cycler(marker=MARKERS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.dpi": 150,
    "figure.figsize": (3.4, 2.8),
    "font.size": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "ps.fonttype": 42,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
"""Parameters of matplotlib for print: two-column width, text kept as text, colours that survive grey."""


def axes_of(ax: Axes | None) -> Axes:
    """The Axes handed in, or the current ones."""
    return plt.gca() if ax is None else ax


def label(variable: xr.DataArray, fallback: str) -> str:
    """Name and unit of a variable for an axis, from its attrs: the first part of its long name, "[units]"."""
    name = str(variable.attrs.get("long_name", fallback)).split(",")[0]
    unit = variable.attrs.get("units")
    return f"{name} [{unit}]" if unit else name


def legend(ax: Axes) -> None:
    """A legend where it covers nothing: within the Axes if it is short, else above it."""
    _, names = ax.get_legend_handles_labels()
    if len(names) > FEW:
        small = len(names) > 2 * FEW
        legend_above(ax, columns_of(ax, names, "small" if small else None), "small" if small else None)
    elif names:
        ax.legend()


def legend_above(ax: Axes, columns: int = 1, size: str | None = None) -> None:
    """Move the legend of an Axes, if it has any, above it, where it covers nothing."""
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "fontsize": size}
    if ax.get_legend_handles_labels()[1]:
        ax.legend(ncols=columns, columnspacing=1.2, handlelength=2.4, **place)


def columns_of(ax: Axes, names: Sequence[str], size: str | None = None) -> int:
    """The most columns, up to five, of a legend with these names that is about as wide as the Axes."""
    points = 72 * ax.get_window_extent().width / ax.figure.dpi
    letter = 0.5 * FontProperties(size=size or plt.rcParams["legend.fontsize"]).get_size_in_points()
    for columns in range(5, 1, -1):
        rows = -(-len(names) // columns)
        widths = [9 + max(map(len, names[start : start + rows])) for start in range(0, len(names), rows)]
        if letter * sum(widths) < 1.1 * points:
            return columns
    return 1


def write(figure: Figure, table: pd.DataFrame, out: Path, name: str) -> list[Path]:
    """Write ``name``.pdf, .png and .csv into ``out``, free of dates: the same data make the same files."""
    return [*write_figure(figure, out, name), write_table(table, out, name)]


def write_figure(figure: Figure, out: Path, name: str) -> list[Path]:
    """The .pdf and .png of `write`."""
    out.mkdir(parents=True, exist_ok=True)
    pdf, png = (out / f"{name}.{ending}" for ending in ("pdf", "png"))
    figure.savefig(pdf, metadata={"CreationDate": None})
    figure.savefig(png)
    return [pdf, png]


def write_table(table: pd.DataFrame, out: Path, name: str) -> Path:
    """The .csv of `write`."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.csv"
    table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
    return path
