"""Measured Datasets in files (netCDF-4): written whole or not at all, and read as they were."""

import io
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import h5netcdf
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore

from . import hdf5
from .dataset import ATTRIBUTE, check_ours
from .errors import EntropyLabError, one_line
from .files import check_writable, write_whole

JSON_NAMES = "entropylab_json"
"""In a file: names of the attributes that are written as JSON, because netCDF has nothing for their type."""

APART = "entropylab_apart"
"""In a file, as JSON: attributes whose names would mean something to netCDF or xarray, or are none there."""

COORDINATES = "entropylab_coordinates"
"""In a file, as JSON: coordinates with a space in their name, which netCDF's own list of them can't hold."""

DTYPE = "entropylab_dtype"
"""In a file: what a variable is, where netCDF has no such type: datetime64[ns], timedelta64[s], or text as JSON."""

JSON_TEXT = "text as JSON"

RESERVED = {
    *(JSON_NAMES, APART, COORDINATES, DTYPE),
    *("CLASS", "DIMENSION_LABELS", "DIMENSION_LIST", "NAME", "REFERENCE_LIST"),
    *("add_offset", "coordinates", "dtype", "grid_mapping", "missing_value", "scale_factor"),
}
"""Names of attributes that mean something to HDF5, to xarray, or to us."""

NAME = re.compile(r"[A-Za-z](?:[\w.+-]| (?! |$)){0,99}")
"""Names of attributes that any program can read."""

TIME_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

ENGINE: Literal["h5netcdf"] = "h5netcdf"


