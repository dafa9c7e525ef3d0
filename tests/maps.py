"""Independent ways to what attention does: whole maps in float64, by processors of diffusers or beside SDPA."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
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


@contextmanager
def every_map(roots: dict[str, nn.Module]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Run some modules: layer path -> per call A (batch, heads, queries, keys), 0 in rows that have no keys."""
    found: dict[str, list[torch.Tensor]] = defaultdict(list)
    paths: list[str] = []
    attend = F.scaled_dot_product_attention

    def seen(
        query: Any, key: Any, value: Any, attn_mask: Any = None, *rest: Any, scale: Any = None, **more: Any
    ) -> Any:
        if paths:
            logits = logits_of(query, key, scale)
            if attn_mask is not None:
                is_bias = attn_mask.is_floating_point()
                logits = logits + attn_mask if is_bias else logits.masked_fill(~attn_mask, -torch.inf)
            found[paths[-1]].append(logits.softmax(-1).nan_to_num())
        return attend(query, key, value, attn_mask, *rest, scale=scale, **more)

    with ExitStack() as stack:
        for name, root in roots.items():
            for path, module in root.named_modules(prefix=name):
                enter = module.register_forward_pre_hook(lambda *_, path=path: paths.append(path))
                leave = module.register_forward_hook(lambda *_: paths.pop() and None)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", seen))
        yield found
