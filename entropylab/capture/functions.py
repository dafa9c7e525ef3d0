"""The ways in which attention is computed, each as it is but for being seen: SDPA, flex, and scores made by hand."""

import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache, reduce, wraps
from operator import add
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.attention.bias import CausalBias, CausalVariant

from . import bindings
from .byhand import PRODUCTS, heads_in_batch, seen_product, seen_softmax
from .calls import AttentionCall, additive, check_readable, per_head, rescaled
from .changes import replaced
from .session import Frame, fail, in_batches, looked_at, lose, running, session, unseen
from .telling import ask, call_of, call_or_slice, show, show_or_hold

PROBES = (0.0, 1.0, -3.0, 30.0, -100.0)
"""Scores with which we ask whether a ``score_mod`` does anything but add."""

PLAIN = {Tensor, type(None)}
"""Types of what SDPA is handed as a rule: these do nothing of their own."""

lock = threading.RLock()
"""Held while SDPA itself is in its place."""


@contextmanager
def see_functions(functional: Any) -> Iterator[None]:
    """Stand in for the functions that compute attention, for softmax and for products."""
    seen: list[tuple[Any, str, Callable[[Callable], Callable]]] = [
        (functional, "scaled_dot_product_attention", seen_sdpa),
        (torch._C._nn, "scaled_dot_product_attention", seen_sdpa),  # what a module imported before somebody replaced it
        (torch, "softmax", seen_softmax),
        (Tensor, "softmax", seen_softmax),  # F.softmax calls the tensor's
        *((owner, name, seen_product) for owner, name in PRODUCTS),
    ]
    if (flex := sys.modules.get("torch.nn.attention.flex_attention")) is not None:
        seen.append((flex, "flex_attention", seen_flex))
    with ExitStack() as stack:
        stack.callback(bindings.substitutes.clear)
        for owner, name, standing_in in seen:
            original = getattr(owner, name)
            _, substitute = bindings.substitutes.setdefault(id(original), (original, made(standing_in, original)))
            if owner is not torch._C._nn:
                stack.enter_context(replaced(owner, name, substitute))
        yield


@lru_cache(maxsize=64)
def made(standing_in: Callable[[Callable], Callable], original: Callable) -> Callable:
    """What stands in for a function; always the same, for what others compile holds for it alone."""
    return standing_in(original)


