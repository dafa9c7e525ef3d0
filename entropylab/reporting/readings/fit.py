"""What the fitted line says, overall and by layer, and what it does not say."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ...wording import counted
from ..words import holm, listed, number, percent, probability, span, untold

LEVEL = 0.05
"""Of every test."""

WIDE = 0.1
"""A 95% interval of a slope that is wider than this both ways decides little."""

STRAIGHT = 0.98
"""Below this R^2 a line is not called straight."""

UNIFORM = 0.05
"""Attention this near to uniform [nats] is on the law whatever the law says."""


def slope(value: float, interval: tuple[float, float], p: float) -> list[str]:
    """Whether the slope of entropy against log N is 1, and what it means for the deficit."""
    low, high = interval
    told = f"Entropy rises with log N with slope {number(value)}"
    if not np.isfinite(p):
        return [f"{told}.", untold("Whether that is 1, as the law says,", "the slope's error is not known")]
    told = f"{told} (95% interval {span(low, high)})"
    if p < LEVEL:
        return [f"{told}, which is not the law's 1 ({probability(p)}): {consequence(value)}."]
    sentences = [f"{told}, which can't be told from the law's 1 ({probability(p)})."]
    if max(high - value, value - low) > WIDE:
        sentences.append("But so wide an interval decides little: more samples are needed.")
    return sentences


def consequence(value: float) -> str:
    """What a slope other than 1 means."""
    change, doubled = abs(1 - value), abs(1 - value) * np.log(2)
    grows = "grows" if value < 1 else "shrinks"
    return (
        f"the deficit log N − H {grows} by {number(change, 2)} nats for every nat of log N "
        f"({number(doubled, 2)} each time that N doubles)"
    )


def errors(how: str, samples: int) -> list[str]:
    """What kind of errors they are, where they are not of samples that were kept apart."""
    if how.startswith("ordinary"):
        few = "there is one sample" if samples == 1 else "that was asked for"
        return [f"The errors are those of points about a line ({few}): they do not know how pictures differ."]
    if how.startswith("at most"):
        return [
            "Samples were averaged while measuring, so the errors are the largest that they can be, mostly several "
            "times too large; keep samples apart to see smaller effects."
        ]
    return []


def straightness(r_squared: float, sizes: int) -> list[str]:
    """What R^2 says, which is little."""
    if sizes < 3 or not np.isfinite(r_squared):
        return []
    shown = "R² > 0.9999" if 0.99995 <= r_squared < 1 else f"R² = {r_squared:.4f}"
    if r_squared < STRAIGHT:
        return [f"{shown}: the points do not lie on a straight line, so the slope is only an average over a curve."]
    return [f"{shown}, but a straight line proves little: uniform attention has slope 1 and R² = 1 as well."]


def uniformity(deficit: float, log_tokens: float) -> list[str]:
    """How far from uniform attention is."""
    share = percent(float(np.exp(-deficit)))
    told = (
        f"On average entropy is {number(deficit)} nats below log N = {number(log_tokens)}, which uniform attention has"
    )
    if deficit < UNIFORM:
        return [f"{told}: attention is all but uniform, and slope 1 is no evidence for the law."]
    return [f"{told}: as if each row spread evenly over {share} of its keys."]


def layer_slopes(names: Sequence[str], slopes: ArrayLike, p: ArrayLike) -> list[str]:
    """In which layers the slope is 1."""
    values, corrected = np.asarray(slopes, float), holm(p)
    if not np.isfinite(values).any():
        return [untold("The slopes of single layers", "none has numbers at several sizes")]
    low, high = (int(place) for place in (np.nanargmin(values), np.nanargmax(values)))
    ends = f"from {number(values[low])} ({names[low]}) to {number(values[high])} ({names[high]})"
    sentences = [f"Slopes of single layers go {ends}."] if len(names) > 1 else []
    if not np.isfinite(corrected).any():
        return [*sentences, untold("In which layers the slope is 1", "the slopes' errors are not known")]
    off = np.flatnonzero(corrected < LEVEL)
    tests = f"5% level, corrected for {counted(int(np.isfinite(corrected).sum()), 'test')}"
    if not len(off):
        sentences.append(f"In no layer can the slope be told from 1 ({tests}), which does not show that it is 1.")
    else:
        rest = len(names) - len(off)
        others = f"; in the other {rest} that can't be told" if rest else ""
        sentences.append(
            f"It differs from 1 in {len(off)} of {counted(len(names), 'layer')} ({tests}): "
            f"{listed(names[int(i)] for i in off)}{others}."
        )
    if values[high] - values[low] > 0.2:
        sentences.append("Layers differ so much that the line of their mean describes no layer: go by the layers.")
    return sentences
