"""Entropy of N Gaussian logits whose variance, measured over them, is known: a table, made by ``recipes/gaussian.py``.

`law.theory.gaussian_entropy` is of logits whose standard deviation is known before they are drawn. Of a row only that
measured over its keys is known; for a few keys the two differ (N = 4, sigma = 2: 0.58 and 0.77 nats).
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors.numpy import load_file

Array = NDArray[Any]

PATH = Path(__file__).with_name("gaussian.safetensors")

LEAST = 0.002
"""What a row's entropy must differ by to be called unexplained [nats]: where rows hardly differ, the table's own error
and that of float32 would decide."""


@cache
def table() -> dict[str, Array]:
    """``entropy`` and ``spread`` [nats] (tokens, sigma), at ``tokens`` from 1 on and ``sigma`` from 0 on; float32."""
    return load_file(PATH)


def entropy_given_variance(sigma2: ArrayLike, tokens: ArrayLike) -> Array:
    """Entropy [nats] that N Gaussian logits of measured variance ``sigma2`` have on average; they broadcast.

    Between entries of the table by straight lines in log N and sigma^2, which is within 0.004 nats, mostly far less;
    past its largest sigma, 64, as 1 / sigma. NaN for less than one key.
    """
    return between("entropy", sigma2, tokens, 1.0)


def spread_given_variance(sigma2: ArrayLike, tokens: ArrayLike) -> Array:
    """Standard deviation [nats] of their entropies over such rows; past the largest sigma as 1 / sqrt(sigma)."""
    return between("spread", sigma2, tokens, 0.5)


def between(name: str, sigma2: ArrayLike, tokens: ArrayLike, power: float) -> Array:
    """What the table says between its entries, and past its largest sigma as sigma to the minus ``power``."""
    known = {key: values.astype(float) for key, values in table().items()}
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma2, log_tokens = np.broadcast_arrays(np.asarray(sigma2, float), np.log(np.asarray(tokens, float)))
        (row, down), (column, across) = place(np.log(known["tokens"]), log_tokens), place(known["sigma"] ** 2, sigma2)
        above, below = (
            known[name][at, column] * (1 - across) + known[name][at, column + 1] * across for at in (row, row + 1)
        )
        largest = known["sigma"][-1] ** 2
        far = (largest / np.maximum(sigma2, largest)) ** (power / 2)
    return np.where(log_tokens >= 0, (above + (below - above) * down) * far, np.nan)


def place(knots: Array, values: Array) -> tuple[Array, Array]:
    """The last knot at or below each value, and which share of the way to the next it is at."""
    left = np.clip(np.searchsorted(knots, values, "right") - 1, 0, len(knots) - 2)
    return left, np.clip((values - knots[left]) / (knots[left + 1] - knots[left]), 0, 1)
