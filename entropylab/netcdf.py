"""Measured Datasets in netCDF-4 files: written whole or not at all, and looked at before anything reads them.

HDF5 itself trusts what it reads: zeros in a heap keep it busy for ever, and a file can make it read others.
"""

import hashlib
import io
import os
import re
import stat
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import xarray as xr
from xarray.backends import H5NetCDFStore

from .dataset import ATTRIBUTE, check_ours, decode, encode
from .errors import EntropyLabError, one_line
from .files import as_path, check_writable, write_whole

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SEAL = b"\x89entropylab seal\n"
"""After the end of the HDF5 file, with the SHA-256 of everything before it; other programs don't look there."""

PACKED = 1100
"""Bytes that a compressed one can stand for; deflate reaches 1032."""

SLACK = 2**26
"""Bytes that a variable may claim without having them in the file: dimensions without labels are such variables."""


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
    encoded = {name: encode(group) for name, group in groups_of(ds).items()}
    try:  # in memory: HDF5 ends the process if it can't write to a disk what it has in hand when it closes a file
        content = to_bytes(encoded)
        back = groups_of(from_bytes(content))
        different = next(filter(None, (difference(one, encode(back[name])) for name, one in encoded.items())), "")
    except Exception as error:  # whatever the writer makes of names and types that it does not know
        raise EntropyLabError(f"{target} could not be written: {one_line(error)}") from error
    if different:
        raise EntropyLabError(f"ds must hold what a netCDF file can hold: {different} would not come back as it is.")
    write_whole(target, sealed(content))


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
        if not stat.S_ISREG(source.stat().st_mode):  # opening a pipe would wait for somebody to write to it
            raise EntropyLabError(f"{source} can't be read: it is no regular file.")
        content = source.read_bytes()
    except OSError as error:
        raise EntropyLabError(f"{source} can't be read: {one_line(error)}.") from error
    if not content.startswith(SIGNATURE):
        what = "is not a netCDF-4 file" if content else "is empty"
        raise EntropyLabError(f"{source} {what}; entropylab.open reads what entropylab.save wrote.")
    try:
        check(content)
        ds = from_bytes(content)
    except ImportError:
        raise
    except MemoryError as error:
        raise EntropyLabError(f"{source} can't be read: it needs more memory than there is.") from error
    except Exception as error:  # whatever the reader makes of bytes that are not what was written
        raise EntropyLabError(f"{source} is truncated, damaged or another program's: {one_line(error, 300)}") from error
    if ATTRIBUTE not in ds.attrs:
        raise EntropyLabError(f"{source} is another program's file: it has no attribute {ATTRIBUTE}.")
    return ds


def groups_of(ds: xr.Dataset | xr.DataTree) -> dict[str, xr.Dataset]:
    """The Datasets of a DataTree of ours by path, or a Dataset alone, under "/"."""
    if isinstance(ds, xr.DataTree) and ATTRIBUTE in ds.attrs:
        return {node.path: node.to_dataset() for node in ds.subtree}
    return {"/": check_ours(ds)}


def difference(encoded: xr.Dataset, back: xr.Dataset) -> str:
    """What is not the same in what was written and in what was read of it, encoded again; "" if all is."""
    for name, variable in encoded.variables.items():
        there = back.variables.get(name)
        if there is None or not there.identical(variable):
            return f"variable {name!r}"
        if variable.dtype.kind != "U" and there.dtype.newbyteorder("=") != variable.dtype.newbyteorder("="):
            return f"the type of variable {name!r}"
    return "" if back.identical(encoded) else "its list of variables, coordinates and attributes"


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


def sealed(content: bytes) -> bytes:
    """An HDF5 file with its seal."""
    return content + SEAL + hashlib.sha256(content).digest()


def check(content: bytes) -> None:
    """Raise a ValueError if an HDF5 file is damaged, or takes its numbers from elsewhere; no numbers are read here.

    A file without a seal is from an older version, or was changed by another program since.
    """
    end = stated_end(content)
    rest = content[end:]
    if rest and rest != sealed(content[:end])[end:]:
        raise ValueError("its checksum is not that of its content")
    check_heaps(content)
    with h5py.File(io.BytesIO(content), "r") as file:
        wrong = file.visititems_links(wrong_link) or wrong_object("/", file) or file.visititems(wrong_object)
    if wrong:
        raise ValueError(wrong)


def stated_end(content: bytes) -> int:
    """Where an HDF5 file ends, as it says itself (HDF5 File Format Specification, II.A, Superblock)."""
    version = content[8] if len(content) > 48 else None
    place = {0: (13, 40), 1: (13, 44), 2: (9, 28), 3: (9, 28)}.get(version)  # type: ignore[arg-type]
    if place is None or content[place[0]] != 8:
        raise ValueError("its first bytes are not those of an HDF5 file")
    end = int.from_bytes(content[place[1] : place[1] + 8], "little")
    if not 48 < end <= len(content):
        raise ValueError(f"it has {len(content)} bytes, and should have {end}")
    return end


def check_heaps(content: bytes) -> None:
    """Raise a ValueError if free space in a heap of texts has no size, which HDF5 steps over without end.

    Of thousands of files that were damaged at random, these were the only ones that raised no exception. Source: HDF5
    File Format Specification, III.E, Global Heap.
    """
    for heap in re.finditer(rb"GCOL\x01\0\0\0", content):
        place, length = heap.start() + 16, int.from_bytes(content[heap.start() + 8 : heap.start() + 16], "little")
        while place + 16 <= min(heap.start() + length, len(content)):
            index, size = struct.unpack_from("<H6xQ", content, place)
            if index == size == 0:
                raise ValueError("a heap of its texts is damaged")
            place += size if index == 0 else 16 + size + -size % 8


def wrong_link(name: str, link: Any) -> str | None:
    """What is wrong with a name that leads elsewhere."""
    return None if isinstance(link, h5py.HardLink) else f"{name!r} is a link, perhaps to another file: not followed"


def wrong_object(name: str, found: h5py.Group | h5py.Dataset) -> str | None:
    """What is wrong with a group that is in itself, or a variable whose numbers are elsewhere, or not all there."""
    if h5py.h5o.get_info(found.id).rc > 1:
        return f"{name!r} is there under several names"
    if not isinstance(found, h5py.Dataset):
        return None
    if found.external or found.is_virtual:
        return f"the numbers of {name!r} are kept in other files, which are not read"
    claimed, stored = (found.size or 0) * found.dtype.itemsize, found.id.get_storage_size()
    if claimed > PACKED * stored + SLACK:
        return f"{name!r} claims {claimed / 1e9:.3g} GB, of which {stored} bytes are stored"
    return None
