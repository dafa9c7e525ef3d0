"""Simulated attention measured as a model's is: a Dataset over sizes, scalings, samples, layers and heads."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..dataset import ATTRIBUTE, describe
from ..entropy import row_statistics
from ..errors import EntropyLabError, check_count
from ..sizes import size_label
from .attention import Simulated, simulate
from .distributions import grid

TOKENS = (64, 256, 1024, 4096)

FIELDS = {"entropy": "entropy", "sigma2": "variance", "third": "third", "fourth": "fourth"}
"""Variable of the Dataset -> field of row statistics."""

DIMENSIONS = ("size", "scaling", "sample", "layer", "head")


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
        statistics: which of "entropy", "sigma2", "third", "fourth".
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
    check_listing("statistics", statistics, FIELDS)
    if not isinstance(tokens, list | tuple | np.ndarray) or not len(tokens) or len(set(tokens)) < len(tokens):
        raise EntropyLabError(f"tokens must be different numbers of keys, at least one. Got {tokens!r}.")
    trained = check_count("train_tokens", train_tokens, tokens[min(1, len(tokens) - 1)])
    scaling = scaling if isinstance(scaling, list | tuple) else (scaling,)
    multipliers = np.array([[multiplier_of(rule, number, trained) for rule in scaling] for number in tokens])
    seed = settings.pop("seed", 0)
    cells = np.array(
        [
            [
                measured(
                    simulate(number, d, one, distribution, samples=samples, seed=seed + 1000 * place, **settings),
                    factors,
                    statistics,
                )
                for place, one in enumerate(sigmas)
            ]
            for number, factors in zip(tokens, multipliers, strict=True)
        ]
    )  # (size, layer, statistic, scaling, sample, head)
    data = {
        name: (DIMENSIONS, np.moveaxis(cells[:, :, index], 1, 3).astype(np.float32))
        for index, name in enumerate(statistics)
    }
    layers = [f"sigma {value:g}" for value in sigmas]
    shapes = [grid(number) for number in tokens]
    coords: dict[str, Any] = {
        "size": [size_label(shape) for shape in shapes],
        "height": ("size", [height for height, _ in shapes]),
        "width": ("size", [width for _, width in shapes]),
        "scaling": list(scaling),
        "sample": np.arange(samples),
        "layer": layers,
        "block": ("layer", layers),
        "kind": ("layer", ["self"] * len(layers)),
        "head": np.arange(cells.shape[-1]),
        "tokens": (("size", "layer"), np.repeat(np.array(tokens, float)[:, None], len(layers), 1)),
        "train_tokens": ("layer", [float(trained)] * len(layers)),
        "multiplier": (("size", "scaling", "layer"), np.repeat(multipliers[..., None], len(layers), -1)),
    }
    about: dict[str, Any] = {"model": f"simulated, {distribution}", "d": d, "seed": seed, ATTRIBUTE: "simulated"}
    return describe(xr.Dataset(data, coords, about | settings))


def measured(simulated: Simulated, factors: Sequence[float], statistics: Sequence[str]) -> np.ndarray:
    """Means over query rows: (statistic, scaling, sample, head)."""
    fields = tuple(FIELDS[name] for name in statistics)
    found = []
    for factor in factors:
        rows = row_statistics(
            simulated.q, simulated.k, scale=simulated.scale * float(factor), statistics=fields, backend="reference"
        )
        found.append([rows[field].double().mean(-1).numpy() for field in fields])
    return np.swapaxes(np.array(found), 0, 1)


def multiplier_of(rule: str, tokens: int, trained: int) -> float:
    """The factor on the logits."""
    if rule in ("original", "sqrt_log"):
        return 1.0 if rule == "original" else float(np.sqrt(np.log(tokens) / np.log(trained)))
    try:
        return float(rule)
    except (TypeError, ValueError) as error:
        raise EntropyLabError(f"scaling must be some of 'original', 'sqrt_log', or numbers. Got {rule!r}.") from error


def check_listing(name: str, values: Sequence[str], known: Any) -> None:
    """Raise an EntropyLabError unless all of ``values`` are known, and there are some."""
    if not values or isinstance(values, str) or not set(values) <= set(known):
        raise EntropyLabError(f"{name} must be some of {', '.join(known)}. Got {values!r}.")
