"""Pairwise distance, coverage and recall: cases whose answer is known, and the definitions in plain loops."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from entropylab import EntropyLabError
from entropylab.quality.diversity import coverage, pairwise_distance, recall


def cloud(count, seed=0, shift=0.0):
    return shift + np.random.default_rng(seed).normal(size=(count, 4))


def kth(points, i, k):
    return sorted(np.linalg.norm(points[i] - other) for j, other in enumerate(points) if j != i)[k - 1]


def test_both_definitions_in_plain_loops():
    real, made, k = cloud(40), cloud(30, 1, 0.8), 3
    near = [any(np.linalg.norm(x - y) <= kth(real, i, k) for y in made) for i, x in enumerate(real)]
    reached = [any(np.linalg.norm(x - y) <= kth(made, j, k) for j, y in enumerate(made)) for x in real]
    assert coverage(made, real, k) == pytest.approx(np.mean(near))
    assert recall(made, real, k) == pytest.approx(np.mean(reached))
    assert 0 < coverage(made, real, k) < 1
    assert coverage(made, real, k) != coverage(made, real, k + 3)


def test_the_same_pictures_cover_and_reach_everything():
    assert coverage(cloud(50), cloud(50)) == recall(cloud(50), cloud(50)) == 1


def test_pictures_elsewhere_cover_and_reach_nothing():
    assert coverage(cloud(50, shift=100), cloud(50)) == recall(cloud(50, shift=100), cloud(50)) == 0


def test_pictures_of_half_of_what_is_real():
    real = np.concatenate([cloud(60), cloud(60, 1, 50)])
    assert coverage(cloud(60, 2), real) == pytest.approx(0.5, abs=0.06)
    assert recall(cloud(60, 2), real) == pytest.approx(0.5, abs=0.15)


def test_one_picture_again_and_again_is_not_diverse():
    collapsed = np.repeat(cloud(1), 50, axis=0)
    assert pairwise_distance(cdist(collapsed, collapsed), np.arange(50)) == 0
    assert recall(collapsed, cloud(50)) <= 0.02
    assert coverage(collapsed, cloud(50)) < coverage(cloud(50, 3), cloud(50))


def test_mean_distance_of_a_triangle():
    corners = np.array([[0.0, 0], [3, 0], [0, 4]])
    distances = cdist(corners, corners)
    assert pairwise_distance(distances, np.arange(3)) == pytest.approx(4)
    assert pairwise_distance(distances, np.array([0, 0, 2])) == pytest.approx(8 / 3), "a picture twice"


def test_too_few_for_neighbours():
    with pytest.raises(EntropyLabError, match="more than 5 pictures. Got 5"):
        recall(cloud(5), cloud(50))
