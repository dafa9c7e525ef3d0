"""What stands in for kernels that the CPU has not: the package's own, and memory-efficient attention."""

import torch
from torch import Tensor

from entropylab.entropy import reference
from entropylab.entropy.rows import Rows

PADDED_TO = 32
"""The log-sum-exp of memory-efficient attention has so many rows, or a multiple of it."""


def row_kernel(rows: Rows, q: Tensor, k: Tensor, out: Tensor, mask: Tensor | None, counts: Tensor | None) -> None:
    """What our kernel writes into ``out`` and ``counts``, by the reference in float64, for tensors of the CPU."""
    exact = mask if mask is None or mask.dtype == torch.bool else mask.double()
    asked = Rows(q.double(), k.double(), rows.scale, exact, rows.is_causal, rows.statistics)
    found = reference.row_statistics(asked)
    for index, name in enumerate(rows.statistics):
        out[:, index] = found[name].float()
    if counts is not None:
        counts.copy_(found.keys.expand(counts.shape))


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
