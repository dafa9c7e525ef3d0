"""Which query rows of an attention call are looked at, and which keys: parts of it, a random subset, no padding."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..capture import AttentionCall
from ..entropy.rows import masked_out
from ..entropy.sums import both

Where = Tensor | slice


@dataclass(frozen=True)
class Asked:
    """Some query rows of a call, and which of them count.

    Attributes:
        query: (batch, heads, queries, d).
        mask: their part of the call's mask, or None.
        is_causal: whether a causal mask applies as well.
        keys: how many keys the call has.
        counted: boolean, broadcastable to (batch, heads, queries); None if every row counts.
        fraction: how many rows there are for one that is looked at.
    """

    query: Tensor
    mask: Tensor | None
    is_causal: bool
    keys: int
    counted: Tensor | None = None
    fraction: float = 1.0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.query.shape[-2]

    @property
    def is_whole(self) -> bool:
        """Whether every row counts and has every key."""
        return self.counted is None and self.mask is None and not self.is_causal


def rows_at(call: AttentionCall, where: Where) -> Asked:
    """The query rows of a call that stand somewhere; padding, which no query attends to, does not count as a row."""
    mask = call.mask if call.mask is None or call.mask.ndim > 1 else call.mask[None]
    counted = None
    if mask is not None and call.query.shape[-2] == call.key.shape[-2] and not crosses(call):
        counted = ~masked_out(mask).all(-2)
    query = call.query
    if isinstance(where, Tensor):
        counted = where[:, None] if counted is None else counted & where[:, None]
    elif where != slice(None):
        query = query[..., where, :]
        mask = mask if mask is None or mask.shape[-2] == 1 else mask[..., where, :]
        counted = counted if counted is None or counted.shape[-1] == 1 else counted[..., where]
        if call.is_causal:
            places = torch.arange(call.query.shape[-2], device=query.device)[where]
            mask = both(mask, torch.arange(call.key.shape[-2], device=query.device) <= places[:, None])
    causal = call.is_causal and query is call.query
    return Asked(query, mask, causal, call.key.shape[-2], counted)


def crosses(call: AttentionCall) -> bool:
    """Whether a call is known to be among keys that are not its queries."""
    if call.roles is not None:
        return call.roles.kind == "cross"
    return call.context is not None and call.key.shape[-2] <= call.context


def some_rows(asked: Asked, rows: int | None) -> Asked:
    """At most ``rows`` of the query rows, the same ones whenever a layer has this many, with their part of the mask."""
    queries = asked.query.shape[-2]
    if rows is None or rows >= queries:
        return asked
    chosen = chosen_rows(queries, rows, asked.query.device)
    mask, counted = asked.mask, asked.counted
    if mask is not None and mask.shape[-2] != 1:
        mask = mask.index_select(-2, chosen)
    if asked.is_causal:
        mask = both(mask, torch.arange(asked.keys, device=chosen.device) <= chosen[:, None])
    if counted is not None and counted.shape[-1] != 1:
        counted = counted.index_select(-1, chosen)
    return Asked(asked.query.index_select(-2, chosen), mask, False, asked.keys, counted, queries / rows)


@lru_cache(maxsize=64)
def chosen_rows(queries: int, rows: int, device: torch.device) -> Tensor:
    """Which ``rows`` of so many queries are looked at, in their order; kept, for a GPU is sent them but once."""
    generator = torch.Generator().manual_seed(queries)
    return torch.randperm(queries, generator=generator)[:rows].sort().values.to(device, non_blocking=True)
