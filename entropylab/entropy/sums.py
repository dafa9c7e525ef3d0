"""What an attention call leaves of its rows: the sums over them for every head, and what its weights give to keys.

Keys may fall into parts (image and text, say). By the chain rule H = H(part) + sum_m p_m H_m, where p_m is the weight
that the row gives to part m, H(part) the entropy of these weights, and H_m the row's entropy among the keys of m alone.
No map exists at any time: weights are made of the logits of a few rows and of the rows' LSE.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import native, triton
from .choice import answer, choose, fused
from .reference import by_chunks
from .rows import (
    BETWEEN,
    COUNTS,
    NUMBERS,
    OF_PART,
    STATISTICS,
    KeyParts,
    Rows,
    RowStatistics,
    both,
    causal,
    check_rows,
    rows_of,
)

CUMULANTS = ("mean", "variance", "third", "fourth")


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


@dataclass(frozen=True)
class Parts:
    """Rows by the parts of their keys: the statistics among each, and over all; the weight p_m of each, and what it
    adds to the entropy, p_m H_m, both (parts, ..., heads, queries); and the entropy between the parts, H(part).
    """

    rows: Sequence[RowStatistics]
    whole: RowStatistics
    mass: Tensor
    within: Tensor
    between: Tensor


def needed(names: tuple[str, ...]) -> tuple[str, ...]:
    """Which statistics of the parts the statistics ``names`` of the whole need."""
    highest = max((CUMULANTS.index(name) for name in names if name in CUMULANTS), default=0)
    wanted = {"entropy", "lse", *names, *CUMULANTS[: highest + 1]}
    return tuple(name for name in STATISTICS if name in wanted)


def joined(rows: Sequence[RowStatistics]) -> Parts:
    """All about rows from what is `needed` of them among each part of their keys."""
    own = {name: torch.stack([each[name].masked_fill(each.keys == 0, 0) for each in rows]) for name in rows[0].names()}
    counts = own.pop("keys")
    keys = counts.sum(0)
    own_lse = own["lse"].masked_fill(counts == 0, -torch.inf)
    lse = own_lse.logsumexp(0)
    mass = (own_lse - lse).exp().masked_fill(keys == 0, 0)
    within, between = mass * own["entropy"], -torch.special.xlogy(mass, mass).sum(0)
    found = {"entropy": between + within.sum(0), "lse": lse}
    if "sensitivity" in own:  # the law of total variance
        expected = own["lse"] - own["entropy"]
        apart = expected - (mass * expected).sum(0)
        found["sensitivity"] = (mass * (own["sensitivity"] + apart.square())).sum(0)
    share = counts.to(mass.dtype) / keys.clamp(min=1)
    mean = (share * own["mean"]).sum(0)
    shift = own["mean"] - mean
    found["mean"] = mean
    if "variance" in own:
        second = own["variance"]
        found["variance"] = (share * (second + shift.square())).sum(0)
    if "third" in own:
        third = own["third"]
        found["third"] = (share * (third + 3 * shift * second + shift.pow(3))).sum(0)
    if "fourth" in own:
        moment = own["fourth"] + 3 * second.square()
        moment = moment + 4 * shift * third + 6 * shift.square() * second + shift.pow(4)
        found["fourth"] = (share * moment).sum(0) - 3 * found["variance"].square()
    found = {name: values.masked_fill(keys == 0, torch.nan) for name, values in found.items()}
    return Parts(rows, RowStatistics(keys=keys, **found), mass, within, between)


def summed(
    rows: RowStatistics, statistics: Sequence[str], counted: Tensor | None = None, parts: Parts | None = None
) -> Tensor:
    """The sums of statistics (batch, heads, queries) over the rows that count: float64 (batch, heads, ``NUMBERS``)."""
    counts = rows.keys.new_ones((), dtype=torch.bool) if counted is None else counted
    ran, values = (rows.keys > 0) & counts, {name: rows[name].double() for name in statistics}
    finite = sum(values.values(), rows["mean"]).isfinite()
    good = ran & finite
    columns = dict(enumerate((good, (rows.keys == 0) & counts, ran & ~finite, rows.keys * ran)))
    for name, own in values.items():
        place = len(COUNTS) + STATISTICS.index(name)
        columns[place] = own.masked_fill(~good, 0)
        columns[place + len(STATISTICS)] = columns[place].square()
    if parts is not None:
        columns[BETWEEN] = parts.between.masked_fill(~good, 0)
        for index, each in enumerate(parts.rows):
            there = good & (each.keys > 0)
            of_part = (there, each.keys, parts.mass[index], parts.within[index], each["entropy"], each.variance)
            for place, part in enumerate(of_part, BETWEEN + 1 + index * len(OF_PART)):
                if part is not None:
                    columns[place] = part.masked_fill(~there, 0)
    sums = good.new_zeros((*good.shape[:2], NUMBERS), dtype=torch.float64)
    for place, own in columns.items():
        sums[..., place] = own.double().sum(-1)
    return sums


def received(rows: Rows, lse: Tensor | None = None, counted: Tensor | None = None) -> Tensor:
    """The weight that each key gets, mean over query rows: the column means of A, (..., heads, keys), adding up to 1.

    NaN where no row of the head counts (boolean, broadcastable to (batch, heads, queries), or None); rows without keys,
    or whose ``lse`` (..., heads, queries) is NaN, never do.
    """
    lse = answer(replace(rows, statistics=("lse",)))["lse"] if lse is None else lse
    good = lse.isfinite() if counted is None else lse.isfinite() & counted
    total = torch.zeros((*rows.q.shape[:-2], rows.own_k.shape[-2]), dtype=rows.dtype, device=rows.q.device)
    for chunk, logits in by_chunks(rows):
        weights = (logits - lse[..., chunk, None]).exp()
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
    for chunk, logits in by_chunks(replace(rows, own_k=k, mask=mask, is_causal=False)):
        found[..., chunk, :] = (logits - lse[..., chunk, None]).exp()
    return found
