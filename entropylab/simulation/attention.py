"""Synthetic attention with known answers: tokens of a known distribution through random projections.

The law assumes that a row's logits are Gaussian. Here they are, or are not, by a known amount, and sigma is known.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import EntropyLabError, check_int
from .distributions import DISTRIBUTIONS, SHAPES, Array, check_distribution

WIDTH = 2
"""Dimension of the tokens, in units of d."""


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
    check_distribution(distribution, departure, shape)
    counts = {"tokens": tokens, "d": d, "heads": heads, "queries": queries, "samples": samples}
    for name, value in counts.items():
        check_int(name, value, 2 if name == "tokens" else 1)
    if not isinstance(sigma, int | float) or not 0 <= sigma < np.inf:
        raise EntropyLabError(f"sigma must be a finite number >= 0. Got {sigma!r}.")
    check_int("seed", seed, 0)
    model = np.random.default_rng([seed, 0])
    project_q, project_k = model.standard_normal((2, heads, d, WIDTH * d)) / np.sqrt(WIDTH * d)
    draw, covariance, towards = DISTRIBUTIONS[distribution](model, WIDTH * d, shape or SHAPES[distribution])
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
    variance = row_variance(q, project_q, project_k, covariance, alike)
    q = q * sigma * np.sqrt(d / variance)
    if towards is not None:
        q = q * np.where(q @ (project_k @ towards)[..., None] < 0, -1.0, 1.0)
    return Simulated(as_tensor(q), as_tensor(k), d**-0.5, float(sigma))


def as_tensor(values: Array) -> Tensor:
    """Float32, as models have it."""
    return torch.from_numpy(values.astype(np.float32))


def row_variance(q: Array, project_q: Array, project_k: Array, covariance: Array, alike: bool) -> Array:
    """Variance of <q, k> over keys, of each row (samples, heads, queries, 1) or its mean over queries of a head."""
    of_keys = project_k @ covariance @ np.swapaxes(project_k, -1, -2)
    if alike:
        variance = ((q @ of_keys) * q).sum(-1, keepdims=True)
    else:
        of_queries = project_q @ covariance @ np.swapaxes(project_q, -1, -2)
        variance = (of_keys * of_queries).sum((-2, -1))[:, None, None]
    return np.where(variance > 0, variance, np.inf)
