"""Entropy against log N beside predictions in which nothing is fitted, a panel for each number of training tokens."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from ..law.averages import Kinds, averaged, counted, log_tokens, of_kind, over_samples, under
from ..law.check import PARTS
from .style import BLACK, BLUE, GREEN, GREY, PURPLE, VERMILLION, axes_of, legend

MEASURED = ("entropy", "sigma2", "gaussian", "slope", "keys_image", *(f"rarefied_{part}" for part in PARTS))

CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "law": ("law, log N − σ²/2", {"ls": "--", "color": VERMILLION}),
    "gaussian": ("Gaussian rows", {"ls": "-.", "color": PURPLE}),
    "from_training": ("from the rows at T alone", {"ls": "-", "color": GREEN}),
}
"""Column of `predictions` -> its name in a legend, and how it is drawn."""


def predictions(ds: xr.Dataset, *, kind: Kinds = None, scaling: str | None = None) -> pd.DataFrame:
    """Measured and predicted entropy [nats], a row for each T and N; layers with equal T are averaged.

    Columns: ``train_tokens`` T, ``log_tokens``, ``size`` (of what was measured; missing in rows that were not),
    ``entropy`` and its ``error`` over samples, and what is known of

    - ``law``, log N - sigma^2/2, and ``gaussian``, each from the variance of the rows' logits at that N;
    - ``from_training``, from the rows at T alone: below T by rarefaction, above it by their local slope. Joint layers
      are thinned in the keys of the image alone.

    Raises:
        EntropyLabError: as `entropylab.fit`, or the number of training tokens is not known.

    Examples:
        >>> rows = entropylab.plot.predictions(ds)
        >>> rows.to_csv("predictions.csv", index=False)
    """
    part, _ = under(of_kind(ds, kind), scaling)
    if "train_tokens" not in part.coords or part["train_tokens"].isnull().all():
        raise EntropyLabError("ds must know the numbers of training tokens (train_tokens) of its layers. It does not.")
    if "size" not in part.dims:
        part = part.expand_dims("size")
    trained = part["train_tokens"].values
    known = sorted(set(trained[np.isfinite(trained)].tolist()), reverse=True)
    return pd.concat([of_one(part.isel(layer=np.flatnonzero(trained == each))) for each in known], ignore_index=True)


def of_one(part: xr.Dataset) -> pd.DataFrame:
    """`predictions` of layers that all have the same T."""
    trained, mask = float(part["train_tokens"][0]), counted(part["entropy"])
    means = {str(name): averaged(part[name], mask, ("size", "sample")) for name in part.data_vars if name in MEASURED}
    entropy = means["entropy"]
    means = {name: each.mean("sample") if "sample" in each.dims else each for name, each in means.items()}
    logs = averaged(log_tokens(part), mask, ("size",))
    found = {"log_tokens": logs, "entropy": means["entropy"], "error": over_samples(part, entropy, mask, ("size",))}
    if "sigma2" in means:
        found["law"] = logs - means["sigma2"] / 2
    if "gaussian" in means:
        found["gaussian"] = means["gaussian"]
    frame = pd.DataFrame({name: each.values for name, each in found.items()}).assign(
        size=part["size"].values.astype(str)
    )
    at_training = np.flatnonzero(np.isclose(logs, np.log(trained), atol=1e-6))
    if len(at_training):
        known = {name: float(each[at_training[0]]) for name, each in means.items()}
        frame = pd.concat(
            [frame.assign(from_training=above(known, trained, frame["log_tokens"])), below(known, trained)]
        )
    return frame.assign(train_tokens=trained).sort_values("log_tokens", ignore_index=True)


def above(known: dict[str, float], trained: float, logs: pd.Series) -> pd.Series:
    """What the rows at T say of more keys, by their local slope; of T itself their entropy."""
    found = known["entropy"] + known.get("slope", np.nan) * (logs - np.log(trained))
    return found.where(logs > np.log(trained) + 1e-6, known["entropy"]).where(logs > np.log(trained) - 1e-6)


def below(known: dict[str, float], trained: float) -> pd.DataFrame:
    """What the rows at T say of fewer keys, by rarefaction."""
    thinned = known.get("keys_image", trained)
    parts = {known[f"rarefied_{part}"]: number for part, number in PARTS.items() if f"rarefied_{part}" in known}
    logs = [np.log(trained - thinned + thinned / number) for number in parts.values()]
    return pd.DataFrame({"log_tokens": logs, "from_training": list(parts)})


def entropy_predicted(
    ds: xr.Dataset,
    ax: Axes | None = None,
    *,
    trained: float | None = None,
    deficit: bool = False,
    kind: Kinds = None,
    scaling: str | None = None,
) -> Axes:
    """Measured entropy of the layers with T training tokens against log N, beside predictions without a fitted number.

    The law log N - sigma^2/2 and the Gaussian rows' entropy are from the logits' variance at each N; the third is from
    the rows at T alone, rarefied to fewer keys, and by their local slope to more. Each is drawn if it was measured
    (``statistics=("entropy", "sigma2", "gaussian", "slope", "rarefied")``). Error bars are one standard error over
    samples.

    Args:
        ds: a Dataset from `entropylab.measure`.
        ax: Axes to draw on; the current ones by default.
        trained: T; by default the largest.
        deficit: draw log N less each, which shows differences that entropy hides.
        kind: which layers: "self", "cross", "joint", or several; by default those that the model has.
        scaling: which scaling; by default the only one, or "original" of several.

    Returns:
        The Axes. The data drawn are those of ``entropylab.plot.predictions(ds)``.

    Raises:
        EntropyLabError: as `predictions`, or no layer has so many training tokens.

    Examples:
        >>> ax = entropylab.plot.entropy_predicted(ds)
        >>> ax.figure.savefig("entropy_predicted.pdf")
    """
    rows = predictions(ds, kind=kind, scaling=scaling)
    groups = {float(name): group for name, group in rows.groupby("train_tokens")}
    chosen = max(groups) if trained is None else float(trained)
    if chosen not in groups:
        have = ", ".join(f"{each:g}" for each in groups)
        raise EntropyLabError(f"trained must be a number of training tokens of these layers: {have}. Got {trained!r}.")
    ax, frame = axes_of(ax), groups[chosen]

    def drawn(part: pd.DataFrame, name: str) -> pd.Series:
        return part["log_tokens"] - part[name] if deficit else part[name]

    measured = frame.dropna(subset="entropy")
    style: dict[str, Any] = {"fmt": "o", "color": BLUE, "capsize": 2, "zorder": 4, "ls": ""}
    error = measured["error"] if measured["error"].notna().any() else None
    ax.errorbar(measured["log_tokens"], drawn(measured, "entropy"), error, label="measured", **style)
    for name, (text, look) in CURVES.items():
        if name in frame and frame[name].notna().any():
            part = frame.dropna(subset=name)
            ax.plot(part["log_tokens"], drawn(part, name), label=text, marker="", **look)
    if deficit:
        ax.axhline(0, ls=":", color=BLACK, lw=0.8, label="uniform attention")
    else:
        ax.plot(measured["log_tokens"], measured["log_tokens"], ":", color=BLACK, lw=0.8, marker="", label="uniform")
    ax.axvline(np.log(chosen), color=GREY, lw=0.6, zorder=0, label=f"T = {chosen:g}")
    ax.set(xlabel="log N [nats]", ylabel="deficit log N − H [nats]" if deficit else "attention entropy [nats]")
    legend(ax)
    return ax
