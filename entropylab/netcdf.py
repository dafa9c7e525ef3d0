"""Measured Datasets in files (netCDF-4): written whole or not at all, and read as they were."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
import xarray as xr

from .dataset import ATTRIBUTE, check_ours
from .errors import EntropyLabError, one_line
from .files import PARTIAL, check_writable, flush

JSON_NAMES = "entropylab_json"
"""In a file: names of the attributes that are written as JSON, because netCDF has nothing for their type."""

ENGINE: Literal["h5netcdf"] = "h5netcdf"
HDF5 = b"\x89HDF\r\n\x1a\n"


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
    partial = target.with_name(f".{uuid4().hex}{PARTIAL}")
    try:
        encoded.to_netcdf(partial, engine=ENGINE, encoding={name: storage(v) for name, v in encoded.variables.items()})
        flush(partial)
        partial.replace(target)
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise EntropyLabError(f"{target} could not be written: {one_line(error)}") from error
    finally:
        partial.unlink(missing_ok=True)


def read(source: Path) -> xr.Dataset:
    """Read a Dataset that ``save`` wrote, into memory; the file is closed again.

    Raises:
        EntropyLabError: no such file, a file that is empty, truncated, damaged or not netCDF-4, or another program's.
    """
    check_signature(source)
    try:
        ds = xr.load_dataset(source, engine=ENGINE, mask_and_scale=False, decode_times=False, decode_timedelta=False)
        ours = ATTRIBUTE in ds.attrs
        ds = decode(ds) if ours else ds
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # whatever the reader makes of bytes that are not what was written
        raise EntropyLabError(f"{source} is truncated, damaged or another program's: {one_line(error)}") from error
    if not ours:
        raise EntropyLabError(f"{source} is another program's file: it has no attribute {ATTRIBUTE}.")
    return ds


def check_signature(source: Path) -> None:
    """Raise an EntropyLabError if ``source`` can't be read, or does not begin as an HDF5 file does."""
    try:
        with open(source, "rb") as file:
            start = file.read(len(HDF5))
    except OSError as error:
        raise EntropyLabError(f"{source} can't be read: {one_line(error)}.") from error
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
