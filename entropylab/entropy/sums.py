"""What an attention call leaves of its rows: for every head, sums over them. Means, spreads and counts follow.

``NUMBERS`` columns: rows that count and are valid, that have no key, that are bad (NaN or infinity in what they are
made of), and their keys; over the valid rows the sums of ``STATISTICS``, of their squares, of the entropy between the
parts of the keys; and of each part: rows that have keys in it, and the sums of their keys, of the weight on it, of what
it adds to the entropy, and of the entropy and the variance within it.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from . import native, triton
from .choice import answer, choose, fused
from .parts import BETWEEN, COUNTS, NUMBERS, OF_PART, KeyParts, Parts, joined, needed
from .rows import STATISTICS, Rows, RowStatistics, check_rows, rows_of

__all__ = ["BETWEEN", "COUNTS", "NUMBERS", "OF_PART", "KeyParts", "head_sums", "summed", "sums_and_rows"]


def head_sums(rows: Rows, counted: Tensor | None = None, parts: KeyParts | None = None) -> Tensor:
    """The sums over the rows of every head: float64 (batch, heads, ``NUMBERS``), on the device of q, without waiting.

    Of rows that are not yet checked, and of those that count: boolean, broadcastable to (batch, heads, queries), or
    None. Sums of statistics not asked for are 0. Where a GPU is short of memory, of half of the rows and then of the
    other half.
    """
    q, k = rows.q, rows.own_k
    (batch, heads, _, width), (others, shared, _, depth) = q.shape, k.shape
    agree = batch == others and width == depth and 0 not in (*q.shape, *k.shape) and not heads % shared
    if not agree or q.dtype != k.dtype or not 0 <= rows.scale < torch.inf:
        check_rows(q, k, rows.scale, rows.mask, rows.is_causal, rows.statistics)  # says what is wrong
    needs_a_pass = not native.FROM_THE_KEYS.issuperset(rows.statistics)
    if needs_a_pass and not isinstance(native.kernel(), str) and native.why_not_tensors(q, k) is None:
        return native.head_sums(rows, counted, parts)
    return sums_and_rows(rows, (), counted, parts)[0]


def sums_and_rows(
    rows: Rows, of_rows: tuple[str, ...], counted: Tensor | None = None, parts: KeyParts | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `head_sums`, and the statistics ``of_rows`` by name: (batch, heads, queries), NaN of rows that don't count."""
    try:
        return at_once(rows, of_rows, counted, parts)
    except torch.OutOfMemoryError:
        if rows.q.shape[-2] < 2:
            raise
    # Outside of the except clause, where the error no longer keeps the tensors of what failed alive.
    if rows.q.is_cuda:
        torch.cuda.empty_cache()
    found, queries = [], rows.q.shape[-2]
    for start, stop in ((0, queries // 2), (queries // 2, queries)):
        mask = None if rows.mask is None else rows_of(rows.mask, start, stop)
        mask = causal(mask, start, stop, rows.own_k) if rows.is_causal else mask
        some = counted if counted is None or counted.shape[-1] == 1 else counted[..., start:stop]
        half = replace(rows, q=rows.q[..., start:stop, :], mask=mask, is_causal=False)
        found.append(sums_and_rows(half, of_rows, some, parts))
    (sums, first), (more, second) = found
    return sums + more, {name: torch.cat([first[name], second[name]], -1) for name in of_rows}


def at_once(
    rows: Rows, of_rows: tuple[str, ...], counted: Tensor | None, parts: KeyParts | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """As `sums_and_rows`, by way of statistics of each row from whatever backend can."""
    pieces = questions(replace(rows, statistics=(*rows.statistics, *of_rows)), parts)
    if not of_rows:
        few = in_few_launches(pieces, rows.statistics, parts is not None, [(0, rows.q.shape[-2], counted)])
        if few is not None:
            return few[0], {}
    found = [answer(each) for each in pieces]
    split = None if parts is None else joined(found)
    whole = found[0] if split is None else split.whole
    sums = summed(whole, rows.statistics, counted, split)
    left_out = ~whole["mean"].isfinite() if counted is None else ~(whole["mean"].isfinite() & counted)
    return sums, {name: whole[name].masked_fill(left_out, torch.nan) for name in of_rows}


def questions(rows: Rows, parts: KeyParts | None) -> list[Rows]:
    """What is asked of rows among each part of the keys, or among all; the mean is finite only if all logits are."""
    names = tuple(dict.fromkeys((*rows.statistics, "mean")))
    if parts is None:
        return [replace(rows, statistics=names)]
    k = rows.own_k
    mask = causal(rows.mask, 0, rows.q.shape[-2], k) if rows.is_causal else rows.mask
    pieces = []
    for where in parts.places:
        if isinstance(where, slice):
            key, own = k[..., where, :], mask if mask is None or mask.shape[-1] == 1 else mask[..., where]
        else:
            key, own = k, both(mask, where[:, None, None, :])
        pieces.append(Rows(rows.q, key, rows.scale, own, False, needed(names)))
    return pieces


def causal(mask: Tensor | None, start: int, stop: int, key: Tensor) -> Tensor:
    """The mask of rows ``start`` to ``stop`` of causal attention."""
    rows = torch.arange(start, stop, device=key.device)
    return both(mask, torch.arange(key.shape[-2], device=key.device) <= rows[:, None])


def both(mask: Tensor | None, left: Tensor) -> Tensor:
    """``mask``, boolean or additive, with keys closed that are not ``left``."""
    if mask is None:
        return left
    if mask.dtype == torch.bool:
        return mask & left
    shape = torch.broadcast_shapes(mask.shape, left.shape)
    return mask.expand(shape).masked_fill(~left, -torch.inf)


def in_few_launches(
    pieces: list[Rows], statistics: tuple[str, ...], is_split: bool, some: Sequence[triton.Some]
) -> list[Tensor] | None:
    """`triton.head_sums`, or None where the fused kernels can't be had."""
    if choose(pieces[0]) != "triton":
        return None
    return fused(pieces[0].q.device, lambda: triton.head_sums(pieces, statistics, is_split, some))


def sums_of_several(
    rows: Rows, counted: Tensor | None, parts: KeyParts | None, places: Sequence[slice | Tensor]
) -> list[Tensor] | None:
    """`head_sums` over the query rows that stand at each of some places: slices, or boolean (batch, queries).

    Each row is looked at once for all of them. None where the fused kernels can't be had, or memory is short.
    """
    queries = rows.q.shape[-2]
    some: list[triton.Some] = []
    for where in places:
        if isinstance(where, slice):
            some.append((*where.indices(queries)[:2], counted))
        else:
            own = where[:, None]
            some.append((0, queries, own if counted is None else own & counted))
    try:
        return in_few_launches(questions(rows, parts), rows.statistics, parts is not None, some)
    except torch.OutOfMemoryError:
        return None


def summed(
    rows: RowStatistics, statistics: Sequence[str], counted: Tensor | None = None, parts: Parts | None = None
) -> Tensor:
    """The sums of statistics (batch, heads, queries) over the rows that count."""
    values = torch.stack([rows[name] for name in statistics]).double()
    counts = rows.keys.new_ones((), dtype=torch.bool) if counted is None else counted
    ran, finite = (rows.keys > 0) & counts, (values.sum(0) + rows["mean"]).isfinite()
    good, empty = ran & finite, ((rows.keys == 0) & counts).expand(ran.shape)
    values = values.masked_fill(~good, 0)
    sums = values.new_zeros(*ran.shape[:2], NUMBERS)
    counters = (good, empty, ran & ~finite, rows.keys * ran)
    sums[..., : len(COUNTS)] = torch.stack([each.sum(-1) for each in counters], -1).double()
    places = [len(COUNTS) + STATISTICS.index(name) for name in statistics]
    for place, own in zip(places, values, strict=True):
        sums[..., place], sums[..., place + len(STATISTICS)] = own.sum(-1), own.square().sum(-1)
    if parts is not None:
        sums[..., BETWEEN] = parts.between.double().masked_fill(~good, 0).sum(-1)
        for index, own in enumerate(parts.rows):
            there = good & (own.keys > 0)
            columns = [there, own.keys, parts.mass[index], parts.within[index], own["entropy"]]
            columns += [own["variance"]] if own.variance is not None else []
            first = BETWEEN + 1 + index * len(OF_PART)
            for place, values in enumerate(columns, first):
                sums[..., place] = values.double().masked_fill(~there, 0).sum(-1)
    return sums
