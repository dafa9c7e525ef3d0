"""What fits, checks and drifts take of a measured Dataset: layers of a kind, under a scaling, averaged and with errors.

Knows Datasets, and nothing of tensors or models. All of them count heads, layers and samples this way.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..errors import EntropyLabError, names_of
from ..errors import counted as in_words
from ..sizes import AnySize, size_label

Kinds = str | Sequence[str] | None
"""Kinds of layers: "self", "cross", "joint", "temporal", or several; or "image", the image's part of joint layers.

None is the first of `CHOSEN` that the Dataset has."""

CHOSEN = ("self", "joint", "temporal", "cross")

OF_LAYERS = ("tokens", "kind", "block", "part", "module", "order", "train_tokens", "multiplier")
OF_SIZES = ("tokens", "height", "width", "multiplier")
"""The coordinates that tell of layers, and of sizes."""

DIMENSIONS = ("size", "scaling", "branch", "sample", "step", "layer", "head")
"""The dims that a measured Dataset may have."""

DIMS_OF = {
    "tokens": {"size", "layer"},
    "train_tokens": {"layer"},
    "multiplier": {"size", "scaling", "layer"},
    "height": {"size"},
    "width": {"size"},
}
"""Coordinates that are numbers, and the dims that they can have."""

IMAGE, KEYS = "image", "keys"
"""What is asked for as a kind of layers, and the attribute that says that a Dataset is of it."""


def log_tokens(ds: xr.Dataset) -> xr.DataArray:
    """Log N [nats] of every size and layer; equals the entropy of uniform attention."""
    tokens = check(ds)["tokens"].astype("float64")
    if (tokens <= 0).any() or tokens.isnull().all():  # NaN where a layer did not run
        raise EntropyLabError(f"ds.tokens must be positive. Got {tokens.min().item()}.")
    return xr.apply_ufunc(np.log, tokens).assign_attrs(units="nats", long_name="log N")


def check(ds: xr.Dataset) -> xr.Dataset:
    """The Dataset itself, if it is one that `entropylab.measure` could have made."""
    if not isinstance(ds, xr.Dataset):
        raise EntropyLabError(f"ds must be an xarray.Dataset from entropylab.measure. Got {type(ds).__name__}.")
    wanted = ["entropy", "tokens", "layer", "kind", "size", *(["scaling"] if "scaling" in ds.dims else [])]
    missing = [name for name in wanted if name not in ds.variables]
    if missing:
        raise EntropyLabError(
            f"ds must be a Dataset from entropylab.measure, with its layers: missing {', '.join(missing)}. "
            f"Got variables {sorted(map(str, ds.data_vars))} and coordinates {sorted(map(str, ds.coords))}."
        )
    for name in ("size", "layer", *(["scaling"] if "scaling" in ds.coords else [])):
        labels = ds[name].values.ravel().tolist()
        again = next((label for label in labels if labels.count(label) > 1), None)
        if ds[name].dims not in ((), (name,)) or again is not None:
            came = f"{again!r} more than once" if again is not None else f"{name}({', '.join(map(str, ds[name].dims))})"
            raise EntropyLabError(f"{name} must be a coordinate of ds that names each {name} once. Got {came}.")
    if not ds["size"].size:
        raise EntropyLabError("ds must hold at least one size. Got none.")
    dims = set(ds["entropy"].dims)
    own = [dim for dim in ds["entropy"].dims if dim not in DIMENSIONS and ds.sizes[dim] > 1]
    if own:
        raise EntropyLabError(
            f"ds must be one Dataset from entropylab.measure, not several along {own[0]}: take one of "
            f"them, as with ds.isel({own[0]}=0). Got dims {', '.join(map(str, ds['entropy'].dims))}."
        )
    odd = [name for name in ("sigma2", "entropy_std") if name in ds and set(ds[name].dims) != dims]
    if odd or "calibrated" in ds or "law_residual" in ds:  # of a calibration, or a check
        came = ", ".join(sorted(f"{name}({', '.join(map(str, values.dims))})" for name, values in ds.data_vars.items()))
        raise EntropyLabError(
            "ds must be a Dataset from entropylab.measure, with every statistic along the dims of entropy. "
            f"Got variables {came}."
        )
    return ds


def chosen(ds: xr.Dataset, kind: Kinds = None, scaling: str | None = None) -> xr.Dataset:
    """The layers of these kinds under one scaling, along dims ``layer`` and ``size`` even if only one is left.

    Its attributes kind and scaling say which they are.
    """
    kind = kind_in(ds, kind)
    part, name = under(of_kind(ds, kind), scaling)
    part = part if "size" in part["entropy"].dims else with_dim(part, "size", OF_SIZES)
    have = [each for each in kinds_of(kind) if each == IMAGE or each in part["kind"].values]
    return part.assign_attrs(kind=", ".join(have), scaling=name)


def size_in(ds: xr.Dataset, size: AnySize, name: str = "size") -> str:
    """The label of a size, if it was measured; ``name`` is that of the argument."""
    labels = np.atleast_1d(ds["size"].values).astype(str).tolist()
    if (label := size_label(size)) not in labels:
        raise EntropyLabError(f"{name} must be one of those measured, {labels}. Got {size!r}.")
    return label


def kind_in(ds: xr.Dataset, kind: Kinds = None) -> str | Sequence[str]:
    """The kinds asked for; if none is, the first of `CHOSEN` that the Dataset has."""
    if kind is not None:
        return kind
    have = np.atleast_1d(check(ds)["kind"].values).astype(str).tolist()
    return next((name for name in CHOSEN if name in have), CHOSEN[0])


def of_kind(ds: xr.Dataset, kind: Kinds = None) -> xr.Dataset:
    """The layers of these kinds, along a dim ``layer`` even if only one is left.

    "image" is no kind of its own: the image rows of joint layers, among the keys of the image alone.
    """
    ds, kind = with_layers(ds), kind_in(ds, kind)
    kinds = kinds_of(kind)
    if IMAGE in kinds:
        if len(kinds) > 1:
            raise EntropyLabError(f"kind={IMAGE!r} stands alone, for it is of other keys. Got {tuple(kinds)!r}.")
        if (part := image_part(ds)) is None:
            raise EntropyLabError(
                f"kind={IMAGE!r}: the Dataset has no joint layers in which rows and keys of the image are told apart."
            )
        return part
    if not set(kinds) <= set(CHOSEN):
        raise EntropyLabError(f"kind must be of {', '.join(CHOSEN)}, or {IMAGE!r}. Got {kind!r}.")
    found = ds["kind"].astype(str)
    if not found.isin(kinds).any():
        had = ", ".join(sorted(set(found.values.tolist()))) or "no layer at all"
        raise EntropyLabError(f"kind={kind!r}: the Dataset has no such layer. It has: {had}.")
    return ds.isel(layer=np.flatnonzero(found.isin(kinds)))


def with_layers(ds: xr.Dataset) -> xr.Dataset:
    """A Dataset that `check` lets pass, in memory, as `measure` would have made it: with a dim ``layer`` even if only
    one is left, sizes labelled by text, and coordinates that are coordinates.

    What joining made differ by sample, such as N where prompts have other lengths, is averaged, as in one measurement.
    """
    ds = check(ds).compute()
    ds = ds.set_coords([name for name in (*OF_LAYERS, *DIMS_OF, "scaling") if name in ds.data_vars])
    others = {name: set(ds[name].dims) - dims for name, dims in DIMS_OF.items() if name in ds.coords}
    ds = ds.assign_coords({name: ds[name].mean(more) for name, more in others.items() if more})
    ds = ds.assign_coords(size=ds["size"].astype(str))
    return ds if "layer" in ds.dims else with_dim(ds, "layer", OF_LAYERS)


def with_dim(ds: xr.Dataset, dim: str, coords: Sequence[str]) -> xr.Dataset:
    """A dim of length 1, that these coordinates have too."""
    own = [name for name in coords if name in ds.coords and dim not in ds[name].dims]
    return ds.expand_dims(dim).assign_coords({name: ds[name].expand_dims(dim) for name in own})


def image_rows(ds: xr.Dataset) -> xr.Dataset | None:
    """The joint layers' image rows, of those whose keys are told apart; None if there are none."""
    needed = {"entropy_image", "sigma2_image", "keys_image"}
    if not {"part", "kind"} <= set(ds.coords) or not needed <= set(ds.data_vars):
        return None
    chosen = (ds["kind"].astype(str) == "joint") & (ds["part"].astype(str) == "image")
    known = finite(ds["keys_image"]).any([dim for dim in ds["keys_image"].dims if dim != "layer"])
    places = np.flatnonzero(chosen & known)
    return ds.isel(layer=places) if len(places) else None


