"""How far entropy moves when the size leaves the training size, and how much of that each scaling rule takes away.

Knows Datasets, and nothing of tensors, models or figures. The paper's figure 6 as numbers.
"""

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import EntropyLabError
from ..sizes import AnySize
from .averages import Kinds, averaged, counted, log_tokens, of_kind, scalings_of, size_in, standard_error

MEAN = "mean"
"""The name that the mean over layers has in tables, in the place of a layer's."""


def training_size(ds: xr.Dataset, train_size: AnySize | None = None, *, kind: Kinds = None) -> str:
    """Label of the measured size that the model was trained at.

    Args:
        ds: a Dataset from `entropylab.measure`.
        train_size: a label ("64x64"), a side or a pair (height, width) [pixels]; by default the size at which every
            layer has as many keys as in training, the squarest if several do.
        kind: which layers count.

    Raises:
        EntropyLabError: not known, or not among the sizes measured.
    """
    ds = of_kind(ds, kind)
    labels = [str(label) for label in np.atleast_1d(ds["size"].values)]
    if train_size is not None:
        return size_in(ds, train_size, "train_size")
    trained = ds["train_tokens"] if "train_tokens" in ds else xr.full_like(ds["layer"], np.nan, dtype=float)
    same = np.atleast_1d(xr.apply_ufunc(np.isclose, ds["tokens"], trained).all("layer"))
    if not same.any():
        counts = ", ".join(f"{value:g}" for value in sorted(set(trained.dropna("layer").values.tolist()), reverse=True))
        wanted = f"T = {counts} tokens in its layers" if counts else "T tokens in its layers (T is not in the Dataset)"
        raise EntropyLabError(
            f"train_size must be named: no size with {wanted} is among those measured, {labels}. "
            "Name one of them, or measure the training size too."
        )
    sides = ds["height"] / ds["width"] if "height" in ds and "width" in ds else xr.ones_like(ds["size"], dtype=float)
    stretch = np.abs(np.log(np.atleast_1d(sides)))
    return labels[int(np.argmin(np.where(same, stretch, np.inf)))]


def drift(ds: xr.Dataset, train_size: AnySize | None = None, *, kind: Kinds = None) -> pd.DataFrame:
    """Entropy against that of the training size under "original": a row for every layer, scaling and size.

    The rows of layer "mean" are of the mean over layers. Columns, entropies in nats:

    - ``entropy``; ``normalised_entropy`` H / log N; ``reference``, the entropy at the training size under "original";
    - ``drift``, entropy less reference; ``absolute_drift``, its size (for "mean" the mean of the layers' sizes, which
      layers that drift opposite ways can't hide);
    - ``fraction_removed`` of the drift under "original" at the same size: 0 nothing, 1 all, above 1 too much, below 0
      worse; NaN where there was no drift. ``absolute_fraction_removed`` is the same of ``absolute_drift``;
    - ``predicted_fraction``, what a rule should remove by ``sensitivity`` at the training size, to first order: Var_A
      log m / drift, m its multiplier; near T that is `entropylab.law.theory.fraction_removed`. Only where
      ``sensitivity`` was measured, and layers are kept apart;
    - ``drift_error``, ``fraction_removed_error``: standard errors over samples, which are paired by their seeds; NaN
      without samples.

    Raises:
        EntropyLabError: not such a Dataset; "original" or the training size was not measured.
    """
    label = training_size(ds, train_size, kind=kind)
    part = of_kind(ds, kind)
    if "scaling" not in part.dims:
        part = part.drop_vars("scaling", errors="ignore").expand_dims(scaling=scalings_of(part))
    if "original" not in scalings_of(part):
        raise EntropyLabError(f'ds must be measured under scaling "original" too. Got {scalings_of(part)}.')
    if "size" not in part.dims:
        raise EntropyLabError(f"ds must hold sizes beside the training size. Got only {label}.")
    mask = counted(part["entropy"])
    layers = np.flatnonzero(mask.any("head") if "head" in mask.dims else mask)

    def with_mean(values: xr.DataArray, *keep: str) -> xr.DataArray:
        """Means over all dims but those to keep, of every layer and, as one more layer, of all of them."""
        means = averaged(values, mask, keep).isel(layer=layers)
        means = means.drop_vars([name for name in means.coords if name not in means.dims])
        return xr.concat([means, means.mean("layer").expand_dims(layer=[MEAN])], "layer")

    known = ("size", "scaling", "sample", "layer")
    found = drifts(with_mean(part["entropy"], *known), with_mean(log_tokens(part), *known), label)
    found["absolute_drift"][{"layer": -1}] = found["absolute_drift"][{"layer": slice(-1)}].mean("layer")
    drift, size = (found[name].sel(scaling="original") for name in ("drift", "absolute_drift"))
    found["absolute_fraction_removed"] = 1 - found["absolute_drift"] / size.where(size != 0)
    if "sensitivity" in part and "multiplier" in part.coords:
        variance = part["sensitivity"].sel(scaling="original", size=label, drop=True)
        removable = with_mean(variance * np.log(part["multiplier"]), *known[:2], "layer")
        found["predicted_fraction"] = removable / drift.where(drift != 0)
    if "block" in part:
        found = found.assign_coords(block=("layer", [*part["block"].isel(layer=layers).values.tolist(), MEAN]))
    found = found.assign_coords({name: part[name] for name in ("height", "width") if name in part})
    tidy = found.to_dataframe(dim_order=["layer", "scaling", "size"]).reset_index()
    return tidy[[name for name in COLUMNS if name in tidy]]


def cancelling(rows: pd.DataFrame) -> list[str]:
    """The sizes of `drift` at which layers drift opposite ways as the model is, and leave their mean less than half as
    much as they drift themselves. What a rule removes of so little says nothing, and may be many times all of it.
    """
    mean = rows[(rows["layer"] == MEAN) & (rows["scaling"] == "original")]
    return mean["size"][mean["drift"].abs() < 0.5 * mean["absolute_drift"]].tolist()


COLUMNS = (
    *("layer", "block", "scaling", "size", "height", "width", "tokens", "train_tokens"),
    *("entropy", "normalised_entropy", "reference", "drift", "drift_error", "absolute_drift"),
    *("fraction_removed", "fraction_removed_error", "absolute_fraction_removed", "predicted_fraction"),
)


def drifts(entropy: xr.DataArray, logs: xr.DataArray, label: str) -> xr.Dataset:
    """Drift and the fraction of it removed, from entropy and log N, by sample where known; ``label`` is T's size."""
    if "sample" not in entropy.dims:
        entropy = entropy.expand_dims("sample")
    reference = entropy.sel(scaling="original", size=label, drop=True)
    moved = entropy - reference
    original = moved.sel(scaling="original", drop=True)
    mean, drift = entropy.mean("sample"), moved.mean("sample")
    before = original.mean("sample").where(lambda value: value != 0)
    fraction = 1 - drift / before
    return xr.Dataset(
        {
            "tokens": xr.apply_ufunc(np.exp, logs),
            "train_tokens": xr.apply_ufunc(np.exp, logs.sel(size=label, drop=True)),
            "entropy": mean,
            "normalised_entropy": mean / logs.where(logs > 0),
            "reference": reference.mean("sample"),
            "drift": drift,
            "drift_error": standard_error(moved),
            "absolute_drift": abs(drift),
            "fraction_removed": fraction,
            # The ratio of two means of paired samples, to first order: its error is that of what it leaves unexplained.
            "fraction_removed_error": standard_error(moved - (1 - fraction) * original) / abs(before),
        }
    )
