"""``open``: what was measured, from a file or from the folder of a long run."""

import os

import xarray as xr

from . import netcdf
from .files import as_path


def open_dataset(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a Dataset that ``save`` wrote, into memory; the file is closed again.

    Args:
        path: the file, or the folder of a run, finished or half finished.

    Returns:
        The Dataset as it was saved; of a run what is finished, with a warning that names what is not.

    Raises:
        EntropyLabError: no such file, a file that is empty, truncated, damaged or not netCDF-4, or another program's.

    Examples:
        >>> entropylab.save(ds, "entropy.nc")
        >>> entropylab.open("entropy.nc").equals(ds)
        True
    """
    source = as_path(path)
    if not os.path.isdir(source):
        return netcdf.read(source)
    from .runs import open_run

    return open_run(source)
