"""The sweep around the formula: entropy at one size against the multiplier of the softmax scale, the rules marked."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from ..law.averages import of_kind
from ..law.drift import MEAN, drift, training_size
from ..sizes import AnySize, size_label
from .style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, axes_of, legend

MARKS: dict[str, dict[str, Any]] = {
    "original": {"marker": "o", "mfc": "white", "color": BLUE},
    "sqrt_log": {"marker": "s", "color": VERMILLION},
    "invariant": {"marker": "^", "color": GREEN},
    "calibrated": {"marker": "D", "color": PURPLE},
}
OTHER: dict[str, Any] = {"marker": "X", "color": ORANGE}
FIRST = ("layer", "block", "size", "scaling", "curve", "multiplier")


def table(ds: xr.Dataset, *, size: AnySize | None = None, train_size: AnySize | None = None) -> pd.DataFrame:
    """What `sweep` draws: a row for every self-attention layer and scaling at one size, the mean over layers last.

    Columns as of `entropylab.law.drift.drift`, entropies in nats, and two more: ``multiplier``, the factor on the
    softmax scale, mean over heads (and over layers in the rows of layer "mean"), and ``curve``, whether it is one
    number for all layers and heads. Sorted by multiplier within a layer.

    Args:
        ds: measured with `entropylab.measure` under "original" at the training size, and under "original", several
            numbers and any rules at the size of the sweep.
        size: the size of the sweep; need not be named if it is the only one beside the training size.
        train_size: the training size, if the Dataset does not say.

    Raises:
        EntropyLabError: as `entropylab.law.drift.drift`; a size that is not known or was not measured; no multipliers.
    """
    label = check_size(ds, size, training_size(ds, train_size))
    if "multiplier" not in ds.coords:
        have = sorted(map(str, ds.coords))
        raise EntropyLabError(f"ds must have a coordinate multiplier, as of entropylab.measure. Got {have}.")
    rows = drift(ds, train_size)
    rows = rows[(rows["size"] == label) & rows["entropy"].notna()]
    rows = rows.merge(multipliers(ds, label), on=["layer", "scaling"])
    rows["curve"] = rows["scaling"].map(on_curve)
    ordered = pd.concat([layer.sort_values("multiplier") for _, layer in rows.groupby("layer", sort=False)])
    first = [name for name in FIRST if name in ordered]
    return ordered[[*first, *(name for name in ordered if name not in first)]].reset_index(drop=True)


def check_size(ds: xr.Dataset, size: AnySize | None, trained: str) -> str:
    """Label of the size of the sweep."""
    labels = [str(label) for label in np.atleast_1d(ds["size"].values)]
    others = [label for label in labels if label != trained]
    if size is None and len(others) != 1:
        raise EntropyLabError(f"size must be named: one of {labels}. Got None, and {len(others)} beside {trained}.")
    label = others[0] if size is None else size_label(size)
    if label not in labels:
        raise EntropyLabError(f"size must be one of those measured, {labels}. Got {size!r}.")
    return label


def multipliers(ds: xr.Dataset, label: str) -> pd.DataFrame:
    """The multiplier of every layer and scaling at one size, and the mean over layers of each scaling."""
    chosen = of_kind(ds)["multiplier"]
    chosen = chosen.sel(size=label) if "size" in chosen.dims else chosen
    frame = chosen.reset_coords(drop=True).to_dataframe().reset_index()[["layer", "scaling", "multiplier"]]
    mean = frame.groupby("scaling", sort=False, as_index=False)["multiplier"].mean().assign(layer=MEAN)
    return pd.concat([frame, mean], ignore_index=True)


def on_curve(scaling: str) -> bool:
    """Whether a scaling is one number for all layers and heads; "original" is 1."""
    try:
        float(scaling)
    except ValueError:
        return scaling == "original"
    return True


def sweep(
    ds: xr.Dataset, ax: Axes | None = None, *, size: AnySize | None = None, train_size: AnySize | None = None
) -> Axes:
    """Mean entropy of self-attention at one size against the multiplier; the axis on the right is the drift.

    One number for all layers and heads gives the curve. The rules are points, at the mean of their multipliers over
    layers: those that differ by layer and head need not lie on the curve. The level line is the entropy at the training
    size; where a point lies on it, no drift is left. Bars are one standard error over samples of the drift.

    Args:
        ds: measured with `entropylab.measure` under "original" at the training size, and under "original", several
            numbers and any rules at the size of the sweep.
        ax: Axes to draw on; the current ones by default.
        size: the size of the sweep; need not be named if it is the only one beside the training size.
        train_size: the training size, if the Dataset does not say.

    Returns:
        The Axes. The data drawn are ``entropylab.plot.sweep.table`` of the same arguments.

    Raises:
        EntropyLabError: a size that is not known or was not measured; no multipliers.

    Examples:
        >>> ax = entropylab.plot.sweep(ds, size=96)
        >>> ax.figure.savefig("sweep.pdf")
    """
    rows = table(ds, size=size, train_size=train_size)
    mean = rows[rows["layer"] == MEAN]
    reference = mean["reference"].iloc[0]
    ax = axes_of(ax)
    trained = f"{training_size(ds, train_size)}, training size"
    ax.axhline(reference, ls="--", color=BLACK, lw=0.8, zorder=0, label=trained)
    curve = mean[mean["curve"]]
    one = f"{mean['size'].iloc[0]}, one multiplier everywhere"
    ax.plot(curve["multiplier"], curve["entropy"], "-", marker=".", color=GREY, label=one, zorder=1)
    for _, row in marked(mean).iterrows():
        error = None if pd.isna(row["drift_error"]) else row["drift_error"]
        style = MARKS.get(row["scaling"], OTHER)
        ax.errorbar(row["multiplier"], row["entropy"], error, ls="", capsize=2, zorder=3, label=words(row), **style)
    return finish(ax, reference)


def marked(mean: pd.DataFrame) -> pd.DataFrame:
    """The rules that are points, in an order that is the same in every panel."""
    rules = mean[~mean["curve"] | (mean["scaling"] == "original")]
    order = {name: place for place, name in enumerate(MARKS)}
    return rules.sort_values("scaling", key=lambda names: names.map(lambda name: order.get(name, len(order))))


def words(row: pd.Series) -> str:
    """A rule's name, and how much of the drift it removes."""
    fraction = row["fraction_removed"]
    hidden = row["scaling"] == "original" or pd.isna(fraction)
    return str(row["scaling"]) if hidden else f"{row['scaling']} ({100 * fraction:.0f}% of the drift removed)"


def finish(ax: Axes, reference: float) -> Axes:
    """Names and units of the axes, and the legend."""
    ax.set_xlabel("multiplier of the softmax scale (mean)")
    ax.set_ylabel("mean entropy of self-attention [nats]")
    shift: tuple[Any, Any] = (lambda entropy: entropy - reference, lambda drift: drift + reference)
    right = ax.secondary_yaxis("right", functions=shift)
    right.set_ylabel("drift from the training size [nats]")
    legend(ax)
    return ax
