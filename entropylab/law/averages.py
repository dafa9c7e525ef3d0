"""Averages of measured entropy over heads, layers and samples, and what they are compared with: log N, the deficit.

Knows Datasets, and nothing of tensors or models. The fit of the law and the drift both count heads and layers this way.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..errors import EntropyLabError, names_of
from .joint import IMAGE, image_part

Kinds = str | Sequence[str]
"""Kinds of layers: "self", "cross", "joint", "temporal", or several; or "image", the image's part of joint layers."""


def log_tokens(ds: xr.Dataset) -> xr.DataArray:
    """Log N [nats] of every size and layer; equals the entropy of uniform attention."""
    tokens = check(ds)["tokens"].astype("float64")
    if (tokens <= 0).any() or tokens.isnull().all():  # NaN where a layer did not run
        raise EntropyLabError(f"ds.tokens must be positive. Got {tokens.min().item()}.")
    return xr.apply_ufunc(np.log, tokens).assign_attrs(units="nats", long_name="log N")


def deficit(ds: xr.Dataset) -> xr.DataArray:
    """D = log N - H [nats], the divergence of attention from uniform, with all dims of ``ds.entropy``."""
    entropy = check(ds)["entropy"].astype("float64")
    result = (log_tokens(ds) - entropy).transpose(*entropy.dims)
    return result.assign_attrs(units="nats", long_name="deficit log N - H")


def check(ds: xr.Dataset) -> xr.Dataset:
    """The Dataset itself, if it is one that `entropylab.measure` could have made."""
    if not isinstance(ds, xr.Dataset):
        raise EntropyLabError(f"ds must be an xarray.Dataset from entropylab.measure. Got {type(ds).__name__}.")
    missing = [name for name in ("entropy", "tokens", "layer", "kind", "size") if name not in ds.variables]
    if missing:
        raise EntropyLabError(
            f"ds must be a Dataset from entropylab.measure, with its layers: missing {', '.join(missing)}. "
            f"Got variables {sorted(map(str, ds.data_vars))} and coordinates {sorted(map(str, ds.coords))}."
        )
    wanted = set(ds["entropy"].dims)
    odd = [name for name in ("sigma2", "entropy_std") if name in ds and set(ds[name].dims) != wanted]
    if odd or "calibrated" in ds:
        came = ", ".join(sorted(f"{name}({', '.join(map(str, values.dims))})" for name, values in ds.data_vars.items()))
        raise EntropyLabError(
            "ds must be a Dataset from entropylab.measure, with every statistic along the dims of entropy. "
            f"Got variables {came}."
        )
    return ds


def of_kind(ds: xr.Dataset, kind: Kinds = "self") -> xr.Dataset:
    """The layers of these kinds, along a dim ``layer`` even if only one is left.

    "image" is no kind of its own: the image rows of joint layers, among the keys of the image alone.
    """
    ds = check(ds)
    if "layer" not in ds.dims:
        names = [name for name in ("tokens", "kind", "block", "train_tokens") if name in ds.coords]
        ds = ds.expand_dims("layer").assign_coords({name: ds[name].expand_dims("layer", -1) for name in names})
    kinds = kinds_of(kind)
    if IMAGE in kinds:
        return image_of(ds, kinds)
    found = ds["kind"].astype(str)
    if not found.isin(kinds).any():
        had = ", ".join(sorted(set(found.values.tolist()))) or "no layer at all"
        raise EntropyLabError(f"kind={kind!r}: the Dataset has no such layer. It has: {had}.")
    return ds.isel(layer=np.flatnonzero(found.isin(kinds)))


def image_of(ds: xr.Dataset, kinds: Sequence[str]) -> xr.Dataset:
    """The image rows of joint layers among the keys of the image alone."""
    if len(kinds) > 1:
        raise EntropyLabError(f"kind={IMAGE!r} stands alone, for it is of other keys. Got {tuple(kinds)!r}.")
    found = image_part(ds)
    if found is None:
        raise EntropyLabError(
            f"kind={IMAGE!r}: the Dataset has no joint layers in which rows and keys of the image are told apart."
        )
    return found


def kinds_of(kind: Kinds) -> tuple[str, ...]:
    """The ``kind`` argument as a tuple."""
    return words_of("kind", kind, "a kind of layers, or several")


def words_of(name: str, value: Any, what: str) -> tuple[str, ...]:
    """A word or several as a tuple."""
    words = names_of(value)
    if not words:
        raise EntropyLabError(f"{name} must be {what}. Got {value!r}.")
    return words


def scalings_of(ds: xr.Dataset) -> list[str]:
    """The scalings that a Dataset holds; one that does not say was measured as the model is."""
    return [str(name) for name in np.atleast_1d(ds["scaling"].values)] if "scaling" in ds.coords else ["original"]


def under(ds: xr.Dataset, scaling: str | None) -> tuple[xr.Dataset, str]:
    """The part measured under one scaling, and its name; by default the only one, or "original" of several."""
    have = scalings_of(ds)
    name = scaling if scaling is not None else have[0] if len(have) == 1 else "original"
    if name not in have:
        raise EntropyLabError(f"scaling must be one of those measured: {', '.join(have)}. Got {name!r}.")
    return (ds.isel(scaling=have.index(name), drop=True) if "scaling" in ds.dims else ds), name


def finite(values: xr.DataArray) -> xr.DataArray:
    """Where values are finite."""
    return xr.apply_ufunc(np.isfinite, values)


def counted(entropy: xr.DataArray) -> xr.DataArray:
    """Which layers and heads count: those finite wherever any is.

    Padding is NaN everywhere. A head that is NaN at some sizes only would move the averages by coming and going.
    """
    known = finite(entropy)
    places = [dim for dim in entropy.dims if dim in ("layer", "head")]
    others = [dim for dim in entropy.dims if dim not in places]
    mask = (known | ~known.any(places)).all(others) & known.any(others)
    if not mask.any():
        raise EntropyLabError("ds.entropy must be finite at every size in at least one head. Got none that is.")
    return mask


def averaged(values: xr.DataArray, mask: xr.DataArray, keep: Sequence[str]) -> xr.DataArray:
    """Mean of what counts over all dims but ``keep``: heads first, so that every layer has the same weight."""
    values = values.astype("float64").where(mask)
    for dim in ("head", "layer"):
        values = values.mean(dim) if dim in values.dims and dim not in keep else values
    return values.mean([dim for dim in values.dims if dim not in keep])


def over_samples(
    ds: xr.Dataset, entropy: xr.DataArray, mask: xr.DataArray, keep: Sequence[str], name: str = "entropy"
) -> xr.DataArray:
    """Standard error over samples of the averaged ``entropy``, or of another variable; NaN if samples are not known.

    Where samples were averaged while measuring, how layers and heads vary together is lost: the mean of their standard
    errors is then given, which the standard error of the mean can't exceed.
    """
    if "sample" in entropy.dims:
        number = entropy.notnull().sum("sample")
        spread = entropy.std("sample", ddof=1) if entropy.sizes["sample"] > 1 else entropy.mean("sample") * np.nan
        return spread / np.sqrt(number)
    if f"{name}_m2" in ds and "samples" in ds:
        number = ds["samples"].where(ds["samples"] > 1)
        return averaged((ds[f"{name}_m2"] / (number - 1) / number) ** 0.5, mask, keep)
    return entropy * np.nan
