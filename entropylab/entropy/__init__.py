"""Statistics of softmax attention rows, without ever storing a map. Knows tensors, and nothing of models."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .beyond import beyond
from .choice import BACKENDS, answer, choose
from .rows import BEYOND, STATISTICS, RowStatistics, check_rows

__all__ = ["BACKENDS", "BEYOND", "STATISTICS", "RowStatistics", "row_statistics"]


def row_statistics(
    q: Tensor,
    k: Tensor,
    *,
    scale: float | None = None,
    mask: Tensor | None = None,
    is_causal: bool = False,
    statistics: Sequence[str] = ("entropy", "lse", "mean", "variance"),
    backend: str = "auto",
) -> RowStatistics:
    """Statistics of every row of ``softmax(scale * q k^T + mask)``.

    Args:
        q: queries (..., heads, queries, d), any float dtype.
        k: keys (..., heads, keys, d); may have fewer heads than q, each then shared by a group of q's.
        scale: factor on the logits; 1/sqrt(d) if None.
        mask: boolean (True: may attend) or additive, broadcastable to (..., heads, queries, keys). A key left out by
            False, or by an additive mask of -9999 or less, is not one of a row's N keys.
        is_causal: query i attends to keys 0..i only, beside what ``mask`` says.
        statistics: some of "entropy", "lse", "mean", "variance" (which `entropylab.measure` calls sigma2), "third",
            "fourth" and "sensitivity"; and, which take longer, "gaussian" (with ``unexplained``), "slope", "rarefied".
        backend: "triton" (the fused kernel, on CUDA), "native" (the same in C, on the CPU, compiled at first use),
            "sdpa" (the attention identity), "reference" (chunks of the plain softmax), or "auto": the first of these
            that can answer. "slope" and "rarefied" are always of chunks of the plain softmax, "gaussian" of whichever
            gives entropy and variance first. "auto" is "reference" where gradients are on and an input requires one.

    Returns:
        RowStatistics of tensors (..., heads, queries), float32 (float64 for float64 input). Entropy and LSE in nats.
        Those of "reference" have gradients, in memory of O(N): each chunk is computed again on the way back. "sdpa"
        and "gaussian", "slope" and "rarefied" give none, and the kernels refuse. Rows without keys are NaN and pass
        nothing on.

    Raises:
        EntropyLabError: arguments that do not fit, or a backend that can't do what is asked.

    Source: paper Eq. 2-3; H = LSE - E_A[s].

    Examples:
        >>> import torch
        >>> q, k = torch.zeros(1, 5, 8), torch.randn(1, 100, 8)
        >>> entropylab.row_statistics(q, k).entropy  # zero queries attend uniformly: log 100
        tensor([[4.6052, 4.6052, 4.6052, 4.6052, 4.6052]])
        >>> k = k.requires_grad_()
        >>> (-entropylab.row_statistics(torch.randn(1, 5, 8), k).entropy.mean()).backward()  # against collapse
        >>> k.grad.shape
        torch.Size([1, 100, 8])
    """
    rows = check_rows(q, k, scale, mask, is_causal, statistics)
    streaming = tuple(name for name in rows.statistics if name not in BEYOND)
    more = tuple(name for name in rows.statistics if name in BEYOND)
    asked = replace(rows, statistics=streaming)
    if not streaming:
        found = RowStatistics(rows.keys())
    elif rows.want_gradients() and backend in ("auto", "reference"):
        with torch.autocast(q.device.type, enabled=False):
            found = answer(asked, "reference")
    else:
        if rows.want_gradients():
            choose(asked, backend)  # a kernel without gradients refuses, where they are wanted of it
        with torch.no_grad():
            found = answer(asked, backend)
    with torch.no_grad():
        values = beyond(rows, more)
    return replace(found, **{name: values[name] for name in (*more, "unexplained") if name in values})
