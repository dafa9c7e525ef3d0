"""A measured run of joint attention."""

from functools import cache

import xarray as xr

import entropylab

from .zoo import BY_NAME
from .zoo.joint_parts import flux_call, two_steps


@cache
def flux_run() -> xr.Dataset:
    """Joint attention at three sizes, from a tiny FLUX.1 with random weights."""
    pipe = BY_NAME["FLUX.1"].build()
    with entropylab.record(pipe) as recorder:
        for size in ((96, 128), (160, 160), (256, 256)):
            two_steps(pipe, *size, **flux_call())
    return recorder.dataset
