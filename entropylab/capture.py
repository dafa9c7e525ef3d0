"""See every attention call of some modules, with its real q, k, mask and scale; change nothing but the scale.

Forward hooks say *where* we are; between them ``F.scaled_dot_product_attention`` itself is seen, and so is
``get_attention_scores`` of modules that compute their map by hand. Knows torch modules, and no models.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
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
    """What ``intercept`` yields: which modules were seen to attend, and which ran without being seen.

    Attributes:
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


def looks_like_attention(module: nn.Module) -> bool:
    """Whether a module's class says that it is an attention layer (rather than a block that holds some)."""
    name = type(module).__name__.lower()
    return isinstance(module, nn.MultiheadAttention) or (
        ("attention" in name or name.endswith("attn")) and (hasattr(module, "to_q") or hasattr(module, "processor"))
    )


active: list[Interception] = []
_lock = threading.Lock()
_original = F.scaled_dot_product_attention


@contextmanager
def intercept(
    roots: Mapping[str, nn.Module],
    on_attention: OnAttention,
    *,
    on_forward: OnForward | None = None,
    rescales: bool = False,
) -> Iterator[Interception]:
    """Call ``on_attention`` for every attention call made inside ``roots``, while the context lasts.

    Args:
        roots: name -> module whose attention is of interest; layers are named by path from there.
        on_attention: gets an AttentionCall; with ``rescales``, what it returns multiplies the scale: a float, or one
            factor per head as a tensor (heads,); None changes nothing.
        on_forward: called as (name, root, args, kwargs) whenever a root's forward begins.
        rescales: whether ``on_attention`` may change the scale. Such interceptions come first, so that all others see
            the scale that the model then uses.
    """
    interception = Interception(on_attention, on_forward, rescales)
    handles: list[Any] = []
    overridden: list[nn.Module] = []
    try:
        for name, root in roots.items():
            for path, module in root.named_modules(prefix=name):
                handles.extend(watch(interception, path, module, is_root=module is root))
                if hasattr(module, "get_attention_scores") and "get_attention_scores" not in vars(module):
                    module.get_attention_scores = seen_scores(module)
                    overridden.append(module)
        activate(interception)
        yield interception
    finally:
        deactivate(interception)
        for handle in handles:
            handle.remove()
        for module in overridden:
            del module.get_attention_scores


def activate(interception: Interception) -> None:
    """Add an interception; the first one replaces the attention function."""
    with _lock:
        if not active:
            F.scaled_dot_product_attention = seen_sdpa
        active.append(interception)
        active.sort(key=lambda other: not other.rescales)


def deactivate(interception: Interception) -> None:
    """Remove an interception; the last one puts the attention function back."""
    with _lock:
        if interception in active:
            active.remove(interception)
            if not active:
                F.scaled_dot_product_attention = _original


def watch(interception: Interception, path: str, module: nn.Module, is_root: bool) -> list[Any]:
    """Hook one module. The hooks fall away once the module has run without attending, unless it is an attention
    layer: so only attention layers are hooked from the second forward on.
    """
    suspicious = looks_like_attention(module)
    handles: list[Any] = []

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> None:
        if is_root:
            interception.frames.clear()
            if interception.on_forward is not None:
                interception.on_forward(path, module, args, kwargs)
        interception.frames.append(Frame(path, module, context_tokens(args, kwargs)))

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        if not interception.frames or interception.frames[-1].module is not module:
            return
        frame = interception.frames.pop()
        if suspicious and not frame.seen:
            interception.unseen[path] = f"{type(module).__name__} ran without an attention call that can be seen"
        elif not frame.attended and not suspicious and not is_root:
            for handle in handles:
                handle.remove()

    handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
    handles.append(module.register_forward_hook(leave, always_call=True))
    return handles


def context_tokens(args: tuple, kwargs: dict) -> int | None:
    """How many tokens a forward was handed as ``encoder_hidden_states``, other than its own once more."""
    context = kwargs.get("encoder_hidden_states")
    own = kwargs.get("hidden_states", args[0] if args else None)
    return int(context.shape[-2]) if isinstance(context, Tensor) and context is not own and context.ndim > 1 else None


def consult(call: AttentionCall) -> float | Tensor:
    """Show a call to every interception that runs here; return the factor on its scale (1.0: leave it alone)."""
    factor: float | Tensor = 1.0
    with torch.no_grad():
        for interception in active:
            if not interception.frames:
                continue
            answer = interception.on_attention(interception.located(call))
            interception.passed()
            if interception.rescales and answer is not None:
                call = rescaled(call, answer)
                factor = factor * answer
    return factor


def rescaled(call: AttentionCall, factor: float | Tensor) -> AttentionCall:
    """``call`` with its logits multiplied by ``factor``."""
    if isinstance(factor, Tensor):
        return replace(call, query=per_head(call.query, factor))
    return replace(call, scale=call.scale * factor)


def per_head(query: Tensor, factor: Tensor) -> Tensor:
    """Queries (batch, heads, queries, d) times one factor per head."""
    return query * factor.to(query.device, query.dtype)[:, None, None]


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
    if any(interception.frames for interception in active):
        factor = consult(
            plain_call(query, key, attn_mask, query.shape[-1] ** -0.5 if scale is None else scale, is_causal)
        )
        if isinstance(factor, Tensor):
            query = per_head(query, factor)
        elif factor != 1.0:
            scale = factor * (query.shape[-1] ** -0.5 if scale is None else scale)
    return _original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)


def plain_call(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, is_causal: bool) -> AttentionCall:
    """A call whose place is not known yet."""
    return AttentionCall("", nn.Identity(), query.detach(), key.detach(), mask, scale, is_causal, None)


def seen_scores(module: Any) -> Callable[..., Tensor]:
    """``module.get_attention_scores`` (query, key, mask -> map), seen by the active interceptions."""
    compute = module.get_attention_scores

    def scores(query: Tensor, key: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if not any(interception.frames for interception in active):
            return compute(query, key, attention_mask)
        heads = module.heads
        split_query, split_key = (flat.unflatten(0, (-1, heads)) for flat in (query, key))
        mask = attention_mask
        if mask is not None and mask.ndim == 3 and mask.shape[0] == query.shape[0]:
            mask = mask.unflatten(0, (-1, heads))
        factor = consult(plain_call(split_query, split_key, mask, module.scale, False))
        if isinstance(factor, Tensor):
            query = per_head(split_query, factor).flatten(0, 1)
        elif factor != 1.0:
            query = query * factor
        return compute(query, key, attention_mask)

    return scores
