"""The law with nothing fitted: what it is off by and why, how near freezing, whether logits are Gaussian."""

import textwrap
from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from ..errors import EntropyLabError
from ..law.averages import Kinds
from ..law.averages import check as check_dataset
from ..law.check import check
from ..law.names import RESIDUALS
from ..law.theory import TOLERANCE, largest_sigma2
from . import style
from .style import BLACK, BLUE, COLORS, GREY, MORE_MARKERS, ORANGE, VERMILLION

WIDE = 3.0
"""Residuals beyond this [nats] are drawn on a scale that is linear up to 1 and logarithmic from there."""


def law_residual(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    name: str = "law",
    kind: Kinds = None,
    scaling: str | None = None,
    heads: bool = True,
) -> Axes:
    """Measured entropy less the law's, for each layer in the order in which data meet them, at every size.

    Marks are means over heads with one standard error over samples; single heads are dots behind them.

    Args:
        ds: a Dataset from `entropylab.measure` with sigma2 ("third" and "fourth" for the series).
        ax: Axes to draw on; the current ones by default.
        name: which prediction: "law", "third_order", "series", "gaussian" or "rarefied" (see
            `entropylab.check`).
        kind: which layers: "self", "cross", "joint", or several; by default "self", or what the model has instead.
        scaling: which scaling; by default the only one, or "original" of several.
        heads: draw the single heads.

    Returns:
        The Axes. The data drawn are ``entropylab.plot.law.residuals`` of the same arguments.

    Raises:
        EntropyLabError: as `entropylab.check`; a prediction that can't be computed from what was measured.

    Examples:
        >>> ax = entropylab.plot.law_residual(ds, name="law")
        >>> ax.figure.savefig("law_residual.pdf")
    """
    mean, single = residuals(ds, name=name, kind=kind, scaling=scaling)
    single = single if heads else single.iloc[:0]
    ax = style.axes_of(ax)
    places = {layer: place for place, layer in enumerate(dict.fromkeys(mean["layer"]))}
    sizes = list(dict.fromkeys(mean.sort_values("log_tokens", kind="stable")["size"]))
    looks = zip(sizes, cycle(COLORS), cycle(MORE_MARKERS), strict=False)
    for number, (size, color, marker) in enumerate(looks):
        shift = 0.5 * ((number + 0.5) / len(sizes) - 0.5)
        part, dots = mean[mean["size"] == size], single[single["size"] == size]
        x, x_dots = ([places[layer] + shift for layer in rows["layer"]] for rows in (part, dots))
        text = str(size) if part["residual"].notna().any() else "_"  # the largest has nothing to be rarefied from
        style.marks(ax, x, part["residual"], part["error"], color=color, marker=marker, label=text)
        ax.plot(x_dots, dots["residual"], ".", ms=2, alpha=0.5, zorder=1, label="_", color=color)
    style.level(ax, 0)
    known = pd.concat([mean, single])["residual"].replace([np.inf, -np.inf], np.nan)
    if abs(known).max() > WIDE:
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set_ylim(min(1.5 * known.min(), -0.5), max(1.5 * known.max(), 0.5))
    style.name_layers(ax, mean.drop_duplicates("layer"))
    text = f"entropy less {RESIDUALS[name]} [nats]".replace("the law's prediction", "log N − σ²/2")
    ax.set(xlabel="layer, in the order in which data meet them", ylabel=textwrap.fill(text, 40))
    style.legend(ax)
    return ax


