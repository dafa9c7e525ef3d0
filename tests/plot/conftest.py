"""Axes to draw on, and a measurement under two rules."""

import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..datasets import under_both


@pytest.fixture(scope="module")
def ds() -> xr.Dataset:
    return under_both(slope=0.95)


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()
