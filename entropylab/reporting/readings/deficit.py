"""Whether the deficit log N - H is sigma^2/2, and how it changes with N."""

import numpy as np
from numpy.typing import ArrayLike

from ...wording import counted
from ..words import number, percent, probability, span

NEAR = 0.1
"""A ratio to 1 within this counts as 1."""

FEW = 8
"""A rank correlation over fewer layers than this says little."""

ROUGH = 0.25
"""And within this as roughly 1."""


def against_sizes(first: float, last: float, change: float, p: float) -> list[str]:
    """How the deficit changes from the smallest to the largest N; ``change`` is its slope against log N."""
    ends = f"from {number(first)} nats at the smallest N to {number(last)} at the largest"
    slope = f"slope {number(change, 2)} against log N"
    if not np.isfinite(p):
        return [f"The deficit goes {ends} ({slope}; without an error it can't be told from level)."]
    if p >= 0.05:
        return [f"The deficit goes {ends}: {slope}, which can't be told from level ({probability(p)})."]
    moves = "rises" if change > 0 else "falls"
    return [f"The deficit {moves} with N, {ends} ({slope}, {probability(p)}); under the law it is level."]


def predicted(ratios: ArrayLike) -> list[str]:
    """Whether deficit and sigma^2/2 are the same; ``ratios``: of the two, of every row (layer, head and size)."""
    values = np.asarray(ratios, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return ["The deficit can't be put beside σ²/2 in this run, because σ² is 0 or unknown in every row."]
    near = float((abs(values - 1) <= NEAR).mean())
    middle = float(np.median(values))
    told = f"The deficit is {number(middle, 2)} times the measured σ²/2 in the median row (layer, head and size)"
    first = f"{told}, and within {percent(NEAR)} of it in {percent(near)} of {len(values)} rows."
    if abs(middle - 1) <= NEAR:
        return [first, "So for most of this model the law's prediction, in which nothing is fitted, holds."]
    if abs(middle - 1) <= ROUGH:
        side = "far from" if middle < 1 else "near"
        return [first, f"So the law's prediction is roughly right, somewhat too {side} uniform."]
    does = "overstates" if middle < 1 else "understates"
    return [first, f"So σ²/2 {does} how far from uniform these rows are: the law does not give their level."]


def unflagged(ratios: ArrayLike, free: ArrayLike, skewness: bool) -> list[str]:
    """The same where simulation gives no reason to doubt the law.

    Args:
        ratios: as of `predicted`.
        free: whether a row has no flag.
        skewness: whether third and fourth cumulant were measured, without which skewed rows have no flag.
    """
    values, chosen = np.asarray(ratios, float), np.asarray(free, bool)
    values = values[chosen & np.isfinite(values)]
    if not len(values):
        return ["No row is without a flag, so whether the law holds where it should can't be told from this run."]
    should = "the law should hold" if skewness else "the law should hold unless they are skewed, which was not measured"
    rows = f"In the {counted(len(values), 'row')} without a flag, where {should}, the ratio is"
    return [f"{rows} {number(float(np.median(values)), 2)} (median; {span(values.min(), values.max(), 2)})."]


def order(correlation: float, layers: int) -> list[str]:
    """Whether sigma^2/2 at least says which layers are farther from uniform."""
    if layers < 5 or not np.isfinite(correlation):
        return []
    only = "" if layers >= FEW else "only "
    told = f"rank correlation {number(correlation, 2)} over {only}{layers} layers"
    if correlation > 0.7:
        return [f"Measured σ²/2 does say which layers are farther from uniform ({told})."]
    if correlation > 0.3:
        return [f"Measured σ²/2 says only roughly which layers are farther from uniform ({told})."]
    return [f"Measured σ²/2 does not even say which layers are farther from uniform ({told})."]
