"""What scaling rules do: the paper's figure 6, layer by layer, and the sweep around the formula, by multiplier."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from ..errors import EntropyLabError, names_of
from ..law.averages import Kinds, kind_in, kinds_of, of_kind, scalings_of, size_in
from ..law.drift import MEAN, cancelling, drift, training_size
from ..sizes import AnySize
from . import style
from .style import BLACK, BLUE, DASHES, GREEN, GREY, MARKERS, MORE_MARKERS, ORANGE, PURPLE, VERMILLION

FORESEEN = "foreseen of the rules at the training size"


def stabilization(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    sizes: tuple[AnySize, AnySize] | None = None,
    scaling: Sequence[str] | None = None,
    train_size: AnySize | None = None,
    kind: Kinds = None,
) -> Axes:
    """Entropy of each layer, in the order in which data meet them, at two sizes and under every scaling.

    The training size as the model is gives the reference. The legend says how much of the drift of the mean over layers
    each rule removes, unless layers drift opposite ways and leave next to none; `entropylab.law.drift.drift` has the
    numbers, by layer too. Where ``sensitivity`` was measured, crosses are what it foresees of each rule, from the
    training size alone (``predicted_fraction`` there).

    Args:
        ds: a Dataset from `entropylab.measure`, under "original" and other scalings, with the training size in it.
        ax: Axes to draw on; the current ones by default.
        sizes: a lower and a higher size; by default those with the fewest and with the most tokens.
        scaling: which scalings beside "original"; by default all.
        train_size: the training size, if the Dataset does not say.
        kind: which layers: "self", "cross", "joint", or several; by default "self", or what the model has instead.

    Raises:
        EntropyLabError: as `entropylab.law.drift.drift`; a size or scaling that was not measured.

    Examples:
        >>> ax = entropylab.plot.stabilization(ds, sizes=(32, 96))
        >>> ax.figure.savefig("stabilization.pdf")
    """
    rows = drift(ds, train_size, kind=kind)
    trained = training_size(ds, train_size, kind=kind)
    tokens = rows[rows["layer"] == MEAN].drop_duplicates("size").set_index("size")["tokens"].sort_values(kind="stable")
    if sizes is not None and (not isinstance(sizes, list | tuple) or len(sizes) != 2):
        raise EntropyLabError(f"sizes must be two of those measured, {list(tokens.index)}. Got {sizes!r}.")
    chosen = [size_in(ds, size, "each of sizes") for size in sizes or (tokens.index[0], tokens.index[-1])]
    have = list(dict.fromkeys(rows["scaling"]))
    wanted = have if scaling is None else names_of(scaling)
    if not set(wanted) <= set(have):
        raise EntropyLabError(f"scaling must be some of those measured, {have}. Got {scaling!r}.")
    rules = ["original", *(name for name in wanted if name != "original")]
    groups = {key: part.query("layer != @MEAN") for key, part in rows.groupby(["size", "scaling"], sort=False)}
    gone = rows[rows["layer"] == MEAN].set_index(["size", "scaling"])["fraction_removed"]
    gone[gone.index.get_level_values("size").isin(cancelling(rows))] = np.nan
    ax = style.axes_of(ax)
    reference = groups[trained, "original"]
    alone = "_" if len(reference) == 1 else ""  # a line of one layer is a dash
    line: dict[str, Any] = {"color": BLACK, "lw": 1.8, "marker": alone, "ms": 14}
    ax.plot(range(len(reference)), reference["entropy"], "-", label=f"{trained}, training size", **line)
    foreseen_label = FORESEEN
    shown = [size for size in dict.fromkeys(chosen) if sizes or size != trained]
    for size, color, marker in zip(shown, (BLUE, VERMILLION), MARKERS, strict=False):
        for number, rule in enumerate(rules):
            part = groups[size, rule]
            mark = marker if number < 2 else MORE_MARKERS[number % len(MORE_MARKERS)]
            look: dict[str, Any] = {"ls": DASHES[(number + 1) % len(DASHES)], "marker": mark, "color": color}
            fill = "white" if rule == "original" else color
            text = f"{size}, {rule}{removed(rule, gone[size, rule], len(rules) > 4)}"
            ax.plot(range(len(part)), part["entropy"], mfc=fill, label=text, **look)
            if rule != "original" and "predicted_fraction" in part and part["predicted_fraction"].notna().any():
                before = groups[size, "original"]
                foreseen = before["entropy"].values - part["predicted_fraction"].values * before["drift"].values
                look = {"ls": "", "marker": "x", "color": BLACK, "ms": 5, "zorder": 4, "label": foreseen_label}
                ax.plot(range(len(part)), foreseen, **look)
                foreseen_label = "_"
    style.name_layers(ax, reference)
    ax.set_ylabel(style.label(of_kind(ds, kind)["entropy"], "attention entropy"))
    ax.set_xlabel(f"{of_attention(ds, kind)} layer, in the order in which data meet them")
    style.legend(ax)
    return ax


def of_attention(ds: xr.Dataset, kind: Kinds = None) -> str:
    """What is drawn, in words: "self-attention", or what the model has in its place."""
    return f"{' and '.join(kinds_of(kind_in(ds, kind)))}-attention"


def removed(rule: str, fraction: float, brief: bool = False) -> str:
    """How much of the drift of the mean over layers a rule removes, in words; nothing for "original"."""
    hidden = rule == "original" or pd.isna(fraction)
    return "" if hidden else f" ({100 * fraction:.0f}% {'removed' if brief else 'of the mean drift removed'})"


MARKS: dict[str, dict[str, Any]] = {
    "original": {"marker": "o", "mfc": "white", "color": BLUE},
    "sqrt_log": {"marker": "s", "color": VERMILLION},
    "invariant": {"marker": "^", "color": GREEN},
    "calibrated": {"marker": "D", "color": PURPLE},
}
"""The rules of the sweep, in an order that is the same in every panel."""

OTHER: dict[str, Any] = {"marker": "X", "color": ORANGE}


def sweep(
    ds: xr.Dataset, ax: Axes | None = None, *, size: AnySize | None = None, train_size: AnySize | None = None
) -> Axes:
    """Mean entropy of self-attention, or what the model has instead, at one size against the multiplier.

    The axis on the right is the drift.

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
        The Axes. The data drawn are ``entropylab.plot.rules.sweep_table`` of the same arguments.

    Raises:
        EntropyLabError: as `entropylab.law.drift.drift`; a size that is not known or was not measured; no multipliers.

    Examples:
        >>> ax = entropylab.plot.sweep(ds, size=96)
        >>> ax.figure.savefig("sweep.pdf")
    """
    rows = sweep_table(ds, size=size, train_size=train_size)
    mean = rows[rows["layer"] == MEAN]
    reference = mean["reference"].iloc[0]
    ax = style.axes_of(ax)
    trained = f"{training_size(ds, train_size)}, training size"
    ax.axhline(reference, ls="--", color=BLACK, lw=0.8, zorder=0, label=trained)
    curve = mean[mean["curve"]]
    one = f"{mean['size'].iloc[0]}, one multiplier everywhere"
    ax.plot(curve["multiplier"], curve["entropy"], "-", marker=".", color=GREY, label=one, zorder=1)
    rules = mean[~mean["curve"] | (mean["scaling"] == "original")]
    rules = rules.assign(fraction_removed=rules["fraction_removed"].where(~rules["size"].isin(cancelling(mean))))
    order = {name: place for place, name in enumerate(MARKS)}
    for _, row in rules.sort_values("scaling", key=lambda names: names.map(order).fillna(len(order))).iterrows():
        text = f"{row['scaling']}{removed(row['scaling'], row['fraction_removed'])}"
        look = {"label": text, **MARKS.get(row["scaling"], OTHER)}
        style.marks(ax, row["multiplier"], row["entropy"], pd.Series(row["drift_error"]), **look)
    ylabel = f"mean entropy of {of_attention(ds)} [nats]"
    ax.set(xlabel="multiplier of the softmax scale (mean)", ylabel=ylabel)
    shift: tuple[Any, Any] = (lambda entropy: entropy - reference, lambda drift: drift + reference)
    ax.secondary_yaxis("right", functions=shift).set_ylabel("drift from the training size [nats]")
    style.legend(ax)
    return ax


def sweep_table(ds: xr.Dataset, *, size: AnySize | None = None, train_size: AnySize | None = None) -> pd.DataFrame:
    """What `sweep` draws: a row for every self-attention layer and scaling at one size, the mean over layers last.

    Columns as of `entropylab.law.drift.drift`, entropies in nats, and two more: ``multiplier``, the factor on the
    softmax scale, mean over heads (and over layers in the rows of layer "mean"), and ``curve``, whether it is one
    number for all layers and heads. Sorted by multiplier within a layer. Arguments and errors as of `sweep`.
    """
    rows, part = drift(ds, train_size), of_kind(ds)
    others = [label for label in dict.fromkeys(rows["size"]) if label != training_size(ds, train_size)]
    if size is None and len(others) != 1:
        raise EntropyLabError(f"size must be named: one of {others}, beside the training size. Got None.")
    label = others[0] if size is None else size_in(part, size)
    if "multiplier" not in part.coords:
        have = sorted(map(str, part.coords))
        raise EntropyLabError(f"ds must have a coordinate multiplier, as of entropylab.measure. Got {have}.")
    chosen = part["multiplier"].reset_coords(drop=True)
    chosen = chosen.sel(size=label, drop=True) if "size" in chosen.dims else chosen
    chosen = chosen if "scaling" in chosen.dims else chosen.expand_dims(scaling=scalings_of(part))
    factors = chosen.to_dataframe().reset_index()[["layer", "scaling", "multiplier"]]
    mean = factors.groupby("scaling", sort=False, as_index=False)["multiplier"].mean().assign(layer=MEAN)
    rows = rows[(rows["size"] == label) & rows["entropy"].notna()]
    rows = rows.merge(pd.concat([factors, mean]), on=["layer", "scaling"])
    rows["curve"] = (rows["scaling"] == "original") | pd.to_numeric(rows["scaling"], errors="coerce").notna()
    ordered = pd.concat([layer.sort_values("multiplier") for _, layer in rows.groupby("layer", sort=False)])
    first = [name for name in ("layer", "block", "size", "scaling", "curve", "multiplier") if name in ordered]
    return ordered[[*first, *(name for name in ordered if name not in first)]].reset_index(drop=True)
