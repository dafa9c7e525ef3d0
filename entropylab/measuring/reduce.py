"""From one attention call to a few numbers per head: row statistics first, averages over rows afterwards."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..capture import AttentionCall
from ..entropy import RowStatistics
from ..entropy.parts import Parts, needed
from ..entropy.rows import masked_out
from ..errors import EntropyLabError
from .pieces import row_statistics_in_pieces

ROW_STATISTICS = {
    "entropy": "entropy",
    "sigma2": "variance",
    "third": "third",
    "fourth": "fourth",
    "sensitivity": "sensitivity",
    "lse": "lse",
    "mean": "mean",
}
"""Variable of the Dataset -> field of RowStatistics."""


def check_statistics(statistics: Any) -> tuple[str, ...]:
    """``statistics`` as a tuple of known names, or an EntropyLabError."""
    names = (statistics,) if isinstance(statistics, str) else tuple(statistics) if is_listing(statistics) else ()
    unknown = [name for name in names if name not in ROW_STATISTICS]
    if unknown or not names or len(set(names)) < len(names):
        raise EntropyLabError(f"statistics must be some of {', '.join(ROW_STATISTICS)}, each once. Got {statistics!r}.")
    return names


def is_listing(value: Any) -> bool:
    """Whether ``value`` is a list or tuple of names."""
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def check_rows_count(rows: Any) -> int | None:
    """``rows`` as a positive int or None, or an EntropyLabError."""
    if rows is not None and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 1):
        raise EntropyLabError(f"rows must be a positive int, or None for every query row. Got {rows!r}.")
    return rows


SPLIT = (
    "keys_image",
    "mass_image",
    "mass_text",
    "entropy_between",
    "entropy_from_image",
    "entropy_from_text",
    "entropy_from_other",
    "entropy_image",
    "entropy_text",
    "sigma2_image",
)
"""What joint attention has beside: its entropy by the chain rule, and what its rows do among the image's keys alone."""

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


@dataclass(frozen=True)
class Reduction:
    """Which numbers a call is reduced to.

    Attributes:
        statistics: variables of the Dataset, each averaged over query rows.
        rows: how many query rows to look at, a fixed random subset; None for all.
    """

    statistics: tuple[str, ...]
    rows: int | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What the entries of a reduced call are, in order; those of ``SPLIT`` only where attention is joint."""
        spread = ("entropy_std",) if "entropy" in self.statistics else ()
        errors = () if self.rows is None else tuple(f"{name}_se" for name in self.statistics)
        return ("rows", "rows_empty", "tokens", *self.statistics, *spread, *errors, "rows_bad", *SPLIT)

    @property
    def fields(self) -> tuple[str, ...]:
        """The statistics as ``row_statistics`` calls them."""
        return tuple(ROW_STATISTICS[name] for name in self.statistics)

    def __call__(self, call: AttentionCall) -> dict[str, Tensor]:
        """Reduce a call, on its device, without waiting for it.

        Returns:
            What the query rows stand for ("" if for one thing, or nothing is known) -> (entries, batch, heads).
        """
        roles = call.roles
        if roles is None or roles.queries.codes is None:
            return {"": self.reduced(call, slice(None))}
        return {part: self.reduced(call, roles.queries.standing_for(part)) for part in roles.queries.parts}

    def reduced(self, call: AttentionCall, where: Where) -> Tensor:
        """Reduce the query rows that stand somewhere: (entries, batch, heads)."""
        asked = some_rows(rows_at(call, where), self.rows)
        roles = call.roles
        if roles is None or roles.kind != "joint":
            found = row_statistics_in_pieces(
                asked.query,
                call.key,
                scale=call.scale,
                mask=asked.mask,
                is_causal=asked.is_causal,
                statistics=self.fields,
            )
            return self.averaged(found, asked, bad_rows(asked.query, call.key))
        parts = Parts({part: self.among(call, asked, roles.keys.standing_for(part)) for part in roles.keys.parts})
        bad = bad_rows(asked.query, call.key)
        return torch.cat([self.averaged(parts.whole(), asked, bad), self.split(parts, asked, bad)])

    def among(self, call: AttentionCall, asked: Asked, where: Where) -> RowStatistics:
        """The rows' statistics among the keys that stand somewhere."""
        key, mask = keys_at(call, asked, where)
        names = needed(self.fields)
        return row_statistics_in_pieces(asked.query, key, scale=call.scale, mask=mask, statistics=names)

    def averaged(self, found: RowStatistics, asked: Asked, bad: Tensor) -> Tensor:
        """Means over the query rows that count, have keys and are not ``bad``: (entries, batch, heads)."""
        rows = torch.stack([found[name] for name in self.fields]).to(torch.float32)
        shape = rows.shape[1:]
        counted = (found.keys > 0 if asked.counted is None else (found.keys > 0) & asked.counted).expand(shape)
        bad = counted & (bad | ~rows.isfinite().all(0))
        valid, spoiled = (counted & ~bad).sum(-1), bad.sum(-1)
        if asked.is_whole:
            empty, keys = torch.zeros_like(valid), rows.new_full(shape[:2], asked.keys)
        else:
            empty = found.keys == 0 if asked.counted is None else (found.keys == 0) & asked.counted
            empty, keys = empty.expand(shape).sum(-1), (found.keys * counted).sum(-1) / counted.sum(-1)
        counts = torch.stack([valid, empty, keys]).to(torch.float32)
        rows = rows.masked_fill(~counted | bad, torch.nan)
        mean = rows.nanmean(-1)
        entries = [counts, mean]
        if "entropy" in self.statistics or self.rows is not None:
            deviation = (rows - mean[..., None]).square().nanmean(-1).sqrt()
            if "entropy" in self.statistics:
                entries.append(deviation[self.statistics.index("entropy")][None])
            if self.rows is not None:
                entries.append(deviation * standard_error(counts[0], asked.fraction))
        return torch.cat([*entries, spoiled[None].to(torch.float32)])

    def split(self, parts: Parts, asked: Asked, bad: Tensor) -> Tensor:
        """The entries ``SPLIT``, NaN where the keys have no such part: (entries, batch, heads)."""
        names, mass, within = list(parts.rows), parts.mass, parts.within
        nothing = torch.full_like(parts.between, torch.nan)
        found: dict[str, Tensor] = {
            "entropy_between": parts.between,
            "entropy_from_other": torch.zeros_like(parts.between),
        }
        for part, share, adds in zip(names, mass, within, strict=True):
            found[f"mass_{part}"] = share
            name = f"entropy_from_{part if part in ('image', 'text') else 'other'}"
            found[name] = found.get(name, 0) + adds
            found[f"entropy_{part}"] = parts.rows[part]["entropy"]
            found[f"keys_{part}"] = parts.rows[part].keys.to(mass.dtype)
            found[f"sigma2_{part}"] = parts.rows[part]["variance"] if "sigma2" in self.statistics else nothing
        rows = torch.stack([found.get(name, nothing).to(torch.float32).expand_as(nothing) for name in SPLIT])
        keys = parts.counts.sum(0)
        counted = keys > 0 if asked.counted is None else (keys > 0) & asked.counted
        return rows.masked_fill(~counted | bad, torch.nan).nanmean(-1)


