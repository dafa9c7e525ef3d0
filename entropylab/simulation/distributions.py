"""Distributions of tokens: Gaussian, or away from it by a known amount."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EntropyLabError

Array = NDArray[Any]


Draw = Callable[[np.random.Generator, int, int], tuple[Array, Array]]
"""From a generator and the numbers of keys and queries, their tokens (number, width), with mean 0."""

Parts = tuple[Draw, Array, Array | None]
"""How tokens are drawn, their covariance (width, width), and a direction that all queries see from one side."""


def separately(draw: Callable[[np.random.Generator, int], Array]) -> Draw:
    """Keys and queries, each on its own."""
    return lambda rng, tokens, queries: (draw(rng, tokens), draw(rng, queries))


def gaussian(model: np.random.Generator, width: int, shape: float) -> Parts:
    """Independent standard normal coordinates."""
    return separately(lambda rng, number: rng.standard_normal((number, width))), np.eye(width), None


def student_t(model: np.random.Generator, width: int, degrees: float) -> Parts:
    """Multivariate Student t, whose projections are Student t of the same degrees of freedom."""

    def draw(rng: np.random.Generator, number: int) -> Array:
        length = np.sqrt((degrees - 2) / rng.chisquare(degrees, (number, 1)))
        return length * rng.standard_normal((number, width))

    return separately(draw), np.eye(width), None


def skewed(model: np.random.Generator, width: int, power: float) -> Parts:
    """A Gamma variable along one direction."""
    direction = model.standard_normal(width)

    def draw(rng: np.random.Generator, number: int) -> Array:
        return (rng.gamma(power, size=(number, 1)) - power) / np.sqrt(power) * direction

    return separately(draw), np.outer(direction, direction), direction


def clustered(model: np.random.Generator, width: int, number: float) -> Parts:
    """Some centres, equally frequent."""
    centres = model.standard_normal((round(number), width))
    centres = centres - centres.mean(0)
    covariance = centres.T @ centres / len(centres)
    return separately(lambda rng, count: centres[rng.integers(len(centres), size=count)]), covariance, None


def positional(model: np.random.Generator, width: int, periods: float) -> Parts:
    """Waves over a picture, each with its own direction in token space and, in every picture, its own phase."""
    side = range(-round(periods), round(periods) + 1)
    waves = np.array([(down, across) for down in side for across in side if (down, across) > (0, 0)])
    directions = model.standard_normal((len(waves), width))

    def draw(rng: np.random.Generator, tokens: int, queries: int) -> tuple[Array, Array]:
        height, length = grid(tokens)
        places = np.stack(np.divmod(np.arange(tokens), length), -1) / (height, length)
        phase = rng.uniform(0, 2 * np.pi, len(waves))
        whole = np.sqrt(2 / len(waves)) * np.cos(2 * np.pi * places @ waves.T + phase) @ directions
        return whole, whole[rng.integers(tokens, size=queries)]

    return draw, directions.T @ directions / len(waves), None


def low_rank(model: np.random.Generator, width: int, rank: float) -> Parts:
    """Gaussian in a subspace."""
    basis = model.standard_normal((round(rank), width)) / np.sqrt(round(rank))
    return separately(lambda rng, number: rng.standard_normal((number, len(basis))) @ basis), basis.T @ basis, None


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int, float], Parts]] = {
    "gaussian": gaussian,
    "student_t": student_t,
    "skewed": skewed,
    "clustered": clustered,
    "positional": positional,
    "low_rank": low_rank,
}
SHAPES = {"gaussian": 1.0, "student_t": 6.0, "skewed": 4.0, "clustered": 8.0, "positional": 2.0, "low_rank": 2.0}
SMALLEST = {"gaussian": 0.0, "student_t": 2.5, "skewed": 0.1, "clustered": 2.0, "positional": 1.0, "low_rank": 1.0}


def grid(tokens: int) -> tuple[int, int]:
    """Height and width of the squarest picture of so many tokens."""
    height = next(side for side in range(int(tokens**0.5), 0, -1) if tokens % side == 0)
    return height, tokens // height


def check_distribution(distribution: Any, departure: Any, shape: Any) -> None:
    """Raise an EntropyLabError if there is no such distribution."""
    if distribution not in DISTRIBUTIONS:
        raise EntropyLabError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}. Got {distribution!r}.")
    if not isinstance(departure, int | float) or not 0 <= departure <= 1:
        raise EntropyLabError(f"departure must be a number from 0 to 1. Got {departure!r}.")
    least = SMALLEST[distribution]
    if shape is not None and (not isinstance(shape, int | float) or not least <= shape < np.inf):
        raise EntropyLabError(f"shape of {distribution!r} must be a number >= {least:g}. Got {shape!r}.")
