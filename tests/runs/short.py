"""A short run of the stub, made again, and what it leaves behind."""

from pathlib import Path
from typing import Any

import xarray as xr

from .stub import Stub, measure

SAMPLES = ("branch", "sample", "step", "layer", "head")


def again(run: Path, pipe: Stub | None = None, **options: Any) -> xr.Dataset:
    """The command that made the finished run, again."""
    return measure(run, pipe, **{"scaling": "original", "sizes": [32], **options})


def bare(ds: xr.Dataset) -> xr.Dataset:
    """A Dataset without what says where it comes from."""
    return ds.drop_attrs(deep=False)


def files(run: Path) -> list[Path]:
    return sorted((run / "units").glob("*.nc"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
