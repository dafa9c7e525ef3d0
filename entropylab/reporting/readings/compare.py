"""Several runs side by side: what is common, what differs, and by more than its errors."""

from collections.abc import Mapping

import numpy as np
from scipy.special import stdtr

from ..words import listed, number, percent, probability


def difference(values: tuple[float, float], errors: tuple[float, float], freedom: tuple[float, float]) -> float:
    """Two-sided p of the hypothesis that two numbers are the same (Welch); NaN without errors."""
    squares = np.asarray(errors, float) ** 2
    total = squares.sum()
    if not np.isfinite(total) or total <= 0 or not np.isfinite(freedom).all():
        return np.nan
    combined = total**2 / (squares**2 / np.asarray(freedom, float)).sum()
    return float(2 * stdtr(combined, -abs(values[0] - values[1]) / np.sqrt(total)))


def slopes(found: Mapping[str, tuple[float, float, float]]) -> list[str]:
    """Whether the slopes differ; ``found``: run -> slope, error, degrees of freedom."""
    told = listed(f"{number(value)} ({name})" for name, (value, _, _) in found.items())
    sentences = [f"Slopes of entropy against log N: {told}."]
    names = list(found)
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    for one, other in pairs:
        p = difference(*((found[one][i], found[other][i]) for i in range(3)))
        pair = f"{one} and {other}"
        if not np.isfinite(p):
            sentences.append(f"Whether {pair} differ in it can't be told, because an error is not known.")
        elif p < 0.05 / len(pairs):
            sentences.append(f"{pair} differ by more than their errors ({probability(p)}).")
        else:
            sentences.append(f"{pair} can't be told apart ({probability(p)}).")
    return sentences


def common(found: Mapping[str, bool], what: str, otherwise: str) -> list[str]:
    """Whether something is true of every run, of none, or of some; both ways in words that follow "In ...,"."""
    true = [name for name, value in found.items() if value]
    if len(true) == len(found):
        return [f"In all of these runs {what}."]
    if not true:
        return [f"In all of these runs {otherwise}."]
    rest = [name for name in found if name not in true]
    return [f"In {listed(true)} {what}; in {listed(rest)} {otherwise}: there they differ."]


def freezing(found: Mapping[str, float]) -> list[str]:
    """How much of each run is near freezing; ``found``: run -> fraction of rows."""
    return [f"Rows near freezing or past it: {listed(f'{percent(v)} ({name})' for name, v in found.items())}."]


def caution(runs: int) -> str:
    """How far so few models carry."""
    return f"{runs} models are few: what they share is a hint at what is general, and no proof."
