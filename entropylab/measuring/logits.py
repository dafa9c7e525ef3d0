"""Logits of a few query rows: what row statistics are statistics of, and the law's Gaussian assumption is about."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from ..capture import AttentionCall, intercept
from ..entropy.reference import wide_keys
from ..entropy.rows import check_rows, masked_out
from ..errors import EntropyLabError, check_int, counted, names_of
from ..pipelines import denoisers


def logit_sample(
    q: Tensor, k: Tensor, scale: float | None = None, rows: int = 64, *, mask: Tensor | None = None, seed: int = 0
) -> Tensor:
    """Logits of a few random query rows, the same ones of every head; only these rows of the map are computed.

    Args:
        q: queries (..., heads, queries, d).
        k: keys (..., heads, keys, d); may have fewer heads than q.
        scale: factor on the logits; 1/sqrt(d) if None.
        rows: how many rows; all if there are fewer.
        mask: as of `entropylab.row_statistics`; the logit of a key that it leaves out is NaN.
        seed: of the choice of rows.

    Returns:
        Tensor (..., heads, rows, keys), float32, or float64 for float64 input.

    Raises:
        EntropyLabError: as `entropylab.row_statistics`; no row asked for.

    Examples:
        >>> import torch
        >>> q, k = torch.randn(4, 100, 8), torch.randn(4, 120, 8)
        >>> entropylab.logit_sample(q, k, rows=16).shape
        torch.Size([4, 16, 120])
    """
    check_int("rows", rows)
    asked = check_rows(q, k, scale, mask, False, ("entropy",))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(q.shape[-2], generator=generator)[:rows].sort().values.to(q.device)
    logits = q[..., chosen, :].to(asked.dtype) @ wide_keys(asked) * asked.scale
    if mask is None:
        return logits
    own = mask[..., chosen, :] if mask.ndim > 1 and mask.shape[-2] > 1 else mask
    shifted = logits if own.dtype == torch.bool else logits + own
    return shifted.masked_fill(masked_out(own), torch.nan)


def sampled_logits(
    pipe: Any, run: Callable[[], Any], layers: str | Sequence[str] = "*", rows: int = 16, seed: int = 0
) -> dict[str, list[Tensor]]:
    """Logits of a few rows of every attention call that a pipeline makes meanwhile; images stay as they are.

    Args:
        pipe: a diffusers pipeline or a torch.nn.Module.
        run: samples; called once, e.g. ``lambda: pipe("a red car", num_inference_steps=4)``.
        layers: patterns of layer paths, e.g. "*mid_block*attn1".
        rows: query rows of each call, the same ones whenever a layer has as many.
        seed: of the choice of rows.

    Returns:
        Layer path -> a list, call after call, of logits (batch, heads, rows, keys) on the CPU.

    Raises:
        EntropyLabError: no such layer ran.
    """
    patterns = names_of(layers)
    if not patterns:
        raise EntropyLabError(f"layers must be a pattern of layer paths, or several. Got {layers!r}.")
    found: dict[str, list[Tensor]] = {}
    met: list[str] = []

    def take(call: AttentionCall) -> None:
        met.append(call.layer)
        if any(fnmatchcase(call.layer, pattern) for pattern in patterns):
            logits = logit_sample(call.query, call.key, call.scale, rows, mask=call.mask, seed=seed)
            found.setdefault(call.layer, []).append(logits.cpu())

    with intercept(denoisers(pipe), take):
        run()
    if not found:
        ran = sorted(set(met))
        such = f", such as {ran[0]}" if ran else ""
        raise EntropyLabError(
            f"layers must match one of the {counted(len(ran), 'layer')} that ran{such}. Got {patterns}."
        )
    return found
