"""Measured Datasets in files (netCDF-4): written whole or not at all, and read as they were.

netCDF holds text, numbers and attributes of either. What it has nothing for is kept as JSON or under a name of ours,
and what would still not come back as it was is refused when it is written.
"""

import io
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import numpy as np
import xarray as xr
from xarray.backends import H5NetCDFStore

from . import hdf5
from .dataset import ATTRIBUTE, check_ours
from .errors import EntropyLabError, one_line
from .files import as_path, check_writable, is_plain_text, write_whole

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


def save(ds: xr.Dataset | xr.DataTree, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a measured Dataset, or a DataTree of entropy maps, to a netCDF-4 file, whole or not at all.

    The file appears under its name only when it is complete; a save that fails or is interrupted leaves what was
    there before. Types, coordinates, attributes, dates and NaN come back from ``open`` as they were (tuples and arrays
    in attributes as lists); what would not is refused. A checksum in the file tells later whether it is still whole.

    Args:
        ds: what ``measure`` or ``record`` returned, or a part of it; or the ``maps`` of a recorder.
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
    groups = {name: with_plain_attributes(group) for name, group in groups_of(ds).items()}
    encoded = {name: encode(group) for name, group in groups.items()}
    try:  # in memory: HDF5 ends the process if it can't write to a disk what it has in hand when it closes a file
        content = to_bytes(encoded)
        back = groups_of(from_bytes(content))
        different = next(filter(None, (difference(group, back[name]) for name, group in groups.items())), "")
    except Exception as error:  # whatever the writer makes of names and types that it does not know
        raise EntropyLabError(f"{target} could not be written: {one_line(error)}") from error
    if different:
        raise EntropyLabError(f"ds must hold what a netCDF file can hold: {different} would not come back as it is.")
    write_whole(target, hdf5.sealed(content))


def groups_of(ds: xr.Dataset | xr.DataTree) -> dict[str, xr.Dataset]:
    """The Datasets of a DataTree of ours by path, or a Dataset alone, under "/"."""
    if isinstance(ds, xr.DataTree) and ATTRIBUTE in ds.attrs:
        return {node.path: node.to_dataset() for node in ds.subtree}
    return {"/": check_ours(ds)}


def open_dataset(path: str | os.PathLike[str]) -> Any:
    """Read a Dataset that ``save`` wrote, into memory; the file is closed again.

    Args:
        path: the file, or the folder of a run, finished or half finished.

    Returns:
        The Dataset as it was saved, or the xarray.DataTree if it was one; of a run what is finished, with a warning
        that names what is not.

    Raises:
        EntropyLabError: no such file, a file that is empty, truncated, damaged or not netCDF-4, one that takes numbers
            from other files or needs more memory than there is, or another program's.

    Examples:
        >>> entropylab.save(ds, "entropy.nc")
        >>> entropylab.open("entropy.nc").equals(ds)
        True
    """
    source = as_path(path)
    if not os.path.isdir(source):
        return read(source)
    from .runs import open_run

    return open_run(source)


def read(source: Path) -> Any:
    """The Dataset, or the DataTree, in a file, as of `open_dataset`."""
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
        content = source.read_bytes()
    except OSError as error:
        raise EntropyLabError(f"{source} can't be read: {one_line(error)}.") from error
    if not content.startswith(hdf5.SIGNATURE):
        what = "is not a netCDF-4 file" if content else "is empty"
        raise EntropyLabError(f"{source} {what}; entropylab.open reads what entropylab.save wrote.")
    return content


def to_bytes(encoded: Mapping[str, xr.Dataset]) -> bytes:
    """A netCDF-4 file of groups by path: numbers compressed, with a checksum, and no value that means missing."""
    file = io.BytesIO()
    packed = {"zlib": True, "complevel": 4, "shuffle": True, "fletcher32": True}
    with h5netcdf.File(file, "w") as handle:
        for path, group in encoded.items():
            numbers = {name: variable for name, variable in group.variables.items() if variable.dtype.kind in "biuf"}
            storages = {name: {"_FillValue": None, **(packed if each.ndim else {})} for name, each in numbers.items()}
            store = H5NetCDFStore(handle if path == "/" else handle.create_group(path))
            group.dump_to_store(store, encoding=storages)
    return file.getvalue()


def from_bytes(content: bytes) -> xr.Dataset | xr.DataTree:
    """The Dataset in a netCDF-4 file, or the DataTree if there are groups in it."""
    plain: dict[str, Any] = {"mask_and_scale": False, "decode_times": False, "decode_timedelta": False}
    with h5netcdf.File(io.BytesIO(content), "r", decode_vlen_strings=True) as handle:
        found = {each.name: decode(xr.open_dataset(H5NetCDFStore(each), **plain).load()) for each in groups_in(handle)}
    return xr.DataTree.from_dict(found) if len(found) > 1 else found["/"]


def groups_in(group: Any) -> Iterator[Any]:
    """A group, and all in it, outer ones first."""
    yield group
    for inner in group.groups.values():
        yield from groups_in(inner)


def encode(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` with variables and attributes that netCDF can hold."""
    spaced = [str(name) for name in ds.coords if " " in str(name)]
    encoded = rebuilt(ds, lambda name: encode_variable(name, ds.variables[name]), encode_attributes(ds.attrs))
    return encoded.reset_coords(spaced).assign_attrs({COORDINATES: json.dumps(spaced)}) if spaced else encoded


def decode(ds: xr.Dataset) -> xr.Dataset:
    """What ``encode`` was given, from what was read of the file; text as fixed-width unicode again."""
    attributes = dict(ds.attrs)
    ds = ds.set_coords(json.loads(attributes.pop(COORDINATES, "[]")))
    return rebuilt(ds, lambda name: decode_variable(ds.variables[name]), decode_attributes(attributes))


def rebuilt(ds: xr.Dataset, new: Callable[[Any], xr.Variable], attributes: dict[str, Any]) -> xr.Dataset:
    """``ds`` with a new variable for each, and new attributes."""
    return xr.Dataset({name: new(name) for name in ds.data_vars}, {name: new(name) for name in ds.coords}, attributes)


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
        texts = values.ravel().tolist()
        texts = [json.loads(text) for text in texts] if dtype else texts
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
    """What ``encode_attributes`` was given."""
    values = as_python("attributes", attributes)
    apart = json.loads(values.pop(APART, "{}"))
    for name in json.loads(values.pop(JSON_NAMES, "[]")):
        values[name] = json.loads(values[name])
    return {**values, **apart}


def as_python(name: Any, value: Any) -> Any:
    """An attribute's value as JSON knows it, with Python's numbers for NumPy's and lists for tuples and arrays."""
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


def with_plain_attributes(ds: xr.Dataset) -> xr.Dataset:
    """``ds`` with all attributes as they come back, as JSON knows them; a shallow copy."""
    plain = ds.copy(deep=False)
    plain.attrs = as_python("attributes", plain.attrs)
    for variable in plain.variables.values():
        variable.attrs = as_python("attributes", variable.attrs)
    return plain


def difference(ds: xr.Dataset, back: xr.Dataset) -> str:
    """What is not the same in what was written and what is read again; "" if all is."""
    for name, variable in ds.variables.items():
        there = back.variables.get(name)
        if there is None or not there.equals(variable) or in_order(there.attrs) != in_order(variable.attrs):
            return f"variable {name!r}"
        if variable.dtype.kind not in "UTO" and there.dtype.newbyteorder("=") != variable.dtype.newbyteorder("="):
            return f"the type of variable {name!r}"
    whole = back.equals(ds) and set(back.coords) == set(ds.coords) and in_order(back.attrs) == in_order(ds.attrs)
    return "" if whole else "its list of variables, coordinates and attributes"


def in_order(attributes: Mapping[Any, Any]) -> str:
    """Attributes as text; a NaN in them is the same as another."""
    return json.dumps(attributes, sort_keys=True)
