"""Where the law can hold: its value at finite N, and the thresholds past which it is off, found by simulation.

Arrays only; nothing of Datasets, tensors or models.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

TOLERANCE = 0.1
"""What the law may be off by [nats] before a threshold counts as passed."""

CELLS = 2**20
"""Logits that are drawn for every number of keys in the simulation."""


@dataclass(frozen=True)
class Thresholds:
    """Past which values the law log N - sigma^2/2 can be off by more than `TOLERANCE`.

    Attributes:
        skewed: of |k3|/3 + |k4|/8 [nats]: logits that are not Gaussian.
        small_n: of the finite-N term [nats]: too few keys for this sigma^2.
        near_freezing: of sigma^2 / (2 log N): few keys carry the row, and the finite-N term fails as well.
    """

    skewed: float
    small_n: float
    near_freezing: float


THRESHOLDS = Thresholds(skewed=0.05, small_n=0.16, near_freezing=0.22)
"""The least that `simulated_thresholds` finds with any of eight seeds, rounded down."""


def finite_term(sigma2: ArrayLike, tokens: ArrayLike) -> Array:
    """What finite N adds to the law [nats] for independent Gaussian logits; good while e^sigma^2 << N.

    (2 s2 e^s2 - e^s2 + 1) / (2N), with s2 the variance that logits were drawn with.
    """
    s2 = np.asarray(sigma2, float)
    with np.errstate(over="ignore"):
        return ((2 * s2 - 1) * np.exp(s2) + 1) / (2 * np.asarray(tokens, float))


def finite_entropy(sigma2: ArrayLike, tokens: ArrayLike) -> Array:
    """Entropy [nats] that N independent Gaussian logits have on average, given the variance measured over those N.

    Measured variance is (N-1)/N of that which logits were drawn with, on average. NaN past e^sigma^2 = N, where
    sigma^2 / (2 log N) = 1/2 and the expansion has no meaning, and for a single key.
    """
    number = np.asarray(tokens, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        s2 = np.asarray(sigma2, float) * number / np.where(number > 1, number - 1, np.nan)
        value = np.log(number) - s2 / 2 + finite_term(s2, number)
        return np.where(s2 < np.log(number), value, np.nan)


def smallest_tokens(sigma2: ArrayLike, tolerance: float = TOLERANCE) -> Array:
    """The number of independent Gaussian keys from which on the law is within ``tolerance`` [nats].

    Where the finite-N term is as large; infinite where e^sigma^2 can't be told from infinity.
    """
    return np.ceil(finite_term(sigma2, 1.0) / tolerance)


def row_entropy(logits: Array) -> Array:
    """Entropy [nats] of the softmax of every row (rows, keys): (rows,)."""
    shifted = logits - logits.max(-1, keepdims=True)
    weight = np.exp(shifted)
    total = weight.sum(-1)
    return np.log(total) - (weight * shifted).sum(-1) / total


def measured(logits: Array) -> dict[str, float]:
    """Means over rows (rows, keys) of what a Dataset holds: entropy, sigma2, third, fourth."""
    centred = logits - logits.mean(-1, keepdims=True)
    square = centred**2
    second, third, fourth = (power.mean(-1) for power in (square, square * centred, square**2))
    means = {"entropy": row_entropy(logits), "sigma2": second, "third": third, "fourth": fourth - 3 * second**2}
    return {name: float(value.mean()) for name, value in means.items()}


def simulated_thresholds(seed: int = 0) -> Thresholds:
    """The thresholds from simulated rows of independent logits, `CELLS` of them for every N and shape.

    Takes some seconds. Each curve is followed along sigma until the law, or the finite-N value, is off by more than
    `TOLERANCE`; the threshold is the smallest value met there: over 16 to 4096 Gaussian keys for ``small_n`` and
    ``near_freezing``, over distributions that are not Gaussian, with 4096 keys, for ``skewed``. So a row past a
    threshold may still be on the law; one that is off it is past one of them.
    """
    rng = np.random.default_rng(seed)
    sizes = [gaussian_crossings(rng, tokens) for tokens in (16, 64, 256, 1024, 4096)]
    shapes = [skewed_crossing(draws) for draws in distributions(rng, 4096)]
    term, ratio = (min(values) for values in zip(*sizes, strict=True))
    return Thresholds(min(shapes), term, ratio)


def gaussian_crossings(rng: np.random.Generator, tokens: int) -> tuple[float, float]:
    """The finite-N term at which the law leaves the tolerance; sigma^2/(2 log N) at which the finite-N value does."""
    ratios = np.linspace(0.12, 0.45, 10)
    draws = rng.standard_normal((CELLS // tokens, tokens))
    found = [measured(np.sqrt(2 * ratio * np.log(tokens)) * draws) for ratio in ratios]
    entropy, sigma2 = (np.array([row[name] for row in found]) for name in ("entropy", "sigma2"))
    law = entropy - np.log(tokens) + sigma2 / 2
    finite = entropy - finite_entropy(sigma2, tokens)
    terms = finite_entropy(sigma2, tokens) - np.log(tokens) + sigma2 / 2
    return crossing(terms, law), crossing(sigma2 / 2 / np.log(tokens), finite)


def distributions(rng: np.random.Generator, tokens: int) -> Iterator[Array]:
    """Standardised draws (rows, tokens) that are skewed to either side, heavy-tailed, flat, and in two clusters."""
    shape = (CELLS // tokens, tokens)
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
    sigmas = np.linspace(0.3, 1.8, 11)
    found = [measured(sigma * draws) for sigma in sigmas]
    entropy, sigma2, third, fourth = (
        np.array([row[n] for row in found]) for n in ("entropy", "sigma2", "third", "fourth")
    )
    tokens = draws.shape[-1]
    return crossing(abs(third) / 3 + abs(fourth) / 8, entropy - np.log(tokens) + sigma2 / 2)


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
