"""Tell the observers of a call: those that rescale are asked for a factor, the others see what comes of it.

Several calls of a module that attend to the same keys may be slices of one call: they are held until it is whole.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import EntropyLabError
from .calls import AttentionCall, KnownCall, additive, check_readable, in_autocast
from .memory import is_same, version_of
from .session import Frame, Observer, apart, computes_again, lose, running, session


def call_of(
    frame: Frame,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scale: float,
    is_causal: bool,
    sides: tuple[Tensor, Tensor] | None = None,
    counts: bool = True,
) -> AttentionCall | None:
    """A call with q and k (batch, heads, tokens, d), made by the innermost module; None if nobody has any use for it.

    ``sides`` are tensors that the trace has followed, if q and k themselves are not. A part of a call does not count.
    """
    if query.is_nested or key.is_nested:
        check_readable(query, key)
    module, forward, number, inputs, known = frame.module, session.here.forward, 0, None, None
    if forward is not None:
        number, inputs = forward.counts[module], forward.inputs
        look = (module, number, query.shape, key.shape, mask is None and not is_causal, frame.watchers)
        if look not in forward.known:
            roles = forward.roles_at((id(module), number), query, key, sides or (query, key), counts)
            forward.known[look] = KnownCall(roles)
        known = forward.known[look]
        if counts:
            forward.counts[module] = number + 1
            if known.is_idle:
                return None
    if torch._C._functorch.peek_interpreter_stack() is not None:
        check_readable(query, key)
        known = None if known is None else KnownCall(known.roles)  # what is transformed has no memory to be read
    if known is None or known.roles is None:
        known = handed_apart(frame, known, query, key)
    if query.requires_grad or key.requires_grad:
        query, key = query.detach(), key.detach()
    mask = mask.detach() if mask is not None and mask.requires_grad else mask
    return AttentionCall("", module, query, key, mask, scale, is_causal, number, inputs, known)


def handed_apart(frame: Frame, known: KnownCall | None, query: Tensor, key: Tensor) -> KnownCall:
    """What is known of a call of which nobody knows what its tokens stand for: what its module was handed tells."""
    beside, forward = frame.beside(query, key), session.here.forward
    if known is None or forward is None:
        return KnownCall(None, *beside)
    return forward.known.setdefault((known, beside), KnownCall(None, *beside))


def ask(frame: Frame, call: AttentionCall) -> float | Tensor:
    """The factor on a call's scale: one number, or one per head (heads,); 1.0 leaves it alone.

    A call that is computed again gets the factor that it had, if it had one: its forward is over, and others may have
    begun. What a rule gives may be an EntropyLabError; whatever else goes wrong, the layer is named and left alone.
    """
    factor: float | Tensor | None = None
    for observer, path in frame.watchers:
        if not observer.rescales or observer.ended:
            continue
        place = (path, call.query.shape, call.key.shape)
        if not computes_again():
            call = call if call.layer in ("", path) else replace(call)
            call.layer = path
            observer.answers[place] = None
            try:
                if not (session.here.blind and is_blind(observer, path)):
                    observer.answers[place] = observer.on_attention(call)
            except EntropyLabError:
                raise
            except Exception as problem:
                observer.fail(problem)
        answer = observer.answers.get(place)
        if answer is not None:
            factor = answer if factor is None else factor * answer
    return 1.0 if factor is None else factor


def show(frame: Frame, call: AttentionCall | None) -> None:
    """Tell whoever observes of a call, as the model then makes it; not of one that is computed again."""
    if call is None or not frame.has_onlookers or torch._C._current_graph_task_id() != -1:  # computed again
        return
    device = call.query.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            tell_apart(frame, in_autocast(call, device))
    elif torch._C._len_torch_function_stack() or type(call.query) is not Tensor or call.query.requires_grad:
        tell_apart(frame, call)
    else:
        tell(frame, call)


def tell(frame: Frame, call: AttentionCall) -> None:
    """Tell every observer of a call; one that it can't measure is named, for the model must go on.

    An observer that says False has no use for calls that look like it: none of them is made where that goes for all.
    """
    here = session.here
    here.quiet += 1
    try:
        for observer, path in frame.watchers:
            if observer.rescales or observer.ended or (here.blind and is_blind(observer, path)):
                continue
            call = call if call.layer in ("", path) else replace(call)
            call.layer = path
            try:
                if observer.on_attention(call) is False:
                    call.known.refused.add(observer)
                    call.known.is_idle = len(call.known.refused) == len(frame.watchers)
            except Exception as problem:
                observer.fail(problem)
    finally:
        here.quiet -= 1


tell_apart, ask = apart(tell), apart(ask)
"""The same, whatever follows or differentiates what is computed here."""


def is_blind(observer: Observer, path: str) -> bool:
    """Whether an observer can't be told of what runs; the layer is named then."""
    why = session.here.blind.get(observer)
    if why is not None:
        observer.lose(path, why)
    return why is not None


