"""The table of `entropylab.gaussian`: entropy of N Gaussian logits whose variance, measured over them, is known."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.interpolate import CubicSpline
from scipy.special import polygamma

from entropylab.gaussian import PATH
from entropylab.law.theory import gaussian_of, row_entropy

Array = NDArray[Any]

SIGMAS = np.expm1(np.linspace(0, np.log(65), 256))
FEW = np.arange(2, 8)
MANY = np.round(8 * 2 ** (np.arange(69) / 4))
"""Up to 2^20 keys, four numbers of them for every doubling."""


def of_few(tokens: int, sigmas: Array, rows: int = 300_000) -> Array:
    """The entropy [nats] by simulation: of normal draws that are standardised row by row."""
    draws = np.random.default_rng(tokens).standard_normal((rows, tokens))
    draws -= draws.mean(-1, keepdims=True)
    draws /= draws.std(-1, keepdims=True)
    return np.array([row_entropy(sigma * draws).mean() for sigma in sigmas])


def of_many(tokens: Array, sigmas: Array) -> Array:
    """The same of N >= 8, (tokens, sigmas).

    h(s, N), whose s is what logits were drawn with, is a mean over the standard deviations measured of them, which are
    s times the root of a chi-squared of N - 1 degrees divided by N. That mean is undone to second order in log sigma,
    which leaves 0.004 nats at N = 8, and less the more keys there are.
    """
    log_sigma = np.linspace(np.log(0.01), np.log(90), 400)
    drawn = CubicSpline(log_sigma, np.array([gaussian_of(sigma, tokens) for sigma in np.exp(log_sigma)]))
    shift = (polygamma(0, (tokens - 1) / 2) + np.log(2 / tokens)) / 2
    spread = polygamma(1, (tokens - 1) / 2) / 4
    found = np.log(tokens)[:, None] - sigmas**2 / 2  # of small sigma
    for place in range(len(tokens)):
        where = np.log(np.maximum(sigmas, 0.03)) - shift[place]
        value = drawn(where)[:, place] - spread[place] / 2 * drawn(where, 2)[:, place]
        found[place] = np.where(sigmas > 0.03, value, found[place])
    return found


if __name__ == "__main__":
    rows = [np.zeros(len(SIGMAS)), *(of_few(int(number), SIGMAS) for number in FEW), *of_many(MANY, SIGMAS)]
    table = {"tokens": np.array([1, *FEW, *MANY]), "sigma": SIGMAS, "entropy": np.array(rows)}
    save_file({name: values.astype(np.float32) for name, values in table.items()}, PATH)
