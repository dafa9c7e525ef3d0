"""Runs to report, and a report of two of them."""

from pathlib import Path

import pytest
import xarray as xr

import entropylab
from entropylab import report
from entropylab.reporting import pictures

from ..zoo import BY_NAME
from ..zoo.joint_parts import flux_call, two_steps
from .reports import with_sigma2


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures with few pixels, which are drawn faster."""
    monkeypatch.setattr(pictures, "SHARP", 40)


@pytest.fixture(scope="session")
def ds() -> xr.Dataset:
    return with_sigma2(1)


@pytest.fixture(scope="session")
def flux() -> xr.Dataset:
    """Joint attention at three sizes, from a tiny FLUX.1 with random weights."""
    pipe = BY_NAME["FLUX.1"].build()
    with entropylab.record(pipe) as recorder:
        for size in ((96, 128), (160, 160), (256, 256)):
            two_steps(pipe, *size, **flux_call())
    return recorder.dataset


@pytest.fixture(scope="session")
def two(ds: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs; the second is off the law and knows less."""
    path = tmp_path_factory.mktemp("report") / "two.html"
    other = with_sigma2(4).mean("step", keep_attrs=True).assign_attrs(model="other <model> | 2*", steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "SHARP", 40)
        report([ds, other], path)
    return path