def save(ds: xr.Dataset, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a measured Dataset to a netCDF-4 file, whole or not at all.

    The file appears under its name only when it is complete; a save that fails or is interrupted leaves what was
    there before. Types, coordinates, attributes, dates and NaN come back from ``open`` as they were (tuples and arrays
    in attributes as lists); what would not is refused. A checksum in the file tells later whether it is still whole.

    Args:
        ds: what ``measure`` or ``record`` returned, or a part of it.
        path: the file, e.g. "entropy.nc"; its folder must exist. A link is followed.
        overwrite: whether a file of that name may be replaced.

    Raises:
        EntropyLabError: not a Dataset of ours, something in it that no file can hold, a file that is there already, or
            a place that can't be written, such as a device or a full disk.

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
    try:  # in memory: HDF5 ends the process if it can't write to a disk what it has in hand when it closes a file
        content = to_bytes(encoded)
        different = difference(ds, from_bytes(content))
    except Exception as error:  # whatever the writer makes of names and types that it does not know
        raise EntropyLabError(f"{target} could not be written: {one_line(error)}") from error
    if different:
        raise EntropyLabError(f"ds must hold what a netCDF file can hold: {different} would not come back as it is.")
    write_whole(target, hdf5.sealed(content))


def read(source: Path) -> xr.Dataset:
    """Read a Dataset that ``save`` wrote, into memory; the file is closed again.

    Raises:
        EntropyLabError: no such file, a file that is empty, truncated, damaged or not netCDF-4, one that takes numbers
            from other files or needs more memory than there is, or another program's.
    """
    try:
        content = content_of(source)
        hdf5.check(content)
        ds = from_bytes(content)
    except (EntropyLabError, ImportError):
        raise
    except MemoryError as error:
        raise EntropyLabError(f"{source} can't be read: it needs more memory than there is.") from error
    except Exception as error:  # whatever the reader makes of bytes that are not what was written
        raise EntropyLabError(f"{source} is truncated, damaged or another program's: {one_line(error, 300)}") from error
    if ATTRIBUTE not in ds.attrs:
        raise EntropyLabError(f"{source} is another program's file: it has no attribute {ATTRIBUTE}.")
    return ds


def content_of(source: Path) -> bytes:
    """The bytes of a file, if it begins as an HDF5 file does."""
    try:
        if not stat.S_ISREG(source.stat().st_mode):  # opening a pipe would wait for somebody to write to it
            raise EntropyLabError(f"{source} can't be read: it is no regular file.")
        with open(source, "rb") as file:
            start = file.read(len(hdf5.SIGNATURE))
            content = start + file.read() if start == hdf5.SIGNATURE else start
    except OSError as error:
        raise EntropyLabError(f"{source} can't be read: {one_line(error)}.") from error
    if start != hdf5.SIGNATURE:
        what = "is empty" if not start else "is not a netCDF-4 file"
        raise EntropyLabError(f"{source} {what}; entropylab.open reads what entropylab.save wrote.")
    return content


def to_bytes(encoded: xr.Dataset) -> bytes:
    """A netCDF-4 file."""
    file = io.BytesIO()
    with h5netcdf.File(file, "w") as handle:
        storages = {name: storage(variable) for name, variable in encoded.variables.items()}
        encoded.dump_to_store(H5NetCDFStore(handle), encoding=storages)
    return file.getvalue()


def from_bytes(content: bytes) -> xr.Dataset:
    """The Dataset in a netCDF-4 file."""
    plain = {"mask_and_scale": False, "decode_times": False, "decode_timedelta": False}
    return decode(xr.load_dataset(io.BytesIO(content), engine=ENGINE, **plain))


def encode(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` with variables and attributes that netCDF can hold."""
    spaced = [str(name) for name in ds.coords if " " in str(name)]
    encoded = xr.Dataset(
        {name: encode_variable(name, ds.variables[name]) for name in ds.data_vars},
        {name: encode_variable(name, ds.variables[name]) for name in ds.coords},
        encode_attributes(ds.attrs),
    )
    return encoded.reset_coords(spaced).assign_attrs({COORDINATES: json.dumps(spaced)}) if spaced else encoded


def decode(ds: xr.Dataset) -> xr.Dataset:
    """What ``encode`` was given, from what was read of the file; text as fixed-width unicode again."""
    spaced = json.loads(ds.attrs.get(COORDINATES, "[]"))
    attributes = {name: value for name, value in ds.attrs.items() if name != COORDINATES}
    ds = ds.set_coords(spaced)
    return xr.Dataset(
        {name: decode_variable(ds.variables[name]) for name in ds.data_vars},
        {name: decode_variable(ds.variables[name]) for name in ds.coords},
        decode_attributes(attributes),
    )


def encode_variable(name: Any, variable: xr.Variable) -> xr.Variable:
    """A variable as numbers or text that netCDF can hold."""
    kind = getattr(variable.dtype, "kind", "") if isinstance(variable.dtype, np.dtype) else ""
    if not isinstance(name, str) or kind not in set("biufcSUTOmM"):
        raise cannot_hold(name, variable)
    values, own = variable.values, {}
    if kind in "mM":
        unit = np.datetime_data(values.dtype)[0]
        if unit not in TIME_UNITS:
            raise cannot_hold(name, variable)
        since = {"units": f"{TIME_UNITS[unit]} since 1970-01-01", "calendar": "proleptic_gregorian"}
        own = {DTYPE: values.dtype.name, **(since if kind == "M" else {"units": TIME_UNITS[unit]})}
        values = values.astype(values.dtype.newbyteorder("=")).view(np.int64)
    elif kind in "UTO":
        texts = values.ravel().tolist()
        if not all(isinstance(text, str) for text in texts):
            raise cannot_hold(name, variable)
        if not all(map(is_plain_text, texts)):
            own, texts = {DTYPE: JSON_TEXT}, [json.dumps(text) for text in texts]
        values = np.array(texts, dtype=str).reshape(values.shape)
    return xr.Variable(variable.dims, values, {**encode_attributes(variable.attrs, reserved=own), **own})


def cannot_hold(name: Any, variable: xr.Variable) -> EntropyLabError:
    """The error for a variable of a type, or with a name, that no file can hold."""
    return EntropyLabError(
        "variables of ds must have text for a name, and hold numbers, text, or dates and time spans as datetime64 and "
        f"timedelta64. Got {name!r} of {variable.dtype}."
    )


def decode_variable(variable: xr.Variable) -> xr.Variable:
    """What ``encode_variable`` was given."""
    values, attributes = variable.values, dict(variable.attrs)
    dtype = attributes.pop(DTYPE, None)
    if dtype is not None and dtype != JSON_TEXT:
        values = values.view(dtype)
        attributes = {name: value for name, value in attributes.items() if name not in ("units", "calendar")}
    elif variable.dtype.kind in "OUT":
        texts = values.ravel().tolist()
        texts = [json.loads(text) for text in texts] if dtype else texts
        values = np.array(texts, dtype=str).reshape(values.shape)
    return xr.Variable(variable.dims, values, decode_attributes(attributes))


def encode_attributes(attributes: Mapping[Any, Any], reserved: Mapping[str, Any] = {}) -> dict[str, Any]:
    """Attributes as text, float and 64-bit int; others as JSON, their names in ``JSON_NAMES``, or in ``APART``."""
    values = {check_name(name): as_python(name, value) for name, value in attributes.items()}
    apart = {
        name: value
        for name, value in values.items()
        if name in RESERVED or name in reserved or not NAME.fullmatch(name)
    }
    coded = [name for name, value in values.items() if name not in apart and not is_plain(value)]
    kept = {name: json.dumps(values[name]) if name in coded else values[name] for name in values if name not in apart}
    if coded:
        kept[JSON_NAMES] = json.dumps(coded)
    return {**kept, APART: json.dumps(apart)} if apart else kept


def decode_attributes(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """What ``encode_attributes`` was given."""
    values = {str(name): as_python(name, value) for name, value in attributes.items()}
    apart = json.loads(values.pop(APART, "{}"))
    for name in json.loads(values.pop(JSON_NAMES, "[]")):
        values[name] = json.loads(values[name])
    return {**values, **apart}


def check_name(name: Any) -> str:
    """The name of an attribute, if it is text."""
    if not isinstance(name, str):
        raise EntropyLabError(f"attributes of ds must have text for names. Got {name!r}.")
    return name


def as_python(name: Any, value: Any) -> Any:
    """An attribute's value as JSON knows it: NumPy's scalars and arrays as Python's numbers and lists, tuples as lists.

    Raises:
        EntropyLabError: anything else.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [as_python(name, one) for one in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str(key): as_python(name, one) for key, one in value.items()}
    raise EntropyLabError(
        "attributes of ds must be text, numbers, None, and lists and dicts of them, with text for keys. "
        f"Got {name!r}: {type(value).__name__}."
    )


def is_plain(value: Any) -> bool:
    """Whether netCDF can hold an attribute as it is (an empty text is not told from an absent one everywhere)."""
    if type(value) is int:
        return -(2**63) <= value < 2**63
    return type(value) is float or (type(value) is str and value != "" and is_plain_text(value))


def is_plain_text(text: str) -> bool:
    """Whether a text can be written as UTF-8 that ends at a NUL."""
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


def storage(variable: xr.Variable) -> dict[str, Any]:
    """How a variable is laid down in the file: numbers compressed, with a checksum, and no value that means missing."""
    if variable.dtype.kind not in "biuf":
        return {}
    fill = {"_FillValue": None}
    return {**fill, "zlib": True, "complevel": 4, "shuffle": True, "fletcher32": True} if variable.ndim else fill


def difference(ds: xr.Dataset, back: xr.Dataset) -> str:
    """What is not the same in what was written and what is read again; "" if all is."""
    for sort in ("coords", "data_vars"):
        names = [set(getattr(one, sort)) for one in (ds, back)]
        if names[0] != names[1]:
            return f"{sort} {sorted(map(str, names[0] ^ names[1]))}"
    for name, variable in ds.variables.items():
        other = back.variables[name]
        if variable.dims != other.dims or values_of(variable) != values_of(other):
            return f"variable {name!r} of {variable.dtype}"
        if attribute := other_attribute(variable.attrs, other.attrs):
            return f"attribute {attribute!r} of {name!r}"
    attribute = other_attribute(ds.attrs, back.attrs)
    return f"attribute {attribute!r}" if attribute else ""


def other_attribute(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> str:
    """The first attribute that two have not in common; "" if there is none."""
    ours, theirs = (
        {str(name): repr(as_python(name, value)) for name, value in each.items()} for each in (before, after)
    )
    return next((name for name in sorted(ours.keys() | theirs.keys()) if ours.get(name) != theirs.get(name)), "")


def values_of(variable: xr.Variable) -> Any:
    """What makes two variables the same: the texts, or the type and the bytes of the numbers."""
    if variable.dtype.kind in "UTO":
        return variable.values.tolist()
    values = np.ascontiguousarray(variable.values)
    values = values.astype(values.dtype.newbyteorder("="))
    return values.dtype, values.shape, values.tobytes()
