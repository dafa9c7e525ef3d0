"""The bootstrap over clusters: how far a line would move if other samples had been drawn.

Arrays only: `entropylab.law` knows what they mean.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

from .regression import line

Array = NDArray[Any]
Estimate = Callable[[Array, Array], dict[str, Array]]

CHUNK = 2**22
"""Numbers that are resampled at once."""


def bootstrapped(x: Array, y: Array, estimate: Estimate, resamples: int, seed: int) -> dict[str, Array]:
    """The line of ``estimate`` through x and y (..., points, clusters), with errors by drawing clusters anew.

    Whole clusters are drawn with replacement. The resampled lines' standard deviation times sqrt(G/(G-1)) is the
    standard error, without which it would be too small by that factor; intervals are percentiles, at the levels that
    make them as wide as Student's t where all is normal (`percentile_level`). With few clusters nothing helps: below
    about six the percentiles end at the outermost clusters.

    Args:
        x: (..., points, clusters).
        y: (..., points, clusters), with at least two clusters.
        estimate: ``straight_line``, or another function of x and y with its results.
        resamples: how many draws.
        seed: of the draws; the same seed gives the same errors.
    """
    from scipy.stats import bootstrap  # takes longer to import than all that is used otherwise

    found = estimate(x, y)
    number = y.shape[-1]
    center = found["center"]

    def statistic(drawn: Array, axis: int = -1) -> Array:
        """Slope, level at the mean x, and intercept, of every draw (resamples, clusters): (3, ..., resamples)."""
        lines = estimate(*(np.moveaxis(np.broadcast_to(v, y.shape)[..., drawn], -2, 0) for v in (x, y)))
        level = lines["intercept"] + lines["slope"] * center
        return np.moveaxis(np.stack([lines["slope"], level, lines["intercept"]]), 1, -1)

    result = bootstrap(
        (np.arange(number),),
        statistic,
        n_resamples=resamples,
        batch=max(1, CHUNK // y.size),
        vectorized=True,
        method="percentile",
        confidence_level=percentile_level(number),
        random_state=np.random.default_rng(seed),  # by this name in every scipy from 1.13 on
    )
    moved = result.bootstrap_distribution - result.bootstrap_distribution.mean(-1, keepdims=True)
    factor = number / (number - 1) / (resamples - 1)
    slope, level, both = ((moved[i] * moved[j]).sum(-1) * factor for i, j in ((0, 0), (1, 1), (0, 1)))
    known = line(
        found["slope"], center, found["intercept"] + found["slope"] * center, slope, level, both, 0 * slope + number - 1
    )
    low, high = result.confidence_interval
    ends = {"slope_low": low[0], "slope_high": high[0], "intercept_low": low[2], "intercept_high": high[2]}
    return known | ends


def percentile_level(clusters: int, level: float = 0.95) -> float:
    """The level at which percentiles of a bootstrap reach as far as Student's t does at ``level``.

    Plain percentiles reach as far as a normal distribution with the variance (G-1)/G of the estimate.
    """
    reach = np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, (1 + level) / 2)
    return float(2 * ndtr(reach) - 1)
