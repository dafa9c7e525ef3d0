"""Standardised logits beside the Gaussian that the law assumes them to be."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ..errors import EntropyLabError
from .style import BLACK, axes_of, legend

REACH = 6.0
"""How far from the mean is drawn [standard deviations]."""

BINS = 49


def logit_distribution(logits: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Density of the logits of every row, less the row's mean and divided by its standard deviation, and a Gaussian.

    Args:
        logits: a name -> logits (..., keys), rows along the last axis, as of `entropylab.logit_sample` (arrays, or
            tensors on the CPU), or a list of such. NaN is a key that is left out.
        ax: Axes to draw on; the current ones by default.

    The legend has skewness k3/k2^1.5 and excess kurtosis k4/k2^2, both 0 for a Gaussian, mean over rows.

    Returns:
        The Axes.

    Raises:
        EntropyLabError: nothing to draw, or rows of a single value.

    Examples:
        >>> attention = entropylab.simulate(tokens=256)
        >>> logits = entropylab.logit_sample(attention.q, attention.k, attention.scale)
        >>> ax = entropylab.plot.logit_distribution({"Gaussian tokens": logits})
        >>> ax.figure.savefig("logit_distribution.pdf")
    """
    if not isinstance(logits, Mapping) or not logits:
        raise EntropyLabError(
            f"logits must be a name -> logits (..., keys), at least one. Got {type(logits).__name__}."
        )
    rows = {name: standardised(name, value) for name, value in logits.items()}
    ax = axes_of(ax)
    edges = np.linspace(-REACH, REACH, BINS + 1)
    for name, (values, skewness, kurtosis) in rows.items():
        density = np.histogram(values, edges)[0] / len(values) / np.diff(edges)
        middles = (edges[1:] + edges[:-1]) / 2
        shown = np.where(density > 0, density, np.nan)
        text = f"{name}: " + f"skewness {skewness:.2f}, kurtosis {kurtosis:.2f}".replace("-", "−")
        ax.plot(middles, shown, ds="steps-mid", marker="", label=text)
    x = np.linspace(-REACH, REACH, 201)
    ax.plot(x, np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi), "--", color=BLACK, lw=0.8, marker="", label="Gaussian")
    ax.set_yscale("log")
    ax.set_ylim(1e-4, 3)
    ax.set_xlim(-REACH, REACH)
    ax.set_xlabel("logit, standardised within its row")
    ax.set_ylabel("density")
    legend(ax)
    return ax


def standardised(name: str, logits: Any) -> tuple[NDArray[Any], float, float]:
    """All standardised logits of a layer, and the means over rows of skewness and excess kurtosis."""
    parts = [np.asarray(part, float) for part in (logits if isinstance(logits, list | tuple) else [logits])]
    rows = [row_shapes(part.reshape(-1, part.shape[-1])) for part in parts if part.ndim and part.size]
    values = np.concatenate([part for part, _ in rows]) if rows else np.empty(0)
    if not len(values):
        raise EntropyLabError(f"logits of {name!r} must have rows (..., keys) of more than one value. Got none.")
    skewness, kurtosis = np.concatenate([shapes for _, shapes in rows], -1).mean(-1)
    return values, float(skewness), float(kurtosis)


def row_shapes(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Standardised values of rows (rows, keys) that spread, and (2, rows) skewness and excess kurtosis."""
    known = np.isfinite(rows)
    number = np.maximum(known.sum(-1, keepdims=True), 1)
    centred = np.where(known, rows, 0)
    centred = np.where(known, centred - centred.sum(-1, keepdims=True) / number, 0)
    spread = np.sqrt((centred**2).sum(-1, keepdims=True) / number)
    use = spread[:, 0] > 1e-6 * (1 + abs(np.where(known, rows, 0)).max(-1))
    shaped = centred[use] / spread[use]
    moments = [(shaped**power).sum(-1) / number[use, 0] for power in (3, 4)]
    return shaped[known[use]], np.stack([moments[0], moments[1] - 3])
