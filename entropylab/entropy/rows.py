"""What every backend is asked, and what it answers: statistics of each row, or of each head the sums over its rows."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from ..errors import EntropyLabError, is_number, names_of

STATISTICS = ("entropy", "lse", "mean", "variance", "third", "fourth", "sensitivity")

BEYOND = ("gaussian", "slope", "rarefied")
"""Statistics that no sum of one pass over the keys gives; see ``beyond.py``. With "gaussian" comes ``unexplained``."""

MOST_PARTS = 4
COUNTS = ("valid", "empty", "bad", "keys")
OF_PART = ("rows", "keys", "mass", "within", "entropy", "variance")
BETWEEN = len(COUNTS) + 2 * len(STATISTICS)
NUMBERS = BETWEEN + 1 + MOST_PARTS * len(OF_PART)
"""Columns of the sums over a head's rows: rows that are valid, that have no key, that are bad (NaN or infinity in what
they are made of), and their keys; over the valid rows the sums of ``STATISTICS``, of their squares, and of the entropy
between the parts of the keys; and of each part: rows that have keys in it, and the sums of their keys, of the weight on
it, of what it adds to the entropy, and of the entropy and the variance within it.
"""

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

    @property
    def is_same_for_all_queries(self) -> bool:
        """Whether every query of a map sees the same keys."""
        return not self.is_causal and (self.mask is None or self.mask.ndim < 2 or self.mask.shape[-2] == 1)

    def in_batches(self) -> "Rows":
        """The same of (batch, heads, tokens, d), any mask of (batch, heads, queries, keys); views where that can be."""
        if self.q.ndim == 4 and self.mask is None:
            return self
        q, k = (side.reshape(-1, *side.shape[-3:]) for side in (self.q, self.own_k))
        mask = self.mask
        if mask is not None:
            if self.q.ndim > 4 and mask.ndim > 3:
                mask = mask.expand(*self.q.shape[:-3], *mask.shape[-3:]).reshape(-1, *mask.shape[-3:])
            mask = mask.expand(*q.shape[:3], k.shape[2])
        return Rows(q, k, self.scale, mask, self.is_causal, self.statistics)

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


def causal(mask: Tensor | None, start: int, stop: int, k: Tensor) -> Tensor:
    """The mask of rows ``start`` to ``stop`` of causal attention to k."""
    queries = torch.arange(start, stop, device=k.device)
    return both(mask, torch.arange(k.shape[-2], device=k.device) <= queries[:, None])


def both(mask: Tensor | None, left: Tensor) -> Tensor:
    """``mask``, boolean or additive, with keys closed that are not ``left``."""
    if mask is None:
        return left
    return mask & left if mask.dtype == torch.bool else torch.where(left, mask, -torch.inf)


@dataclass(frozen=True)
class KeyParts:
    """Which keys are of which part (of image or text, say).

    ``codes`` (batch, keys) are the part of every key; ``parts`` which codes there are, at most ``MOST_PARTS``, the keys
    of others being nobody's; ``spans`` where each part stands, if that is one stretch and the same for every image.
    """

    codes: Tensor
    parts: tuple[int, ...]
    spans: tuple[slice, ...] | None = None

    @property
    def places(self) -> list[slice | Tensor]:
        """Where each part stands: slices of the keys, or boolean (batch, keys)."""
        return list(self.spans) if self.spans is not None else [self.codes == part for part in self.parts]

    @cached_property
    def order(self) -> Tensor:
        """(batch, keys) int32: the keys, those of one part after those of another."""
        ranks = torch.zeros_like(self.codes)
        for rank, part in enumerate(self.parts):
            ranks[self.codes == part] = rank
        return ranks.argsort(dim=1, stable=True).to(torch.int32).contiguous()

    @cached_property
    def bounds(self) -> Tensor:
        """(batch, parts + 1) int64: where in this order each part begins and ends."""
        counts = torch.stack([(self.codes == part).sum(1) for part in self.parts], 1).cumsum(1)
        return torch.cat([counts.new_zeros(len(counts), 1), counts], 1).contiguous()


def check_rows(
    q: Tensor, k: Tensor, scale: float | None, mask: Tensor | None, is_causal: bool, statistics: Sequence[str]
) -> Rows:
    """Turn the arguments of ``row_statistics`` into ``Rows``, or raise EntropyLabError."""
    for name, tensor in (("q", q), ("k", k)):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim < 3:
            raise EntropyLabError(f"{name} must be a float tensor (..., heads, tokens, d). Got {described(tensor)}.")
    if q.shape[:-3] != k.shape[:-3] or q.shape[-1] != k.shape[-1] or q.dtype != k.dtype or 0 in (*q.shape, *k.shape):
        raise EntropyLabError(
            "q (..., heads, queries, d) and k (..., key heads, keys, d) must agree in leading dimensions, d and dtype, "
            f"and must not be empty. Got {described(q)} and {described(k)}."
        )
    if q.shape[-3] % k.shape[-3]:
        heads = f"{q.shape[-3]} and {k.shape[-3]}"
        raise EntropyLabError(f"the heads of q must be a multiple of those of k. Got {heads}.")
    devices = {str(tensor.device) for tensor in (q, k, mask) if isinstance(tensor, Tensor)}
    if len(devices) > 1:
        raise EntropyLabError(f"q, k and mask must be on one device. Got {', '.join(sorted(devices))}.")
    if scale is not None and not (is_number(scale) and 0 <= scale < float("inf")):
        raise EntropyLabError(f"scale must be a finite number >= 0. Got {scale!r}.")
    if mask is not None:
        if not isinstance(mask, Tensor) or not (mask.dtype == torch.bool or mask.is_floating_point()):
            raise EntropyLabError(f"mask must be a boolean or float tensor. Got {described(mask)}.")
        shape, mask = (*q.shape[:-1], k.shape[-2]), torch.atleast_1d(mask)
        sides = zip(mask.shape[::-1], shape[::-1], strict=False)
        if mask.ndim > len(shape) or any(have not in (1, want) for have, want in sides):
            must = f"mask must broadcast to (..., heads, queries, keys) = {shape}"
            raise EntropyLabError(f"{must}. Got {tuple(mask.shape)}.")
    names, known = names_of(statistics), (*STATISTICS, *BEYOND)
    if not names or not set(names) <= set(known):
        raise EntropyLabError(f"statistics must be some of {', '.join(known)}. Got {statistics!r}.")
    return Rows(q, k, q.shape[-1] ** -0.5 if scale is None else float(scale), mask, is_causal, names)


def described(value: object) -> str:
    """A tensor by dtype and shape, anything else by its type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
