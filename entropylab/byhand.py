"""Attention that a module computes by hand: the softmax that it takes over keys is all there is to be seen of it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .interception import NOWHERE, AttentionCall, Interception, active


def seen_softmaxes() -> list[tuple[Any, str, Callable[..., Tensor]]]:
    """Owner, name and substitute of everything that is called softmax."""
    return [(owner, "softmax", seen(owner.softmax)) for owner in (torch, F, Tensor)]


def seen(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``original``, whose logits are noted by the modules that run."""

    @wraps(original)
    def softmax(logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dim = args[0] if args else kwargs.get("dim")
        if isinstance(dim, int) and dim in (-1, logits.ndim - 1) and logits.ndim in (3, 4):
            for interception in active:
                if interception.frames and not interception.frames[-1].attended:
                    interception.frames[-1].logits = logits.detach()
        return original(logits, *args, **kwargs)

    return softmax


@torch.no_grad()
def see_by_hand(interception: Interception, is_attention: bool) -> None:
    """Tell of the softmax that the innermost module took by hand, if it made no attention call beside it."""
    frame = interception.frames[-1]
    logits, frame.logits = frame.logits, None
    if logits is None or frame.attended or not is_attention or interception.rescales:
        return
    with torch._C.DisableTorchFunction():
        interception.on_attention(interception.located(call_of_logits(logits, heads_of(frame.module))))
    interception.passed()


def heads_of(module: Any) -> int:
    """How many heads a module says that it has."""
    return next((n for name in ("heads", "num_heads") if isinstance(n := getattr(module, name, None), int)), 1)


def call_of_logits(logits: Tensor, heads: int) -> AttentionCall:
    """A call with these logits, (batch, heads, queries, keys) or (batch * heads, queries, keys), and nothing else."""
    if logits.ndim == 3:
        logits = logits.unflatten(0, (-1, heads)) if len(logits) % heads == 0 else logits[:, None]
    query = logits.new_zeros(*logits.shape[:3], 1)
    key = logits.new_zeros(*logits.shape[:2], logits.shape[3], 1)
    return AttentionCall("", NOWHERE, query, key, logits, 1.0, False, None)
