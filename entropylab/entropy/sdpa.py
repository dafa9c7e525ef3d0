"""Row entropy by the attention identity: E_A[s] = scale <q, (A K)>, and A K is attention with the keys as values.

One fused attention call that also returns its LSE gives the entropy, with no map and no kernel of our own. Mean and
variance come from the mean and covariance of the keys, in O(N d^2).
"""

import torch
from torch import Tensor
from torch.linalg import vecdot

from .rows import Rows, RowStatistics, masked_out

SUPPORTED = ("entropy", "lse", "mean", "variance")
CUDA_WIDTH = 4
BIAS_WIDTH = 16
"""What the row lengths of queries and keys, and of a bias, must be multiples of on CUDA [elements]."""


def why_not(rows: Rows) -> str | None:
    """Why this backend can't answer ``rows``, or None if it can."""
    device, mask = rows.q.device.type, rows.mask
    if device not in ("cpu", "cuda"):
        return f"no fused attention that returns its LSE on device {device!r}"
    if device == "cuda" and (rows.dtype == torch.float64 or rows.q.shape[-1] % CUDA_WIDTH):
        return f"fused attention on CUDA takes float32 of a head dimension that is a multiple of {CUDA_WIDTH}"
    if unsupported := [name for name in rows.statistics if name not in SUPPORTED]:
        return f"the attention identity does not give {', '.join(unsupported)}"
    if mask is not None and mask.dtype != torch.bool:
        if device == "cuda":
            return "whether an additive mask only leaves keys out can't be told without waiting for the device"
        if not ((mask == 0) | masked_out(mask)).all():
            return "the mask has values between 0 and -inf"
    if rows.is_causal and mask is not None:
        return "a mask beside is_causal"
    if rows.wants("mean", "variance") and not rows.is_same_for_all_queries:
        return "mean and variance under a mask that differs by query"
    return None


def row_statistics(rows: Rows) -> RowStatistics:
    """Entropy, LSE, mean and variance of ``rows``; accumulated in float32, or float64 for float64 input."""
    q, k = rows.q.to(rows.dtype).contiguous(), rows.shared_out(rows.own_k.to(rows.dtype))
    blocked, keys = None if rows.mask is None else rows.blocked(), rows.keys()
    nothing = keys == 0
    by_row = not rows.is_same_for_all_queries
    weight = key_weights(None if by_row else blocked, k)
    if by_row:
        bad = ~k.sum(-1).isfinite()
        k, nothing = k.masked_fill(bad[..., None], 0), nothing | spoiled_rows(rows, blocked, bad)
    elif blocked is not None:
        k = k.masked_fill(weight == 0, 0)  # whatever a key holds that is left out
    centre = (weight * k).sum(-2, keepdim=True)
    centred = (k - centre).contiguous()
    mean = rows.scale * (q @ centre.transpose(-1, -2))[..., 0]
    nothing = nothing | ~mean.isfinite()
    found = {"mean": mean}
    if rows.wants("variance"):
        covariance = (weight * centred).transpose(-1, -2) @ centred
        found["variance"] = rows.scale**2 * vecdot(q @ covariance, q).clamp(min=0)
    if rows.wants("entropy", "lse"):
        expected, lse = attend(q, centred, rows.scale, blocked, rows.is_causal)
        found["lse"] = lse + mean
        found["entropy"] = (lse - rows.scale * vecdot(q, expected)).clamp(min=0)
    return RowStatistics(keys, **{name: found[name].masked_fill(nothing, torch.nan) for name in rows.statistics})


def spoiled_rows(rows: Rows, blocked: Tensor | None, bad: Tensor) -> Tensor:
    """Which rows have a key among theirs that is ``bad`` (..., heads, keys): boolean (..., heads, queries)."""
    queries, keys = rows.q.shape[-2], bad.shape[-1]
    if blocked is None:
        last = torch.arange(queries, device=bad.device).clamp(max=keys - 1)
        return (bad.cumsum(-1) > 0)[..., last]
    left, bad = (~blocked).to(rows.dtype), bad.to(rows.dtype)
    left = left.expand(*left.shape[:-1], keys)
    if left.ndim > 2 and left.shape[-3] > 1:
        return (left @ bad[..., None])[..., 0] > 0
    left = left[..., 0, :, :] if left.ndim > 2 else left  # one mask for all heads, which is not repeated for each
    return (left @ bad.transpose(-1, -2)).transpose(-1, -2) > 0


def key_weights(blocked: Tensor | None, k: Tensor) -> Tensor:
    """1/N for every key that is left, 0 for others: broadcastable to (..., heads, keys, 1)."""
    if blocked is None:
        return k.new_full((1, 1), 1 / k.shape[-2])
    left = (~blocked).expand(*blocked.shape[:-1], k.shape[-2]).to(k.dtype)
    left = left.reshape(*left.shape[:-2], left.shape[-1], 1) if left.ndim > 1 else left[:, None]
    return left / left.sum(-2, keepdim=True).clamp(min=1)


def attend(q: Tensor, k: Tensor, scale: float, blocked: Tensor | None, is_causal: bool) -> tuple[Tensor, Tensor]:
    """``A K`` (..., heads, queries, d) and the LSE (..., heads, queries) of softmax(scale q k^T)."""
    heads = q.shape[-3]
    flat_q, flat_k = (t.reshape(-1, heads, *t.shape[-2:]) for t in (q, k))
    bias = None if blocked is None else bias_of(blocked, q, k)
    if q.device.type == "cpu":
        mixed, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            flat_q, flat_k, flat_k, 0.0, is_causal, attn_mask=bias, scale=scale
        )
    else:
        mixed, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
            flat_q, flat_k, flat_k, bias, True, 0.0, is_causal, scale=scale
        )
        lse = lse[..., : q.shape[-2]]
    return mixed.reshape(q.shape), lse.to(q.dtype).reshape(q.shape[:-1])


def bias_of(blocked: Tensor, q: Tensor, k: Tensor) -> Tensor:
    """-inf where ``blocked``, else 0: (batch, heads, queries, keys), in rows of a length that CUDA can load from."""
    keys, blocked = k.shape[-2], blocked if blocked.ndim > 1 else blocked[None]
    bias = torch.zeros((*blocked.shape[:-1], keys + -keys % BIAS_WIDTH), dtype=q.dtype, device=q.device)
    bias[..., :keys].masked_fill_(blocked, -torch.inf)
    bias = bias.expand(*q.shape[:-2], *bias.shape[-2:])
    return bias.reshape(-1, *bias.shape[-3:]).expand(-1, -1, q.shape[-2], -1)[..., :keys]
