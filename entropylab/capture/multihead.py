"""``nn.MultiheadAttention``: its fast path calls no attention function, so q and k are computed once more."""

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .handed import in_batches
from .session import Frame
from .telling import call_of, show


def see_multihead(frame: Frame, module: nn.MultiheadAttention) -> None:
    """Tell the observers of the attention that a MultiheadAttention is about to compute; it cannot be rescaled.

    One with keys of its own, or whose weights come later (offloaded), may be seen while it computes.
    """
    absent = any(weight.is_meta for weight in module.parameters(recurse=False))
    if module.bias_k is not None or module.add_zero_attn or absent:
        return
    frame.by_inputs = True
    given = inspect.signature(nn.MultiheadAttention.forward).bind(module, *frame.args, **frame.kwargs).arguments
    sides = [in_batches(module, given[name]) for name in ("query", "key")]
    coloured = (sides[0][:, None], sides[1][:, None])
    with torch.no_grad(), torch._C.DisableTorchFunction():
        query, key = projected(module, *sides)
        show(frame, call_of(frame, query, key, blocked_by(module, given), module.head_dim**-0.5, False, coloured))
    frame.is_seen(by_all=False)


def projected(module: nn.MultiheadAttention, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The q and k (batch, heads, tokens, d) from tokens (batch, tokens, width)."""
    bias = module.in_proj_bias
    biases = (None, None) if bias is None else bias.chunk(3)[:2]
    weights = (
        (module.q_proj_weight, module.k_proj_weight)
        if module.in_proj_weight is None
        else module.in_proj_weight.chunk(3)[:2]
    )
    query, key = (F.linear(*parts) for parts in zip((query, key), weights, biases, strict=True))
    return split(query, module), split(key, module)


def split(tokens: Tensor, module: nn.MultiheadAttention) -> Tensor:
    """(batch, tokens, width) as (batch, heads, tokens, d)."""
    return tokens.unflatten(-1, (module.num_heads, -1)).transpose(1, 2)


def blocked_by(module: nn.MultiheadAttention, given: dict) -> Tensor | None:
    """The module's two masks, in which True (or -inf) closes, as one mask in which True (or 0) lets through."""
    masks = [padding_of(given["key"])] if given["key"].is_nested else []
    for name, heads in (("attn_mask", module.num_heads), ("key_padding_mask", 1)):
        mask = given.get(name)
        if mask is None:
            continue
        mask = mask[:, None, None, :] if name == "key_padding_mask" and mask.ndim == 2 else mask
        mask = mask.unflatten(0, (-1, heads)) if mask.ndim == 3 else mask
        masks.append(
            torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask, -torch.inf)
            if mask.dtype == torch.bool
            else mask
        )
    return None if not masks else masks[0] if len(masks) == 1 else masks[0] + masks[1]


def padding_of(tokens: Tensor) -> Tensor:
    """A mask of what is no padding once a nested tensor is padded: (batch, 1, 1, tokens)."""
    counts = [len(each) for each in tokens.unbind()]
    kept = torch.zeros(len(counts), max(counts), dtype=torch.bool, device=tokens.device)
    for row, count in zip(kept, counts, strict=True):
        row[:count] = True
    return kept[:, None, None]
