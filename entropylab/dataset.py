"""Measured Datasets: the units and names of their variables, and how they are kept in files (netCDF-4)."""

import json
import os
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from .errors import EntropyLabError

ATTRIBUTE = "entropylab_version"
"""The attribute by which a Dataset of ours is known."""

JSON_NAMES = "entropylab_json"
"""In a file: names of the attributes that are written as JSON, because netCDF has nothing for their type."""

ENGINE: Literal["h5netcdf"] = "h5netcdf"
HDF5 = b"\x89HDF\r\n\x1a\n"

UNITS: dict[str, tuple[str, str]] = {
    "entropy": ("nats", "attention entropy of a row, mean over query rows"),
    "entropy_std": ("nats", "attention entropy of a row, standard deviation over query rows"),
    "sigma2": ("nats^2", "variance of a row's logits over the keys, mean over query rows"),
    "third": ("nats^3", "third cumulant of a row's logits over the keys, mean over query rows"),
    "fourth": ("nats^4", "fourth cumulant of a row's logits over the keys, mean over query rows"),
    "sensitivity": ("nats^2", "attention-weighted variance of a row's logits, -dH/d log(scale), mean over query rows"),
    "lse": ("nats", "log-sum-exp of a row's logits, mean over query rows"),
    "mean": ("nats", "mean of a row's logits over the keys, mean over query rows"),
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


def save(ds: xr.Dataset, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a measured Dataset to a netCDF-4 file, whole or not at all.

    The file appears under its name only when it is complete; a save that fails or is interrupted leaves what was
    there before. Types, coordinates, attributes and NaN come back from ``open`` as they were (tuples as lists).

    Args:
        ds: what ``measure`` or ``record`` returned, or a part of it.
        path: the file, e.g. "entropy.nc"; its folder must exist.
        overwrite: whether a file of that name may be replaced.

    Raises:
        EntropyLabError: not a Dataset of ours, a file that is there already, or a place that can't be written.

    Examples:
        >>> entropylab.save(ds, "entropy.nc")
        >>> entropylab.save(ds, "entropy.nc")
        Traceback (most recent call last):
            ...
        entropylab.errors.EntropyLabError: ...
        >>> entropylab.save(ds.mean("head", keep_attrs=True), "entropy.nc", overwrite=True)
    """
    target = check_writable(path, overwrite)
    encoded = encode(check_ours(ds))
    partial = target.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        encoded.to_netcdf(partial, engine=ENGINE, encoding={name: storage(v) for name, v in encoded.variables.items()})
        flush(partial)
        partial.replace(target)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise EntropyLabError(f"{target} could not be written: {first_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def open_dataset(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a Dataset that ``save`` wrote, into memory; the file is closed again. Public as ``entropylab.open``.

    Args:
        path: the file, or the folder of a run, finished or half finished.

    Raises:
        EntropyLabError: no such file, a file that is empty, truncated, damaged or not netCDF-4, or another program's.

    Examples:
        >>> entropylab.save(ds, "entropy.nc")
        >>> entropylab.open("entropy.nc").equals(ds)
        True
    """
    source = as_path(path)
    if source.is_dir():
        from .runs import open_run

        return open_run(source)
    check_signature(source)
    try:
        ds = xr.load_dataset(source, engine=ENGINE, mask_and_scale=False, decode_times=False, decode_timedelta=False)
        ours = ATTRIBUTE in ds.attrs
        ds = decode(ds) if ours else ds
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever the reader makes of bytes that are not what was written
        raise EntropyLabError(f"{source} is truncated, damaged or another program's: {first_line(error)}") from error
    if not ours:
        raise EntropyLabError(f"{source} is another program's file: it has no attribute {ATTRIBUTE}.")
    return ds


def check_writable(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """``path`` as a Path, if a file can be written there; to be called before any long work starts.

    Raises:
        EntropyLabError: it names a folder or a file that is there already (without ``overwrite``), or its folder does
            not exist or can't be written to.
    """
    target = as_path(path)
    try:
        if target.is_dir():
            raise EntropyLabError(f"path must name a file. Got the folder {target}.")
        if target.exists() and not overwrite:
            raise EntropyLabError(f"{target} exists already; overwrite=True (--overwrite) replaces it.")
        if not target.parent.is_dir():
            raise EntropyLabError(f"{target} can't be written: there is no folder {target.parent}.")
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise EntropyLabError(f"{target} can't be written: {error.strerror or error}.") from error
    return target


def as_path(path: Any) -> Path:
    """``path`` as a Path, if it is one."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise EntropyLabError(f"path must be the name of a file. Got {path!r}.")
    return Path(path)


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


def check_signature(source: Path) -> None:
    """Raise an EntropyLabError if ``source`` can't be read, or does not begin as an HDF5 file does."""
    try:
        with open(source, "rb") as file:
            start = file.read(len(HDF5))
    except OSError as error:
        raise EntropyLabError(f"{source} can't be read: {error.strerror or error}.") from error
    if start != HDF5:
        what = "is empty" if not start else "is not a netCDF-4 file"
        raise EntropyLabError(f"{source} {what}; entropylab.open reads what entropylab.save wrote.")


def encode(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` with attributes that netCDF can hold."""
    encoded = ds.drop_encoding()
    encoded.attrs = encode_attributes(ds.attrs)
    for variable in encoded.variables.values():
        variable.attrs = encode_attributes(variable.attrs)
    return encoded


def decode(ds: xr.Dataset) -> xr.Dataset:
    """What ``encode`` was given, from what was read of the file; text as fixed-width unicode again."""
    decoded = ds.drop_encoding()
    decoded.attrs = decode_attributes(ds.attrs)
    for variable in decoded.variables.values():
        variable.attrs = decode_attributes(variable.attrs)
    texts = [name for name, variable in decoded.variables.items() if variable.dtype.kind in "OT"]
    for name in texts:
        text = decoded.variables[name]
        decoded[name] = (text.dims, np.array(text.values.tolist(), dtype=str), text.attrs)
    return decoded


def encode_attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as text, float and 64-bit int; everything else as JSON, its names in ``JSON_NAMES``."""
    values = {str(name): as_python(value) for name, value in attributes.items()}
    coded = {name: to_json(name, value) for name, value in values.items() if not is_plain(value)}
    return {**values, **coded, **({JSON_NAMES: json.dumps(list(coded))} if coded else {})}


def to_json(name: str, value: Any) -> str:
    """An attribute as JSON."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise EntropyLabError(
            f"attributes of ds must be text, numbers, None, and lists and dicts of them. Got {name!r}: {error}."
        ) from error


def decode_attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """What ``encode_attributes`` was given."""
    values = {str(name): as_python(value) for name, value in attributes.items()}
    for name in json.loads(values.pop(JSON_NAMES, "[]")):
        values[name] = json.loads(values[name])
    return values


def as_python(value: Any) -> Any:
    """NumPy's scalars and arrays as Python's own numbers and lists."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def is_plain(value: Any) -> bool:
    """Whether netCDF can hold an attribute as it is (an empty text is not told from an absent one everywhere)."""
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float or (type(value) is str and value != "")


def storage(variable: xr.Variable) -> dict[str, Any]:
    """How a variable is laid down in the file: numbers compressed, with a checksum, and no value that means missing."""
    if variable.dtype.kind not in "biuf":
        return {}
    fill = {"_FillValue": None}
    return {**fill, "zlib": True, "complevel": 4, "shuffle": True, "fletcher32": True} if variable.ndim else fill


def flush(path: Path) -> None:
    """Wait until a file's content is on the disk, so that it can't be lost after its name is known."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def first_line(error: Exception) -> str:
    """An error's message as one line; the system's own words where it has some, as for a disk that is full."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return (str(error) or type(error).__name__).splitlines()[0]
