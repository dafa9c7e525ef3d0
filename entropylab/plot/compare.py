"""Models side by side: slopes, deficits and measured sigma^2/2 of their layers; and the deficit beside sigma^2/2."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from ..errors import EntropyLabError
from ..law import fit
from ..law.averages import Kinds
from ..law.check import check
from .style import BLACK, BLUE, GREY, ORANGE, PAPER, axes_of, legend

QUANTITIES = {
    "slope": "slope of entropy against log N",
    "deficit": "deficit log N − H, mean over sizes [nats]",
    "half_sigma2": "measured σ²/2, mean over sizes [nats]",
}
WIDE = 30.0
"""From this ratio of the largest to the smallest on values are drawn on a logarithmic scale."""


def layer_lines(runs: Mapping[str, xr.Dataset], *, kind: Kinds = "self", scaling: str | None = None) -> pd.DataFrame:
    """What `by_layer` draws: a row for every run and layer.

    Columns ``run``, ``layer``, ``block``, ``place`` (0 the layer that data meet first, 1 the last), the line of the
    layer with its errors, ``deficit`` and ``half_sigma2`` [nats], means over sizes.

    Raises:
        EntropyLabError: as `entropylab.fit`; no run.
    """
    if not isinstance(runs, Mapping) or not runs:
        raise EntropyLabError(f"runs must map at least one name to a Dataset. Got {runs!r}.")
    parts = []
    for name, ds in runs.items():
        lines = fit(ds, by="layer", kind=kind, scaling=scaling).to_frame()
        places = np.linspace(0, 1, len(lines)) if len(lines) > 1 else np.array([0.5])
        parts.append(lines.assign(run=name, place=places))
    rows = pd.concat(parts, ignore_index=True)
    first = [name for name in ("run", "layer", "block", "place") if name in rows]
    return rows[[*first, *(name for name in rows if name not in (*first, "kind", "part", "module"))]]


def by_layer(
    runs: Mapping[str, xr.Dataset],
    ax: Axes | None = None,
    *,
    name: str = "slope",
    kind: Kinds = "self",
    scaling: str | None = None,
) -> Axes:
    """A quantity of every layer of one or several runs, by its place from the first layer to the last.

    Slopes with their 95% intervals and the law's 1; deficit and sigma^2/2 are means over heads and sizes.

    Args:
        runs: name -> a Dataset from `entropylab.measure` with at least two sizes.
        ax: Axes to draw on; the current ones by default.
        name: "slope", "deficit" or "half_sigma2".
        kind: which layers: "self", "cross", "joint", or several.
        scaling: which scaling; by default the only one, or "original" of several.

    Returns:
        The Axes. The data drawn are ``entropylab.plot.compare.layer_lines`` of the same arguments.

    Raises:
        EntropyLabError: as `entropylab.fit`; a name that is none of these, or was not measured.

    Examples:
        >>> ax = entropylab.plot.by_layer({"U-Net": ds}, name="deficit")
        >>> ax.figure.savefig("by_layer.pdf")
    """
    rows = layer_lines(runs, kind=kind, scaling=scaling)
    if name not in QUANTITIES or name not in rows:
        have = [quantity for quantity in QUANTITIES if quantity in rows]
        raise EntropyLabError(f"name must be one of {', '.join(have)}. Got {name!r}.")
    ax = axes_of(ax)
    styles = list(PAPER["axes.prop_cycle"])
    for number, (run, part) in enumerate(rows.groupby("run", sort=False)):
        style = styles[number % len(styles)]
        ax.plot(part["place"], part[name], label=str(run), zorder=3, **style)
        if name == "slope" and part["slope_low"].notna().any():
            reach = [abs(part["slope"] - part[f"slope_{end}"]) for end in ("low", "high")]
            ax.errorbar(part["place"], part["slope"], reach, ls="", capsize=2, lw=0.8, color=style["color"])
    if name == "slope":
        ax.axhline(1, ls=":", color=BLACK, lw=0.8, label="the law, 1")
        frame_slopes(ax, rows["slope"])
    elif wide(rows[name]):
        ax.set_yscale("log")
    ax.set_xlim(-0.05, 1.05)
    ax.set_xlabel("layer, from the first (0) to the last (1)")
    ax.set_ylabel(QUANTITIES[name])
    legend(ax)
    return ax


def frame_slopes(ax: Axes, slopes: pd.Series) -> None:
    """Frame the slopes and not their intervals, which of two samples can be ten times as long."""
    low, high = min(slopes.min(), 1), max(slopes.max(), 1)
    margin = 0.3 * max(high - low, 0.2)
    ax.set_ylim(low - margin, high + margin)


def wide(values: pd.Series) -> bool:
    """Whether values want a logarithmic scale."""
    known = values[values > 0]
    return len(known) == len(values) and known.max() > WIDE * known.min()


def deficit_vs_sigma2(
    ds: xr.Dataset, ax: Axes | None = None, *, kind: Kinds = "self", scaling: str | None = None
) -> Axes:
    """The deficit log N - H against measured sigma^2/2, a point for every layer, head and size; under the law equal.

    Rows with a flag of `entropylab.check` are crosses: there the law is not to be expected. On logarithmic scales,
    where both are positive; a legend says how many points are not. The dotted line is the largest log N, which no
    deficit can pass.

    Args:
        ds: a Dataset from `entropylab.measure` with sigma2.
        ax: Axes to draw on; the current ones by default.
        kind: which layers: "self", "cross", "joint", or several.
        scaling: which scaling; by default the only one, or "original" of several.

    Returns:
        The Axes.

    Raises:
        EntropyLabError: as `entropylab.check`.

    Examples:
        >>> ax = entropylab.plot.deficit_vs_sigma2(ds)
        >>> ax.figure.savefig("deficit_vs_sigma2.pdf")
    """
    rows = check(ds, kind=kind, scaling=scaling).to_frame()
    drawn = rows[(rows["deficit"] > 0) & (rows["half_sigma2"] > 0)]
    ax = axes_of(ax)
    for flagged, marker, color, words in ((False, "o", BLUE, "no flag"), (True, "x", GREY, "flagged")):
        part = drawn[(drawn["flags"] != "") == flagged]
        if len(part):
            text = f"{words} ({len(part)})"
            ax.plot(part["half_sigma2"], part["deficit"], marker, ms=3, color=color, label=text, zorder=3 - flagged)
    if len(drawn) < len(rows):
        ax.plot([], [], " ", label=f"{len(rows) - len(drawn)} not above 0")
    if len(drawn):
        ax.loglog()
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
    ax.axline((1, 1), (2, 2), ls="--", color=ORANGE, lw=1, label="the law, D = σ²/2")
    ax.axhline(rows["log_tokens"].max(), ls=":", color=BLACK, lw=0.8, label="largest log N")
    ax.set_xlabel("measured σ²/2 [nats]")
    ax.set_ylabel("deficit D = log N − H [nats]")
    legend(ax)
    return ax
