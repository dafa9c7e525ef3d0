"""The two ways in which attention is computed, each as it is but for being seen: SDPA, and maps made by hand."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .interception import anybody, ask, call_of, per_head, rescaled, show

replaced: list[Callable[..., Tensor]] = []
"""The attention function that ``seen_sdpa`` stands in for while it is on: PyTorch's, or what somebody put there."""


def begin_to_see() -> None:
    """Put ``seen_sdpa`` in the place of the attention function."""
    replaced.append(F.scaled_dot_product_attention)
    F.scaled_dot_product_attention = seen_sdpa


def cease_to_see() -> None:
    """Put the attention function back."""
    F.scaled_dot_product_attention = replaced.pop()


def seen_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``F.scaled_dot_product_attention``, seen by the active interceptions; bit-identical unless the scale changes."""
    if anybody():
        own = query.shape[-1] ** -0.5 if scale is None else scale
        call = call_of(in_four(query), in_four(key), attn_mask, own, is_causal)
        factor = ask(call)
        show(rescaled(call, factor))
        if isinstance(factor, Tensor):
            query = per_head(query, factor)
        elif factor != 1.0:
            scale = factor * own
    more = {"enable_gqa": True} if enable_gqa else {}
    return replaced[-1](query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)


def in_four(tokens: Tensor) -> Tensor:
    """Tokens as (batch, heads, tokens, d): three dimensions have no heads, more than four have a longer batch."""
    return tokens[:, None] if tokens.ndim == 3 else tokens.flatten(0, -4) if tokens.ndim > 4 else tokens


class SeenScores:
    """``module.get_attention_scores`` (query, key, mask -> map), seen by the active interceptions.

    Query and key are (batch * heads, tokens, d), or a slice of that: sliced attention comes in several calls, which
    are gathered until they are a whole.
    """

    def __init__(self, module: Any) -> None:
        self.compute: Callable[..., Tensor] = module.get_attention_scores
        self.module = module
        self.slices: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.whole = 0

    def begin(self, batch: int) -> None:
        """A forward of the module begins, of so many images and branches."""
        self.slices = []
        self.whole = batch * self.module.heads

    def __call__(self, query: Tensor, key: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The map, as the module computes it."""
        if not anybody():
            return self.compute(query, key, attention_mask)
        query = self.rescaled(query, key, attention_mask)
        self.slices.append((query.detach(), key.detach(), attention_mask))
        if sum(len(part) for part, _, _ in self.slices) >= self.whole:
            self.show()
        return self.compute(query, key, attention_mask)

    def rescaled(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """The queries times the factor that is asked for."""
        heads = self.module.heads
        one_query, one_key = (part[:1].expand(heads, *part.shape[1:])[None] for part in (query, key))
        factor = ask(call_of(one_query, one_key, mask, self.module.scale, False))
        if isinstance(factor, Tensor):
            begun = sum(len(part) for part, _, _ in self.slices)
            head = torch.arange(begun, begun + len(query), device=query.device) % heads
            return per_head(query, factor[head.cpu()])
        return query if factor == 1.0 else query * factor

    def show(self) -> None:
        """Tell the observers of the whole call that the slices make."""
        queries, keys, masks = zip(*self.slices, strict=True)
        self.slices = []
        query, key = (torch.cat(parts).unflatten(0, (-1, self.module.heads)) for parts in (queries, keys))
        mask = None if masks[0] is None else torch.cat(masks)
        if mask is not None and mask.ndim == 3:
            mask = mask.unflatten(0, (-1, self.module.heads)) if len(mask) == query.shape[:2].numel() else mask[:, None]
        show(call_of(query, key, mask, self.module.scale, False))
