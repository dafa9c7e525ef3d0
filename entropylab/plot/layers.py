"""Single layers and heads: entropy through the denoising steps, and a map of layers and heads."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from ..law.averages import Kinds, averaged, counted, log_tokens, of_kind, over_samples, under
from ..law.check import check
from ..law.drift import training_size
from ..law.names import layer_names
from ..sizes import AnySize, size_label
from .style import axes_of, legend
from .ticks import elided, spread

NAMED = 12
"""Layers that have a name each; of more only the order is told, by colour."""

SHARES = {"normalised_entropy": "entropy / log N, 1 is uniform"}


def entropy_vs_step(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    size: AnySize | None = None,
    kind: Kinds = "self",
    scaling: str | None = None,
    normalised: bool = False,
) -> Axes:
    """Entropy through the denoising steps, a line for each layer with one standard error over samples around it.

    Args:
        ds: a Dataset from `entropylab.measure` whose steps were kept.
        ax: Axes to draw on; the current ones by default.
        size: which size; the only one, or the training size, by default.
        kind: which layers: "self", "cross", "joint", or several.
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
    for place, color in enumerate(in_order(part.sizes["layer"])):
        one = unit.isel(layer=place).item()
        line, half = (v.isel(layer=place).values / one for v in (mean, error))
        ax.plot(steps, line, "-", marker=".", color=color, label=names[place])
        if np.isfinite(half).any():
            ax.fill_between(steps, line - half, line + half, color=color, alpha=0.2, lw=0)
    ax.set_xticks(steps if len(steps) <= 12 else steps[:: len(steps) // 8])
    ax.set_xlabel("denoising step, from noise to image")
    ax.set_ylabel(f"{SHARES['normalised_entropy'] if normalised else 'attention entropy [nats]'}, at {label}")
    if many:
        layer_colours(ax, part.sizes["layer"])
    legend(ax)
    return ax


def layer_colours(ax: Axes, number: int) -> None:
    """A bar of the colours of so many layers, in the place of a legend."""
    colours = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, number - 1), mpl.colors.ListedColormap(in_order(256)))
    ax.figure.colorbar(colours, ax=ax, label="layer, in order", ticks=[0, number - 1])


def heads(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    name: str = "normalised_entropy",
    size: AnySize | None = None,
    kind: Kinds = "self",
    scaling: str | None = None,
) -> Axes:
    """A map of layers, in the order in which data meet them, and heads.

    Args:
        ds: a Dataset from `entropylab.measure` with sigma2, whose heads were kept.
        ax: Axes to draw on; the current ones by default.
        name: "normalised_entropy" (H / log N), or a variable of `entropylab.check`: "deficit", "sigma2", "freezing",
            "law_residual", ...; those that change sign are coloured about 0.
        size: which size; the only one, or the training size, by default.
        kind: which layers: "self", "cross", "joint", or several.
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
    data = found["entropy"] / found["log_tokens"] if name in SHARES else found[name].astype(float)
    data = data.isel(size=0).transpose("layer", "head").dropna("head", how="all")
    values = data.values
    about = found[name].attrs if name not in SHARES else {"long_name": SHARES[name]}
    look: dict[str, Any] = {"cmap": "viridis"}
    if name in SHARES:
        look |= {"vmin": 0, "vmax": 1}
    elif np.nanmin(values) < 0 < np.nanmax(values):
        reach = np.nanmax(abs(values))
        look = {"cmap": "RdBu", "vmin": -reach, "vmax": reach}
    ax = axes_of(ax)
    picture = ax.imshow(values, aspect="auto", interpolation="nearest", **look)
    across, down = spread(values.shape[1], 16), spread(values.shape[0], 20)
    names = layer_names(found.dataset)
    ax.set_xticks(across, [str(data["head"].values[place]) for place in across])
    ax.set_yticks(down, [elided(names[place]) for place in down])
    ax.set_xlabel("head")
    ax.set_ylabel("layer")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    unit = about.get("units", "1")
    words = f"{about['long_name']}{f' [{unit}]' if unit != '1' else ''}, at {label}"
    ax.figure.colorbar(picture, ax=ax, label=words)
    return ax


def at_size(part: xr.Dataset, size: AnySize | None, kind: Kinds) -> tuple[xr.Dataset, str]:
    """The part at one size, with its label; by default the only one, or the training size."""
    labels = [str(label) for label in np.atleast_1d(part["size"].values)]
    default = labels[0] if len(labels) == 1 else None
    label = size_label(size) if size is not None else default or training_size(part, kind=kind)
    if label not in labels:
        raise EntropyLabError(f"size must be one of those measured, {labels}. Got {size!r}.")
    return (part.isel(size=labels.index(label)) if "size" in part.dims else part), label


def in_order(number: int) -> list[Any]:
    """As many colours, from dark to light."""
    return list(mpl.colormaps["viridis"](np.linspace(0, 0.9, number)))


def steps_table(ds: xr.Dataset, *, kind: Kinds = "self", scaling: str | None = None) -> pd.DataFrame:
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
