"""The thresholds of the law's flags come from simulation."""

import numpy as np
import pytest

from entropylab.law.theory import THRESHOLDS
from recipes.thresholds import crossing, gaussian_crossings, simulated_thresholds


def test_thresholds_come_from_simulation() -> None:
    """Of few rows, because the whole simulation takes some seconds; rows of many keys are left out of ``small_n``."""
    found = simulated_thresholds(seed=3, cells=2**17)
    assert 0.7 * found.skewed <= THRESHOLDS.skewed <= found.skewed
    assert 0.7 * found.near_freezing <= THRESHOLDS.near_freezing <= found.near_freezing
    term, _ = gaussian_crossings(np.random.default_rng(0), 64, cells=2**18)
    assert 0.7 * term <= THRESHOLDS.small_n <= term


def test_crossings() -> None:
    where = np.array([0.0, 1.0, 2.0])
    assert crossing(where, np.array([0.0, 0.05, 0.15])) == pytest.approx(1.5)
    assert crossing(where, np.array([0.0, 0.05, -0.15])) == pytest.approx(1.5)
    assert crossing(where, np.zeros(3)) == np.inf
    assert crossing(where, np.array([0.0, np.nan, 0.0])) == 0.0
    term, ratio = gaussian_crossings(np.random.default_rng(0), 64, cells=2**17)
    assert 0.1 < term < 0.3
    assert 0.2 < ratio < 0.3