def bad_rows(query: Tensor, key: Tensor) -> Tensor:
    """Which rows have NaN or infinity in their query or in a key of their head: boolean (batch, heads, queries).

    A sum is finite if all its terms are: one pass over what `isfinite` takes five for.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    keys = ~key.sum((-2, -1), dtype=dtype).isfinite()
    shared = keys.repeat_interleave(query.shape[-3] // key.shape[-3], -1)
    return ~query.sum(-1, dtype=dtype).isfinite() | shared[..., None]


def standard_error(rows: Tensor, fraction: float) -> Tensor:
    """Factor from the deviation of n rows to the standard error of their mean, as an estimate for all n * fraction."""
    return ((1 - 1 / fraction) / (rows - 1).clamp(min=1)).sqrt()


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
    generator = torch.Generator().manual_seed(queries)
    chosen = torch.randperm(queries, generator=generator)[:rows].sort().values
    chosen = chosen.to(asked.query.device, non_blocking=True)
    mask, counted = asked.mask, asked.counted
    if mask is not None and mask.shape[-2] != 1:
        mask = mask.index_select(-2, chosen)
    if asked.is_causal:
        mask = both(mask, torch.arange(asked.keys, device=chosen.device) <= chosen[:, None])
    if counted is not None and counted.shape[-1] != 1:
        counted = counted.index_select(-1, chosen)
    return Asked(asked.query.index_select(-2, chosen), mask, False, asked.keys, counted, queries / rows)


def keys_at(call: AttentionCall, asked: Asked, where: Where) -> tuple[Tensor, Tensor | None]:
    """The keys of a call that stand somewhere, and the mask of ``asked`` for them."""
    mask = asked.mask
    if asked.is_causal:
        queries = torch.arange(asked.rows, device=call.key.device)
        mask = both(mask, torch.arange(asked.keys, device=call.key.device) <= queries[:, None])
    if isinstance(where, Tensor):
        return call.key, both(mask, where[:, None, None, :])
    mask = mask if mask is None or mask.shape[-1] == 1 else mask[..., where]
    return call.key[..., where, :], mask


def both(mask: Tensor | None, left: Tensor) -> Tensor:
    """``mask``, boolean or additive, with keys closed that are not ``left``."""
    if mask is None:
        return left
    if mask.dtype == torch.bool:
        return mask & left
    shape = torch.broadcast_shapes(mask.shape, left.shape)
    return mask.expand(shape).masked_fill(~left, -torch.inf)
