"""The Frechet distance against independent computations, and the count it needs."""

import numpy as np
import pytest
import scipy.linalg

from entropylab import EntropyLabError
from entropylab.quality.frechet import Moments, frechet_distance
from entropylab.quality.intervals import bootstrap_draws, interval


def drawn(count, dimension=8, shift=0.0, spread=1.0, seed=0):
    return shift + spread * np.random.default_rng(seed).normal(size=(count, dimension))


def by_scipy(one, other):
    """The definition, with a general matrix root."""
    covariances = [np.cov(values.T) for values in (one, other)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = ((one.mean(0) - other.mean(0)) ** 2).sum()
    return shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)


@pytest.mark.parametrize(("shift", "spread"), [(0, 1), (0.5, 1), (0, 2), (1, 0.3)])
def test_both_computations_agree_with_scipys_matrix_root(shift, spread):
    mix = np.random.default_rng(9).normal(size=(8, 8))
    one, other = drawn(50) @ mix, drawn(90, shift=shift, spread=spread, seed=1)
    expected = by_scipy(one, other)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-6)
    assert Moments(other).distance(one) == pytest.approx(expected, rel=1e-6)
    assert Moments(2 * other).distance(one) != pytest.approx(expected, rel=1e-2)


def test_known_gaussians():
    """N(0, 1) and N(m, s^2) in d dimensions: d (m^2 + (1 - s)^2), as far as many samples tell."""
    found = frechet_distance(drawn(40_000), drawn(40_000, shift=0.5, spread=2.0, seed=1))
    assert found == pytest.approx(8 * (0.25 + 1), rel=0.02)


def test_a_set_is_at_no_distance_from_itself_and_at_some_from_others():
    values = drawn(100)
    assert frechet_distance(values, values) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(values, drawn(100, seed=1)) > 0.05


@pytest.mark.parametrize(("one", "other", "name"), [(15, 100, "samples"), (100, 15, "reference")])
def test_too_few_pictures_are_refused_with_the_count_needed(one, other, name):
    with pytest.raises(EntropyLabError, match=rf"{name} must be at least 16 pictures .* in 8 features.*Got 15"):
        frechet_distance(drawn(one), drawn(other))


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(size=30)
    draws = bootstrap_draws(lambda chosen: np.array([values[chosen].mean()]), 30, 2000, seed=1)[0]
    found = interval(values.mean(), draws, 30)
    error = values.std(ddof=1) / np.sqrt(30)
    assert found.error == pytest.approx(error, rel=0.05)
    assert found.high - found.value == pytest.approx(2.045 * error, rel=0.05)


def test_the_interval_covers_what_so_many_pictures_give_on_average():
    """Of the Frechet distance, where percentiles of the same draws hardly ever do."""
    moments = Moments(drawn(4000, 4))
    expected = np.mean([moments.distance(drawn(32, 4, seed=seed)) for seed in range(1000, 2000)])
    hits, percentiles = [], []
    for seed in range(60):
        values = drawn(32, 4, seed=seed)
        draws = bootstrap_draws(lambda chosen, v=values: np.array([moments.distance(v[chosen])]), 32, 100, seed)[0]
        found = interval(moments.distance(values), draws, 32)
        hits.append(found.low <= expected <= found.high)
        low, high = np.quantile(draws, [0.025, 0.975])
        percentiles.append(low <= expected <= high)
    assert np.mean(hits) >= 0.85
    assert np.mean(percentiles) < np.mean(hits)
