"""An independent way to row entropies: attention processors that materialise every map in float64."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def entropy_of(logits: torch.Tensor) -> torch.Tensor:
    """-sum A log A over the last dimension of softmax(logits), in float64, with 0 log 0 = 0."""
    weights = logits.double().softmax(-1)
    return -torch.special.xlogy(weights, weights).sum(-1)


class MapProcessor:
    """Plain attention that keeps the row entropies, and the row variances of the logits, of every call."""

    def __init__(self, path: str, found: dict[str, list]) -> None:
        self.path, self.found = path, found

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            projection(tokens).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projection, tokens in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        logits = query.double() @ key.double().transpose(-1, -2) / query.shape[-1] ** 0.5
        self.found[self.path].append((entropy_of(logits), logits.var(-1, unbiased=False)))
        mixed = (logits.softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(-2)
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
