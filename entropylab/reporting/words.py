"""Numbers and lists as words, for the sentences and tables of a report; NaN is a dash."""

from collections.abc import Callable, Iterable

import numpy as np

UNKNOWN = "–"
"""What stands where a number is not known."""


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, none of its whole part lost: "0.759", "224", "1.2e+06"."""
    value = float(value)
    if not np.isfinite(value):
        return UNKNOWN if np.isnan(value) else "∞" if value > 0 else "−∞"
    places = max(0, digits - 1 - int(np.floor(np.log10(abs(value))))) if value else 0
    text = f"{value:.{places}f}" if 1 <= abs(value) < 1e6 else f"{value:.{digits}g}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def fixed(value: float, places: int = 3) -> str:
    """A number with so many decimals, for columns; large ones without."""
    return f"{value:.{places}f}".replace("-", "−") if abs(value) < 1000 else number(value)


def with_error(value: float, error: float) -> str:
    """A number with its error; without one where none is known."""
    return fixed(value) if np.isnan(error) else f"{fixed(value)} ± {fixed(error)}"


def whole(value: float) -> str:
    """A count, its thousands apart; past a million a rough one."""
    if not np.isfinite(value):
        return number(value)
    return f"{value:,.0f}".replace(",", " ") if value <= 1e6 else f"{value:.0e}".replace("e+", "e")


def percent(fraction: float) -> str:
    """A fraction in per cent; near 0 and 1 with a decimal."""
    share = 100 * float(fraction)
    if not np.isfinite(share):
        return UNKNOWN
    rough = number(share) if abs(share) >= 1e4 else f"{share:.0f}"
    text = f"{share:.1f}%" if 0 < share < 1 or 99 < share < 100 else f"{rough}%"
    return "0%" if text == "-0%" else text.replace("-", "−")


def probability(p: float) -> str:
    """A p value: "p = 0.03", "p < 0.0001"."""
    return "not known" if np.isnan(p) else "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def span(values: Iterable[float], form: str = "number") -> str:
    """The range of what is known, "0.2 to 0.4", or one word for both ends; ``form``: "number", "percent", "whole"."""
    known = [value for value in values if not np.isnan(value)] or [np.nan]
    words: dict[str, Callable[[float], str]] = {"number": number, "percent": percent, "whole": "{:.0f}".format}
    return " to ".join(dict.fromkeys(words[form](end) for end in (min(known), max(known))))


def listed(names: Iterable[object], most: int = 6) -> str:
    """Names as a list in a sentence: "a, b and c"; of very many the first ones, and how many more there are."""
    words = [str(name) for name in names]
    if len(words) > most:
        words = [*words[: most - 1], f"{len(words) - most + 1} more"]
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words) or "none"
