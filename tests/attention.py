"""Attention as tests write it: q, k and v in heads, and a layer that is nothing else."""

import torch.nn.functional as F
from torch import Tensor, nn


def in_heads(projection: nn.Module, tokens: Tensor, heads: int) -> Tensor:
    """(batch, tokens, width) projected, as (batch, heads, tokens, d)."""
    return projection(tokens).unflatten(-1, (heads, -1)).transpose(1, 2)


def together(values: Tensor) -> Tensor:
    """(batch, heads, tokens, d) as (batch, tokens, width)."""
    return values.transpose(1, 2).flatten(-2)


class PlainAttention(nn.Module):
    """Attention of its tokens to themselves, or to a context."""

    def __init__(self, width: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))

    def sides(self, tokens: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v: (batch, heads, tokens, d) each."""
        context = tokens if context is None else context
        query = in_heads(self.to_q, tokens, self.heads)
        return query, in_heads(self.to_k, context, self.heads), in_heads(self.to_v, context, self.heads)

    def forward(self, tokens: Tensor, context: Tensor | None = None) -> Tensor:
        return together(F.scaled_dot_product_attention(*self.sides(tokens, context)))
