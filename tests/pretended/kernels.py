"""What stands in for kernels that the CPU has not: the package's own, and memory-efficient attention."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from entropylab.entropy import reference
from entropylab.entropy.rows import Rows, RowStatistics
from entropylab.entropy.sums import joined, summed

PADDED_TO = 32
"""The log-sum-exp of memory-efficient attention has so many rows, or a multiple of it."""


def row_kernel(rows: Rows, out: Tensor, counts: Tensor | None) -> None:
    """What our kernel writes into ``out`` and ``counts``, by the reference in float64, for tensors of the CPU."""
    mask = rows.mask if rows.mask is None or rows.mask.dtype == torch.bool else rows.mask.double()
    found = reference.row_statistics(replace(rows, q=rows.q.double(), own_k=rows.own_k.double(), mask=mask))
    for index, name in enumerate(rows.statistics):
        out[index] = found[name].float()
    if counts is not None:
        counts.copy_(found.keys.expand(counts.shape))


def sum_kernel(
    pieces: Sequence[Rows], statistics: tuple[str, ...], is_split: bool, found: Tensor, counts: Tensor | None,
    begin: int, end: int, counted: Tensor | None,
) -> Tensor:  # fmt: skip
    """What our kernel of sums writes, by small operations in float64, for tensors of the CPU."""
    rows = []
    for index, piece in enumerate(pieces):
        if counts is not None:
            keys = counts[index]
        else:
            left = torch.arange(1, piece.q.shape[-2] + 1) if piece.is_causal else torch.tensor(piece.own_k.shape[-2])
            keys = left.clamp(max=piece.own_k.shape[-2]).expand(found.shape[2:])
        own = {
            name: values[..., begin:end].double() for name, values in zip(piece.statistics, found[index], strict=True)
        }
        rows.append(RowStatistics(keys=keys[..., begin:end], **own))
    some = None if counted is None else counted.expand(found.shape[2:])[..., begin:end]
    split = joined(rows) if is_split else None
    return summed(rows[0] if split is None else split.whole, statistics, some, split)


def efficient(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    wants_lse: bool,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``_scaled_dot_product_efficient_attention``, computed in float64."""
    logits = q.double() @ k.double().transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        logits = logits + bias.double()
    if is_causal:
        logits = logits.masked_fill(~torch.ones(logits.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    found, lse = (logits.softmax(-1) @ v.double()).to(q.dtype), logits.logsumexp(-1).float()
    lse = torch.nn.functional.pad(lse, (0, -lse.shape[-1] % PADDED_TO), value=torch.inf)
    return found, lse, torch.zeros((), dtype=torch.int64), torch.zeros((), dtype=torch.int64)


ABSENT = {"aten::_scaled_dot_product_efficient_attention": efficient}
"""Operations that only CUDA has -> what computes the same on the CPU."""
