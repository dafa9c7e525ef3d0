"""The table of `entropylab.gaussian`: entropy of N Gaussian logits whose variance, measured over them, is known, and
how it spreads over rows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.interpolate import CubicSpline, RectBivariateSpline
from scipy.special import polygamma
from scipy.stats import norm

from entropylab.gaussian import PATH
from entropylab.law.theory import gaussian_of

Array = NDArray[Any]

SIGMAS = np.expm1(np.linspace(0, np.log(65), 256))
FEW = np.arange(2, 8)
MANY = np.round(8 * 2 ** (np.arange(69) / 4))
"""Up to 2^20 keys, four numbers of them for every doubling."""

SHARP = 512
"""Of more keys than these a row's largest are drawn one by one, and the others are counted in narrow cells."""


def of_few(tokens: int, sigmas: Array, rows: int = 300_000) -> tuple[Array, Array]:
    """Mean and spread of entropy [nats] by simulation: of normal draws that are standardised row by row."""
    draws = np.random.default_rng(tokens).standard_normal((rows, tokens))
    return simulated(draws, np.ones_like(draws), sigmas)


def simulated(values: Array, number: Array, sigmas: Array) -> tuple[Array, Array]:
    """Mean and spread over rows of the entropy [nats] of logits (rows, values), each standing for a number of keys."""
    values = values - np.average(values, axis=-1, weights=number)[:, None]
    values /= np.sqrt(np.average(values**2, axis=-1, weights=number))[:, None]
    values -= np.where(number > 0, values, -np.inf).max(-1, keepdims=True)
    values = np.where(number > 0, values, 0)
    found = []
    for sigma in sigmas:
        weight = number * np.exp(sigma * values)
        total = weight.sum(-1)
        found.append(np.log(total) - sigma * (weight * values).sum(-1) / total)
    return np.mean(found, -1), np.std(found, -1)


def drawn_rows(tokens: int, rows: int) -> tuple[Array, Array]:
    """Normal draws as `simulated` takes them, rows of any number of keys at the cost of a thousand."""
    rng = np.random.default_rng(tokens)
    if tokens <= SHARP:
        draws = rng.standard_normal((rows, tokens))
        return draws, np.ones_like(draws)
    tail = SHARP / tokens
    edges = np.linspace(-7, norm.isf(tail), 601)
    chance = np.diff(norm.cdf(edges))
    middle = -np.diff(norm.pdf(edges)) / chance
    number = rng.multinomial(tokens, [*(chance * (1 - tail) / chance.sum()), tail], rows)
    most = number[:, -1].max()
    largest = norm.isf(rng.uniform(0, tail, (rows, most)))
    values = np.concatenate([np.broadcast_to(middle, (rows, 600)), largest], 1)
    return values, np.concatenate([number[:, :-1], np.arange(most) < number[:, -1:]], 1).astype(float)


def spread_of_many(tokens: Array, sigmas: Array, rows: int = 10_000) -> Array:
    """Spread of entropy [nats] over rows of N >= 8, (tokens, sigmas): simulated at some of both, and smoothly between.

    Small sigma has (2/3)^(1/2) sigma^3 / N^(1/2), what the third cumulant varies by, so that logarithms are smooth.
    """
    some, few = np.unique([*tokens[::4], tokens[-1]]), np.unique([*sigmas[1::4], sigmas[-1]])
    spread = np.array([simulated(*drawn_rows(int(number), rows), few)[1] for number in some])
    between = RectBivariateSpline(np.log(some), np.log(few), np.log(spread), s=0)
    return np.exp(between(np.log(tokens), np.log(np.maximum(sigmas, few[0])))) * np.minimum(1, sigmas / few[0]) ** 3


def of_many(tokens: Array, sigmas: Array) -> Array:
    """Mean entropy [nats] of N >= 8, (tokens, sigmas).

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
    few = np.array([np.zeros((2, len(SIGMAS))), *(of_few(int(number), SIGMAS) for number in FEW)])
    table = {"tokens": np.array([1, *FEW, *MANY]), "sigma": SIGMAS}
    table |= {"entropy": np.concatenate([few[:, 0], of_many(MANY, SIGMAS)])}
    table |= {"spread": np.concatenate([few[:, 1], spread_of_many(MANY, SIGMAS)])}
    save_file({name: values.astype(np.float32) for name, values in table.items()}, PATH)
