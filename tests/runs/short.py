"""A short run of the stub, made again, and what it leaves behind."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import entropylab

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


class Brightness(torch.nn.Module):
    """Features: the mean of each colour."""

    name, num_features = "brightness", 3

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean((-2, -1)) / 255


def judged(pipe: Any, **options: Any) -> xr.Dataset:
    """An evaluation of 12 pictures by their brightness."""
    given = {"samples": 12, "metrics": ("fid",), "resamples": 2, "progress": False, "features": Brightness()}
    return entropylab.evaluate(pipe, **given | {"reference": np.random.default_rng(0).random((50, 3))} | options)
