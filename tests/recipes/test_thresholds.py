"""The thresholds of the law's flags come from simulation."""

import numpy as np
import pytest

from entropylab.law.theory import THRESHOLDS, Thresholds
from recipes.thresholds import crossing, gaussian_crossings, simulated_thresholds


@pytest.fixture(scope="module")
def thresholds() -> Thresholds:
    return simulated_thresholds(seed=2)


@pytest.mark.parametrize("name", ["skewed", "small_n", "near_freezing"])
def test_thresholds_come_from_simulation(thresholds: Thresholds, name: str) -> None:
    found = getattr(thresholds, name)
    assert 0.7 * found <= getattr(THRESHOLDS, name) <= found


def test_crossings() -> None:
    where = np.array([0.0, 1.0, 2.0])
    assert crossing(where, np.array([0.0, 0.05, 0.15])) == pytest.approx(1.5)
    assert crossing(where, np.array([0.0, 0.05, -0.15])) == pytest.approx(1.5)
    assert crossing(where, np.zeros(3)) == np.inf
    assert crossing(where, np.array([0.0, np.nan, 0.0])) == 0.0
    term, ratio = gaussian_crossings(np.random.default_rng(0), 64)
    assert 0.1 < term < 0.3
    assert 0.2 < ratio < 0.3