def seen_sdpa(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``F.scaled_dot_product_attention``, seen by the observers; bit-identical unless the scale changes."""

    @wraps(original)
    def scaled_dot_product_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        more = {"enable_gqa": True} if enable_gqa else {}
        if is_dynamo_compiling():  # a graph must not hold for what runs now
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        here = session.here
        frame = None if here.quiet else here.frame
        if frame is None or frame.by_inputs or torch.compiler._is_compiling_flag:
            return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        try:
            mask, causal, problem = read_mask(attn_mask, query.device) if attn_mask is not None else (None, False, None)
            own = query.shape[-1] ** -0.5 if scale is None else float(scale)
            q, k = query, key
            if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2]:
                q, k, mask = in_four(query, key, mask, enable_gqa, heads_in_batch(frame, len(query)))
            call = (call_or_slice if frame.held else call_of)(frame, q, k, mask, own, is_causal or causal)
        except Exception as unreadable:
            fail(unreadable)
        else:
            if frame.outer is not None and frame.outer.seen:  # as is after the first call of a forward
                frame.attended = frame.seen = frame.place.attended = True
            else:
                frame.is_seen()
            if call is not None or problem is not None:
                query, scale = shown(frame, call, query, scale, problem)
        here.quiet += 1
        try:
            given = (query, key, value, attn_mask)
            if {type(query), type(key), type(value), type(attn_mask)} <= PLAIN or not any(map(answers_itself, given)):
                return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
            with in_its_own_way(original):
                return original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        finally:
            here.quiet -= 1

    return scaled_dot_product_attention


def shown(
    frame: Frame, call: AttentionCall | None, query: Tensor, scale: float | None, problem: str | None = None
) -> tuple[Tensor, float | None]:
    """Show a call as it is to be made, and say with which queries and scale (as the model gave it, if that stays).

    One with a ``problem`` can be rescaled, and not be measured. None is one that nobody has any use for.
    """
    if call is not None and frame.watchers[0][0].rescales:  # those that rescale come first
        factor = ask(frame, call)
        changes = isinstance(factor, Tensor) or factor != 1.0
        if isinstance(factor, Tensor):
            query = per_head(query, factor if query.ndim > 3 else factor.repeat(len(query) // len(factor)))
        elif changes:
            scale = call.scale * factor
        call = rescaled(call, factor) if changes and frame.has_onlookers else call
    try:
        if problem is not None:
            lose(frame.watchers, problem, of_rescaling=False)
        elif call is not None and (frame.held or not call.known.is_whole):
            show_or_hold(frame, call)
        else:
            show(frame, call)
    except Exception as failure:
        fail(failure, of_rescaling=False)
    return query, scale


def read_mask(mask: Tensor | None, device: torch.device) -> tuple[Tensor | None, bool, str | None]:
    """What a mask for SDPA means: as a plain tensor, or as causal, or a reason why nobody can tell.

    A subclass without an answer of its own to PyTorch's functions means its values, as a parameter does.
    """
    if mask is None or not answers_itself(mask):
        return mask, False, None
    if type(mask) is not CausalBias:
        return None, False, f"its mask is a {type(mask).__name__}, and only that class knows what it means"
    queries, keys = mask.seq_len_q, mask.seq_len_kv
    if queries == keys or mask.variant == CausalVariant.UPPER_LEFT:
        return None, True, None
    last = torch.arange(queries, device=device)[:, None] + (keys - queries)
    return torch.arange(keys, device=device) <= last, False, None


def answers_itself(tensor: Any) -> bool:
    """Whether a tensor is of a subclass that decides what PyTorch's functions do with it."""
    for own in type(tensor).__mro__:
        if own is Tensor:
            return False
        if "__torch_function__" in vars(own):
            return vars(own)["__torch_function__"] is not torch._C._disabled_torch_function_impl
    return False


@contextmanager
def in_its_own_way(original: Any) -> Iterator[None]:
    """Put SDPA itself back into ``torch.nn.functional`` for tensors of subclasses, which may look for it."""
    with lock:
        substitute, F.scaled_dot_product_attention = F.scaled_dot_product_attention, original
        try:
            yield
        finally:
            F.scaled_dot_product_attention = substitute


def seen_flex(original: Callable[..., Any]) -> Callable[..., Any]:
    """``flex_attention``, seen by the observers; its masks are laid out, a boolean a query and key."""

    @wraps(original)
    def flex_attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        score_mod: Callable | None = None,
        block_mask: Any = None,
        scale: float | None = None,
        *rest: Any,
        **more: Any,
    ) -> Any:
        if (frame := looked_at()) is None:
            return original(query, key, value, score_mod, block_mask, scale, *rest, **more)
        try:
            check_readable(query, key)
            mask = flex_mask(query, key, score_mod, block_mask)
            is_mask = mask is not None or (score_mod is None and block_mask is None)
            own = query.shape[-1] ** -0.5 if scale is None else scale
            call = call_or_slice(frame, query, key, mask, own, False) if is_mask else None
        except Exception as problem:
            fail(problem)
        else:
            if is_mask:
                frame.is_seen()
                query, scale = shown(frame, call, query, scale)
        forward = running()
        if forward is not None:
            forward.pause()  # it is followed as a whole
        try:
            with unseen():
                found = original(query, key, value, score_mod, block_mask, scale, *rest, **more)
        finally:
            if forward is not None:
                forward.go_on()
        if forward is not None and (trace := forward.trace) is not None:
            trace.note(trace.inherit, found[0] if isinstance(found, tuple) else found, query)
        return found

    return flex_attention


