"""The law with nothing fitted: what it is off by, whether skewness and kurtosis explain it, and how near freezing."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from ..law.averages import Kinds
from ..law.averages import check as check_dataset
from ..law.check import Check, check
from ..law.names import RESIDUALS
from ..law.theory import THRESHOLDS
from .style import BLACK, BLUE, COLORS, GREY, MORE_MARKERS, ORANGE, VERMILLION, axes_of, legend
from .ticks import name_layers

WIDE = 3.0
"""Residuals beyond this [nats] are drawn on a scale that is linear up to 1 and logarithmic from there."""


def law_residual(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    name: str = "law",
    kind: Kinds = "self",
    scaling: str | None = None,
    heads: bool = True,
) -> Axes:
    """Measured entropy less the law's, for each layer in the order in which data meet them, at every size.

    Marks are means over heads with one standard error over samples; single heads are dots behind them.

    Args:
        ds: a Dataset from `entropylab.measure` with sigma2 ("third" and "fourth" for the series).
        ax: Axes to draw on; the current ones by default.
        name: which prediction: "law", "third_order", "series" or "finite" (see `entropylab.check`).
        kind: which layers: "self", "cross", "joint", or several.
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
    ax = axes_of(ax)
    places = {layer: place for place, layer in enumerate(dict.fromkeys(mean["layer"]))}
    sizes = list(dict.fromkeys(mean.sort_values("log_tokens", kind="stable")["size"]))
    for number, size in enumerate(sizes):
        shift = 0.5 * ((number + 0.5) / len(sizes) - 0.5)
        style: dict[str, Any] = {"color": COLORS[number % len(COLORS)]}
        if heads and len(single):
            part = single[single["size"] == size]
            x = part["layer"].map(places) + shift
            ax.plot(x, part["residual"], ".", ms=2, alpha=0.5, zorder=1, label="_", **style)
        part = mean[mean["size"] == size]
        error = part["error"] if part["error"].notna().any() else None
        marker = MORE_MARKERS[number % len(MORE_MARKERS)]
        x = part["layer"].map(places) + shift
        ax.errorbar(x, part["residual"], error, ls="", marker=marker, capsize=2, zorder=3, label=str(size), **style)
    ax.axhline(0, ls=":", color=BLACK, lw=0.8, zorder=0)
    widen(ax, pd.concat([mean["residual"], single["residual"]]) if heads else mean["residual"])
    name_layers(ax, mean.drop_duplicates("layer"))
    ax.set_xlabel("layer, in the order in which data meet them")
    ax.set_ylabel(f"entropy less {RESIDUALS[name]} [nats]".replace("the law's prediction", "log N − σ²/2"))
    legend(ax)
    return ax


