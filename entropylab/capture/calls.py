"""One attention call, as the model makes it, and as it is once its logits are rescaled."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EntropyLabError
from .inputs import Inputs
from .roles import Roles

Beside = tuple[int | None, int | None]
"""``context`` and ``own`` of an attention call."""


@dataclass(eq=False, slots=True)
class KnownCall:
    """What is known of a layer's calls that look alike: of the same shapes, in forwards with inputs of the same shapes.

    Attributes:
        roles: what their tokens stand for, where that can be told.
        by: what each observer keeps of them.
        is_whole: whether they are no slices of a call.
        refused: observers that have no use for them.
        is_idle: whether that is all who look at them.
    """

    roles: Roles | None = None
    by: dict[Any, Any] = field(default_factory=dict)
    refused: set[Any] = field(default_factory=set)
    is_whole: bool = False
    is_idle: bool = False


@dataclass(eq=False, slots=True)
class AttentionCall:
    """One attention call as the model makes it.

    Attributes:
        layer: path of the module that makes it, e.g. "unet.mid_block.attentions.0.transformer_blocks.0.attn1".
        module: that module.
        query: (batch, heads, queries, d).
        key: (batch, heads, keys, d).
        mask: as the model passes it: boolean or additive, broadcastable to (batch, heads, queries, keys), or None.
        scale: the factor on the logits.
        is_causal: whether a causal mask applies as well.
        occurrence: how many calls that module made before this one in the same forward of its root.
        inputs: what the root's forward was handed, where that is known.
        known: what is known of calls that look like it; the same object for all of these.
        rescaled: what of it, or of the queries, is a rule's: one number, or one per head (heads,).
        beside: asks what the module was handed, for ``context`` and ``own``.
    """

    layer: str
    module: nn.Module
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float
    is_causal: bool
    occurrence: int = 0
    inputs: Inputs | None = None
    known: KnownCall = field(default_factory=KnownCall)
    rescaled: float | Tensor = 1.0
    beside: "Callable[[AttentionCall], Beside] | None" = None

    @property
    def roles(self) -> Roles | None:
        """What the query rows and the keys stand for, where that can be told."""
        return self.known.roles

    @property
    def context(self) -> int | None:
        """How many other tokens the module was handed to attend to (``encoder_hidden_states``); None if none."""
        return None if self.beside is None else self.beside(self)[0]

    @property
    def own(self) -> int | None:
        """How many of the keys are the module's own tokens, where the queries are fewer than the keys.

        They may be a slice of these tokens, or have sinks beside them; None if it can't be told.
        """
        return None if self.beside is None else self.beside(self)[1]


def check_readable(query: Tensor, key: Tensor) -> None:
    """An EntropyLabError if tensors hold no rows that could be looked at one by one."""
    if query.is_nested or key.is_nested:
        raise EntropyLabError("attends with nested (jagged) tensors, whose rows can't be told apart")
    if torch._C._functorch.peek_interpreter_stack() is not None and (
        torch._C._functorch.is_batchedtensor(query) or torch._C._functorch.is_batchedtensor(key)
    ):
        raise EntropyLabError("runs inside of torch.vmap, where no values can be read")


def per_head(query: Tensor, factor: Tensor) -> Tensor:
    """Queries (batch, heads, queries, d) times one factor per head."""
    exact = torch.promote_types(query.dtype, torch.float32)
    return (query.to(exact) * factor.to(query.device, exact, non_blocking=True)[:, None, None]).to(query.dtype)


def in_autocast(call: AttentionCall, device: str) -> AttentionCall:
    """``call`` as autocast lets PyTorch compute it where it is on: in half precision, but for float64."""
    dtype = torch.get_autocast_dtype(device)
    mask = call.mask if call.mask is None else cast(call.mask, dtype)
    return replace(call, query=cast(call.query, dtype), key=cast(call.key, dtype), mask=mask)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What autocast makes of an argument."""
    is_cast = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if is_cast else tensor


def rescaled(call: AttentionCall, factor: float | Tensor) -> AttentionCall:
    """``call`` with its logits multiplied by ``factor``."""
    if isinstance(factor, Tensor):
        return replace(call, query=per_head(call.query, factor), rescaled=factor)
    return replace(call, scale=call.scale * factor, rescaled=factor)