def residuals(
    ds: xr.Dataset, *, name: str = "law", kind: Kinds = None, scaling: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `law_residual` draws: ``residual`` and its ``error`` [nats] by layer and size, and by head as well.

    Raises:
        EntropyLabError: as `law_residual`.
    """
    if name not in RESIDUALS:
        raise EntropyLabError(f"name must be one of {', '.join(RESIDUALS)}. Got {name!r}.")
    whole = check_dataset(ds)
    # Mean over heads first, so that errors know how the heads of a sample vary together.
    headless = whole.mean("head", keep_attrs=True) if "head" in whole.dims else whole
    frames = []
    for part in (headless, whole):
        found = check(part, kind=kind, scaling=scaling)
        found[name]
        columns = {f"{name}_residual": "residual", f"{name}_residual_error": "error"}
        frames.append(found.to_frame().rename(columns=columns))
    return frames[0], frames[1] if "head" in whole.dims else frames[1].iloc[:0]


def residual_vs_cumulants(
    ds: xr.Dataset, ax: Axes | None = None, *, kind: Kinds = None, scaling: str | None = None
) -> Axes:
    """What the law is off by against what measured skewness and kurtosis say, a point for every layer, head and size.

    On the line through 0 third and fourth cumulant explain all of it: H - (log N - k2/2) = - k3/3 - k4/8.
    Layers are coloured in their order; rows near freezing are crosses. Scales are linear up to 1 nat, and logarithmic
    beyond, so that every row is in the frame.

    Arguments, errors and return value as of `law_residual`.

    Examples:
        >>> ax = entropylab.plot.residual_vs_cumulants(ds)
        >>> ax.figure.savefig("residual_vs_cumulants.pdf")
    """
    found = check(ds, kind=kind, scaling=scaling)
    found["series"]
    rows, ax = found.to_frame(), style.axes_of(ax)
    cold = rows["near_freezing"].astype(bool)
    for chosen, words, marker in ((~cold, "other rows", "o"), (cold, "near freezing", "x")):
        if chosen.any():
            text = f"{words} ({chosen.sum()})"
            by_order(ax, rows, "correction", "law_residual", chosen, s=9, lw=0.8, marker=marker, label=text)
    reach = np.array([-1, 1]) * max(1.0, rows[["correction", "law_residual"]].abs().max(axis=None))
    ax.plot(reach, reach, "--", color=BLACK, lw=0.8, marker="", zorder=1, label="all explained")
    ax.set_xscale("symlog", linthresh=1)
    ax.set_yscale("symlog", linthresh=1)
    ax.set(xlabel="− k3/3 − k4/8, measured [nats]", ylabel="entropy less log N − σ²/2 [nats]")
    style.colours_of_layers(ax, rows["layer"].nunique())
    style.legend(ax)
    return ax


def by_order(ax: Axes, rows: pd.DataFrame, x: str, y: str, chosen: Any = slice(None), **look: Any) -> None:
    """Points of two columns, coloured by the order of their layers."""
    order = pd.factorize(rows["layer"])[0]
    limits = {"vmin": 0, "vmax": max(1, order.max()), "cmap": "viridis"}
    ax.scatter(rows[x][chosen], rows[y][chosen], c=order[chosen], zorder=3, **limits, **look)


def phase(ds: xr.Dataset, ax: Axes | None = None, *, kind: Kinds = None, scaling: str | None = None) -> Axes:
    """Measured sigma^2 against log N, a point for every layer, head and size, with the line of freezing.

    Past sigma^2 = 2 log N the condensation of the random energy model: single keys carry the rows. From the lower line
    on even Gaussian rows are off the law by more than 0.1 nats. Layers are coloured in their order.

    Arguments, errors and return value as of `law_residual`.

    Examples:
        >>> ax = entropylab.plot.phase(ds)
        >>> ax.figure.savefig("phase.pdf")
    """
    found = check(ds, kind=kind, scaling=scaling)
    rows, ax = found.to_frame(), style.axes_of(ax)
    by_order(ax, rows, "log_tokens", "sigma2", s=8, label="layers and heads")
    end, known = rows["log_tokens"].max(), rows["sigma2"][rows["sigma2"] > 0]
    line = np.linspace(0, 1.05 * end, 50)
    ax.plot(line, 2 * line, "-", color=VERMILLION, label="freezing, σ² = 2 log N")
    line = line[line >= np.log(2)]
    near = largest_sigma2(np.exp(line))
    ax.plot(line, near, "--", color=ORANGE, label=f"near it, Gaussian rows {TOLERANCE:g} nats off the law")
    if len(known):
        ax.set_yscale("log")
        ax.set_ylim(min(known.min(), 1) / 1.5, max(known.max(), 2 * end) * 1.5)
    ax.set_xlim(min(rows["log_tokens"].min(), 1) - 0.2, 1.05 * end)
    ax.set(xlabel="log N [nats]", ylabel="σ² of the logits, mean over rows [nats²]")
    style.colours_of_layers(ax, rows["layer"].nunique())
    style.legend(ax)
    return ax


def deficit_vs_sigma2(
    ds: xr.Dataset, ax: Axes | None = None, *, kind: Kinds = None, scaling: str | None = None
) -> Axes:
    """The deficit log N - H against measured sigma^2/2, a point for every layer, head and size; under the law equal.

    Rows with a flag of `entropylab.check` are crosses: there the law is not to be expected. On logarithmic scales,
    where both are positive; a legend says how many points are not. The dotted line is the largest log N, which no
    deficit can pass.

    Arguments, errors and return value as of `law_residual`.

    Examples:
        >>> ax = entropylab.plot.deficit_vs_sigma2(ds)
        >>> ax.figure.savefig("deficit_vs_sigma2.pdf")
    """
    rows = check(ds, kind=kind, scaling=scaling).to_frame()
    drawn = rows[(rows["deficit"] > 0) & (rows["half_sigma2"] > 0)]
    ax = style.axes_of(ax)
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
    style.level(ax, rows["log_tokens"].max(), "largest log N")
    ax.set(xlabel="measured σ²/2 [nats]", ylabel="deficit D = log N − H [nats]")
    style.legend_above(ax)
    return ax


REACH = 6.0
"""How far from the mean is drawn [standard deviations]."""

BINS = 49


def logit_distribution(logits: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Density of the logits of every row, less the row's mean and divided by its standard deviation, and a Gaussian.

    Args:
        logits: a name -> logits (..., keys), rows along the last axis, as of `entropylab.logit_sample` (arrays, or
            tensors on the CPU), or a list of such. NaN is a key that is left out.
        ax: Axes to draw on; the current ones by default.

    The legend has skewness k3/k2^1.5 and excess kurtosis k4/k2^2, both 0 for a Gaussian, mean over rows.

    Raises:
        EntropyLabError: nothing to draw, or rows of a single value.

    Examples:
        >>> attention = entropylab.simulate(tokens=256)
        >>> logits = entropylab.logit_sample(attention.q, attention.k, attention.scale)
        >>> ax = entropylab.plot.logit_distribution({"Gaussian tokens": logits})
        >>> ax.figure.savefig("logit_distribution.pdf")
    """
    if not isinstance(logits, Mapping) or not logits:
        raise EntropyLabError(
            f"logits must be a name -> logits (..., keys), at least one. Got {type(logits).__name__}."
        )
    rows = {name: standardised(name, value) for name, value in logits.items()}
    ax = style.axes_of(ax)
    edges = np.linspace(-REACH, REACH, BINS + 1)
    for name, (values, skewness, kurtosis) in rows.items():
        density = np.histogram(values, edges)[0] / len(values) / np.diff(edges)
        shown = np.where(density > 0, density, np.nan)
        text = f"{name}: " + f"skewness {skewness:.2f}, kurtosis {kurtosis:.2f}".replace("-", "−")
        ax.plot((edges[1:] + edges[:-1]) / 2, shown, ds="steps-mid", marker="", label=text)
    x = np.linspace(-REACH, REACH, 201)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "--", color=BLACK, lw=0.8, marker="", label="Gaussian")
    ax.set_yscale("log")
    ax.set(xlim=(-REACH, REACH), ylim=(1e-4, 3), xlabel="logit, standardised within its row", ylabel="density")
    style.legend(ax)
    return ax


def standardised(name: str, logits: Any) -> tuple[NDArray[Any], float, float]:
    """All standardised logits of a layer, and the means over rows that spread of skewness and excess kurtosis."""
    values, shapes = [], []
    for part in logits if isinstance(logits, list | tuple) else [logits]:
        rows = np.atleast_1d(np.asarray(part, float))
        rows = np.where(np.isfinite(rows), rows, np.nan).reshape(-1, max(1, rows.shape[-1]))
        rows = rows[np.isfinite(rows).any(-1)]
        rows = rows[np.nanstd(rows, -1) > 1e-6 * (1 + np.nanmax(abs(rows), -1))] if len(rows) else rows
        rows = (rows - np.nanmean(rows, -1, keepdims=True)) / np.nanstd(rows, -1, keepdims=True)
        values.append(rows[np.isfinite(rows)])
        shapes.append([np.nanmean(rows**3, -1), np.nanmean(rows**4, -1) - 3])
    if not any(map(len, values)):
        raise EntropyLabError(f"logits of {name!r} must have rows (..., keys) of more than one value. Got none.")
    skewness, kurtosis = np.concatenate(shapes, -1).mean(-1)
    return np.concatenate(values), float(skewness), float(kurtosis)
