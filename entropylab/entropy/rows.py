"""What every backend is asked and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..errors import EntropyLabError, names_of

STATISTICS = ("entropy", "lse", "mean", "variance", "third", "fourth", "sensitivity")

BEYOND = ("gaussian", "slope", "rarefied")
"""Statistics that no sum of one pass over the keys gives; see ``beyond.py``. With "gaussian" comes ``unexplained``."""

LARGEST_MASK = -9999.0
"""An additive mask at or below this leaves the key out: models write -10000, finfo.min or -inf and mean the same."""


@dataclass(frozen=True)
class RowStatistics:
    """Statistics of the rows of a softmax map; each a tensor ``(..., heads, queries)``, or None if not asked for.

    ``rarefied`` alone is (..., heads, queries, 4).

    Float32, or float64 for float64 input. Rows that the mask leaves no key are NaN, with ``keys`` 0.

    Attributes:
        entropy: H = -sum_j A_j log A_j [nats].
        lse: log sum_j exp(s_j) of the logits s [nats].
        mean: unweighted mean of the logits over the keys [nats].
        variance: unweighted variance of the logits over the keys, sigma^2 = k2 [nats^2].
        third: third cumulant of the logits over the keys, k3 [nats^3].
        fourth: fourth cumulant of the logits over the keys, k4 [nats^4] (excess: 0 for a Gaussian).
        sensitivity: Var_A[s], the attention-weighted variance of the logits [nats^2]; dH/d log(scale) = -sensitivity.
        gaussian: h(sigma, N), the entropy that N Gaussian logits of the row's variance would have on average [nats].
        unexplained: 1 where entropy is more than two spreads from ``gaussian``, and more than 0.002 nats, else 0; the
            spread is the standard deviation over Gaussian rows of that variance. With ``gaussian``.
        slope: dH/dlog N from this row alone, by leaving out each key in turn; 1 for uniform attention, NaN of one key.
        rarefied: mean entropy among a random half, quarter, eighth and sixteenth of the row's keys [nats]; NaN where
            that is less than a key.
        keys: how many keys the mask leaves to the row, N.
    """

    keys: Tensor
    entropy: Tensor | None = None
    lse: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None
    third: Tensor | None = None
    fourth: Tensor | None = None
    sensitivity: Tensor | None = None
    gaussian: Tensor | None = None
    unexplained: Tensor | None = None
    slope: Tensor | None = None
    rarefied: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor:
        value = getattr(self, name, None)
        if value is None:
            raise EntropyLabError(f"statistic {name!r} was not computed; computed: {', '.join(self.names())}")
        return value

    def names(self) -> tuple[str, ...]:
        """The statistics that were computed."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name) is not None)


