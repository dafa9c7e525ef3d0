"""Queries that come in slices: several calls of a module that attend to the same keys are one call."""

from dataclasses import replace

import torch
from torch import Tensor

from .calls import AttentionCall
from .forwards import apart, running
from .session import Frame
from .telling import call_of, refuse, show
from .tracing import version_of


def call_or_slice(
    frame: Frame, query: Tensor, key: Tensor, mask: Tensor | None, scale: float, is_causal: bool
) -> AttentionCall:
    """A call by the innermost module: one of its own, or a slice of the one that is held."""
    if frame.held:
        first = frame.held[0][0]
        call = replace(first, query=query.detach(), key=key.detach(), mask=mask, scale=scale, is_causal=is_causal)
        if all(follows(each, call) for each, _ in frame.held) and stands_for_the_same(frame, call, first, key):
            return call
        finish(frame)
    return call_of(frame, query, key, mask, scale, is_causal)


def follows(one: AttentionCall, other: AttentionCall) -> bool:
    """Whether two calls are of other queries and the same keys."""
    alike = one.query.shape[:2] == other.query.shape[:2] and one.query.dtype == other.query.dtype
    return alike and is_same(one.key, other.key) and not is_same(one.query, other.query)


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in memory."""
    if one.shape != other.shape or one.stride() != other.stride():
        return False
    memory, its = one.untyped_storage()._cdata, other.untyped_storage()._cdata
    return memory == its and bool(one.storage_offset() == other.storage_offset())


def stands_for_the_same(frame: Frame, call: AttentionCall, first: AttentionCall, key: Tensor) -> bool:
    """Whether the queries of a slice stand for what those of the first stand for; the layout remembers if not."""
    forward = running()
    if forward is None:
        return True
    if id(frame.module) in forward.layout.apart or (first.roles is not None and not first.roles.are_simple):
        return False
    if forward.trace is not None:
        roles = forward.placed(call, frame.module, (call.query, key), False).roles
        if roles is not first.roles and (roles is None or not roles.are_simple or roles != first.roles):
            forward.layout.apart.add(id(frame.module))
            return False
    return True


def show_or_hold(frame: Frame, call: AttentionCall) -> None:
    """Tell the observers of a call: now, or if more of its queries may follow, when its module does something else."""
    queries = call.query.shape[-2]
    own = frame.args[0] if frame.args else frame.kwargs.get("hidden_states")
    all_of_them = isinstance(own, Tensor) and own.ndim == 3 and own.shape[1] == queries
    if not frame.held and (queries == call.key.shape[-2] or all_of_them):
        show(frame, call)
    else:
        frame.held = [*frame.held, (call, (version_of(call.query), version_of(call.key)))]


def finish(frame: Frame) -> None:
    """Tell the observers of the call that is held of a module."""
    held, frame.held = frame.held, ()
    if not frame.has_onlookers:
        return
    if any((version_of(call.query), version_of(call.key)) != versions for call, versions in held):
        refuse("its queries or keys were changed in place right after it attended")
    else:
        show(frame, joined([call for call, _ in held]))


@apart
def joined(calls: list[AttentionCall]) -> AttentionCall:
    """Slices as the call that they make."""
    if len(calls) == 1:
        return calls[0]
    query, masks = torch.cat([call.query for call in calls], -2), [mask_of(call) for call in calls]
    if all(mask is None for mask in masks):
        return replace(calls[0], query=query, mask=None, is_causal=False)
    open_to_all = torch.ones(1, 1, dtype=torch.bool, device=query.device)
    rows = [rows_of(open_to_all if mask is None else mask, call) for mask, call in zip(masks, calls, strict=True)]
    if any(row.dtype != torch.bool for row in rows):
        rows = [additive(row) for row in rows]
    lead = torch.broadcast_shapes(*(row.shape[:-2] for row in rows))
    mask = torch.cat([row.expand(*lead, *row.shape[-2:]) for row in rows], -2)
    return replace(calls[0], query=query, mask=mask, is_causal=False)


def mask_of(call: AttentionCall) -> Tensor | None:
    """A slice's mask, with the causal one in it if it has that."""
    if not call.is_causal:
        return call.mask
    queries, keys = (torch.arange(side.shape[-2], device=side.device) for side in (call.query, call.key))
    return keys <= queries[:, None]


def rows_of(mask: Tensor, call: AttentionCall) -> Tensor:
    """A mask with a row for every query of a slice."""
    mask = mask if mask.ndim > 1 else mask[None]
    return mask.expand(*mask.shape[:-2], call.query.shape[-2], call.key.shape[-2])


def additive(mask: Tensor) -> Tensor:
    """A mask as what is added to the logits."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -torch.inf)
