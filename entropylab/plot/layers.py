"""Single layers and heads: a map of them, entropy through the denoising steps, and the layers of several models."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from ..law import fit
from ..law.averages import Kinds, averaged, counted, log_tokens, of_kind, over_samples, under
from ..law.check import check
from ..law.drift import training_size
from ..law.names import layer_names
from ..sizes import AnySize, size_label
from .style import BLACK, PAPER, axes_of, elided, legend

NAMED = 12
"""Layers that have a name each; of more only the order is told, by colour."""

SHARES = {"normalised_entropy": "entropy / log N, 1 is uniform"}


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
    part, label = at_size(under(of_kind(ds, kind), scaling)[0], size, kind)
    if "step" not in part["entropy"].dims:
        raise EntropyLabError(f"ds must have a dim step, not averaged. Got {list(part['entropy'].dims)}.")
    mask = counted(part["entropy"])
    keep = ("layer", "step")
    y = averaged(part["entropy"], mask, (*keep, "sample"))
    error = over_samples(part, y, mask, keep)
    mean = y.mean("sample") if "sample" in y.dims else y
    unit = log_tokens(part) if normalised else xr.ones_like(log_tokens(part))
    ax = axes_of(ax)
    steps = np.arange(1, mean.sizes["step"] + 1)
    many = part.sizes["layer"] > NAMED
    names = ["_"] * part.sizes["layer"] if many else [elided(name) for name in layer_names(part)]
    for place, color in enumerate(sns.color_palette("viridis", part.sizes["layer"])):
        one = unit.isel(layer=place).item()
        line, half = (v.isel(layer=place).values / one for v in (mean, error))
        ax.plot(steps, line, "-", marker=".", color=color, label=names[place])
        if np.isfinite(half).any():
            ax.fill_between(steps, line - half, line + half, color=color, alpha=0.2, lw=0)
    ax.set_xticks(steps if len(steps) <= 12 else steps[:: len(steps) // 8])
    ax.set_xlabel("denoising step, from noise to image")
    ax.set_ylabel(f"{SHARES['normalised_entropy'] if normalised else 'attention entropy [nats]'}, at {label}")
    if many:
        last = part.sizes["layer"] - 1
        colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, last), "viridis")
        ax.figure.colorbar(colours, ax=ax, label="layer, in order", ticks=[0, last])
    legend(ax)
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
    part, label = at_size(under(of_kind(ds, kind), scaling)[0], size, kind)
    if "head" not in part["entropy"].dims:
        raise EntropyLabError(f"ds must have a dim head, not averaged. Got {list(part['entropy'].dims)}.")
    found = check(part, kind=kind)
    share = name in SHARES
    data = found["entropy"] / found["log_tokens"] if share else found[name].astype(float)
    frame = data.isel(size=0).transpose("layer", "head").dropna("head", how="all").to_pandas()
    frame.index = pd.Index([elided(text) for text in layer_names(found.dataset)])
    about = {"long_name": SHARES[name]} if share else found[name].attrs
    unit = about.get("units", "1")
    words = f"{about['long_name']}{f' [{unit}]' if unit != '1' else ''}, at {label}"
    look: dict[str, Any] = {"cmap": "viridis"} | ({"vmin": 0, "vmax": 1} if share else {})
    if not share and frame.min(axis=None) < 0 < frame.max(axis=None):
        reach = frame.abs().max(axis=None)
        look = {"cmap": "RdBu", "vmin": -reach, "vmax": reach}
    ax = sns.heatmap(frame, ax=axes_of(ax), linewidths=0.3, cbar_kws={"label": words}, **look)
    ax.set(xlabel="head", ylabel="layer")
    ax.tick_params(length=0)
    return ax


def at_size(part: xr.Dataset, size: AnySize | None, kind: Kinds) -> tuple[xr.Dataset, str]:
    """The part at one size, with its label; by default the only one, or the training size."""
    labels = [str(label) for label in np.atleast_1d(part["size"].values)]
    default = labels[0] if len(labels) == 1 else None
    label = size_label(size) if size is not None else default or training_size(part, kind=kind)
    if label not in labels:
        raise EntropyLabError(f"size must be one of those measured, {labels}. Got {size!r}.")
    return (part.isel(size=labels.index(label)) if "size" in part.dims else part), label


def steps_table(ds: xr.Dataset, *, kind: Kinds = None, scaling: str | None = None) -> pd.DataFrame:
    """Entropy and normalised entropy of every size, layer, head and step; means over branches and samples.

    Raises:
        EntropyLabError: as `entropy_vs_step`.
    """
    part = under(of_kind(ds, kind), scaling)[0]
    if "step" not in part["entropy"].dims:
        raise EntropyLabError(f"ds must have a dim step, not averaged. Got {list(part['entropy'].dims)}.")
    mask = counted(part["entropy"])
    keep = [dim for dim in ("size", "layer", "head", "step") if dim in part["entropy"].dims]
    mean = averaged(part["entropy"], mask, keep)
    data = xr.Dataset({"entropy": mean, "normalised_entropy": mean / log_tokens(part)}).transpose(*keep)
    frame = data.to_dataframe(dim_order=keep).reset_index()
    return frame[[*keep, "tokens", "entropy", "normalised_entropy"]].dropna(subset="entropy", ignore_index=True)


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
        # Frame the slopes and not their intervals, which of two samples can be ten times as long.
        low, high = min(rows["slope"].min(), 1), max(rows["slope"].max(), 1)
        margin = 0.3 * max(high - low, 0.2)
        ax.set_ylim(low - margin, high + margin)
    elif 0 < WIDE * rows[name].min() < rows[name].max():
        ax.set_yscale("log")
    ax.set_xlim(-0.05, 1.05)
    ax.set(xlabel="layer, from the first (0) to the last (1)", ylabel=QUANTITIES[name])
    legend(ax)
    return ax


def layer_lines(runs: Mapping[str, xr.Dataset], *, kind: Kinds = None, scaling: str | None = None) -> pd.DataFrame:
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
