"""The definition: a plain softmax over chunks of rows. Slow, works everywhere, float64 for float64 input."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .rows import Rows, RowStatistics, rows_of

CHUNK_ELEMENTS = 2**19
"""Logits at a time: few enough for a CPU's caches."""

LARGER_ON_A_DEVICE = 32
"""How many times as many elsewhere, where every operation is a launch."""


def row_statistics(rows: Rows) -> RowStatistics:
    """Every statistic of ``rows``, a chunk of query rows at a time, so that no whole map exists.

    Where gradients are wanted each chunk is computed once more on the way back, so that none exists then either.
    """
    k = wide_keys(rows)
    if rows.want_gradients():
        again = partial(checkpoint, statistics_of, rows, k, use_reentrant=False, preserve_rng_state=False)
        parts = [again(chunk) for chunk in chunks(rows)]
        joined = {name: torch.cat([part[name] for part in parts], -1) for name in rows.statistics}
        return RowStatistics(keys=rows.keys(), **joined)
    # Small results kept between large temporaries would let the heap grow to several maps: room for all, first.
    found = {name: rows.q.new_empty(rows.q.shape[:-1], dtype=rows.dtype) for name in rows.statistics}
    for chunk in chunks(rows):
        known = statistics_of(rows, k, chunk)
        for name in rows.statistics:
            found[name][..., chunk] = known[name]
    return RowStatistics(keys=rows.keys(), **found)


def by_chunks(rows: Rows) -> Iterator[tuple[slice, Tensor]]:
    """Some query rows, and their logits (..., heads, those rows, keys), -inf where a key is left out; then the next."""
    k = wide_keys(rows)
    for chunk in chunks(rows):
        yield chunk, logits_of(rows, k, chunk)


def chunks(rows: Rows) -> Iterator[slice]:
    """Query rows, a chunk of them after another."""
    queries, keys = rows.q.shape[-2], rows.own_k.shape[-2]
    maps = rows.q.shape[:-2].numel()
    elements = CHUNK_ELEMENTS * (1 if rows.q.device.type == "cpu" else LARGER_ON_A_DEVICE)
    step = max(1, min(elements // (maps * keys), -(-queries // 4)))
    for start in range(0, queries, step):
        yield slice(start, min(start + step, queries))


def wide_keys(rows: Rows) -> Tensor:
    """Keys as all chunks need them: (..., heads, d, keys), in the dtype of the statistics."""
    return rows.shared_out(rows.own_k.to(rows.dtype)).transpose(-1, -2)


def logits_of(rows: Rows, k: Tensor, chunk: slice) -> Tensor:
    """The logits of a chunk: (..., heads, its rows, keys), -inf where a key is left out; NaN for other infinities."""
    logits = rows.q[..., chunk, :].to(rows.dtype) @ k * rows.scale
    if rows.mask is not None and rows.mask.dtype != torch.bool:
        logits = logits + rows_of(rows.mask, chunk.start, chunk.stop).to(rows.dtype)
    logits = logits.nan_to_num(torch.nan, torch.nan, torch.nan)
    blocked = rows.blocked(chunk.start, chunk.stop)
    return logits if blocked is None else logits.masked_fill(blocked, -torch.inf)


def statistics_of(rows: Rows, k: Tensor, chunk: slice) -> dict[str, Tensor]:
    """At least the statistics that are asked for, of a chunk."""
    logits = logits_of(rows, k, chunk)
    known = attention_statistics(logits) if rows.wants("entropy", "lse", "sensitivity") else {}
    if rows.wants("mean", "variance", "third", "fourth"):
        known |= cumulants(logits)
    return known


def attention_statistics(logits: Tensor) -> dict[str, Tensor]:
    """Entropy, lse and sensitivity of the softmax over the last dimension; -inf logits do not count."""
    largest = logits.detach().amax(-1, keepdim=True)  # whatever is subtracted, gradients are the same
    shifted = logits - largest
    weight = shifted.exp()
    shifted = shifted.masked_fill(weight == 0, 0)
    total = weight.sum(-1)
    first = (weight * shifted).sum(-1) / total
    spread = (weight * (shifted - first[..., None]).square()).sum(-1) / total
    log_total = total.log()
    return {"entropy": log_total - first, "lse": log_total + largest[..., 0], "sensitivity": spread}


def cumulants(logits: Tensor) -> dict[str, Tensor]:
    """Mean, variance, third and fourth cumulant over the last dimension; -inf logits do not count."""
    counted = logits != -torch.inf
    count = counted.sum(-1)
    mean = logits.masked_fill(~counted, 0).sum(-1) / count
    centred = (logits - mean[..., None]).masked_fill(~counted, 0)
    square = centred.square()  # pow(4) takes many times as long
    second, third, fourth = (power.sum(-1) / count for power in (square, square * centred, square * square))
    return {"mean": mean, "variance": second, "third": third, "fourth": fourth - 3 * second.square()}
