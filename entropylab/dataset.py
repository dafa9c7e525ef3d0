"""Measured Datasets: names, units and attributes, how one of ours is known, and what netCDF is given of it."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from .errors import EntropyLabError
from .files import is_plain_text

ATTRIBUTE = "entropylab_version"
"""The attribute by which a Dataset of ours is known."""

UNITS: dict[str, tuple[str, str]] = {
    "entropy": ("nats", "attention entropy of a row, mean over query rows"),
    "entropy_std": ("nats", "attention entropy of a row, standard deviation over query rows"),
    "sigma2": ("nats^2", "variance of a row's logits over the keys, mean over query rows"),
    "third": ("nats^3", "third cumulant of a row's logits over the keys, mean over query rows"),
    "fourth": ("nats^4", "fourth cumulant of a row's logits over the keys, mean over query rows"),
    "sensitivity": ("nats^2", "attention-weighted variance of a row's logits, -dH/d log(scale), mean over query rows"),
    "lse": ("nats", "log-sum-exp of a row's logits, mean over query rows"),
    "mean": ("nats", "mean of a row's logits over the keys, mean over query rows"),
    "gaussian": ("nats", "entropy that Gaussian logits of a row's variance would have, mean over query rows"),
    "unexplained": ("1", "query rows whose entropy is more than two spreads from that of Gaussian logits, a fraction"),
    "slope": ("1", "slope dH/dlog N of a row at its own N, by leaving out a key, mean over query rows"),
    **{
        f"rarefied_{part}": ("nats", f"entropy of a row among a random {part} of its keys, mean over query rows")
        for part in ("half", "quarter", "eighth", "sixteenth")
    },
    "received": ("1", "weight that a key gets of a row, mean over query rows"),
    "words": ("1", "weight that a row gives to the tokens of a word of the prompt"),
    "keys": ("tokens", "keys that the mask leaves to a row, mean over query rows"),
    "keys_image": ("tokens", "keys of the image that the mask leaves to a row, mean over query rows"),
    "mass_image": ("1", "weight that a row gives to keys of the image, mean over query rows"),
    "mass_text": ("1", "weight that a row gives to keys of text, mean over query rows"),
    "entropy_between": ("nats", "entropy of a row between the sorts of keys, mean over query rows"),
    "entropy_from_image": ("nats", "weight times entropy of a row within the keys of the image, mean over query rows"),
    "entropy_from_text": ("nats", "weight times entropy of a row within the keys of text, mean over query rows"),
    "entropy_from_other": ("nats", "weight times entropy of a row within all other keys, mean over query rows"),
    "entropy_image": ("nats", "entropy of a row within the keys of the image, mean over query rows"),
    "entropy_text": ("nats", "entropy of a row within the keys of text, mean over query rows"),
    "sigma2_image": ("nats^2", "variance of a row's logits over the keys of the image, mean over query rows"),
    "rows": ("rows", "query rows averaged"),
    "rows_empty": ("rows", "query rows left no key by the mask, not averaged"),
    "rows_bad": ("rows", "query rows with NaN or infinity in their query or keys, not averaged"),
    "samples": ("samples", "samples averaged"),
    "size": ("label", "image size, height x width in pixels"),
    "height": ("pixels", "image height"),
    "width": ("pixels", "image width"),
    "scaling": ("label", "rule for the scaling factor of attention"),
    "branch": ("label", "branch of classifier-free guidance"),
    "sample": ("1", "sample"),
    "prompt": ("label", "prompt of the sample"),
    "seed": ("1", "seed of the sample's noise"),
    "step": ("1", "sampling step"),
    "timestep": ("1", "timestep of the noise schedule"),
    "layer": ("label", "module path of the attention layer"),
    "block": ("label", "block of the denoiser that the layer belongs to"),
    "kind": ("label", "kind of attention: self, cross, joint or temporal"),
    "part": ("label", "what the layer's query rows stand for: image, text, reference, other, all, or unknown"),
    "module": ("label", "path of the module that attends"),
    "head": ("1", "attention head"),
    "multiplier": ("1", "factor on the softmax scale, mean over heads"),
    "tokens": ("tokens", "N, mean number of keys of a row"),
    "y": ("pixels", "centre of a token, from the top of the image"),
    "x": ("pixels", "centre of a token, from the left of the image"),
    "frame": ("1", "frame of the latent video"),
    "token": ("1", "token"),
    "word": ("label", "word of the prompt"),
    "order": ("1", "place of the layer among all, in the order in which data met them"),
    "train_tokens": ("tokens", "T, number of keys of a row at the training size"),
}
"""Units and long name of every variable and coordinate that ``measure`` returns, by name."""


def describe(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` with ``units`` and ``long_name`` on every variable and coordinate that ``UNITS`` knows; a shallow copy."""
    described = ds.copy(deep=False)
    for name, variable in described.variables.items():
        known = units_of(str(name))
        if known is not None:
            variable.attrs = {**variable.attrs, "units": known[0], "long_name": known[1]}
    return described


