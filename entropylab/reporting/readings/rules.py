"""How far entropy drifts from the training size, and what the scaling rules take away of it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..words import number, percent, percents, untold


def drift(sizes: Sequence[str], values: ArrayLike, trained: str) -> list[str]:
    """How far the mean entropy is from that of the training size, as the model is; ``values`` [nats] by size."""
    found = np.asarray(values, float)
    if not np.isfinite(found).any():
        why = "nothing was measured there and at another size"
        return [untold("How far entropy drifts from the training size", why)]
    low, high = int(np.nanargmin(found)), int(np.nanargmax(found))
    ends = [f"{signed(found[i])} nats at {sizes[i]}" for i in dict.fromkeys((low, high))]
    return [f"Away from the training size {trained} the mean entropy drifts by {' and '.join(ends)}."]


def signed(value: float) -> str:
    """A number with its sign."""
    return f"+{number(value, 2)}" if value > 0 else number(value, 2)


def removed(rule: str, fractions: ArrayLike, layers: ArrayLike, expected: float = np.nan) -> list[str]:
    """What a rule takes away.

    Args:
        rule: its name.
        fractions: of the drift of the mean over layers, by size.
        layers: of the mean of the layers' absolute drifts, by size, which opposite drifts can't hide.
        expected: what the law says the paper's rule takes away, sigma_T^2 / (2 log T), in the median layer.
    """
    values, by_layer = (np.asarray(v, float)[np.isfinite(v)] for v in (fractions, layers))
    if not len(values):
        return [f"What {rule} removes can't be told from this run, because entropy did not drift."]
    told = f"{rule} removes {percents(values.min(), values.max())} of the mean drift"
    own = f"{percents(by_layer.min(), by_layer.max())} of the layers' own drifts" if len(by_layer) else "layers unknown"
    sentences = [f"{told} ({own}): {verdict(values)}."]
    if rule == "sqrt_log" and np.isfinite(expected):
        sentences.append(
            f"Under the law it would remove σ²/(2 log T) of it, {percent(expected)} in the median layer at the "
            f"training size{beyond(expected)}."
        )
    return sentences


def verdict(values: np.ndarray) -> str:
    """One judgement of the fractions removed at all sizes."""
    if values.max() <= 0:
        return "it makes the drift worse"
    if values.min() < 0:
        return "at some sizes it makes the drift worse"
    if values.max() > 1.25:
        return "at some sizes it goes too far"
    if values.min() >= 0.75:
        return "it holds entropy nearly steady"
    return "it helps, and most of the drift stays" if values.max() < 0.5 else "it helps, more at some sizes than others"


def beyond(expected: float) -> str:
    """What an impossible expectation means."""
    return ", which is more than all and shows that the law does not describe that layer" if expected > 1 else ""


def best(rules: Mapping[str, float]) -> list[str]:
    """Which of several rules leaves least; ``rules``: rule -> fraction of the layers' absolute drift removed, mean."""
    known = {name: value for name, value in rules.items() if np.isfinite(value)}
    if len(known) < 2:
        return []
    ordered = sorted(known, key=lambda name: known[name], reverse=True)
    first, second = ordered[:2]
    shares = f"{percent(known[first])}, mean over sizes, against {percent(known[second])} with {second}"
    return [f"Of the rules in this run {first} removes most of the layers' own drift ({shares})."]


def opposite(falling: int, rising: int, size: str) -> list[str]:
    """Whether layers drift in opposite ways, which their mean hides."""
    if not falling or not rising:
        return []
    return [f"At {size} {rising} layers drift up and {falling} down, which the mean over layers hides in part."]
