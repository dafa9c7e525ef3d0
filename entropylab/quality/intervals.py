"""Bootstrap errors of figures that a set of pictures gives, and of how they differ between rules."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[Any]
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Estimates with their errors.

    Attributes:
        value: the estimates, any shape.
        error: bootstrap standard errors, the same shape.
        low: lower ends of 95 % intervals.
        high: upper ends.
    """

    value: Array
    error: Array
    low: Array
    high: Array


def bootstrap_draws(estimate: Callable[[Array], Array], count: int, resamples: int, seed: int) -> Array:
    """``estimate(indices)`` of pictures drawn with replacement: (..., resamples).

    Args:
        estimate: an array of figures for the pictures of these indices (count,).
        count: how many pictures there are.
        resamples: how many draws.
        seed: of the draws.
    """
    from scipy.stats import bootstrap  # takes longer to import than all that is used otherwise

    def statistic(drawn: Array, axis: int = -1) -> Array:
        return np.stack([estimate(one) for one in np.atleast_2d(drawn)], -1) if drawn.ndim > 1 else estimate(drawn)

    result = bootstrap(
        (np.arange(count),), statistic, n_resamples=resamples, vectorized=True, method="percentile",
        random_state=np.random.default_rng(seed),
    )  # fmt: skip
    return result.bootstrap_distribution


def interval(value: Array, draws: Array, count: int) -> Interval:
    """An estimate with its 95 % interval, of Student's t around the estimate with the bootstrap's standard error.

    Not the bootstrap's percentiles: a Frechet distance, a coverage or a pairwise distance is biased by the number of
    distinct pictures, of which every draw has fewer, so that percentiles miss the estimate altogether. The interval is
    for what this many pictures give on average. ``draws`` (..., resamples) are those of `bootstrap_draws`.
    """
    error = draws.std(-1, ddof=1) * np.sqrt(count / (count - 1))
    reach = stdtrit(count - 1, (1 + LEVEL) / 2) * error
    return Interval(value, error, value - reach, value + reach)
