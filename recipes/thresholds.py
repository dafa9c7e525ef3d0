"""From which skewness and kurtosis on the law log N - sigma^2/2 is off: `entropylab.law.theory.SKEWED`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from entropylab.law.theory import TOLERANCE, row_entropy

Array = NDArray[Any]

CELLS = 2**20
"""Logits that are drawn for every number of keys."""


def simulated_threshold(seed: int = 0, cells: int = CELLS) -> float:
    """The threshold from rows of 4096 independent logits, ``cells`` logits for every distribution; takes some seconds.

    Each curve is followed along sigma until the law is off by more than `TOLERANCE`; the threshold is the smallest
    value met there over distributions that are not Gaussian. So a row past it may still be on the law.
    """
    rng = np.random.default_rng(seed)
    return min(skewed_crossing(draws) for draws in distributions(rng, 4096, cells))


def distributions(rng: np.random.Generator, tokens: int, cells: int) -> Iterator[Array]:
    """Standardised draws (rows, tokens) that are skewed to either side, heavy-tailed, flat, and in two clusters."""
    shape = (cells // tokens, tokens)
    for power in (0.5, 2.0, 8.0):
        draws = (rng.gamma(power, size=shape) - power) / np.sqrt(power)
        yield draws
        yield -draws
    for degrees in (10, 20):  # of fewer, k3 and k4 tell nothing: the series has no limit, and single keys take the row
        yield rng.standard_t(degrees, size=shape) * np.sqrt((degrees - 2) / degrees)
    yield rng.uniform(-np.sqrt(3), np.sqrt(3), shape)
    yield rng.choice([-1, 1], shape) * np.sqrt(0.8) + np.sqrt(0.2) * rng.standard_normal(shape)


def skewed_crossing(draws: Array) -> float:
    """|k3|/3 + |k4|/8 at which standardised draws leave the law; infinite if finite N takes them off it before."""
    entropy, sigma2, third, fourth = np.array([measured(sigma * draws) for sigma in np.linspace(0.3, 1.8, 11)]).T
    return crossing(abs(third) / 3 + abs(fourth) / 8, entropy - np.log(draws.shape[-1]) + sigma2 / 2)


def crossing(where: Array, off: Array) -> float:
    """``where`` at the first place at which |``off``| passes `TOLERANCE`, between the points by a straight line."""
    past = np.flatnonzero(~(abs(off) <= TOLERANCE))
    if not len(past):
        return np.inf
    place = int(past[0])
    if place == 0:
        return float(where[0])
    before, after = abs(off[place - 1]), abs(off[place])
    share = (TOLERANCE - before) / (after - before) if np.isfinite(after) else 0.0
    return float(where[place - 1] + share * (where[place] - where[place - 1]))


def measured(logits: Array) -> tuple[float, float, float, float]:
    """Means over rows (rows, keys) of entropy, sigma2, and the third and fourth cumulant."""
    centred = logits - logits.mean(-1, keepdims=True)
    square = centred**2
    second, third, fourth = (power.mean(-1) for power in (square, square * centred, square**2))
    return row_entropy(logits).mean(), second.mean(), third.mean(), (fourth - 3 * second**2).mean()


if __name__ == "__main__":
    print(simulated_threshold())