def call_or_slice(
    frame: Frame, query: Tensor, key: Tensor, mask: Tensor | None, scale: float, is_causal: bool
) -> AttentionCall | None:
    """A call by the innermost module, as ``call_of`` says: one of its own, or a slice of the one that is held."""
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


def stands_for_the_same(frame: Frame, call: AttentionCall, first: AttentionCall, key: Tensor) -> bool:
    """Whether the queries of a slice stand for what those of the first stand for; the layout remembers if not."""
    forward = running()
    if forward is None:
        return True
    if id(frame.module) in forward.layout.apart or (first.roles is not None and not first.roles.are_simple):
        return False
    if forward.trace is not None:
        place, sides = (id(frame.module), forward.counts[frame.module]), (call.query, key)
        roles = forward.roles_at(place, *sides, sides, False)
        if roles is not first.roles and (roles is None or not roles.are_simple or roles != first.roles):
            forward.layout.apart.add(id(frame.module))
            return False
    return True


def show_or_hold(frame: Frame, call: AttentionCall) -> None:
    """Tell the observers of a call: now, or if more of its queries may follow, when its module does something else."""
    known, queries = call.known, call.query.shape[-2]
    if not known.is_whole:
        own = frame.own_tokens
        has_all = own is not None and own.ndim == 3 and own.shape[1] == queries
        known.is_whole = has_all or queries == call.key.shape[-2]
    if known.is_whole and not frame.held:
        show(frame, call)
    else:
        frame.held = [*frame.held, (call, (version_of(call.query), version_of(call.key)))]


def finish(frame: Frame) -> None:
    """Tell the observers of the call that is held of a module."""
    held, frame.held = frame.held, ()
    if not frame.has_onlookers:
        return
    if any((version_of(call.query), version_of(call.key)) != versions for call, versions in held):
        lose(frame.watchers, "its queries or keys were changed in place right after it attended", of_rescaling=False)
    else:
        show(frame, joined([call for call, _ in held]))


@apart
def joined(calls: list[AttentionCall]) -> AttentionCall:
    """Slices as the call that they make."""
    if len(calls) == 1:
        return calls[0]
    query, mask = torch.cat([call.query for call in calls], -2), None
    if any(call.is_causal or call.mask is not None for call in calls):
        masks = [mask_of(call) for call in calls]
        lead = torch.broadcast_shapes(*(rows.shape[:-2] for rows in masks))
        mask = torch.cat([rows.expand(*lead, *rows.shape[-2:]) for rows in masks], -2)
    return replace(calls[0], query=query, mask=mask, is_causal=False)


def mask_of(call: AttentionCall) -> Tensor:
    """The mask of a slice, with a row for every query, as what is added to the logits."""
    queries, keys = call.query.shape[-2], call.key.shape[-2]
    open_to_all = torch.ones(queries, keys, dtype=torch.bool, device=call.query.device)
    mask = additive(open_to_all.tril() if call.is_causal else open_to_all)
    return mask if call.mask is None else mask + additive(call.mask)
