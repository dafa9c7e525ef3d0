"""Numbers and lists as words, for the sentences and tables of a report."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

UNKNOWN = "–"
"""What stands in a table where a number is not known."""


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits: "0.759", "224", "1.2e+06"; a dash if it is not known."""
    value = float(value)
    if np.isnan(value):
        return UNKNOWN
    if np.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{digits}g}" if not 1 <= abs(value) < 10**6 else f"{value:.{decimals(value, digits)}f}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def decimals(value: float, digits: int) -> int:
    """How many decimals show so many significant digits, none of them of the whole part lost."""
    return max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))


def fixed(value: float, places: int = 3) -> str:
    """A number with so many decimals, for columns; a dash if it is not known."""
    return number(value) if not np.isfinite(value) or abs(value) >= 1000 else f"{value:.{places}f}".replace("-", "−")


def with_error(value: float, error: float, places: int = 3) -> str:
    """A number with its error; without one where none is known."""
    return fixed(value, places) if np.isnan(error) else f"{fixed(value, places)} ± {fixed(error, places)}"


def percent(fraction: float) -> str:
    """A fraction in per cent."""
    if not np.isfinite(fraction):
        return UNKNOWN
    share = 100 * fraction
    if 0 < share < 1 or 99 < share < 100:
        return f"{share:.1f}%"
    text = f"{share:.0f}%" if abs(share) < 10000 else f"{number(share)}%"
    return "0%" if text == "-0%" else text.replace("-", "−")


def probability(p: float) -> str:
    """A p value: "p = 0.03", "p < 0.0001"."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def span(low: float, high: float, digits: int = 3) -> str:
    """A range: "0.2 to 0.4", or one number where both ends read alike."""
    ends = [number(end, digits) for end in (low, high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def whole_span(low: float, high: float) -> str:
    """A range of counts: "16 to 1024"."""
    ends = [f"{end:.0f}" for end in (low, high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def percents(low: float, high: float) -> str:
    """A range in per cent."""
    ends = [percent(end) for end in (low, high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names as a list in a sentence: "a, b and c"; of very many the first ones, and how many more there are."""
    words = list(names)
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else "none"


def untold(what: str, reason: str) -> str:
    """The sentence of what a run can't answer."""
    return f"{what} can't be told from this run, because {reason}."


def holm(p: ArrayLike) -> np.ndarray:
    """P values corrected for their number (Holm), NaN left as they are and not counted."""
    values = np.asarray(p, float)
    order = np.argsort(np.where(np.isnan(values), np.inf, values), kind="stable")
    known = int(np.isfinite(values).sum())
    corrected = np.full(values.shape, np.nan)
    least = 0.0
    for rank, place in enumerate(order[:known]):
        least = max(least, min(1.0, (known - rank) * values[place]))
        corrected[place] = least
    return corrected
