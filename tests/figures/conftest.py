"""A folder with all figures, and a measurement to draw some from."""

from pathlib import Path

import pytest
import xarray as xr

from ..datasets import under_both
from .made import run_small


@pytest.fixture(scope="session")
def ds() -> xr.Dataset:
    return under_both(slope=0.95)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figures") / "made" / "on the way"
    written = run_small(out)
    assert sorted(written) == sorted(out.iterdir()), "what was written is what is told"
    return out
