"""The paper's figure 5: attention entropy, and its deficit, against log N, beside what is fitted and foreseen."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from ..law import fit
from ..law.averages import Kinds, averaged, chosen, counted, log_tokens, over_samples
from ..law.check import PARTS
from .style import BLACK, BLUE, GREEN, GREY, PURPLE, VERMILLION, axes_of, label, legend, level, marks


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
    line = fit(ds, kind=kind, scaling=scaling)
    mean = line.points().sort_values("log_tokens")
    # "R² = 1.0000" would claim too much.
    share = f"R² = {line.r_squared:.4f}" if not 0.99995 <= line.r_squared < 1 else "R² > 0.9999"
    ax = points(axes_of(ax), mean, "entropy")
    text = f"slope {with_error(line.slope, line.slope_error)}, {share}"
    ax.plot(mean["log_tokens"], mean["fitted"], "-", color=BLUE, label=text)
    ax.plot(mean["log_tokens"], mean["log_tokens"], ":", color=BLACK, lw=0.8, label="uniform attention")
    if layers:
        thin_layers(ax, ds, "entropy", kind, scaling)
    if law and "law" in mean:
        prediction(ax, mean, "law", "law, from measured σ²")
    part = chosen(ds, kind, scaling)
    ax.set(xlabel=label_of_tokens(part), ylabel=label(part["entropy"], "attention entropy"))
    legend(ax)
    return ax


def deficit_vs_tokens(
    ds: xr.Dataset, ax: Axes | None = None, *, kind: Kinds = None, scaling: str | None = None, layers: bool = True
) -> Axes:
    """The deficit log N - H against log N, with measured sigma^2/2 beside it: under the law the two are one level line.

    Arguments, error bars, errors and return value as of `entropy_vs_tokens`. The level 0 is uniform attention.

    Examples:
        >>> ax = entropylab.plot.deficit_vs_tokens(ds)
        >>> ax.figure.savefig("deficit_vs_tokens.pdf")
    """
    line = fit(ds, kind=kind, scaling=scaling)
    mean = line.points().sort_values("log_tokens")
    ax = points(axes_of(ax), mean, "deficit")
    text = f"slope {with_error(1 - line.slope, line.slope_error)}"
    ax.plot(mean["log_tokens"], mean["log_tokens"] - mean["fitted"], "-", color=BLUE, label=text)
    level(ax, 0, "uniform attention")
    if layers:
        thin_layers(ax, ds, "deficit", kind, scaling)
    if "half_sigma2" in mean:
        prediction(ax, mean, "half_sigma2", "law, σ²/2 measured")
    ax.set(xlabel=label_of_tokens(chosen(ds, kind, scaling)), ylabel="deficit log N − H [nats]")
    legend(ax)
    return ax


def points(ax: Axes, mean: pd.DataFrame, name: str) -> Axes:
    """The measured means with their standard errors, sizes that are not square hollow."""
    known = "height" in mean and "width" in mean
    square = (mean["height"] == mean["width"]).to_numpy() if known else np.full(len(mean), True)
    looks = ((square, BLUE, "mean of layers and heads"), (~square, "white", "the same, not square"))
    for some, fill, words in looks:
        part = mean[some]
        if len(part):
            look: dict[str, Any] = {"marker": "o", "color": BLUE, "mfc": fill, "label": words}
            marks(ax, part["log_tokens"], part[name], part["entropy_error"], **look)
    return ax


def thin_layers(ax: Axes, ds: xr.Dataset, name: str, kind: Kinds, scaling: str | None) -> None:
    """Single layers as thin lines."""
    rows = fit(ds, by="layer", kind=kind, scaling=scaling).points() if "layer" in ds.dims else pd.DataFrame()
    text = "single layers"
    for _, layer in rows.groupby("layer", sort=False) if len(rows) else ():
        ordered = layer.sort_values("log_tokens")
        ax.plot(ordered["log_tokens"], ordered[name], "-", color=GREY, lw=0.6, zorder=1, label=text)
        text = "_"


def prediction(ax: Axes, mean: pd.DataFrame, name: str, text: str) -> None:
    """The law's prediction; past freezing it is off by tens of nats, and then does not stretch the frame."""
    low, high = ax.get_ylim()
    known, reach = mean[name].dropna(), max(high - low, 1.0)
    out = known[(known < low - reach) | (known > high + reach)]
    if len(out):
        ends = " to ".join(dict.fromkeys(f"{end:.0f}" for end in (out.min(), out.max())))
        text = f"law: {ends}, out of frame".replace("-", "−")
    look: dict[str, Any] = {"ls": "--", "marker": "s", "mfc": "none", "color": VERMILLION}
    ax.plot(mean["log_tokens"], mean[name], label=text, scaley=not len(out), **look)


