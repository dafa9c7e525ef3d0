"""Synthetic attention with known answers: tokens of a known distribution through random projections.

The law assumes that a row's logits are Gaussian. Here they are, or are not, by a known amount, and sigma is known. A
Dataset of it is measured as a model's is, for the fit, the checks and the figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from .dataset import ATTRIBUTE, describe
from .entropy import BEYOND, row_statistics
from .entropy.beyond import values_in, values_of
from .errors import EntropyLabError, check_count, check_int, is_number
from .sizes import size_label

Array = NDArray[Any]

WIDTH = 2
"""Dimension of the tokens, in units of d."""

TOKENS = (64, 256, 1024, 4096)

FIELDS = {"entropy": "entropy", "sigma2": "variance", "third": "third", "fourth": "fourth"}
"""Variable of the Dataset -> field of row statistics."""


@dataclass(frozen=True, repr=False)
class Simulated:
    """Queries and keys whose logits ``scale * q k^T`` have a known distribution along every row.

    Attributes:
        q: queries (samples, heads, queries, d), float32.
        k: keys (samples, heads, tokens, d), float32.
        scale: factor on the logits, 1/sqrt(d).
        sigma: standard deviation of the distribution that a row's logits are drawn from.
    """

    q: Tensor
    k: Tensor
    scale: float
    sigma: float

    def __repr__(self) -> str:
        shapes = f"q={tuple(self.q.shape)}, k={tuple(self.k.shape)}"
        return f"Simulated({shapes}, scale={self.scale:.4g}, sigma={self.sigma:g})"


def simulate(
    tokens: int = 1024,
    d: int = 32,
    sigma: float = 1.0,
    distribution: str = "gaussian",
    *,
    departure: float = 1.0,
    shape: float | None = None,
    heads: int = 4,
    queries: int = 256,
    samples: int = 1,
    alike: bool = True,
    seed: int = 0,
) -> Simulated:
    """Attention of random projections over tokens that are Gaussian, or leave the Gaussian by a known amount.

    Tokens are sqrt(1 - departure) times Gaussian plus sqrt(departure) times one of

    - "gaussian": every logit of a row is Gaussian and independent, which is the law's assumption;
    - "student_t": one heavy-tailed length for each token, with ``shape`` = 6 degrees of freedom. (Heavy tails that
      coordinates have independently are gone after a projection, by the central limit theorem.);
    - "skewed": a Gamma variable of ``shape`` = 4 along one direction, which all queries see from the same side;
    - "clustered": one of ``shape`` = 8 centres for each token;
    - "positional": waves over the picture, of up to ``shape`` = 2 periods a side: smooth, as neighbouring tokens are,
      so that more tokens are more of the same;
    - "low_rank": Gaussian in a subspace of ``shape`` = 2 dimensions; logits stay Gaussian.

    Queries are drawn apart from keys, from the same distribution (of the same picture, for "positional").

    Args:
        tokens: number of keys N.
        d: dimension of each head.
        sigma: standard deviation of a row's logits.
        distribution: one of the above.
        departure: from the Gaussian, from 0 to 1: its share of the tokens' variance.
        shape: the distribution's parameter (degrees of freedom, Gamma shape, centres, periods, dimensions); None for
            the value above.
        heads: each with projections of its own.
        queries: rows of the map.
        samples: pictures; projections and centres are the same in all, as in a trained model.
        alike: whether sigma is that of every row, or only of the mean over rows of sigma^2.
        seed: the same seed gives the same projections at every N, and the same tokens at the same N.

    Returns:
        `Simulated`.

    Raises:
        EntropyLabError: no such distribution; numbers out of range.

    Examples:
        >>> attention = entropylab.simulate(tokens=256, sigma=1.0, distribution="student_t")
        >>> attention.q.shape, attention.k.shape  # (samples, heads, tokens, d)
        (torch.Size([1, 4, 256, 32]), torch.Size([1, 4, 256, 32]))
        >>> stats = entropylab.row_statistics(attention.q, attention.k, scale=attention.scale, statistics="fourth")
        >>> stats.fourth.mean().item() > 0  # heavier tails than a Gaussian's
        True
    """
    if distribution not in DISTRIBUTIONS:
        raise EntropyLabError(f"distribution must be one of {', '.join(DISTRIBUTIONS)}. Got {distribution!r}.")
    if not is_number(departure) or not 0 <= departure <= 1:
        raise EntropyLabError(f"departure must be a number from 0 to 1. Got {departure!r}.")
    parts, usual, least = DISTRIBUTIONS[distribution]
    if shape is not None and (not is_number(shape) or not least <= shape < np.inf):
        raise EntropyLabError(f"shape of {distribution!r} must be a number >= {least:g}. Got {shape!r}.")
    counts = {"tokens": tokens, "d": d, "heads": heads, "queries": queries, "samples": samples}
    for name, value in counts.items():
        check_int(name, value, 2 if name == "tokens" else 1)
    if not is_number(sigma) or not 0 <= sigma < np.inf:
        raise EntropyLabError(f"sigma must be a finite number >= 0. Got {sigma!r}.")
    check_int("seed", seed, 0)
    model = np.random.default_rng([seed, 0])
    project_q, project_k = model.standard_normal((2, heads, d, WIDTH * d)) / np.sqrt(WIDTH * d)
    draw, covariance, towards = parts(model, WIDTH * d, shape or usual)
    covariance = (1 - departure) * np.eye(WIDTH * d) + departure * covariance
    found = []
    for sample in range(samples):
        rng = np.random.default_rng([seed, 1 + sample, tokens])
        mixed = draw(rng, tokens, queries)
        keys, own = (
            np.sqrt(1 - departure) * rng.standard_normal(part.shape) + np.sqrt(departure) * part for part in mixed
        )
        found.append((own @ np.swapaxes(project_q, -1, -2), keys @ np.swapaxes(project_k, -1, -2)))
    q, k = (np.stack(parts) for parts in zip(*found, strict=True))
    of_keys = project_k @ covariance @ np.swapaxes(project_k, -1, -2)
    if alike:  # the variance of <q, k> over keys, of each row, or its mean over the queries of a head
        variance = ((q @ of_keys) * q).sum(-1, keepdims=True)
    else:
        of_queries = project_q @ covariance @ np.swapaxes(project_q, -1, -2)
        variance = (of_keys * of_queries).sum((-2, -1))[:, None, None]
    q = q * sigma * np.sqrt(d / np.where(variance > 0, variance, np.inf))
    if towards is not None:
        q = q * np.where(q @ (project_k @ towards)[..., None] < 0, -1.0, 1.0)
    q, k = q.astype(np.float32), k.astype(np.float32)  # as models have them
    return Simulated(torch.from_numpy(q), torch.from_numpy(k), d**-0.5, float(sigma))


def simulate_dataset(
    tokens: Sequence[int] = TOKENS,
    d: int = 32,
    sigma: float | Sequence[float] = (0.5, 1.0, 1.5),
    distribution: str = "gaussian",
    *,
    train_tokens: int | None = None,
    scaling: str | Sequence[str] = ("original",),
    samples: int = 4,
    statistics: Sequence[str] = tuple(FIELDS),
    **settings: Any,
) -> xr.Dataset:
    """A Dataset as of `entropylab.measure`, from `entropylab.simulate`: for `fit`, `check` and all figures.

    Args:
        tokens: numbers of keys N; each is a size, the squarest picture of one pixel for each key.
        d: dimension of each head.
        sigma: standard deviation of the logits: a layer for each.
        distribution: of the tokens.
        train_tokens: T; the second of ``tokens``, or the only one, if None.
        scaling: "original", "sqrt_log" (the factor sqrt(log N / log T)), or numbers as text, the factor itself.
        samples: pictures.
        statistics: which of "entropy", "sigma2", "third", "fourth", "sensitivity", "gaussian", "slope" and
            "rarefied".
        settings: of `entropylab.simulate`: departure, shape, heads, queries, alike, seed.

    Returns:
        xarray.Dataset with dims (size, scaling, sample, layer, head). Layers are called "sigma 0.5" and so on, and
        each has projections of its own.

    Raises:
        EntropyLabError: as `entropylab.simulate`; no tokens; no such scaling or statistic.

    Examples:
        >>> ds = entropylab.simulate_dataset(tokens=(64, 256), sigma=(0.5, 1.0), scaling=("original", "sqrt_log"))
        >>> dict(ds.sizes)
        {'size': 2, 'scaling': 2, 'sample': 4, 'layer': 2, 'head': 4}
        >>> ds.multiplier.sel(size="8x8", scaling="sqrt_log", layer="sigma 1").item() < 1
        True
    """
    sigmas = [float(value) for value in np.atleast_1d(sigma)]
    known = (*FIELDS, "sensitivity", *BEYOND)
    if not statistics or isinstance(statistics, str) or not set(statistics) <= set(known):
        raise EntropyLabError(f"statistics must be some of {', '.join(known)}. Got {statistics!r}.")
    if not isinstance(tokens, list | tuple | np.ndarray) or not len(tokens) or len(set(tokens)) < len(tokens):
        raise EntropyLabError(f"tokens must be different numbers of keys, at least one. Got {tokens!r}.")
    trained = check_count("train_tokens", train_tokens, tokens[min(1, len(tokens) - 1)])
    scaling = scaling if isinstance(scaling, list | tuple) else (scaling,)
    multipliers = np.array([[multiplier_of(rule, number, trained) for rule in scaling] for number in tokens])
    layers = [f"sigma {value:g}" for value in sigmas]
    for name, labels, given in (("sigma", layers, sigma), ("scaling", [*map(str, scaling)], scaling)):
        if not labels or len(set(labels)) < len(labels):
            raise EntropyLabError(f"{name} must be one or several that differ. Got {given!r}.")
    seed = settings.pop("seed", 0)
    fields = tuple(FIELDS.get(name, name) for name in statistics)
    data: dict[str, Array] = {}
    for size, number in enumerate(tokens):
        for layer, one in enumerate(sigmas):
            made = simulate(number, d, one, distribution, samples=samples, seed=seed + 1000 * layer, **settings)
            shape = (len(tokens), len(scaling), samples, len(sigmas), made.q.shape[1])
            for place, factor in enumerate(multipliers[size].tolist()):
                rows = row_statistics(made.q, made.k, scale=made.scale * factor, statistics=fields, backend="reference")
                values = [value for field in fields for value in values_in(rows, field)]
                for name, value in zip(values_of(tuple(statistics)), values, strict=True):
                    whole = data.setdefault(name, np.empty(shape, np.float32))
                    whole[size, place, :, layer] = value.double().mean(-1).numpy()
    shapes = [grid(number) for number in tokens]
    coords: dict[str, Any] = {
        "size": [size_label(shape) for shape in shapes],
        "height": ("size", [height for height, _ in shapes]),
        "width": ("size", [width for _, width in shapes]),
        "scaling": [*map(str, scaling)],
        "sample": np.arange(samples),
        "layer": layers,
        "block": ("layer", layers),
        "kind": ("layer", ["self"] * len(layers)),
        "head": np.arange(shape[-1]),
        "tokens": (("size", "layer"), np.repeat(np.array(tokens, float)[:, None], len(layers), 1)),
        "train_tokens": ("layer", [float(trained)] * len(layers)),
        "multiplier": (("size", "scaling", "layer"), np.repeat(multipliers[..., None], len(layers), -1)),
    }
    about: dict[str, Any] = {"model": f"simulated, {distribution}", "d": d, "seed": seed, ATTRIBUTE: "simulated"}
    variables = {name: (("size", "scaling", "sample", "layer", "head"), whole) for name, whole in data.items()}
    return describe(xr.Dataset(variables, coords, about | settings))


def multiplier_of(rule: str, tokens: int, trained: int) -> float:
    """The factor on the logits."""
    if rule in ("original", "sqrt_log"):
        return 1.0 if rule == "original" else float(np.sqrt(np.log(tokens) / np.log(trained)))
    try:
        return float(rule)
    except (TypeError, ValueError) as error:
        raise EntropyLabError(f"scaling must be some of 'original', 'sqrt_log', or numbers. Got {rule!r}.") from error


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


DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, int, float], Parts], float, float]] = {
    "gaussian": (gaussian, 1.0, 0.0),
    "student_t": (student_t, 6.0, 2.5),
    "skewed": (skewed, 4.0, 0.1),
    "clustered": (clustered, 8.0, 2.0),
    "positional": (positional, 2.0, 1.0),
    "low_rank": (low_rank, 2.0, 1.0),
}
"""How tokens are drawn, the shape if nobody names one, and the smallest that there is."""


def grid(tokens: int) -> tuple[int, int]:
    """Height and width of the squarest picture of so many tokens."""
    height = next(side for side in range(int(tokens**0.5), 0, -1) if tokens % side == 0)
    return height, tokens // height