def units_of(name: str) -> tuple[str, str] | None:
    """Units and long name of a variable; None for one that is not of ours."""
    stem = name.removesuffix("_m2").removesuffix("_sample_std").removesuffix("_se")
    if stem not in UNITS:
        return None
    units, long_name = UNITS[stem]
    if name.endswith("_se"):
        return units, f"{long_name}; standard error, for not all query rows were looked at"
    if name.endswith("_m2"):
        return squared(units), f"{long_name}; sum over samples of squared deviations from their mean"
    return units, f"{long_name}; standard deviation over samples" if name.endswith("_sample_std") else long_name


def squared(units: str) -> str:
    """The square of ``units``: nats^2 of nats, nats^4 of nats^2."""
    base, _, power = units.partition("^")
    return f"{base}^{2 * int(power or 1)}"


def check_ours(ds: Any) -> xr.Dataset:
    """``ds``, if it is a Dataset that was measured."""
    if not isinstance(ds, xr.Dataset):
        raise EntropyLabError(f"ds must be an xarray.Dataset that measure returned. Got {type(ds).__name__}.")
    if ATTRIBUTE not in ds.attrs:
        raise EntropyLabError(
            f"ds must be a Dataset that measure returned, or a part of one. Got one without the attribute {ATTRIBUTE}; "
            "operations that drop it take keep_attrs=True."
        )
    return ds


# How a file holds one. netCDF has text, numbers and attributes of either. What it has nothing for is kept as JSON, or
# under a name of ours.

APART = "entropylab_apart"
"""In a file, as JSON: attributes whose values or names netCDF can't hold, or would take for something else."""

JSON_NAMES = "entropylab_json"
"""In files of earlier versions: names of the attributes whose values are JSON."""

COORDINATES = "entropylab_coordinates"
"""In a file, as JSON: coordinates with a space in their name, which netCDF's own list of them can't hold."""

DTYPE = "entropylab_dtype"
"""In a file: what a variable is, where netCDF has no such type: datetime64[ns], timedelta64[s], or text as JSON."""

JSON_TEXT = "text as JSON"

RESERVED = {
    *(APART, JSON_NAMES, COORDINATES, DTYPE),
    *("CLASS", "DIMENSION_LABELS", "DIMENSION_LIST", "NAME", "REFERENCE_LIST"),
    *("add_offset", "coordinates", "dtype", "grid_mapping", "missing_value", "scale_factor"),
}
"""Names of attributes that mean something to HDF5, to xarray, or to us."""

NAME = re.compile(r"[A-Za-z](?:[\w.+-]| (?! |$)){0,99}")
"""Names of attributes that any program can read."""

TIME_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


