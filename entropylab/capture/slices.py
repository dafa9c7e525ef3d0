"""Queries that come in slices: several calls of a module that attend to the same keys are one call."""

import threading
from dataclasses import replace

import torch
from torch import Tensor, nn

from .calls import AttentionCall
from .forwards import running, unfollowed
from .interception import call_of, innermost, refuse, show
from .tracing import version_of


class Held(threading.local):
    """Calls that may be slices, and how often their q and k had been changed in place then, by module."""

    def __init__(self) -> None:
        self.calls: dict[nn.Module, list[tuple[AttentionCall, tuple[int, int]]]] = {}


held = Held()


def call_or_slice(query: Tensor, key: Tensor, mask: Tensor | None, scale: float, is_causal: bool) -> AttentionCall:
    """A call by the innermost module: one of its own, or a slice of the one that is held."""
    frame = innermost()
    if frame is not None and (calls := held.calls.get(frame.module)) is not None:
        first = calls[0][0]
        call = replace(first, query=query.detach(), key=key.detach(), mask=mask, scale=scale, is_causal=is_causal)
        if all(follows(each, call) for each, _ in calls) and stands_for_the_same(call, first, frame.module, key):
            return call
        finish(frame.module)
    return call_of(query, key, mask, scale, is_causal)


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


def stands_for_the_same(call: AttentionCall, first: AttentionCall, module: nn.Module, key: Tensor) -> bool:
    """Whether the queries of a slice stand for what those of the first stand for; the layout remembers if not."""
    forward = running()
    if forward is None:
        return True
    if id(module) in forward.layout.apart or (first.roles is not None and not first.roles.are_simple):
        return False
    if forward.trace is not None:
        roles = forward.placed(call, module, (call.query, key), False).roles
        if roles is not first.roles and (roles is None or not roles.are_simple or roles != first.roles):
            forward.layout.apart.add(id(module))
            return False
    return True


def show_or_hold(call: AttentionCall) -> None:
    """Tell the observers of a call: now, or if more of its queries may follow, when its module does something else."""
    frame = innermost()
    is_whole = call.query.shape[-2] == call.key.shape[-2]
    if frame is None or (is_whole and frame.module not in held.calls):
        show(call)
    else:
        versions = version_of(call.query), version_of(call.key)
        held.calls.setdefault(frame.module, []).append((call, versions))


def drop(module: nn.Module | None = None) -> None:
    """Forget what is held of a module, or of all: it did not come to an end."""
    if module is None:
        held.calls.clear()
    else:
        held.calls.pop(module, None)


@torch.no_grad()
@unfollowed
def finish(module: nn.Module) -> None:
    """Tell the observers of the call that is held of a module."""
    calls = held.calls.pop(module, [])
    if any((version_of(call.query), version_of(call.key)) != versions for call, versions in calls):
        refuse("its queries or keys were changed in place right after it attended")
    elif calls:
        show(joined([call for call, _ in calls]))


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
