"""What an interception knows: where it is (which modules run in this thread), and whom to tell of an attention call."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
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
        context: how many other tokens the module was handed to attend to (``encoder_hidden_states``); None if none.
    """

    layer: str
    module: nn.Module
    query: Tensor
    key: Tensor
    mask: Tensor | None
    scale: float
    is_causal: bool
    context: int | None


NOWHERE = nn.Identity()
"""The module of a call whose place is not known yet."""

OnAttention = Callable[[AttentionCall], "float | Tensor | None"]
OnForward = Callable[[str, nn.Module, tuple, dict], None]


@dataclass
class Frame:
    """A module whose forward is running."""

    path: str
    module: nn.Module
    context: int | None
    attended: bool = False
    seen: bool = False


@dataclass(eq=False)
class Interception:
    """Which modules run, which were seen to attend, and which ran without being seen.

    Attributes:
        on_attention: told of every attention call; with ``rescales``, what it returns multiplies the scale.
        on_forward: told when a root's forward begins.
        unseen: path -> reason, of modules that look like attention and ran without an attention call that we see.
    """

    on_attention: OnAttention
    on_forward: OnForward | None
    rescales: bool
    unseen: dict[str, str] = field(default_factory=dict)
    local: threading.local = field(default_factory=threading.local)

    @property
    def frames(self) -> list[Frame]:
        """The modules that run in this thread, outermost first."""
        if not hasattr(self.local, "frames"):
            self.local.frames = []
        return self.local.frames

    def located(self, call: AttentionCall) -> AttentionCall:
        """``call`` with the place where this interception sees it."""
        frame = self.frames[-1]
        return replace(call, layer=frame.path, module=frame.module, context=frame.context)

    def passed(self) -> None:
        """Note that the innermost module has made an attention call."""
        self.frames[-1].attended = True
        for frame in self.frames:
            frame.seen = True


active: list[Interception] = []
"""The interceptions that are on, those that rescale first."""


def anybody() -> bool:
    """Whether any interception is inside one of its modules in this thread."""
    return any(interception.frames for interception in active)


def call_of(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, is_causal: bool) -> AttentionCall:
    """A call whose place is not known yet; q and k (batch, heads, tokens, d)."""
    return AttentionCall("", NOWHERE, query.detach(), key.detach(), mask, scale, is_causal, None)


@torch.no_grad()
def ask(call: AttentionCall) -> float | Tensor:
    """The factor on a call's scale: one number, or one per head (heads,); 1.0 leaves it alone."""
    factor: float | Tensor = 1.0
    for interception in active:
        if interception.rescales and interception.frames:
            answer = interception.on_attention(interception.located(call))
            interception.passed()
            factor = factor if answer is None else factor * answer
    return factor


@torch.no_grad()
def show(call: AttentionCall) -> None:
    """Tell whoever observes of a call, as the model then makes it."""
    for interception in active:
        if not interception.rescales and interception.frames:
            with torch.autocast(call.query.device.type, enabled=False):
                interception.on_attention(interception.located(call))
            interception.passed()


def per_head(query: Tensor, factor: Tensor) -> Tensor:
    """Queries (batch, heads, queries, d) times one factor per head."""
    exact = torch.promote_types(query.dtype, torch.float32)
    return (query.to(exact) * factor.to(query.device, exact, non_blocking=True)[:, None, None]).to(query.dtype)


def rescaled(call: AttentionCall, factor: float | Tensor) -> AttentionCall:
    """``call`` with its logits multiplied by ``factor``."""
    if isinstance(factor, Tensor):
        return replace(call, query=per_head(call.query, factor))
    return replace(call, scale=call.scale * factor)
