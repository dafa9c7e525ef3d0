"""What is seen of an attention call while the model waits: the statistics of its rows, to be averaged later."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..capture import AttentionCall
from ..entropy import RowStatistics
from ..entropy.rows import masked_out
from .asked import Asked, Where, keys_at
from .pieces import row_statistics_in_pieces


@dataclass(frozen=True)
class Look:
    """Some query rows of a call.

    Attributes:
        found: statistics (batch, heads, queries) among each part of the keys; a single part "" is all of them.
        sizes: how many keys every part has.
        query_sums: sum of every query, (batch, heads, queries): not finite if one of its numbers is not.
        key_sums: sum of all keys of a head, (batch, heads), likewise.
        total: how many keys the call has.
        is_whole: whether every row counts and has every key.
        is_plain: whether every row has the same keys in every part.
        counted: which rows count, boolean, broadcastable to (batch, heads, queries); None if all do.
        fraction: how many rows there are for one that was looked at.
    """

    found: Mapping[str, RowStatistics]
    sizes: tuple[int, ...]
    query_sums: Tensor
    key_sums: Tensor
    total: int
    is_whole: bool
    is_plain: bool
    counted: Tensor | None
    fraction: float

    @property
    def whole(self) -> RowStatistics | None:
        """The statistics among all keys, unless the keys are in parts."""
        return self.found.get("")

    @property
    def sums(self) -> Tensor:
        """Finite unless a row has NaN or infinity in its query or in a key of its head: (batch, heads, queries)."""
        heads = self.query_sums.shape[1] // self.key_sums.shape[1]
        keys = self.key_sums if heads == 1 else self.key_sums.repeat_interleave(heads, 1)
        return self.query_sums + keys[..., None]

    @property
    def likeness(self) -> Hashable:
        """What looks that can be averaged together have in common; None if this one is to be averaged alone."""
        if not self.is_plain:
            return None
        shape, heads = self.query_sums.shape[1:], self.key_sums.shape[1]
        return (tuple(self.found), self.sizes, shape, heads, self.total, self.fraction, self.query_sums.device)

    @property
    def size(self) -> int:
        """How much memory it holds [bytes]."""
        tensors = [found[name] for found in self.found.values() for name in found.names() if name != "keys"]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def look_among(parts: Mapping[str, Where], call: AttentionCall, asked: Asked, statistics: Sequence[str]) -> Look:
    """Look at the query rows ``asked``, among each of the ``parts`` of the keys by itself."""
    found, sizes = {}, []
    for part, where in parts.items():
        key, mask = (call.key, asked.mask) if part == "" else keys_at(call, asked, where)
        causal = asked.is_causal and part == ""
        found[part] = row_statistics_in_pieces(
            asked.query, key, scale=call.scale, mask=mask, is_causal=causal, statistics=statistics
        )
        sizes.append(key.shape[-2])
    exact = torch.promote_types(asked.query.dtype, torch.float32)
    return Look(
        found=found,
        sizes=tuple(sizes),
        query_sums=asked.query.sum(-1, dtype=exact),
        key_sums=sums_of_keys(call.key, asked, exact),
        total=asked.keys,
        is_whole=asked.is_whole,
        is_plain=asked.is_whole and all(isinstance(where, slice) for where in parts.values()),
        counted=asked.counted,
        fraction=asked.fraction,
    )


def sums_of_keys(key: Tensor, asked: Asked, exact: torch.dtype) -> Tensor:
    """Sum of all keys of a head that any row of ``asked`` may attend to: (batch, heads).

    Where rows differ in their keys, NaN is left to their own statistics, which are NaN where a row has such a key.
    """
    if asked.mask is None and not asked.is_causal:
        return key.sum((-2, -1), dtype=exact)
    if asked.mask is not None:
        left = ~masked_out(asked.mask if asked.mask.ndim > 1 else asked.mask[None]).all(-2)
        if left.ndim > 2 and left.shape[-2] not in (1, key.shape[1]):  # of heads that share keys
            left = left.unflatten(-2, (key.shape[1], -1)).any(-2)
        key = key.masked_fill(~left[..., None], 0)
    return key.nan_to_num(nan=0.0, posinf=torch.inf, neginf=-torch.inf).sum((-2, -1), dtype=exact)


def joined(looks: Sequence[Look]) -> Look:
    """Looks that are alike as one, batch after batch."""
    first = looks[0]
    if len(looks) == 1:
        return first
    sums = torch.cat([one.query_sums for one in looks])
    found = {}
    for part, size in zip(first.found, first.sizes, strict=True):
        names = [name for name in first.found[part].names() if name != "keys"]
        values = {name: torch.cat([one.found[part][name] for one in looks]) for name in names}
        keys = torch.full((), size, device=sums.device).expand(sums.shape)
        found[part] = RowStatistics(keys=keys, **values)
    return replace(first, found=found, query_sums=sums, key_sums=torch.cat([one.key_sums for one in looks]))
