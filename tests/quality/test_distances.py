"""Distances, coverage and recall against independent float64 computations; the bootstrap's intervals."""

import numpy as np
import pytest
import scipy.linalg
import xarray as xr
from scipy.spatial.distance import cdist

from entropylab import EntropyLabError
from entropylab.quality.distances import Moments, pairwise_distance, within
from entropylab.quality.results import interval, resampled


def drawn(count, dimension=8, shift=0.0, spread=1.0, seed=0):
    return shift + spread * np.random.default_rng(seed).normal(size=(count, dimension))


def by_scipy(one, other):
    """The definition in float64, with a general matrix root."""
    covariances = [np.cov(values.T) for values in (one, other)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    shift = ((one.mean(0) - other.mean(0)) ** 2).sum()
    return shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * np.trace(root)


@pytest.mark.parametrize(("shift", "spread"), [(0.5, 1), (1, 0.3)])
def test_the_distance_agrees_with_scipys_matrix_root(shift, spread):
    mix = np.random.default_rng(9).normal(size=(8, 8))
    one, other = drawn(50) @ mix, drawn(90, shift=shift, spread=spread, seed=1)
    expected = by_scipy(one, other)
    assert Moments(other).distance(one) == pytest.approx(expected, rel=1e-6)
    assert Moments(2 * other).distance(one) != pytest.approx(expected, rel=1e-2)


def coverage(made, real, k=5):
    return within(made, real, True, k).any(1).mean()


def recall(made, real, k=5):
    return within(made, real, False, k).any(1).mean()


def kth(points, i, k):
    return sorted(np.linalg.norm(points[i] - other) for j, other in enumerate(points) if j != i)[k - 1]


def test_coverage_and_recall_in_plain_loops():
    real, made, k = drawn(40, 4), drawn(30, 4, 0.8, seed=1), 3
    near = [any(np.linalg.norm(x - y) <= kth(real, i, k) for y in made) for i, x in enumerate(real)]
    reached = [any(np.linalg.norm(x - y) <= kth(made, j, k) for j, y in enumerate(made)) for x in real]
    assert coverage(made, real, k) == pytest.approx(np.mean(near))
    assert recall(made, real, k) == pytest.approx(np.mean(reached))
    assert 0 < coverage(made, real, k) != coverage(made, real, k + 3)
    with pytest.raises(EntropyLabError, match="more than 5 pictures. Got 5"):
        recall(drawn(5), drawn(50))


def test_coverage_and_recall_of_known_cases():
    same, elsewhere, collapsed = drawn(60, 4), drawn(60, 4, 100), np.repeat(drawn(1, 4), 60, axis=0)
    assert coverage(same, same) == recall(same, same) == 1
    assert coverage(elsewhere, same) == recall(elsewhere, same) == 0
    both = np.concatenate([same, drawn(60, 4, 50, seed=1)])
    assert coverage(drawn(60, 4, seed=2), both) == pytest.approx(0.5, abs=0.06), "half of what is real"
    assert recall(drawn(60, 4, seed=2), both) == pytest.approx(0.5, abs=0.15)
    assert recall(collapsed, same) <= 0.02, "one picture again and again is not diverse"
    assert coverage(collapsed, same) < coverage(drawn(60, 4, seed=3), same)


def test_mean_distance_of_a_triangle():
    corners = np.array([[0.0, 0], [3, 0], [0, 4]])
    distances = cdist(corners, corners)
    assert pairwise_distance(distances, np.arange(3)) == pytest.approx(4)
    assert pairwise_distance(distances, np.array([0, 0, 2])) == pytest.approx(8 / 3), "a picture twice"
    assert pairwise_distance(distances, np.array([1, 1, 1])) == 0


def with_interval(estimate, count, resamples, seed):
    draws = xr.DataArray(resampled({"figure": estimate}, count, resamples, seed)[0], dims="draw")
    value, error, bounds = interval(draws, count)
    return float(value), float(error), bounds.values, draws.values[1:]


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(0).normal(size=30)
    mean, error, bounds, _ = with_interval(lambda chosen: values[chosen].mean(), 30, 2000, 1)
    assert mean == values.mean()
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(30), rel=0.05)
    assert bounds - mean == pytest.approx([-2.045 * error, 2.045 * error], rel=1e-3)
    assert np.isnan(with_interval(lambda chosen: values[chosen].mean(), 1, 9, 1)[2]).all(), "one picture has none"


def test_the_interval_covers_what_so_many_pictures_give_on_average():
    """Of the Frechet distance, where percentiles of the same draws hardly ever do."""
    moments = Moments(drawn(4000, 4))
    expected = np.mean([moments.distance(drawn(32, 4, seed=seed)) for seed in range(1000, 2000)])
    hits, percentiles = [], []
    for seed in range(60):
        values = drawn(32, 4, seed=seed)
        _, _, (low, high), draws = with_interval(lambda chosen, v=values: moments.distance(v[chosen]), 32, 100, seed)
        hits.append(low <= expected <= high)
        low, high = np.quantile(draws, [0.025, 0.975])
        percentiles.append(low <= expected <= high)
    assert np.mean(hits) >= 0.85
    assert np.mean(percentiles) < np.mean(hits)
