"""Runs to report, and a report of two of them."""

from pathlib import Path

import pytest
import xarray as xr

from entropylab import report
from entropylab.reporting import pictures

from ..joint_run import flux_run
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
    return flux_run()


@pytest.fixture(scope="session")
def two(ds: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two runs; the second is off the law and knows less."""
    path = tmp_path_factory.mktemp("report") / "two.html"
    other = with_sigma2(4).mean("step", keep_attrs=True).assign_attrs(model="other <model> | 2*", steps=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "SHARP", 40)
        report([ds, other], path)
    return path
