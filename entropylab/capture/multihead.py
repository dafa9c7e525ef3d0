"""``nn.MultiheadAttention``: its fast path calls no attention function, so q and k are computed once more."""

import inspect
from functools import reduce
from operator import add

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
    followed = (sides[0][:, None], sides[1][:, None])
    packed, bias = module.in_proj_weight, module.in_proj_bias
    weights = [module.q_proj_weight, module.k_proj_weight] if packed is None else packed.chunk(3)
    biases = [None, None] if bias is None else bias.chunk(3)
    with torch.no_grad(), torch._C.DisableTorchFunction():
        query, key = (
            F.linear(side, weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
            for side, weight, bias in zip(sides, weights, biases, strict=False)
        )
        show(frame, call_of(frame, query, key, mask_of(module, given), module.head_dim**-0.5, False, followed))
    frame.is_seen(by_all=False)


def mask_of(module: nn.MultiheadAttention, given: dict) -> Tensor | None:
    """The module's two masks and the padding of nested tensors, added up; in the module's own, True closes."""
    masks = []
    if given["key"].is_nested:
        counts = torch.tensor([len(each) for each in given["key"].unbind()])
        padding = torch.arange(int(counts.max())) >= counts[:, None]
        masks.append(padding.to(given["key"].device)[:, None, None])
    for name, heads in (("attn_mask", module.num_heads), ("key_padding_mask", 1)):
        mask = given.get(name)
        if mask is not None and name == "key_padding_mask" and mask.ndim == 2:
            mask = mask[:, None, None]
        if mask is not None:
            masks.append(mask.unflatten(0, (-1, heads)) if mask.ndim == 3 else mask)
    added = [
        torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask
        for mask in masks
    ]
    return reduce(add, added) if added else None
