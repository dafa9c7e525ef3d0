"""What is left of softmax weights themselves: what each key gets of all rows, and what each row gives to some keys.

No map exists at any time: the rows' LSE, from whatever backend, makes weights of the logits of a few rows. Given it, a
key's weight needs no other key.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .choice import answer
from .reference import by_chunks
from .rows import Rows
from .sums import both


def received(rows: Rows, lse: Tensor | None = None, counted: Tensor | None = None) -> Tensor:
    """The weight that each key gets, mean over query rows: the column means of A, (..., heads, keys), adding up to 1.

    NaN where no row of the head counts (boolean, broadcastable to (batch, heads, queries), or None); rows without keys,
    or whose ``lse`` (..., heads, queries) is NaN, never do.
    """
    lse = answer(replace(rows, statistics=("lse",)))["lse"] if lse is None else lse
    good = lse.isfinite() if counted is None else lse.isfinite() & counted
    total = torch.zeros((*rows.q.shape[:-2], rows.own_k.shape[-2]), dtype=rows.dtype, device=rows.q.device)
    for chunk, weights in weights_by_chunks(rows, lse):
        total += weights.masked_fill(~good[..., chunk, None], 0).sum(-2)
    return total / good.sum(-1, keepdim=True)


def weight_on(rows: Rows, lse: Tensor, places: Tensor) -> Tensor:
    """The weight that each row gives to the keys at ``places`` (batch, places): (batch, heads, queries, places).

    NaN where the ``lse`` is, that of every row over all its keys.
    """
    own_k, mask, (batch, count) = rows.own_k, rows.mask, places.shape
    k = own_k.gather(2, places[:, None, :, None].expand(batch, own_k.shape[1], count, own_k.shape[3]))
    if mask is not None and mask.shape[-1] > 1:
        mask = mask.reshape(*(1,) * (4 - mask.ndim), *mask.shape)
        mask = mask.expand(batch, -1, -1, -1)
        mask = mask.gather(-1, places[:, None, None].expand(*mask.shape[:-1], count))
    if rows.is_causal:
        mask = both(mask, places[:, None, None] <= torch.arange(rows.q.shape[-2], device=places.device)[:, None])
    found = torch.empty((*rows.q.shape[:-1], count), dtype=rows.dtype, device=rows.q.device)
    for chunk, weights in weights_by_chunks(replace(rows, own_k=k, mask=mask, is_causal=False), lse):
        found[..., chunk, :] = weights
    return found


def weights_by_chunks(rows: Rows, lse: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some query rows, and what they give to the keys, (..., heads, those rows, keys); then the next."""
    for chunk, logits in by_chunks(rows):
        yield chunk, (logits - lse[..., chunk, None]).exp()
