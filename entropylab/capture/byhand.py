"""Attention that a module computes by hand: the softmax that it takes over keys is all there is to be seen of it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .calls import NOWHERE, AttentionCall, check_readable
from .forwards import running, unfollowed
from .interception import Interception, active, is_linear, tell
from .tracing import version_of

HEADS = ("heads", "num_heads", "num_attention_heads", "n_heads", "n_head")
"""What modules call the number of their heads."""


@dataclass(frozen=True, eq=False)
class Noted:
    """A softmax that was taken.

    Attributes:
        logits: its logits.
        dim: the dimension.
        version: how often the logits had been changed in place.
        memory: the memory that its result is in, where it matters.
        from_scores: whether the logits may have come from a product of two batches.
        path: of the module that took it.
    """

    logits: Tensor
    dim: Any
    version: int
    memory: int | None = None
    from_scores: bool = False
    path: str = ""

    @property
    def is_last(self) -> bool:
        """Whether it is over the last dimension."""
        return self.dim in (-1, self.logits.ndim - 1)

    @property
    def is_changed(self) -> bool:
        """Whether the logits are not what they were."""
        return version_of(self.logits) != self.version

    @property
    def keys(self) -> int:
        """What it may be a map to so many keys of."""
        return self.logits.shape[self.dim]

    @property
    def is_of_keys(self) -> bool:
        """Whether it may be that of an attention map, whose logits are still there."""
        return self.logits.ndim > 2 and self.is_last and not self.is_changed


@unfollowed
def note(logits: Any, dim: Any) -> None:
    """Let the innermost attention layer that runs note the logits, unless its attention was seen otherwise."""
    for interception in active:
        frame = next((frame for frame in reversed(interception.frames) if frame.is_attention), None)
        if frame is not None and not frame.seen and not interception.rescales and isinstance(logits, Tensor):
            again = any(one.logits is logits and one.dim == dim for one in frame.softmaxes)  # one calls another
            frame.softmaxes += [] if again else [Noted(logits, dim, version_of(logits))]


@torch.no_grad()
@unfollowed
def see_by_hand(interception: Interception) -> None:
    """Tell of the softmax that the innermost module took by hand, if it made no attention call beside it.

    Of several, nobody can say which is the attention.
    """
    frame = interception.frames[-1]
    noted, frame.softmaxes = frame.softmaxes, []
    if not noted or frame.seen:
        return
    if len(noted) > 1 or not noted[0].is_of_keys or is_linear(frame.module):
        frame.why = f"takes {len(noted)} softmaxes by hand, of which none is surely that of an attention map"
        return
    tell_of_logits(interception, noted[0].logits.detach())


def tell_of_logits(interception: Interception, logits: Tensor) -> None:
    """Tell of the attention that the innermost module computes by hand, by its logits."""
    frame = interception.frames[-1]
    call = call_of_logits(logits, heads_of(frame.module))
    if (forward := running()) is not None:
        place = (id(interception), frame.module)
        call = replace(call, occurrence=forward.counts[place], inputs=forward.inputs)
        forward.counts[place] += 1
    tell(interception, call)


def heads_of(module: Any) -> int:
    """How many heads a module says that it has; 1 if it says nothing."""
    return next((n for name in HEADS if isinstance(n := getattr(module, name, None), int)), 1)


def call_of_logits(logits: Tensor, heads: int) -> AttentionCall:
    """A call with these logits, (batch, heads, queries, keys) or (batch * heads, queries, keys), and nothing else."""
    check_readable(logits)
    if logits.ndim == 3:
        logits = logits.unflatten(0, (-1, heads)) if len(logits) % heads == 0 else logits[:, None]
    logits = logits.flatten(0, -4) if logits.ndim > 4 else logits
    if logits.shape[1] != heads == logits.shape[2]:
        logits = logits.transpose(1, 2)
    query = logits.new_zeros(*logits.shape[:3], 1)
    key = logits.new_zeros(*logits.shape[:2], logits.shape[3], 1)
    return AttentionCall("", NOWHERE, query, key, logits, 1.0, False, None)
