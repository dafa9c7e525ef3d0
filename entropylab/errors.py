"""The one exception type that callers of entropylab see, the checks of arguments that raise it most, and words."""

import os
from numbers import Integral, Real
from typing import Any, TypeGuard


class EntropyLabError(ValueError):
    """Something that was handed to entropylab is not usable.

    The message names the argument, what was expected and what came.

    Examples:
        >>> import torch
        >>> entropylab.row_statistics(torch.zeros(1, 5, 8), torch.zeros(1, 9, 4))
        Traceback (most recent call last):
            ...
        entropylab.errors.EntropyLabError: q (..., heads, queries, d) and k (..., key heads, keys, d) must ...
    """


class RefusedCallError(EntropyLabError):
    """Something in a pipeline's call does not fit what was asked: it ends that call, before anything is computed."""


class EntropyLabWarning(UserWarning):
    """Something was left out of a result, which names it; or a rule could not do all that it says.

    Examples:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", entropylab.EntropyLabWarning)  # now it is an exception
    """


def one_line(error: BaseException, most: int | None = None) -> str:
    """An error's message as one line, cut after so many characters; the system's own words, as for a full disk."""
    said = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return " ".join((said or type(error).__name__).split())[:most]


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count of things, in words: "1 layer", "3 layers"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def names_of(value: Any) -> tuple[str, ...]:
    """A name, or a list or tuple of names, as a tuple; nothing of anything else, for the caller to refuse."""
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    return names if all(isinstance(name, str) for name in names) else ()


def is_int(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number, of Python or numpy."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a real number, of Python or numpy."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_int(name: str, value: Any, least: int = 1) -> int:
    """``value``, if it is an int that is not too small."""
    if not is_int(value) or value < least:
        raise EntropyLabError(f"{name} must be an int >= {least}. Got {value!r}.")
    return int(value)


def check_count(name: str, value: Any, default: Any) -> Any:
    """An int >= 1, or ``default`` for None."""
    return default if value is None else check_int(name, value)


def check_positive(name: str, value: Any, unit: str) -> float:
    """``value`` as a float, if it is a positive number [unit]."""
    if not is_number(value) or not 0 < value < float("inf"):
        raise EntropyLabError(f"{name} must be a positive number [{unit}]. Got {value!r}.")
    return float(value)
