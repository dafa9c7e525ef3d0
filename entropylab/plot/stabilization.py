"""The paper's figure 6: entropy of every layer at a lower and a higher size, as the model is and rescaled."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from ..law.averages import Kinds
from ..law.drift import MEAN, drift, training_size
from ..sizes import AnySize, size_label
from .style import BLACK, BLUE, DASHES, MARKERS, MORE_MARKERS, VERMILLION, axes_of, label, legend
from .ticks import name_layers


def stabilization(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    sizes: tuple[AnySize, AnySize] | None = None,
    scaling: Sequence[str] | None = None,
    train_size: AnySize | None = None,
    kind: Kinds = "self",
) -> Axes:
    """Entropy of each layer, in the order in which data meet them, at two sizes and under every scaling.

    The training size as the model is gives the reference. The legend says how much of the drift of the mean over layers
    each rule removes; `entropylab.law.drift.drift` has the numbers, by layer too.

    Args:
        ds: a Dataset from `entropylab.measure`, under "original" and other scalings, with the training size in it.
        ax: Axes to draw on; the current ones by default.
        sizes: a lower and a higher size; by default those with the fewest and with the most tokens.
        scaling: which scalings beside "original"; by default all.
        train_size: the training size, if the Dataset does not say.
        kind: which layers: "self", "cross", "joint", or several.

    Raises:
        EntropyLabError: as `entropylab.law.drift.drift`; a size or scaling that was not measured.

    Examples:
        >>> ax = entropylab.plot.stabilization(ds, sizes=(32, 96))
        >>> ax.figure.savefig("stabilization.pdf")
    """
    rows = drift(ds, train_size, kind=kind)
    trained = training_size(ds, train_size, kind=kind)
    chosen = check_sizes(rows, sizes, trained)
    rules = check_scaling(rows, scaling)
    ax = axes_of(ax)
    reference = layers_of(rows, trained, "original")
    alone = "_" if len(reference) == 1 else ""  # a line of one layer is a dash
    line: dict[str, Any] = {"color": BLACK, "lw": 1.8, "marker": alone, "ms": 14}
    ax.plot(range(len(reference)), reference["entropy"], "-", label=f"{trained}, training size", **line)
    for size, color, marker in zip(chosen, (BLUE, VERMILLION), MARKERS, strict=False):
        for number, rule in enumerate(rules):
            part = layers_of(rows, size, rule)
            mark = marker if number < 2 else MORE_MARKERS[number % len(MORE_MARKERS)]
            style = {"ls": DASHES[(number + 1) % len(DASHES)], "marker": mark, "color": color}
            fill = "white" if rule == "original" else color
            text = f"{size}, {rule}{removed(rows, size, rule, len(rules) > 4)}"
            ax.plot(range(len(part)), part["entropy"], mfc=fill, label=text, **style)
    name_layers(ax, reference)
    ax.set_ylabel(label(ds["entropy"], "attention entropy"))
    kinds = kind if isinstance(kind, str) else " and ".join(kind)
    ax.set_xlabel(f"{kinds}-attention layer, in the order in which data meet them")
    legend(ax)
    return ax


def check_sizes(rows: pd.DataFrame, sizes: tuple[AnySize, AnySize] | None, trained: str) -> list[str]:
    """Labels of the lower and the higher size."""
    tokens = rows[rows["layer"] == MEAN].drop_duplicates("size").set_index("size")["tokens"].sort_values(kind="stable")
    if sizes is None:
        return [size for size in dict.fromkeys((tokens.index[0], tokens.index[-1])) if size != trained]
    labels = [size_label(size) for size in sizes]
    if len(labels) != 2 or not set(labels) <= set(tokens.index):
        raise EntropyLabError(f"sizes must be two of those measured, {list(tokens.index)}. Got {sizes!r}.")
    return labels


def check_scaling(rows: pd.DataFrame, scaling: Sequence[str] | None) -> list[str]:
    """The scalings to draw, "original" first."""
    have = list(dict.fromkeys(rows["scaling"]))
    wanted = have if scaling is None else [scaling] if isinstance(scaling, str) else list(scaling)
    if not set(wanted) <= set(have):
        raise EntropyLabError(f"scaling must be some of those measured, {have}. Got {scaling!r}.")
    return ["original", *(name for name in wanted if name != "original")]


def layers_of(rows: pd.DataFrame, size: str, rule: str) -> pd.DataFrame:
    """The rows of the layers, in order, at one size under one scaling."""
    return rows[(rows["size"] == size) & (rows["scaling"] == rule) & (rows["layer"] != MEAN)]


def removed(rows: pd.DataFrame, size: str, rule: str, brief: bool = False) -> str:
    """How much of the drift of the mean over layers a rule removes, in words; nothing for "original"."""
    if rule == "original":
        return ""
    mean = rows[(rows["size"] == size) & (rows["scaling"] == rule) & (rows["layer"] == MEAN)]
    fraction = 100 * mean["fraction_removed"].iloc[0]
    words = "removed" if brief else "of the drift removed"
    return "" if pd.isna(fraction) else f" ({fraction:.0f}% {words})"
