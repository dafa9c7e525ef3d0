"""Row statistics where a GPU is short of memory: asked again for fewer rows at a time, until there is room."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..entropy import RowStatistics, row_statistics
from ..entropy.rows import rows_of


def row_statistics_in_pieces(
    query: Tensor,
    key: Tensor,
    *,
    scale: float,
    mask: Tensor | None,
    statistics: Sequence[str],
    is_causal: bool = False,
) -> RowStatistics:
    """``row_statistics``; where that runs out of memory, of half of the rows and then of the other half.

    Raises:
        torch.OutOfMemoryError: no room for a single row.
    """
    try:
        return row_statistics(query, key, scale=scale, mask=mask, is_causal=is_causal, statistics=statistics)
    except torch.OutOfMemoryError:
        if query.shape[-2] < 2:
            raise
    # Outside of the except clause, where the error no longer keeps the tensors of what failed alive.
    if query.is_cuda:
        torch.cuda.empty_cache()
    halves = []
    for start, stop in ((0, query.shape[-2] // 2), (query.shape[-2] // 2, query.shape[-2])):
        part = None if mask is None else rows_of(mask, start, stop)
        if is_causal:
            part = causal(part, start, stop, key)
        found = row_statistics_in_pieces(query[..., start:stop, :], key, scale=scale, mask=part, statistics=statistics)
        halves.append(found)
    names = ("keys", *statistics)
    return RowStatistics(**{name: torch.cat([half[name] for half in halves], -1) for name in names})


def causal(mask: Tensor | None, start: int, stop: int, key: Tensor) -> Tensor:
    """The mask of rows ``start`` to ``stop`` of causal attention."""
    from .asked import both

    rows = torch.arange(start, stop, device=key.device)
    return both(mask, torch.arange(key.shape[-2], device=key.device) <= rows[:, None])
