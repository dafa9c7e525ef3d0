"""Single layers and heads: through the steps, on a map, of several models, and what one changes of another."""

import textwrap
from collections.abc import Mapping
from itertools import cycle

import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from ..law import fit
from ..law.averages import Kinds, averaged, counted, log_tokens, of_kind, over_samples, under
from ..law.check import check
from ..law.compare import Comparison
from ..law.drift import training_size
from ..law.names import layer_names
from ..sizes import AnySize, size_label
from . import style
from .style import BLACK, BLUE, PAPER

NAMED = 12
"""Layers that have a name each; of more only the order is told, by colour."""

SHARE = "entropy / log N, 1 is uniform"


def entropy_vs_step(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    size: AnySize | None = None,
    kind: Kinds = None,
    scaling: str | None = None,
    normalised: bool = False,
) -> Axes:
    """Entropy through the denoising steps, a line for each layer with one standard error over samples around it.

    Args:
        ds: a Dataset from `entropylab.measure` whose steps were kept.
        ax: Axes to draw on; the current ones by default.
        size: which size; the only one, or the training size, by default.
        kind: which layers: "self", "cross", "joint", or several; by default "self", or what the model has instead.
        scaling: which scaling; by default the only one, or "original" of several.
        normalised: draw entropy / log N, which lies between 0 and 1 in every layer.

    Returns:
        The Axes.

    Raises:
        EntropyLabError: not such a Dataset; steps were averaged; a size that is not known or was not measured.

    Examples:
        >>> ax = entropylab.plot.entropy_vs_step(ds, size=64)
        >>> ax.figure.savefig("entropy_vs_step.pdf")
    """
    part, label = at_size(ds, "step", size, kind, scaling)
    mask = counted(part["entropy"])
    y = averaged(part["entropy"], mask, ("layer", "step", "sample"))
    mean, error = y.mean("sample") if "sample" in y.dims else y, over_samples(part, y, mask, ("layer", "step"))
    if normalised:
        mean, error = mean / log_tokens(part), error / log_tokens(part)
    ax = style.axes_of(ax)
    steps, count = part["step"].values + 1, part.sizes["layer"]  # some may have been left out
    names = ["_"] * count if count > NAMED else [style.elided(name) for name in layer_names(part)]
    for place, color in enumerate(sns.color_palette("viridis", count)):
        line, half = (values.isel(layer=place).values for values in (mean, error))
        ax.plot(steps, line, "-", marker=".", color=color, label=names[place])
        if np.isfinite(half).any():
            ax.fill_between(steps, line - half, line + half, color=color, alpha=0.2, lw=0)
    ax.set_xticks(steps if len(steps) <= 12 else steps[:: len(steps) // 8])
    about = SHARE if normalised else "attention entropy [nats]"
    ax.set(xlabel="denoising step, from noise to image", ylabel=f"{about}, at {label}")
    if count > NAMED:
        style.colours_of_layers(ax, count)
    style.legend(ax)
    return ax


def heads(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    name: str = "normalised_entropy",
    size: AnySize | None = None,
    kind: Kinds = None,
    scaling: str | None = None,
) -> Axes:
    """A map of layers, in the order in which data meet them, and heads.

    Args:
        ds: a Dataset from `entropylab.measure` with sigma2, whose heads were kept.
        ax: Axes to draw on; the current ones by default.
        name: "normalised_entropy" (H / log N), or a variable of `entropylab.check`: "deficit", "sigma2", "freezing",
            "law_residual", ...; those that change sign are coloured about 0.
        size: which size; the only one, or the training size, by default.
        kind: which layers: "self", "cross", "joint", or several; by default "self", or what the model has instead.
        scaling: which scaling; by default the only one, or "original" of several.

    Returns:
        The Axes.

    Raises:
        EntropyLabError: as `entropylab.check`; heads were averaged; no such variable; a size that was not measured.

    Examples:
        >>> ax = entropylab.plot.heads(ds, size=64)
        >>> ax.figure.savefig("heads.pdf")
    """
    part, label = at_size(ds, "head", size, kind, scaling)
    found = check(part, kind=kind)
    share = name == "normalised_entropy"
    data = found["entropy"] / found["log_tokens"] if share else found[name].astype(float)
    if "head" not in data.dims:
        raise EntropyLabError(f"name must be of something that differs between heads. Got {name!r}.")
    frame = data.isel(size=0).transpose("layer", "head").dropna("head", how="all").to_pandas()
    frame.index = pd.Index([style.elided(text) for text in layer_names(found.dataset)])
    words, look = SHARE, {"cmap": "viridis", "vmin": 0, "vmax": 1}
    if not share:
        about = found[name].attrs
        words = about["long_name"] + (f" [{about['units']}]" if about.get("units", "1") != "1" else "")
        reach = frame.abs().max(axis=None)
        signed = frame.min(axis=None) < 0 < frame.max(axis=None)
        look = {"cmap": "RdBu", "vmin": -reach, "vmax": reach} if signed else {"cmap": "viridis"}
    words = textwrap.fill(f"{words}, at {label}", 44)
    ax = sns.heatmap(frame, ax=style.axes_of(ax), linewidths=0.3, cbar_kws={"label": words}, **look)
    ax.set(xlabel="head", ylabel="layer")
    ax.tick_params(length=0)
    ax.tick_params(axis="y", rotation=0)  # seaborn turns names that have room
    return ax


def at_size(ds: xr.Dataset, dim: str, size: AnySize | None, kind: Kinds, scaling: str | None) -> tuple[xr.Dataset, str]:
    """The part at one size, which has a dim, and the size's label; by default the only one, or the training size."""
    part = under(of_kind(ds, kind), scaling)[0]
    labels = [str(label) for label in np.atleast_1d(part["size"].values)]
    default = labels[0] if len(labels) == 1 else None
    label = size_label(size) if size is not None else default or training_size(part, kind=kind)
    if label not in labels:
        raise EntropyLabError(f"size must be one of those measured, {labels}. Got {size!r}.")
    if dim not in part["entropy"].dims:
        raise EntropyLabError(f"ds must have a dim {dim}, not averaged. Got {list(part['entropy'].dims)}.")
    return (part.isel(size=labels.index(label)) if "size" in part.dims else part), label


QUANTITIES = {
    "slope": "slope of entropy against log N",
    "deficit": "deficit log N − H, mean over sizes [nats]",
    "half_sigma2": "measured σ²/2, mean over sizes [nats]",
}
WIDE = 30.0
"""From this ratio of the largest to the smallest on values are drawn on a logarithmic scale."""


def by_layer(
    runs: Mapping[str, xr.Dataset],
    ax: Axes | None = None,
    *,
    name: str = "slope",
    kind: Kinds = None,
    scaling: str | None = None,
) -> Axes:
    """A quantity of every layer of one or several runs, by its place from the first layer to the last.

    Slopes with their 95% intervals and the law's 1; deficit and sigma^2/2 are means over heads and sizes.

    Args:
        runs: name -> a Dataset from `entropylab.measure` with at least two sizes.
        ax: Axes to draw on; the current ones by default.
        name: "slope", "deficit" or "half_sigma2".
        kind: which layers: "self", "cross", "joint", or several; by default "self", or what the model has instead.
        scaling: which scaling; by default the only one, or "original" of several.

    Returns:
        The Axes. The data drawn are ``entropylab.plot.layers.layer_lines`` of the same arguments.

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
    ax = style.axes_of(ax)
    looks = cycle(PAPER["axes.prop_cycle"])
    for (run, part), look in zip(rows.groupby("run", sort=False), looks, strict=False):
        ax.plot(part["place"], part[name], label=str(run), zorder=3, **look)
        if name == "slope" and part["slope_low"].notna().any():
            reach = [abs(part["slope"] - part[f"slope_{end}"]) for end in ("low", "high")]
            ax.errorbar(part["place"], part["slope"], reach, ls="", capsize=2, lw=0.8, color=look["color"])
    if name == "slope":
        style.level(ax, 1, "the law, 1")
        # Frame the slopes and not their intervals, which of two samples can be ten times as long.
        low, high = min(rows["slope"].min(), 1), max(rows["slope"].max(), 1)
        margin = 0.3 * max(high - low, 0.2)
        ax.set_ylim(low - margin, high + margin)
    elif 0 < WIDE * rows[name].min() < rows[name].max():
        ax.set_yscale("log")
    ax.set_xlim(-0.05, 1.05)
    ax.set(xlabel="layer, from the first (0) to the last (1)", ylabel=QUANTITIES[name])
    style.legend(ax)
    return ax


def layer_lines(runs: Mapping[str, xr.Dataset], *, kind: Kinds = None, scaling: str | None = None) -> pd.DataFrame:
    """What `by_layer` draws: a row for every run and layer.

    Columns ``run``, ``layer``, ``block``, ``place`` (0 the layer that data meet first, 1 the last), the line of the
    layer with its errors, ``deficit`` and ``half_sigma2`` [nats], means over sizes.

    Raises:
        EntropyLabError: as `entropylab.fit`; no run.
    """
    if not isinstance(runs, Mapping) or not runs:
        raise EntropyLabError(f"runs must map at least one name to a Dataset. Got {type(runs).__name__}.")
    parts = []
    for name, ds in runs.items():
        lines = fit(ds, by="layer", kind=kind, scaling=scaling).to_frame()
        places = np.linspace(0, 1, len(lines)) if len(lines) > 1 else np.array([0.5])
        parts.append(lines.assign(run=name, place=places))
    rows = pd.concat(parts, ignore_index=True)
    first = [name for name in ("run", "layer", "block", "place") if name in rows]
    return rows[[*first, *(name for name in rows if name not in (*first, "kind", "part", "module"))]]


def compare(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """The difference of entropy in every layer with its 95% interval, and in the mean layer as a line.

    Args:
        comparison: from `entropylab.compare`.
        ax: Axes to draw on; the current ones by default.

    Returns:
        The Axes. Filled marks are layers that differ at p < 0.05, corrected for their number (Holm).

    Raises:
        EntropyLabError: not a comparison.

    Examples:
        >>> found = entropylab.compare(ds, ds, scaling="original", other_scaling="sqrt_log", size=96)
        >>> ax = entropylab.plot.compare(found)
        >>> ax.figure.savefig("compare.pdf")
    """
    if not isinstance(comparison, Comparison):
        raise EntropyLabError(f"comparison must be from entropylab.compare. Got {type(comparison).__name__}.")
    ax, rows = style.axes_of(ax), comparison.to_frame()
    place = np.arange(len(rows))
    reach = rows["difference_high"] - rows["difference"]
    if reach.notna().any():
        ax.errorbar(place, rows["difference"], reach, ls="", capsize=2, lw=0.8, color=BLUE)
    differs = rows["difference_holm"] < 0.05
    for chosen, fill, words in ((differs, BLUE, "differs (Holm, p < 0.05)"), (~differs, "white", "not told from 0")):
        if chosen.any():
            own = rows["difference"][chosen]
            ax.plot(place[chosen], own, "o", color=BLUE, markerfacecolor=fill, zorder=3, label=f"{words}: {len(own)}")
    style.level(ax, 0)
    mean = comparison["mean_difference"].item()
    ax.axhline(mean, ls="--", color=BLACK, lw=0.8, label=f"mean layer, {mean:+.3f} nats".replace("-", "−"))
    style.name_layers(ax, rows)
    ax.set(xlim=(-0.5, len(rows) - 0.5), xlabel="layer", ylabel="entropy, other less first [nats]")
    style.legend_above(ax)
    return ax
