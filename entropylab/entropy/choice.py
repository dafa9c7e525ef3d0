"""Which backend answers a question, and why not the others."""

import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from ..errors import EntropyLabError, EntropyLabWarning, one_line
from . import native, reference, sdpa, triton
from .rows import Rows, RowStatistics

Found = TypeVar("Found")

BACKENDS = ("auto", "triton", "native", "sdpa", "reference")
"""What ``backend`` may be; after "auto" the backends in the order in which it tries them."""

failed: dict[torch.device, str] = {}
"""Devices on which the fused kernel was tried and did not compile or start, and why; it is not tried there again."""


def answer(rows: Rows, backend: str = "auto") -> RowStatistics:
    """What the backend of choice says; where the fused kernel fails, that is remembered and the next one is asked.

    Raises:
        EntropyLabError: as `choose`; the fused kernel, asked for by name, fails.
    """
    name = choose(rows, backend)
    if name == "triton":
        found = fused(rows.q.device, lambda: triton.row_statistics(rows), backend)
        return answer(rows, backend) if found is None else found
    return {"native": native, "sdpa": sdpa, "reference": reference}[name].row_statistics(rows)


def fused(device: torch.device, ask: Callable[[], Found], backend: str = "auto") -> Found | None:
    """What a fused kernel says; None if it fails, which is remembered and, with "auto", warned of."""
    try:
        return ask()
    except torch.OutOfMemoryError:
        raise
    except Exception as problem:
        if triton.interpreted():
            raise
        reason = f"the kernel failed on {device} with {type(problem).__name__}: {one_line(problem, 300)}"
    failed[device] = reason
    if backend == "auto":
        warnings.warn(f"{reason}. It is not tried again; entropies are computed otherwise.", EntropyLabWarning, 4)
    return None


def choose(rows: Rows, backend: str = "auto") -> str:
    """The backend that answers ``rows``: the one asked for, or the first of ``BACKENDS`` that can.

    Raises:
        EntropyLabError: no such backend, or it can't be used here; the message says why.
    """
    if backend not in BACKENDS:
        raise EntropyLabError(f"backend must be one of {', '.join(BACKENDS)}. Got {backend!r}.")
    if backend == "auto":
        return next(name for name in BACKENDS[1:] if why_not(name, rows, unasked=True) is None)
    if problem := why_not(backend, rows, unasked=False):
        raise EntropyLabError(f"backend {backend!r} can't be used here: {problem}. Use 'auto' or 'reference'.")
    return backend


def why_not(name: str, rows: Rows, unasked: bool) -> str | None:
    """Why a backend can't answer ``rows``, or should not ``unasked``; None if it may."""
    if name == "reference":
        return None
    if name == "sdpa":
        return sdpa.why_not(rows)
    if name == "native":
        needless = unasked and native.FROM_THE_KEYS.issuperset(rows.statistics) and sdpa.why_not(rows) is None
        return "mean and variance need no pass over the keys" if needless else native.why_not(rows)
    if rows.q.device in failed:
        return failed[rows.q.device]
    if unasked and triton.interpreted():
        return "TRITON_INTERPRET=1 is for tests of the kernel"
    return triton.why_not(rows)
