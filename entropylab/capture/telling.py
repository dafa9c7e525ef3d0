"""Tell the observers of a call: those that rescale are asked for a factor, the others see what comes of it."""

from dataclasses import replace

import torch
from torch import Tensor

from ..errors import EntropyLabError
from .calls import AttentionCall, check_readable, in_autocast
from .forwards import apart, here
from .session import Frame, Observer, computes_again, session

ALONE = 1.0
"""The factor that leaves a scale alone."""


def call_of(
    frame: Frame,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    scale: float,
    is_causal: bool,
    sides: tuple[Tensor, Tensor] | None = None,
    counts: bool = True,
) -> AttentionCall:
    """A call with q and k (batch, heads, tokens, d), made by the innermost module.

    ``sides`` are tensors that the trace has followed, if q and k themselves are not. A part of a call does not count.

    Raises:
        EntropyLabError: the values of q and k can't be read.
    """
    check_readable(query, key)
    values = (query.detach(), key.detach()) if query.requires_grad or key.requires_grad else (query, key)
    call = AttentionCall("", frame.module, *values, mask, scale, is_causal, beside=frame.beside)
    forward = here.forward
    return call if forward is None else forward.placed(call, frame.module, sides or (query, key), counts)


@apart
def ask(call: AttentionCall) -> float | Tensor:
    """The factor on a call's scale: one number, or one per head (heads,); 1.0 leaves it alone.

    A call that is computed again gets the factor that it had, if it had one: its forward is over, and others may have
    begun.

    Raises:
        EntropyLabError: what a rule gives is not usable. Whatever else goes wrong, the layer is named and left alone.
    """
    factor: float | Tensor = ALONE
    frame = session.here.frame
    for observer, path in frame.watchers if frame is not None else ():
        if observer.rescales and not observer.ended:
            place = (path, call.query.shape, call.key.shape)
            if not computes_again():
                observer.answers[place] = answer_of(observer, path, call)
            answer = observer.answers.get(place)
            if answer is not None:
                factor = answer if factor is ALONE else factor * answer
    return factor


def show(frame: Frame, call: AttentionCall) -> None:
    """Tell whoever observes of a call, as the model then makes it; not of one that is computed again."""
    if not frame.has_onlookers or torch._C._current_graph_task_id() != -1:  # computed again
        return
    device = call.query.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            tell_apart(frame, in_autocast(call, device))
    elif torch._C._len_torch_function_stack() or type(call.query) is not Tensor or torch.is_grad_enabled():
        tell_apart(frame, call)
    else:
        tell(frame, call)


def tell(frame: Frame, call: AttentionCall) -> None:
    """Tell every observer of a call; one that it can't measure is named, for the model must go on."""
    at = session.here
    at.quiet += 1
    try:
        for observer, path in frame.watchers:
            if not observer.rescales and not observer.ended:
                try:
                    answer_of(observer, path, call)
                except EntropyLabError as problem:
                    observer.fail(problem)
    finally:
        at.quiet -= 1


tell_apart = apart(tell)
"""The same, whatever follows or differentiates what is computed here."""


def answer_of(observer: Observer, path: str, call: AttentionCall) -> float | Tensor | None:
    """What an observer says to a call; None, and the layer is named, if anything goes wrong on the way.

    Raises:
        EntropyLabError: as ``on_attention`` does.
    """
    blind = session.here.blind
    if blind and observer in blind:
        observer.lose(path, blind[observer])
        return None
    if call.layer and call.layer != path:
        call = replace(call, layer=path)
    call.layer = path
    try:
        return observer.on_attention(call)
    except EntropyLabError:
        raise
    except Exception as problem:
        observer.fail(problem)
        return None


def refuse(reason: str) -> None:
    """Have every observer name the innermost module, whose attention call can't be measured."""
    frame = session.here.frame
    for observer, path in frame.watchers if frame is not None else ():
        if not observer.rescales:
            observer.lose(path, reason)
