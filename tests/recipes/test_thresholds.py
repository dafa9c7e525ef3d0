"""The threshold of a flag of the law's comes from simulation, and the table of Gaussian rows from its recipe."""

import numpy as np
import pytest

from entropylab.gaussian import table
from entropylab.law.theory import SKEWED
from recipes.gaussian import MANY, SIGMAS, of_few
from recipes.thresholds import crossing, simulated_threshold


def test_the_threshold_comes_from_simulation() -> None:
    """Of few rows, because the whole simulation takes some seconds."""
    found = simulated_threshold(seed=3, cells=2**17)
    assert 0.7 * found <= SKEWED <= found


def test_crossings() -> None:
    where = np.array([0.0, 1.0, 2.0])
    assert crossing(where, np.array([0.0, 0.05, 0.15])) == pytest.approx(1.5)
    assert crossing(where, np.array([0.0, 0.05, -0.15])) == pytest.approx(1.5)
    assert crossing(where, np.zeros(3)) == np.inf
    assert crossing(where, np.array([0.0, np.nan, 0.0])) == 0.0


def test_the_table_of_few_keys_comes_from_its_recipe() -> None:
    """Of many keys it takes half a minute a row; tests/entropy/test_beyond.py holds those against simulation."""
    known = table()
    np.testing.assert_allclose(known["entropy"][4, ::40], of_few(5, SIGMAS[::40]), atol=1e-6)
    np.testing.assert_allclose(known["tokens"], [*range(1, 8), *MANY])