def curve(ax: Axes, rows: pd.DataFrame, name: str, **look: Any) -> None:
    """A line without marks; a single point, which has no line, as a dash."""
    ax.plot(rows["log_tokens"], rows[name], marker="" if len(rows) > 1 else "_", ms=12, **look)


def label_of_tokens(ds: xr.Dataset) -> str:
    """What log N is of."""
    return f"log N [nats]  ({ds['tokens'].attrs.get('long_name', 'N, number of keys')})"


def with_error(value: float, error: float) -> str:
    """A number with its error; without one where none is known."""
    return f"{value:.3f}" if pd.isna(error) else f"{value:.3f} ± {error:.3f}"


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
    part = chosen(ds, kind, scaling)
    if "train_tokens" not in part.coords or part["train_tokens"].isnull().all():
        raise EntropyLabError("ds must know the numbers of training tokens (train_tokens) of its layers. It does not.")
    trained = part["train_tokens"].values
    known = sorted(set(trained[np.isfinite(trained)].tolist()), reverse=True)
    return pd.concat([of_one(part.isel(layer=np.flatnonzero(trained == each))) for each in known], ignore_index=True)


def of_one(part: xr.Dataset) -> pd.DataFrame:
    """`predictions` of layers that all have the same T."""
    trained, mask = float(part["train_tokens"][0]), counted(part["entropy"])
    by_sample = averaged(part["entropy"], mask, ("size", "sample"))
    means = {str(name): averaged(part[name], mask, ("size",)) for name in part.data_vars if name in MEASURED}
    means["entropy"] = by_sample.mean("sample") if "sample" in by_sample.dims else by_sample
    logs = averaged(log_tokens(part), mask, ("size",))
    found = {"log_tokens": logs, "entropy": means["entropy"], "error": over_samples(part, by_sample, mask, ("size",))}
    if "sigma2" in means:
        found["law"] = logs - means["sigma2"] / 2
    if "gaussian" in means:
        found["gaussian"] = means["gaussian"]
    frame = pd.DataFrame({name: each.values for name, each in found.items()})
    frame["size"] = part["size"].values.astype(str)
    at_training = np.flatnonzero(np.isclose(logs, np.log(trained), atol=1e-6))
    if len(at_training):
        known = {name: float(each[at_training[0]]) for name, each in means.items()}
        more = frame["log_tokens"] - np.log(trained)  # of T itself and of more keys by their local slope
        sloped = known["entropy"] + (known.get("slope", np.nan) * more).where(more > 1e-6, 0)
        frame["from_training"] = sloped.where(more > -1e-6)
        thinned = known.get("keys_image", trained)  # of fewer keys by rarefaction
        parts = {number: known.get(f"rarefied_{part}", np.nan) for part, number in PARTS.items()}
        fewer = {"log_tokens": [np.log(trained - thinned + thinned / number) for number in parts]}
        fewer = pd.DataFrame(fewer | {"from_training": list(parts.values())}).dropna()
        frame = pd.concat([frame, fewer])
    return frame.assign(train_tokens=trained).sort_values("log_tokens", ignore_index=True)


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
    known = sorted(set(rows["train_tokens"]))
    shown = known[-1] if trained is None else trained
    if shown not in known:
        have = ", ".join(f"{each:g}" for each in known)
        raise EntropyLabError(f"trained must be a number of training tokens of these layers: {have}. Got {trained!r}.")
    ax, rows = axes_of(ax), rows[rows["train_tokens"] == shown]
    if deficit:
        names = [name for name in ("entropy", *CURVES) if name in rows]
        rows = rows.assign(**{name: rows["log_tokens"] - rows[name] for name in names})
    measured = rows.dropna(subset="entropy")
    look: dict[str, Any] = {"marker": "o", "color": BLUE, "zorder": 4, "label": "measured"}
    marks(ax, measured["log_tokens"], measured["entropy"], measured["error"], **look)
    for name, (text, look) in CURVES.items():
        if name in rows and rows[name].notna().any():
            part = rows.dropna(subset=name)
            curve(ax, part, name, label=text, **look)
    if deficit:
        level(ax, 0, "uniform attention")
    else:
        curve(ax, measured, "log_tokens", ls=":", color=BLACK, lw=0.8, label="uniform")
    ax.axvline(np.log(shown), color=GREY, lw=0.6, zorder=0, label=f"T = {shown:g}")
    ax.set(xlabel="log N [nats]", ylabel="deficit log N − H [nats]" if deficit else "attention entropy [nats]")
    legend(ax)
    return ax
