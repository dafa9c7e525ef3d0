"""`open` moved to `entropylab.netcdf`; what still imports it from here is being rewritten."""

from .netcdf import open_dataset

__all__ = ["open_dataset"]
