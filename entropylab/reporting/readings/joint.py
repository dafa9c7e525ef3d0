"""Joint attention: what image rows do among the keys of the image, and what text takes of them."""

import numpy as np
from numpy.typing import ArrayLike

from ..words import number, percent, percents, span


def mass(image: ArrayLike) -> list[str]:
    """Which weight image rows give to the image's own keys, by layer."""
    values = np.asarray(image, float)
    values = values[np.isfinite(values)]
    told = f"Image rows give {percents(values.min(), values.max())} of their weight to keys of the image"
    return [f"{told}, by layer ({percent(float(values.mean()))} on average); the rest goes to text and other tokens."]


def chain(whole: float, between: float, image: float) -> list[str]:
    """How entropy is made up, by the chain rule [nats]: between the sorts of keys, and within the image."""
    told = f"Of their entropy of {number(whole)} nats {percent(image / whole)} comes from within the image"
    return [
        f"{told} and {percent(between / whole)} from the choice between sorts of keys; only the "
        "first can grow with size."
    ]


def law(image: float, all_keys: float, tolerance: float) -> list[str]:
    """What the law is off by among the image's keys, and among all keys; median of layers [nats]."""
    told = f"Among keys of the image the law is off by {number(image, 2)} nats in the median layer"
    verdict = "so it holds there" if image <= tolerance else "so it does not hold there either"
    if image <= tolerance < all_keys:
        verdict = "so text among the keys, and not the image, is what breaks it"
    elif image > tolerance >= all_keys:
        verdict = "so that it holds over all keys is a coincidence of their mixture"
    elif all_keys <= tolerance:
        verdict = "so it holds both ways"
    return [f"{told}, over all keys by {number(all_keys, 2)}: {verdict}."]


def fixed_text(shares: ArrayLike) -> list[str]:
    """Which part of the keys is the image's, by size: why log N of all keys is not what grows."""
    low, high = float(np.min(shares)), float(np.max(shares))
    return [f"Keys of the image are {span(100 * low, 100 * high)}% of all keys, depending on the size."]
