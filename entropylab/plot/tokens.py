"""The paper's figure 5: attention entropy, and its deficit, against the logarithm of the number of tokens."""

from typing import Any

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from ..law import Fit, fit
from ..law.averages import Kinds
from ..law.drift import MEAN
from .style import BLACK, BLUE, GREY, VERMILLION, axes_of, label, legend

FIRST = ("layer", "block", "size", "height", "width")


def entropy_vs_tokens(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    kind: Kinds = None,
    scaling: str | None = None,
    layers: bool = True,
    law: bool = True,
) -> Axes:
    """Entropy against log N: the mean over heads and layers with its fitted line, single layers thin behind it.

    Error bars are one standard error over samples. Beside the fit the law's own prediction log N - sigma^2/2 from
    measured sigma^2, in which nothing is fitted, and log N, the entropy of uniform attention.

    Args:
        ds: a Dataset from `entropylab.measure` with at least two sizes.
        ax: Axes to draw on; the current ones by default.
        kind: which layers: "self", "cross", "joint", or several; by default "self", or what the model has instead.
        scaling: which scaling; by default the only one, or "original" of several.
        layers: draw the single layers.
        law: draw the law's prediction, if sigma^2 was measured.

    Returns:
        The Axes. The data drawn are those of ``entropylab.fit(ds).points()``, and the same by layer.

    Raises:
        EntropyLabError: as `entropylab.fit`.

    Examples:
        >>> ax = entropylab.plot.entropy_vs_tokens(ds)
        >>> ax.figure.savefig("entropy_vs_tokens.pdf")
    """
    rows = table(ds, kind=kind, scaling=scaling)
    mean = rows[rows["layer"] == MEAN].sort_values("log_tokens")
    first = mean.iloc[0]
    slope, r_squared = with_error(first["slope"], first["slope_error"]), first["r_squared"]
    # "R² = 1.0000" would claim too much.
    share = f"R² = {r_squared:.4f}" if not 0.99995 <= r_squared < 1 else "R² > 0.9999"
    ax = points(axes_of(ax), mean, "entropy")
    ax.plot(mean["log_tokens"], mean["fitted"], "-", color=BLUE, label=f"slope {slope}, {share}")
    ax.plot(mean["log_tokens"], mean["log_tokens"], ":", color=BLACK, lw=0.8, label="uniform attention")
    predicted = "law" if law else None
    return finish(ax, ds, rows, "entropy", layers, predicted, label(ds["entropy"], "attention entropy"))


def deficit_vs_tokens(
    ds: xr.Dataset, ax: Axes | None = None, *, kind: Kinds = None, scaling: str | None = None, layers: bool = True
) -> Axes:
    """The deficit log N - H against log N, with measured sigma^2/2 beside it: under the law the two are one level line.

    Arguments, error bars, errors and return value as of `entropy_vs_tokens`. The level 0 is uniform attention.

    Examples:
        >>> ax = entropylab.plot.deficit_vs_tokens(ds)
        >>> ax.figure.savefig("deficit_vs_tokens.pdf")
    """
    rows = table(ds, kind=kind, scaling=scaling)
    mean = rows[rows["layer"] == MEAN].sort_values("log_tokens")
    slope = with_error(1 - mean["slope"].iloc[0], mean["slope_error"].iloc[0])
    ax = points(axes_of(ax), mean, "deficit")
    ax.plot(mean["log_tokens"], mean["log_tokens"] - mean["fitted"], "-", color=BLUE, label=f"slope {slope}")
    ax.axhline(0, ls=":", color=BLACK, lw=0.8, label="uniform attention")
    return finish(ax, ds, rows, "deficit", layers, "half_sigma2", "deficit log N − H [nats]")


def table(ds: xr.Dataset, *, kind: Kinds = None, scaling: str | None = None) -> pd.DataFrame:
    """Everything that the figures of this file show: a row for every layer and size, the mean over layers first.

    Entropies, deficits and log N in nats; the line that was fitted to each layer is repeated in its rows.

    Raises:
        EntropyLabError: as `entropylab.fit`.
    """
    parts = [with_line(fit(ds, kind=kind, scaling=scaling)).assign(layer=MEAN, block=MEAN)]
    if "layer" in ds.dims:
        parts.append(with_line(fit(ds, by="layer", kind=kind, scaling=scaling)))
    rows = pd.concat(parts, ignore_index=True).drop(columns=["kind", "train_tokens"], errors="ignore")
    order = [name for name in FIRST if name in rows]
    return rows[[*order, *(name for name in rows if name not in order)]]


def with_line(result: Fit) -> pd.DataFrame:
    """The points of a fit, each with the line it belongs to."""
    names = ["slope", "slope_error", "intercept", "intercept_error", "r_squared"]
    lines = result.to_frame()[[*result.by, *names]]
    points = result.points()
    return points.merge(lines, on=list(result.by), how="left") if result.by else points.merge(lines, how="cross")


def points(ax: Axes, mean: pd.DataFrame, name: str) -> Axes:
    """The measured means with their standard errors, sizes that are not square hollow."""
    square = (mean["height"] == mean["width"]).to_numpy()
    looks = ((square, BLUE, "mean of layers and heads"), (~square, "white", "the same, not square"))
    for chosen, fill, words in looks:
        part = mean[chosen]
        if len(part):
            error = part["entropy_error"] if part["entropy_error"].notna().any() else None
            style: dict[str, Any] = {"color": BLUE, "mfc": fill, "capsize": 2, "zorder": 3}
            ax.errorbar(part["log_tokens"], part[name], error, fmt="o", label=words, **style)
    return ax


def finish(
    ax: Axes, ds: xr.Dataset, rows: pd.DataFrame, name: str, layers: bool, predicted: str | None, ylabel: str
) -> Axes:
    """Single layers as thin lines, the law's prediction, names and units of the axes, and the legend."""
    if layers:
        for number, (_, layer) in enumerate(rows[rows["layer"] != MEAN].groupby("layer", sort=False)):
            ordered = layer.sort_values("log_tokens")
            text = "single layers" if number == 0 else "_"
            ax.plot(ordered["log_tokens"], ordered[name], "-", color=GREY, lw=0.6, zorder=1, label=text)
    mean = rows[rows["layer"] == MEAN].sort_values("log_tokens")
    if predicted in mean:
        # Where sigma^2 is past freezing the law is off by tens of nats: then it does not stretch the frame.
        low, high = ax.get_ylim()
        known, reach = mean[predicted].dropna(), max(high - low, 1.0)
        out = known[(known < low - reach) | (known > high + reach)]
        text = "law, from measured σ²" if name == "entropy" else "law, σ²/2 measured"
        if len(out):
            text = f"law: {out.min():.0f} to {out.max():.0f}, out of frame".replace("-", "−")
        look: dict[str, Any] = {"ls": "--", "marker": "s", "mfc": "none", "color": VERMILLION}
        ax.plot(mean["log_tokens"], mean[predicted], label=text, scaley=not len(out), **look)
    number = ds["tokens"].attrs.get("long_name", "N, number of keys")
    ax.set(xlabel=f"log N [nats]  ({number})", ylabel=ylabel)
    legend(ax)
    return ax


def with_error(value: float, error: float) -> str:
    """A number with its error; without one where none is known."""
    return f"{value:.3f}" if pd.isna(error) else f"{value:.3f} ± {error:.3f}"
