"""The look of the figures, as a value: ``with matplotlib.rc_context(PAPER): ...``; legends and names on their axes."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import xarray as xr
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.font_manager import FontProperties

from ..law.names import short

BLACK, GREY = "#000000", "#9a9a9a"
BLUE, VERMILLION, GREEN, PURPLE, ORANGE = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"
COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, BLACK)
"""Okabe and Ito's colours, which the colour-blind can tell apart; marks and lines differ too, for print in grey."""

DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "X")
MORE_MARKERS = (*MARKERS, "P", "*", "<", ">")
"""So many that no colour and marker come together twice among thirty."""

FEW = 4
"""Entries of a legend that find room within an Axes."""

NARROW = 30
"""Letters of a name in a legend that is narrow."""

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


def marks(ax: Axes, x: Any, y: Any, error: pd.Series, **look: Any) -> None:
    """Points with their errors, as far as any is known."""
    options: dict[str, Any] = {"ls": "", "capsize": 2, "zorder": 3} | look
    ax.errorbar(x, y, error if error.notna().any() else None, **options)


def level(ax: Axes, value: float, text: str = "_") -> None:
    """A thin dotted line at a height that points are to be held against."""
    ax.axhline(value, ls=":", color=BLACK, lw=0.8, zorder=0, label=text)


def legend(ax: Axes) -> None:
    """A legend where it covers nothing: within the Axes if it is short and narrow, else above it."""
    _, names = ax.get_legend_handles_labels()
    if len(names) > FEW or any(len(name) > NARROW for name in names):
        legend_above(ax)
    elif names:
        ax.legend()


def legend_above(ax: Axes) -> None:
    """A legend above the Axes, in the most columns, up to five, that are no wider than it is when laid out."""
    _, names = ax.get_legend_handles_labels()
    if not names:
        return
    size = FontProperties(size="small" if len(names) > 2 * FEW else plt.rcParams["legend.fontsize"])
    figure = ax.figure.figure
    if (layout := figure.get_layout_engine()) is not None:
        layout.execute(figure)  # until then an Axes has the place that it would have without names and colour bars
    room = 72 * ax.get_window_extent().width / figure.dpi / (0.5 * size.get_size_in_points())  # letters
    for columns in range(5, 0, -1):
        rows = -(-len(names) // columns)
        widths = [9 + max(map(len, names[start : start + rows])) for start in range(0, len(names), rows)]
        if sum(widths) < room or columns == 1:
            break
    look: dict[str, Any] = {"columnspacing": 1.2, "handlelength": 2.4, "fontsize": size.get_size_in_points()}
    # Six names make two rows of three, not of five and one.
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(widths), **look)


def colours_of_layers(ax: Axes, count: int) -> None:
    """A key to colours that go by the order of so many layers; none for a single one."""
    if count > 1:
        colours = ScalarMappable(Normalize(0, count - 1), "viridis")
        ax.figure.colorbar(colours, ax=ax, label="layer, in order", ticks=[0, count - 1])


def name_layers(ax: Axes, layers: pd.DataFrame) -> None:
    """Blocks under the axis, a faint line between them; at most fifteen of the names."""
    blocks = layers["block" if "block" in layers else "layer"].tolist()
    starts = [place for place, block in enumerate(blocks) if place == 0 or block != blocks[place - 1]]
    for start in starts[1:]:
        ax.axvline(start - 0.5, color=GREY, lw=0.4, zorder=0)
    middles = [(start + end - 1) / 2 for start, end in zip(starts, [*starts[1:], len(blocks)], strict=True)]
    every = slice(None, None, max(1, -(-len(starts) // 15)))
    names = [elided(short(blocks[start])) for start in starts[every]]
    ax.set_xticks(middles[every], names)
    if max(map(len, names)) * len(names) > 40:
        for text in ax.get_xticklabels():
            text.set(rotation=30, ha="right", rotation_mode="anchor")
    ax.tick_params(axis="x", length=0)


def elided(text: str, letters: int = 22) -> str:
    """A name with its middle left out if it is longer than so many letters; ends tell layers apart."""
    half = letters // 2
    return text if len(text) <= letters else f"{text[: half - 1]}…{text[-half:]}"