def residuals(
    ds: xr.Dataset, *, name: str = "law", kind: Kinds = "self", scaling: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What `law_residual` draws: ``residual`` and its ``error`` [nats] by layer and size, and by head as well.

    Raises:
        EntropyLabError: as `law_residual`.
    """
    if name not in RESIDUALS:
        raise EntropyLabError(f"name must be one of {', '.join(RESIDUALS)}. Got {name!r}.")
    whole = check_dataset(ds)
    single = check(whole, kind=kind, scaling=scaling)
    headless = whole.mean("head", keep_attrs=True) if "head" in whole.dims else whole
    # Mean over heads first, so that errors know how the heads of a sample vary together.
    mean = check(headless, kind=kind, scaling=scaling)
    return frame_of(mean, name), frame_of(single, name) if "head" in whole.dims else frame_of(mean, name).iloc[:0]


def frame_of(found: Check, name: str) -> pd.DataFrame:
    """The rows of a check, with the residual of one prediction."""
    found[name]
    return found.to_frame().rename(columns={f"{name}_residual": "residual", f"{name}_residual_error": "error"})


def residual_vs_cumulants(
    ds: xr.Dataset, ax: Axes | None = None, *, kind: Kinds = "self", scaling: str | None = None
) -> Axes:
    """What the law is off by against what measured skewness and kurtosis say, a point for every layer, head and size.

    On the line through 0 third and fourth cumulant explain all of it: H - (log N - k2/2) = - k3/3 - k4/8.
    The frame is that of the rows that are not near freezing; the legend says how many of the others lie outside.

    Arguments, errors and return value as of `law_residual`.

    Examples:
        >>> ax = entropylab.plot.residual_vs_cumulants(ds)
        >>> ax.figure.savefig("residual_vs_cumulants.pdf")
    """
    found = check(ds, kind=kind, scaling=scaling)
    found["series"]
    rows = found.to_frame()
    cold = rows["near_freezing"].astype(bool)
    frame = rows if cold.all() else rows[~cold]
    reach = [1.15 * max(0.1, abs(frame[name]).max()) for name in ("correction", "law_residual")]
    inside = (abs(rows["correction"]) <= reach[0]) & (abs(rows["law_residual"]) <= reach[1])
    ax = axes_of(ax)
    looks: tuple[dict[str, Any], ...] = (
        {"marker": "o", "color": BLUE, "zorder": 3},
        {"marker": "x", "color": GREY, "zorder": 2},
    )
    for chosen, words, style in zip((~cold, cold), ("other rows", "near freezing"), looks, strict=True):
        part, out = rows[chosen], int((chosen & ~inside).sum())
        if len(part):
            text = f"{words} ({len(part)}{f', {out} out of frame' if out else ''})"
            ax.plot(part["correction"], part["law_residual"], ls="", ms=3, label=text, **style)
    ax.axline((0, 0), slope=1, ls="--", color=BLACK, lw=0.8, zorder=1, label="all explained")
    ax.set_xlim(-reach[0], reach[0])
    ax.set_ylim(-reach[1], reach[1])
    ax.set_xlabel("− k3/3 − k4/8, measured [nats]")
    ax.set_ylabel("entropy less log N − σ²/2 [nats]")
    legend(ax)
    return ax


def phase(ds: xr.Dataset, ax: Axes | None = None, *, kind: Kinds = "self", scaling: str | None = None) -> Axes:
    """Measured sigma^2 against log N, a point for every layer, head and size, with the line of freezing.

    Past sigma^2 = 2 log N the condensation of the random energy model: single keys carry the rows. From the lower line
    on, the threshold of `entropylab.check`, the law can be off by 0.1 nats. Layers are coloured in their order.

    Arguments, errors and return value as of `law_residual`.

    Examples:
        >>> ax = entropylab.plot.phase(ds)
        >>> ax.figure.savefig("phase.pdf")
    """
    found = check(ds, kind=kind, scaling=scaling)
    rows = found.to_frame()
    order = {layer: place for place, layer in enumerate(dict.fromkeys(rows["layer"]))}
    ax = axes_of(ax)
    x, y = rows["log_tokens"], rows["sigma2"]
    points = ax.scatter(x, y, c=rows["layer"].map(order), s=8, cmap="viridis", zorder=3, label="layers and heads")
    line = np.linspace(0, 1.05 * x.max(), 50)
    ax.plot(line, 2 * line, "-", color=VERMILLION, label="freezing, σ² = 2 log N")
    ratio = THRESHOLDS.near_freezing
    ax.plot(line, 2 * ratio * line, "--", color=ORANGE, label=f"near it, σ² = {2 * ratio:.2g} log N")
    known = y[y > 0]
    if len(known):
        ax.set_yscale("log")
        ax.set_ylim(min(known.min(), 1) / 1.5, max(known.max(), 2 * x.max()) * 1.5)
    ax.set_xlim(min(x.min(), 1) - 0.2, 1.05 * x.max())
    ax.set_xlabel("log N [nats]")
    ax.set_ylabel("σ² of the logits, mean over rows [nats²]")
    legend(ax)
    if len(order) > 1 and ax.figure is not None:
        ax.figure.colorbar(points, ax=ax, label="layer, in order", ticks=[0, len(order) - 1])
    return ax


def widen(ax: Axes, values: pd.Series) -> None:
    """A y scale that is linear near 0 and logarithmic beyond, where values span more than an eye can see."""
    known = values[np.isfinite(values)]
    if len(known) and abs(known).max() > WIDE:
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set_ylim(min(1.5 * known.min(), -0.5), max(1.5 * known.max(), 0.5))