def image_part(ds: xr.Dataset) -> xr.Dataset | None:
    """Image rows among the image's keys, as a Dataset of its own: ``entropy`` is entropy_image, ``tokens`` keys_image.

    So everything that is asked of self-attention can be asked of it; third and fourth cumulant are of all keys, and
    left out. ``train_tokens`` is what the layer had in training less the keys that are not the image's.
    """
    if ds.attrs.get(KEYS) == IMAGE:
        return ds
    rows = image_rows(ds)
    if rows is None:
        return None
    keys = rows["keys_image"].astype("float64")
    keys = keys.mean([dim for dim in keys.dims if dim not in ("size", "layer")])
    names = {f"{name}_image{end}": f"{name}{end}" for name in ("entropy", "sigma2") for end in ("", "_m2")}
    kept = {name: rows[name] for name in ("rows", "rows_empty", "samples") if name in rows}
    own = {new: rows[old] for old, new in names.items() if old in rows}
    part = xr.Dataset(own | kept, attrs={**rows.attrs, KEYS: IMAGE})
    if "train_tokens" in rows.coords:
        other = (rows["tokens"] - keys).mean([dim for dim in keys.dims if dim != "layer"])
        part = part.assign_coords(train_tokens=("layer", (rows["train_tokens"] - other).values))
    return part.assign_coords(tokens=(keys.dims, keys.values, {"units": "tokens", "long_name": "N, keys of the image"}))


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
    """The scalings that a Dataset holds; one that does not say was measured as the model is, if multipliers are 1."""
    if "scaling" in ds.coords:
        return [str(name) for name in np.atleast_1d(ds["scaling"].values)]
    is_original = "multiplier" not in ds.coords or np.isclose(ds["multiplier"].fillna(1), 1).all()
    return ["original" if is_original else "unknown"]


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
        return standard_error(entropy)
    if f"{name}_m2" in ds and "samples" in ds:
        number = ds["samples"].where(ds["samples"] > 1)
        return averaged((ds[f"{name}_m2"] / (number - 1) / number) ** 0.5, mask, keep)
    return entropy * np.nan