def flex_mask(query: Tensor, key: Tensor, score_mod: Callable | None, block_mask: Any) -> Tensor | None:
    """What flex attention's functions say, as a mask (batch, heads, queries, keys); None if it is no mask."""
    sides = (query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    shape = (1, 1, *sides[2:]) if block_mask is None else (*block_mask.shape[:2], *sides[2:])
    left = None if block_mask is None else block_mask.mask_mod(*places(shape, query.device)).expand(shape)
    if score_mod is None:
        return left
    added = added_by(score_mod, sides, query.device)
    return added if left is None or added is None else added.masked_fill(~left, -torch.inf)


def places(shape: tuple[int, ...], device: torch.device) -> tuple[Tensor, ...]:
    """Index of batch, head, query and key, each of this shape."""
    return torch.meshgrid(*(torch.arange(side, device=device) for side in shape), indexing="ij")


def added_by(score_mod: Callable, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """What ``score_mod`` adds to the scores (batch, heads, queries, keys); None if it does anything but add."""
    try:
        first, *others = (
            score_mod(torch.full(shape, score, device=device), *places(shape, device)) - score for score in PROBES
        )
    except Exception:  # it is written for one score at a time, and may do anything with many
        return None
    return first if all(torch.allclose(first, other, rtol=1e-5, atol=1e-4) for other in others) else None


def in_four(
    query: Tensor, key: Tensor, mask: Tensor | None, is_grouped: bool, heads: int = 1
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Query, key (batch, heads, tokens, d) and their mask, from what SDPA takes.

    Missing dimensions and those of length 1 are repeated; two dimensions have no batch, three so many ``heads`` in
    their batch, more than four a longer batch.
    """
    if query.shape[:-2] != key.shape[:-2] and not is_grouped:
        lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        query, key = (side.expand(*lead, *side.shape[-2:]) for side in (query, key))
    if query.ndim == 2:
        query, key = query[None], key[None]
    if query.ndim == 3:
        if mask is not None and mask.ndim == 3:
            mask = mask.unflatten(0, (-1, heads)) if len(mask) == len(query) else mask[:, None]
        return query.unflatten(0, (-1, heads)), key.unflatten(0, (-1, heads)), mask
    if query.ndim == 4:
        return query, key, mask
    if mask is not None and mask.ndim > 3:
        mask = mask.expand(*query.shape[:-3], *mask.shape[-3:]).flatten(0, -4)
    return query.flatten(0, -4), key.flatten(0, -4), mask


def see_scores(module: Any) -> AbstractContextManager[None]:
    """Let a module's ``get_attention_scores`` (query, key, mask -> map) be seen.

    Query and key are (batch * heads, tokens, d), or a slice of that: sliced attention comes in several calls, which are
    gathered until they are a whole.
    """
    compute: Callable[..., Tensor] = module.get_attention_scores

    def get_attention_scores(query: Tensor, key: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if (frame := looked_at()) is None:
            return compute(query, key, attention_mask)
        try:
            # that of one image, as if all its heads were the first: what a rule is asked about
            one_query, one_key = (part[:1].expand(module.heads, *part.shape[1:])[None] for part in (query, key))
            call: Any = call_of(frame, one_query, one_key, attention_mask, module.scale, False, counts=False)
        except Exception as problem:
            fail(problem)
            return compute(query, key, attention_mask)
        factor, begun, own = ask(frame, call), sum(len(part) for part, _, _ in frame.slices), frame.own_tokens
        if isinstance(factor, Tensor):
            head = torch.arange(begun, begun + len(query), device=factor.device) % module.heads
            query = per_head(query, factor[head])
        elif factor != 1.0:
            query = query * factor
        try:
            frame.slices = [*frame.slices, (query.detach(), key.detach(), attention_mask)]
            if own is None or begun + len(query) >= len(own) * module.heads:
                show_slices(frame, module, factor)
        except Exception as problem:
            fail(problem, of_rescaling=False)
        with unseen():
            return compute(query, key, attention_mask)

    return replaced(module, "get_attention_scores", get_attention_scores)


def show_slices(frame: Frame, module: Any, factor: float | Tensor) -> None:
    """Tell the observers of the whole call that the slices make."""
    queries, keys, masks = zip(*frame.slices, strict=True)
    frame.slices = ()
    query, key = (torch.cat(parts).unflatten(0, (-1, module.heads)) for parts in (queries, keys))
    mask = None if masks[0] is None else torch.cat(masks)
    if mask is not None and mask.ndim == 3:
        mask = mask.unflatten(0, (-1, module.heads)) if len(mask) == query.shape[:2].numel() else mask[:, None]
    call = call_of(frame, query, key, mask, module.scale, False)
    show(frame, None if call is None else replace(call, rescaled=factor))
    frame.is_seen()


def see_multihead(frame: Frame, module: nn.MultiheadAttention) -> None:
    """Tell the observers of the attention that a MultiheadAttention is about to compute; it cannot be rescaled.

    Its fast path calls no attention function, so q and k are computed once more.
    One with keys of its own, or whose weights come later (offloaded), may be seen while it computes.
    """
    absent = any(weight.is_meta for weight in module.parameters(recurse=False))
    if module.bias_k is not None or module.add_zero_attn or absent:
        return
    frame.by_inputs = True
    given = inspect.signature(nn.MultiheadAttention.forward).bind(module, *frame.args, **frame.kwargs).arguments
    sides = [in_batches(module, given[name]) for name in ("query", "key")]
    followed = (sides[0][:, None], sides[1][:, None])
    packed, bias = module.in_proj_weight, module.in_proj_bias
    weights = [module.q_proj_weight, module.k_proj_weight] if packed is None else packed.chunk(3)
    biases = [None, None] if bias is None else bias.chunk(3)
    with torch.no_grad(), torch._C.DisableTorchFunction():
        query, key = (
            F.linear(side, weight, bias).unflatten(-1, (module.num_heads, -1)).transpose(1, 2)
            for side, weight, bias in zip(sides, weights, biases, strict=False)
        )
        show(frame, call_of(frame, query, key, mask_of(module, given), module.head_dim**-0.5, False, followed))
    frame.is_seen(by_all=False)


def mask_of(module: nn.MultiheadAttention, given: dict) -> Tensor | None:
    """The module's two masks and the padding of nested tensors, added up; in the module's own, True closes."""
    masks = []
    if given["key"].is_nested:
        counts = torch.tensor([len(each) for each in given["key"].unbind()])
        padding = torch.arange(int(counts.max())) >= counts[:, None]
        masks.append(padding.to(given["key"].device, non_blocking=True)[:, None, None])
    for name, heads in (("attn_mask", module.num_heads), ("key_padding_mask", 1)):
        mask = given.get(name)
        if mask is not None and name == "key_padding_mask" and mask.ndim == 2:
            mask = mask[:, None, None]
        if mask is not None:
            masks.append(mask.unflatten(0, (-1, heads)) if mask.ndim == 3 else mask)
    return reduce(add, [additive(~mask if mask.dtype == torch.bool else mask) for mask in masks]) if masks else None
