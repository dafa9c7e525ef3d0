"""From one attention call to a few numbers per head: row statistics first, averages over rows afterwards."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .capture import AttentionCall
from .entropy import row_statistics
from .entropy.rows import rows_of
from .errors import EntropyLabError

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
        """What the entries of a reduced call are, in order."""
        spread = ("entropy_std",) if "entropy" in self.statistics else ()
        return ("rows", "rows_empty", "tokens", *self.statistics, *spread)

    def __call__(self, call: AttentionCall) -> Tensor:
        """Reduce a call to (entries, batch, heads), on its device, without waiting for it."""
        query, mask, is_causal = call.query, call.mask, call.is_causal
        if self.rows is not None and self.rows < query.shape[-2]:
            query, mask, is_causal = subset(query, call.key.shape[-2], mask, is_causal, self.rows)
        fields = tuple(ROW_STATISTICS[name] for name in self.statistics)
        found = row_statistics(query, call.key, scale=call.scale, mask=mask, is_causal=is_causal, statistics=fields)
        counted = found.keys > 0
        valid = counted.sum(-1)
        values = [valid, (~counted).sum(-1), found.keys.sum(-1) / valid]
        values += [found[name].nanmean(-1) for name in fields]
        if "entropy" in self.statistics:
            centred = found["entropy"] - found["entropy"].nanmean(-1, keepdim=True)
            values.append(centred.square().nanmean(-1).sqrt())
        return torch.stack([value.to(torch.float32) for value in values])


def subset(
    query: Tensor, keys: int, mask: Tensor | None, is_causal: bool, rows: int
) -> tuple[Tensor, Tensor | None, bool]:
    """``rows`` of the query rows, the same ones whenever a layer has this many, with their part of the mask."""
    queries = query.shape[-2]
    generator = torch.Generator().manual_seed(queries)
    chosen = torch.randperm(queries, generator=generator)[:rows].sort().values.to(query.device, non_blocking=True)
    if is_causal:
        earlier = torch.arange(keys, device=query.device) <= chosen[:, None]
        return query.index_select(-2, chosen), earlier, False
    if mask is not None and mask.ndim >= 2 and mask.shape[-2] != 1:
        mask = rows_of(mask, 0, queries).index_select(-2, chosen)
    return query.index_select(-2, chosen), mask, False