def standard_error(values: xr.DataArray) -> xr.DataArray:
    """Standard error of the mean over the dim ``sample``; NaN for one sample."""
    if values.sizes["sample"] < 2:
        return values.mean("sample") * np.nan
    return values.std("sample", ddof=1) / np.sqrt(values.notnull().sum("sample"))


def with_known_samples(part: xr.Dataset) -> xr.Dataset:
    """A Dataset without the samples of which nothing is finite: they are none."""
    if "sample" not in part["entropy"].dims:
        return part
    known = finite(part["entropy"]).any([dim for dim in part["entropy"].dims if dim != "sample"])
    return part.isel(sample=np.flatnonzero(known)) if known.any() else part


def samples_of(part: xr.Dataset) -> int:
    """How many samples stand behind a Dataset, whose entropy is finite somewhere; 0 where nothing in it says so."""
    part = with_known_samples(part)
    known = (
        int(part["samples"].min()) if "samples" in part else int("sample" in part.coords and part["sample"].ndim == 0)
    )
    return part.sizes.get("sample", known)


def foreseen(part: xr.Dataset, logs: xr.DataArray, mask: xr.DataArray, keep: Sequence[str]) -> dict[str, xr.DataArray]:
    """What rows themselves say, as far as it was measured, averaged over all dims but ``keep``.

    ``unexplained``; and of rows that share a factor `theory.log_power`: ``power`` keeps H / log N, ``level_power`` H.
    """
    found = {"unexplained": averaged(part["unexplained"], mask, keep)} if "unexplained" in part else {}
    if "slope" in part and "sensitivity" in part:
        grows, answer = part["slope"] * logs, averaged(part["sensitivity"], mask, keep)
        answer = answer.where(answer > 0)
        found["power"] = averaged(grows - part["entropy"], mask, keep) / answer
        found["level_power"] = averaged(grows, mask, keep) / answer
    return found


def along_tokens(values: xr.DataArray, x: xr.DataArray) -> xr.DataArray:
    """Mean of local slopes over log N, by trapezoids between sizes: the slope from the smallest size to the largest.

    ``x`` is log N, like ``values`` with a dim ``size``; NaN does not count.
    """

    def mean(y: np.ndarray, at: np.ndarray) -> float:
        order = np.argsort(at)
        order = order[np.isfinite(y[order])]
        y, at = y[order], at[order]
        width = at[-1] - at[0] if len(at) else 0
        return float(((y[1:] + y[:-1]) / 2 * np.diff(at)).sum() / width) if width > 1e-6 else np.nan

    dims = [["size"], ["size"]]
    return xr.apply_ufunc(mean, values, x.broadcast_like(values), input_core_dims=dims, vectorize=True)


def provenance(part: xr.Dataset, mask: xr.DataArray) -> dict[str, Any]:
    """What stands behind a fit or a check: the model, layers, heads and samples, and what was left out."""
    known = finite(part["entropy"])
    met = known.any([dim for dim in known.dims if dim not in mask.dims])
    has_heads = "head" in mask.dims
    return {
        "model": str(part.attrs.get("model", "")),
        "kind": part.attrs["kind"],
        "scaling": part.attrs["scaling"],
        "layers": int((mask.any("head") if has_heads else mask).sum()),
        "heads": int(mask.sum()) if has_heads else 0,
        "left_out": int((met & ~mask).sum()),
        "samples": samples_of(part),
    }


def about(data: xr.Dataset) -> str:
    """What a fit or a check is of, in words, from `provenance`."""
    a = data.attrs
    heads = f" and {in_words(a['heads'], 'head')}" if a["heads"] else ""
    samples = in_words(a["samples"], "sample") if a["samples"] else "number of samples not known"
    return (
        f"{a['model'] or 'model'}: {in_words(a['layers'], a['kind'] + ' layer')}{heads}, "
        f"{in_words(data.sizes['size'], 'size')}, {samples}, scaling {a['scaling']}"
    )