@dataclass(frozen=True)
class Rows:
    """One question to a backend, checked: ``softmax(scale * q k^T + mask)``, row by row.

    ``q`` is (..., heads, queries, d) and ``own_k`` (..., key heads, keys, d), leading dimensions equal, the heads of q
    a multiple of the key heads: head h of q has key head h // (heads / key heads). ``mask`` is boolean (True: may
    attend) or additive, and broadcasts to (..., heads, queries, keys).
    """

    q: Tensor
    own_k: Tensor
    scale: float
    mask: Tensor | None
    is_causal: bool
    statistics: tuple[str, ...]

    @property
    def k(self) -> Tensor:
        """Keys with a head for every head of q, (..., heads, keys, d); a copy where several share several."""
        return self.shared_out(self.own_k)

    def shared_out(self, per_key_head: Tensor) -> Tensor:
        """What is known per key head (..., key heads, x, y) for every head of q: (..., heads, x, y)."""
        group = self.q.shape[-3] // per_key_head.shape[-3]
        if group == 1:
            return per_key_head
        *lead, heads, rows, width = per_key_head.shape
        return per_key_head.unsqueeze(-3).expand(*lead, heads, group, rows, width).flatten(-4, -3)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype statistics are computed and returned in."""
        return torch.float64 if self.q.dtype == torch.float64 else torch.float32

    def wants(self, *names: str) -> bool:
        """Whether any of ``names`` is asked for."""
        return any(name in self.statistics for name in names)

    def want_gradients(self) -> bool:
        """Whether somebody may ask for gradients of the statistics."""
        inputs = (self.q, self.own_k, self.mask)
        return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in inputs)

    def blocked(self, start: int = 0, stop: int | None = None) -> Tensor | None:
        """Where queries ``start:stop`` may not attend: boolean, broadcastable to (..., heads, rows, keys)."""
        stop = self.q.shape[-2] if stop is None else stop
        blocked = None if self.mask is None else masked_out(rows_of(self.mask, start, stop))
        if self.is_causal:
            row = torch.arange(start, stop, device=self.q.device)[:, None]
            later = torch.arange(self.own_k.shape[-2], device=self.q.device) > row
            blocked = later if blocked is None else blocked | later
        return blocked

    def keys(self) -> Tensor:
        """How many keys each row may attend to: int64 (..., heads, queries)."""
        shape, keys = self.q.shape[:-1], self.own_k.shape[-2]
        if self.is_causal and self.mask is None:
            return torch.arange(1, shape[-1] + 1, device=self.q.device).clamp(max=keys).expand(shape)
        blocked = self.blocked()
        if blocked is None:
            return torch.full((), keys, device=self.q.device).expand(shape)
        return ((~blocked).sum(-1) * (1 if blocked.shape[-1] == keys else keys)).expand(shape)


def rows_of(mask: Tensor, start: int, stop: int) -> Tensor:
    """The part of ``mask`` that belongs to queries ``start:stop`` (all of it if it is the same for every query)."""
    return mask if mask.ndim < 2 or mask.shape[-2] == 1 else mask[..., start:stop, :]


def masked_out(mask: Tensor) -> Tensor:
    """Where a mask leaves the key out."""
    return ~mask if mask.dtype == torch.bool else mask <= LARGEST_MASK


def check_rows(
    q: Tensor, k: Tensor, scale: float | None, mask: Tensor | None, is_causal: bool, statistics: Sequence[str]
) -> Rows:
    """Turn the arguments of ``row_statistics`` into ``Rows``, or raise EntropyLabError."""
    for name, tensor in (("q", q), ("k", k)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim < 3:
            raise EntropyLabError(f"{name} must be a float tensor (..., heads, tokens, d). Got {described(tensor)}.")
    if q.shape[-1] != k.shape[-1] or q.dtype != k.dtype or q.shape[:-3] != k.shape[:-3]:
        raise EntropyLabError(
            "q (..., heads, queries, d) and k (..., heads, keys, d) must agree in leading dimensions, d and dtype. "
            f"Got {described(q)} and {described(k)}."
        )
    devices = {str(tensor.device) for tensor in (q, k, mask) if isinstance(tensor, Tensor)}
    if len(devices) > 1:
        raise EntropyLabError(f"q, k and mask must be on one device. Got {', '.join(sorted(devices))}.")
    if 0 in q.shape or 0 in k.shape:
        raise EntropyLabError(f"q and k must not be empty. Got {described(q)} and {described(k)}.")
    heads, shared = q.shape[-3], k.shape[-3]
    if heads % shared:
        raise EntropyLabError(f"the heads of q must be a multiple of those of k. Got {heads} and {shared}.")
    if not isinstance(scale, int | float | None):
        raise EntropyLabError(f"scale must be a finite number >= 0. Got {scale!r}.")
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    if not 0 <= scale < float("inf"):
        raise EntropyLabError(f"scale must be a finite number >= 0. Got {scale}.")
    check_mask(mask, (*q.shape[:-1], k.shape[-2]))
    names = names_of(statistics)
    known = (*STATISTICS, *BEYOND)
    if not names or not set(names) <= set(known):
        raise EntropyLabError(f"statistics must be some of {', '.join(known)}. Got {statistics!r}.")
    return Rows(q, k, scale, None if mask is None else torch.atleast_1d(mask), is_causal, names)


def check_mask(mask: Tensor | None, shape: tuple[int, ...]) -> None:
    """A mask must be boolean or float and broadcast to (..., heads, queries, keys)."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise EntropyLabError(f"mask must be a boolean or float tensor. Got {described(mask)}.")
    fits = mask.ndim <= len(shape) and all(
        have in (1, want) for have, want in zip(mask.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise EntropyLabError(f"mask must broadcast to (..., heads, queries, keys) = {shape}. Got {tuple(mask.shape)}.")


def described(value: object) -> str:
    """A tensor by dtype and shape, anything else by its type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
