"""An independent sight of attention: every call of the denoisers, its rows' entropies from float64 maps."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

LEFT_OUT = -9999


@dataclass
class Seen:
    """One attention call: the entropies of its rows (batch, heads, queries), and of which rows nobody looks as keys."""

    entropy: Tensor
    images: int
    unused: Tensor | None


def entropies(query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None, is_causal: bool) -> Tensor:
    """-sum A log A of every row, from a whole map in float64; NaN where the mask leaves no key."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    logits = query.double() @ key.double().transpose(-1, -2) * scale
    if mask is not None:
        logits = logits + mask.double() if mask.dtype != torch.bool else logits.masked_fill(~mask, -torch.inf)
        blocked = (~mask if mask.dtype == torch.bool else mask <= LEFT_OUT).expand(logits.shape)
        logits = logits.masked_fill(blocked, -torch.inf)
    if is_causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
        logits = logits.masked_fill(later, -torch.inf)
    weights = logits.softmax(-1)
    return -torch.special.xlogy(weights, weights).sum(-1)


class Sight:
    """Collects calls by the path of the module that makes them."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Seen]] = defaultdict(list)
        self.counts: dict[str, int] = {}
        self.paths: list[str] = []
        self.images = 1

    def add(self, found: Tensor, mask: Tensor | None = None, keys: int = 0) -> None:
        """Take a call's entropies (batch, heads, queries)."""
        path = self.paths[-1]
        self.counts[path] = self.counts.get(path, 0) + 1
        count = self.counts[path]
        unused = None
        if mask is not None and found.shape[-1] == keys:
            closed = ~mask if mask.dtype == torch.bool else mask <= LEFT_OUT
            unused = closed.expand(*closed.shape[:-2], found.shape[-1], keys).all(-2)
            unused = unused.expand(found.shape)
        self.calls[path if count == 1 else f"{path}:{count}"].append(Seen(found, self.images, unused))

    def sdpa(self, original: Any) -> Any:
        """``original``, seen."""

        def seen(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **more):
            if self.paths:
                self.add(entropies(query, key, attn_mask, scale, is_causal), attn_mask, key.shape[-2])
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)

        return seen

    def scores(self, original: Any) -> Any:
        """``Attention.get_attention_scores``, seen."""

        def seen(module, query, key, attention_mask=None):
            weights = original(module, query, key, attention_mask)
            if self.paths:
                exact = weights.detach().double()
                rows = -torch.special.xlogy(exact, exact).sum(-1)
                self.add(rows.unflatten(0, (-1, module.heads)))
            return weights

        return seen


def first_of(args: tuple, kwargs: dict) -> int:
    """How many images a denoiser is handed."""
    value = (*args, *kwargs.values())[0]
    return len(value)


@contextmanager
def sight(denoisers: dict[str, nn.Module]) -> Iterator[Sight]:
    """See every attention call of some denoisers."""
    found = Sight()
    with ExitStack() as stack:
        for name, root in denoisers.items():
            for path, module in root.named_modules(prefix=name):

                def enter(module, args, kwargs, path=path, root=root):
                    if module is root:
                        found.counts, found.images = {}, first_of(args, kwargs)
                    found.paths.append(path)

                def leave(module, args, output):
                    found.paths.pop()

                stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(
            mock.patch.object(F, "scaled_dot_product_attention", found.sdpa(F.scaled_dot_product_attention))
        )
        stack.enter_context(
            mock.patch.object(Attention, "get_attention_scores", found.scores(Attention.get_attention_scores))
        )
        yield found