def encode(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` with variables and attributes that netCDF can hold; two that are to come back the same encode the same."""
    spaced = [str(name) for name in ds.coords if " " in str(name)]
    coords = {name: encode_variable(name, ds.variables[name]) for name in ds.coords}
    data = {name: encode_variable(name, ds.variables[name]) for name in ds.data_vars}
    encoded = xr.Dataset(data, coords, encode_attributes(ds.attrs))
    return encoded.reset_coords(spaced).assign_attrs({COORDINATES: json.dumps(spaced)}) if spaced else encoded


def decode(ds: xr.Dataset) -> xr.Dataset:
    """What ``encode`` was given, from what was read of the file; text as fixed-width unicode again."""
    attributes = dict(ds.attrs)
    ds = ds.set_coords(json.loads(attributes.pop(COORDINATES, "[]")))
    data, coords = (
        {name: decode_variable(ds.variables[name]) for name in names} for names in (ds.data_vars, ds.coords)
    )
    return xr.Dataset(data, coords, decode_attributes(attributes))


def encode_variable(name: Any, variable: xr.Variable) -> xr.Variable:
    """A variable as numbers or text that netCDF can hold."""
    values, own = variable.values, {}
    kind = values.dtype.kind if isinstance(variable.dtype, np.dtype) else ""
    texts = values.ravel().tolist() if kind in ("U", "T", "O") else []
    unit = TIME_UNITS.get(np.datetime_data(values.dtype)[0]) if kind in ("m", "M") else None
    known = unit or kind in set("biufcSUTO")
    if not isinstance(name, str) or not known or not all(isinstance(text, str) for text in texts):
        raise EntropyLabError(
            "variables of ds must have text for a name, and hold numbers, text, or dates and time spans as datetime64 "
            f"and timedelta64. Got {name!r} of {variable.dtype}."
        )
    if unit:
        since = {"units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian"}
        own = {DTYPE: values.dtype.name, **(since if kind == "M" else {"units": unit})}
        values = values.astype(values.dtype.newbyteorder("=")).view(np.int64)
    elif kind in ("U", "T", "O"):
        if not all(map(is_plain_text, texts)):
            own, texts = {DTYPE: JSON_TEXT}, [json.dumps(text) for text in texts]
        values = np.array(texts, dtype=str).reshape(values.shape)
    return xr.Variable(variable.dims, values, {**encode_attributes(variable.attrs, own), **own})


def decode_variable(variable: xr.Variable) -> xr.Variable:
    """What ``encode_variable`` was given."""
    values, attributes = variable.values, dict(variable.attrs)
    dtype = attributes.pop(DTYPE, None)
    if dtype is not None and dtype != JSON_TEXT:
        values = values.view(dtype)
        attributes = {name: value for name, value in attributes.items() if name not in ("units", "calendar")}
    elif variable.dtype.kind in "OUT":
        texts = [json.loads(text) if dtype else text for text in values.ravel().tolist()]
        values = np.array(texts, dtype=str).reshape(values.shape)
    return xr.Variable(variable.dims, values, decode_attributes(attributes))


def encode_attributes(attributes: Mapping[Any, Any], reserved: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Attributes as text, float and 64-bit int; others in `APART`, as are those whose names are ``reserved``."""
    kept: dict[str, Any] = {}
    apart: dict[str, Any] = {}
    for name, value in as_python("attributes", attributes).items():
        plain = NAME.fullmatch(name) and name not in RESERVED and name not in reserved and is_plain(value)
        (kept if plain else apart)[name] = value
    return kept | ({APART: json.dumps(apart)} if apart else {})


def decode_attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """What ``encode_attributes`` was given, with lists for tuples and arrays."""
    values = as_python("attributes", attributes)
    apart = json.loads(values.pop(APART, "{}"))
    for name in json.loads(values.pop(JSON_NAMES, "[]")):
        values[name] = json.loads(values[name])
    return {**values, **apart}


def as_python(name: Any, value: Any) -> Any:
    """An attribute's value as JSON knows it."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [as_python(name, one) for one in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): as_python(key, one) for key, one in value.items()}
    raise EntropyLabError(
        "attributes of ds must be text, numbers, None, and lists and dicts of them, with text for keys. "
        f"Got {name!r}: {value!r:.200}"
    )


def is_plain(value: Any) -> bool:
    """Whether netCDF can hold an attribute as it is (an empty text is not told from an absent one everywhere)."""
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float or (type(value) is str and value != "" and is_plain_text(value))
