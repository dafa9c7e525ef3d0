"""An independent way to row entropies: attention processors that materialise every map in float64."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .attention import in_heads, together


def logits_of(query: torch.Tensor, key: torch.Tensor, scale: float | None = None) -> torch.Tensor:
    """scale q k^T in float64; the usual scale is 1/sqrt(d)."""
    return query.double() @ key.double().transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)


def entropy_of(logits: torch.Tensor) -> torch.Tensor:
    """-sum A log A over the last dimension of softmax(logits), in float64."""
    return entropy_of_map(logits.double().softmax(-1))


def entropy_of_map(weights: torch.Tensor) -> torch.Tensor:
    """-sum A log A over the last dimension of A, with 0 log 0 = 0."""
    return -torch.special.xlogy(weights, weights).sum(-1)


class MapProcessor:
    """Plain attention that keeps the row entropies, and the row variances of the logits, of every call."""

    def __init__(self, path: str, found: dict[str, list]) -> None:
        self.path, self.found = path, found

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            in_heads(projection, tokens, attn.heads)
            for projection, tokens in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        logits = logits_of(query, key)
        self.found[self.path].append((entropy_of(logits), logits.var(-1, unbiased=False)))
        mixed = together(logits.softmax(-1).to(value.dtype) @ value)
        return attn.to_out[1](attn.to_out[0](mixed))


@contextmanager
def materialised(unet: nn.Module, prefix: str = "unet.") -> Iterator[dict[str, list]]:
    """Run ``unet`` with MapProcessors: layer path -> per call (entropy, variance), each (batch, heads, queries)."""
    found: dict[str, list] = defaultdict(list)
    before = dict(unet.attn_processors)
    unet.set_attn_processor({name: MapProcessor(prefix + name.removesuffix(".processor"), found) for name in before})
    try:
        yield found
    finally:
        unet.set_attn_processor(before)
