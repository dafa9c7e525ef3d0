"""How far entropy moves when the size leaves the training size, and how much of that each scaling rule takes away.

Knows Datasets, and nothing of tensors, models or figures. The paper's figure 6 as numbers.
"""

import numpy as np
import pandas as pd
import xarray as xr

from ..errors import EntropyLabError
from ..sizes import AnySize, size_label
from .averages import Kinds, averaged, counted, log_tokens, of_kind, scalings_of

MEAN = "mean"
"""The name that the mean over layers has in tables, in the place of a layer's."""


def training_size(ds: xr.Dataset, train_size: AnySize | None = None, *, kind: Kinds = "self") -> str:
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
        label = size_label(train_size)
        if label not in labels:
            raise EntropyLabError(f"train_size must be one of the sizes measured, {labels}. Got {train_size!r}.")
        return label
    trained = ds["train_tokens"] if "train_tokens" in ds else xr.full_like(ds["layer"], np.nan, dtype=float)
    same = np.atleast_1d(xr.apply_ufunc(np.isclose, ds["tokens"], trained).all("layer"))
    if not same.any():
        counts = ", ".join(f"{value:g}" for value in sorted(set(trained.dropna("layer").values.tolist()), reverse=True))
        wanted = f"T = {counts} tokens in its layers" if counts else "T tokens in its layers (T is not in the Dataset)"
        raise EntropyLabError(
            f"train_size must be named: no size with {wanted} is among those measured, {labels}. "
            "Name one of them, or measure the training size too."
        )
    stretch = np.abs(np.log(np.atleast_1d(ds["height"] / ds["width"])))
    return labels[int(np.argmin(np.where(same, stretch, np.inf)))]


def drift(ds: xr.Dataset, train_size: AnySize | None = None, *, kind: Kinds = "self") -> pd.DataFrame:
    """Entropy against that of the training size under "original": a row for every layer, scaling and size.

    The rows of layer "mean" are of the mean over layers. Columns, entropies in nats:

    - ``entropy``; ``normalised_entropy`` H / log N; ``reference``, the entropy at the training size under "original";
    - ``drift``, entropy less reference; ``absolute_drift``, its size (for "mean" the mean of the layers' sizes, which
      layers that drift opposite ways can't hide);
    - ``fraction_removed`` of the drift under "original" at the same size: 0 nothing, 1 all, above 1 too much, below 0
      worse; NaN where there was no drift. ``absolute_fraction_removed`` is the same of ``absolute_drift``;
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
    tidy = drifts(part, label).to_dataframe(dim_order=["layer", "scaling", "size"]).reset_index()
    about = ["layer", "block", "scaling", "size", "height", "width", "tokens", "train_tokens"]
    shown = [name for name in about if name in tidy]
    return tidy[[*shown, *(name for name in COLUMNS if name in tidy)]]


COLUMNS = (
    "entropy",
    "normalised_entropy",
    "reference",
    "drift",
    "drift_error",
    "absolute_drift",
    "fraction_removed",
    "fraction_removed_error",
    "absolute_fraction_removed",
)


def drifts(part: xr.Dataset, label: str) -> xr.Dataset:
    """The columns of `drift` over (layer, scaling, size), layers first and their mean last."""
    mask = counted(part["entropy"])
    keep = np.flatnonzero(mask.any("head") if "head" in mask.dims else mask)
    by_layer = ("size", "scaling", "sample", "layer")
    entropy, logs = (bare(averaged(v, mask, by_layer)).isel(layer=keep) for v in (part["entropy"], log_tokens(part)))
    moved = entropy - reference(entropy, label)
    layers = compared(entropy, logs, moved, label, abs(over(moved)))
    absolute = abs(over(moved)).mean("layer")
    mean = compared(entropy.mean("layer"), logs.mean("layer"), moved.mean("layer"), label, absolute)
    joined = xr.concat([layers, mean.expand_dims(layer=[MEAN])], "layer")
    shape = {name: part[name] for name in ("height", "width") if name in part}
    if "block" in part:
        joined = joined.assign_coords(block=("layer", [*part["block"].isel(layer=keep).values.tolist(), MEAN]))
    return joined.assign_coords(shape)


def compared(
    entropy: xr.DataArray, logs: xr.DataArray, moved: xr.DataArray, label: str, absolute: xr.DataArray
) -> xr.Dataset:
    """Drift and the fraction of it removed, from entropy, log N and drift, all of them by sample where known."""
    original = moved.sel(scaling="original")
    before, after = over(original), over(moved)
    fraction = 1 - after / before.where(before != 0)
    trained = xr.apply_ufunc(np.exp, logs.sel(size=label, drop=True))
    unremoved = absolute.sel(scaling="original")
    return xr.Dataset(
        {
            "tokens": xr.apply_ufunc(np.exp, logs),
            "train_tokens": trained,
            "entropy": over(entropy),
            "normalised_entropy": over(entropy) / logs.where(logs > 0),
            "reference": over(reference(entropy, label)),
            "drift": after,
            "drift_error": error(moved),
            "absolute_drift": absolute,
            "fraction_removed": fraction,
            # The ratio of two means of paired samples, to first order: its error is that of what it leaves unexplained.
            "fraction_removed_error": error(moved - (1 - fraction) * original) / abs(before.where(before != 0)),
            "absolute_fraction_removed": 1 - absolute / unremoved.where(unremoved != 0),
        }
    )


def reference(entropy: xr.DataArray, label: str) -> xr.DataArray:
    """Entropy at the training size, as the model is."""
    return entropy.sel(scaling="original", size=label, drop=True)


def over(values: xr.DataArray) -> xr.DataArray:
    """Mean over samples, if they are known."""
    return values.mean("sample") if "sample" in values.dims else values


def error(values: xr.DataArray) -> xr.DataArray:
    """Standard error over samples, NaN if they are not known."""
    if values.sizes.get("sample", 1) < 2:
        return over(values) * np.nan
    return values.std("sample", ddof=1) / np.sqrt(values.notnull().sum("sample"))


def bare(data: xr.DataArray) -> xr.DataArray:
    """The same with no coordinates but those of its dims, so that layers, sizes and their mean can be set together."""
    return data.drop_vars([name for name in data.coords if name not in data.dims])
