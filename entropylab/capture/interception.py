"""What an interception knows: where it is (which modules run in this thread), and whom to tell of an attention call."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..errors import EntropyLabError, one_line
from .calls import NOWHERE, AttentionCall, check_readable, in_autocast
from .forwards import running, unfollowed
from .inputs import Inputs
from .own import handed, own_keys

OnAttention = Callable[[AttentionCall], "float | Tensor | None"]
OnForward = Callable[[str, nn.Module, Inputs], None]
OnOutput = Callable[[str, nn.Module, Any], None]
ReadInputs = Callable[[nn.Module, tuple, dict], Inputs]


@dataclass
class Frame:
    """A module whose forward is running.

    Attributes:
        path: its path.
        module: the module.
        context: how many other tokens it was handed to attend to; None if none.
        given: what its forward was handed: arguments by place and by name.
        is_attention: whether it looks like an attention layer.
        attended: whether it made an attention call.
        seen: whether it or a part of it did.
        skipped: whether something stands in for its forward that has not run it.
        by_inputs: whether its attention was read off its inputs.
        softmaxes: those that it or a part of it took by hand.
        maps: the same of modules that are not known to attend, until something is multiplied by them.
        why: reason to give if no attention call is seen.
    """

    path: str
    module: nn.Module
    context: int | None
    given: tuple[tuple, dict] = ((), {})
    is_attention: bool = False
    attended: bool = False
    seen: bool = False
    skipped: bool = False
    by_inputs: bool = False
    softmaxes: list[Any] = field(default_factory=list)
    maps: list[Any] = field(default_factory=list)
    why: str = "ran without an attention call that can be seen"


stood_in_for: "WeakSet[nn.Module]" = WeakSet()
"""Modules whose forward something stands in for, a cache, that may leave it out and tells if it does not."""


def began(module: nn.Module) -> None:
    """What stands in for a module's forward does run it."""
    for interception in active:
        for frame in interception.frames:
            frame.skipped &= frame.module is not module


@dataclass(eq=False)
class Interception:
    """Which modules run, which were seen to attend, and which ran without being seen.

    Attributes:
        on_attention: told of every attention call; with ``rescales``, what it returns multiplies the scale.
        on_forward: told when a root's forward begins.
        on_output: told what a root's forward returns.
        read_inputs: says what a root's arguments are; needed to tell what tokens stand for.
        rescales: whether what ``on_attention`` returns multiplies the scale.
        roots: names of the modules whose attention is of interest.
        attended: paths of modules that made an attention call.
        answers: with ``rescales``, what was last said of a call: by the layer's path and the shapes of q and k.
        unseen: path -> reason, of modules that look like attention and ran without an attention call that we see.
        watched: the modules that are hooked.
        untold: class of a root -> why it can't be told what its tokens stand for, where following them failed.
    """

    on_attention: OnAttention
    on_forward: OnForward | None
    on_output: OnOutput | None
    read_inputs: ReadInputs | None
    rescales: bool
    roots: tuple[str, ...] = ()
    unseen: dict[str, str] = field(default_factory=dict)
    attended: set[str] = field(default_factory=set)
    answers: dict[tuple[str, torch.Size, torch.Size], "float | Tensor | None"] = field(default_factory=dict)
    watched: "WeakSet[nn.Module]" = field(default_factory=WeakSet)
    untold: dict[str, str] = field(default_factory=dict)
    local: threading.local = field(default_factory=threading.local)

    @property
    def frames(self) -> list[Frame]:
        """The modules that run in this thread, outermost first."""
        if not hasattr(self.local, "frames"):
            self.local.frames = []
        return self.local.frames

    @property
    def blind(self) -> str | None:
        """Why nothing can be told of the forward that runs in this thread; None if all is well."""
        return getattr(self.local, "blind", None)

    @blind.setter
    def blind(self, reason: str | None) -> None:
        self.local.blind = reason

    def located(self, call: AttentionCall) -> AttentionCall:
        """``call`` with the place where this interception sees it."""
        frame = self.frames[-1]
        known = call.roles is not None or frame.context is not None
        own = None if known else own_keys(call.query, call.key, handed(*frame.given))
        return replace(call, layer=frame.path, module=frame.module, context=frame.context, own=own)

    def miss(self, frame: Frame) -> None:
        """Note a layer that ran without an attention call that can be seen."""
        why = "linear attention has no softmax" if is_linear(frame.module) else frame.why
        name = type(getattr(frame.module, "processor", frame.module)).__name__
        often = "in some forwards " if frame.path in self.attended else ""
        self.unseen.setdefault(frame.path, f"{name}: {often}{why}")

    def refuse(self, reason: str) -> None:
        """Note that the innermost module has made an attention call that could not be measured."""
        for frame in self.frames:
            frame.seen = True
        self.lose(self.frames[-1].path, reason)

    def lose(self, path: str, reason: str) -> None:
        """Note that attention calls of a layer were seen, and that not all of them are measured."""
        self.unseen[path] = reason

    def fail(self, problem: Exception) -> None:
        """Note that something went wrong in looking: of the innermost module, or of every root where none runs."""
        if self.frames:
            return self.refuse(reason_of(problem))
        for root in self.roots:
            self.lose(root, reason_of(problem))

    def passed(self) -> None:
        """Note that the innermost module has made an attention call."""
        self.frames[-1].attended = True
        for frame in self.frames:
            frame.seen = True
        self.attended.update(frame.path for frame in self.frames)


active: list[Interception] = []
"""The interceptions that are on, those that rescale first."""


def computes_again() -> bool:
    """Whether this thread is in a backward pass: what runs there is a checkpointed part of a forward, once more."""
    return torch._C._current_graph_task_id() != -1


def is_linear(module: nn.Module) -> bool:
    """Whether a layer is linear attention, by the name of its class or of its processor's."""
    return any("linear" in type(part).__name__.lower() for part in (module, getattr(module, "processor", None)))


class Depth(threading.local):
    """How many functions run in this thread whose insides are of no interest."""

    value = 0


depth = Depth()


@contextmanager
def unseen() -> Iterator[None]:
    """See nothing of what is computed inside: it is what was seen already, or our own."""
    depth.value += 1
    try:
        yield
    finally:
        depth.value -= 1


def anybody() -> bool:
    """Whether any interception is inside one of its modules in this thread; never inside a graph that is compiled."""
    if depth.value or torch.compiler.is_compiling():
        return False
    return any(interception.frames for interception in active)


def reason_of(problem: Exception) -> str:
    """What went wrong in looking, as a reason why a layer was not measured."""
    said = one_line(problem, 300)
    return (
        said if isinstance(problem, EntropyLabError) else f"looking at it failed with {type(problem).__name__}: {said}"
    )


def fail(problem: Exception, of_rescaling: bool = True) -> None:
    """Note that something went wrong in looking at what the innermost module does, for the model must go on.

    With ``of_rescaling`` it could not be rescaled either.
    """
    for interception in active:
        if interception.frames and (of_rescaling or not interception.rescales):
            interception.fail(problem)


def innermost() -> Frame | None:
    """The innermost module that runs in this thread."""
    return next((interception.frames[-1] for interception in active if interception.frames), None)


def call_of(
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
    call = AttentionCall("", NOWHERE, query.detach(), key.detach(), mask, scale, is_causal, None)
    frame, forward = innermost(), running()
    if frame is None or forward is None:
        return call
    return forward.placed(call, frame.module, sides or (query, key), counts)


@torch.no_grad()
@unfollowed
def ask(call: AttentionCall) -> float | Tensor:
    """The factor on a call's scale: one number, or one per head (heads,); 1.0 leaves it alone.

    A call that is computed again gets the factor that it had, if it had one: its forward is over, and others may have
    begun.

    Raises:
        EntropyLabError: what a rule gives is not usable. Whatever else goes wrong, the layer is named and left alone.
    """
    factor: float | Tensor = 1.0
    again = computes_again()
    for interception in active:
        if interception.rescales and interception.frames:
            place = (interception.frames[-1].path, call.query.shape, call.key.shape)
            if not again:
                interception.answers[place] = answer_of(interception, call)
            answer = interception.answers.get(place)
            factor = factor if answer is None else factor * answer
    return factor


@torch.no_grad()
@unfollowed
def show(call: AttentionCall) -> None:
    """Tell whoever observes of a call, as the model then makes it; not of one that is computed again."""
    if computes_again():
        return
    if any(not interception.rescales and interception.frames for interception in active):
        call = in_autocast(call)
    for interception in active:
        if not interception.rescales and interception.frames:
            tell(interception, call)


def refuse(reason: str) -> None:
    """Have every observer name the innermost module, whose attention call can't be measured."""
    for interception in active:
        if not interception.rescales and interception.frames:
            interception.refuse(reason)


def tell(interception: Interception, call: AttentionCall) -> None:
    """Tell one observer of a call; a call that it can't measure is named, for the model must go on."""
    with unseen(), torch.autocast(call.query.device.type, enabled=False):
        try:
            answer_of(interception, call)
        except EntropyLabError as problem:
            interception.fail(problem)


def answer_of(interception: Interception, call: AttentionCall) -> float | Tensor | None:
    """What an interception says to a call; None, and the layer is named, if anything goes wrong on the way.

    Raises:
        EntropyLabError: as ``on_attention`` does.
    """
    if interception.blind is not None:
        interception.refuse(interception.blind)
        return None
    try:
        answer = interception.on_attention(interception.located(call))
    except EntropyLabError:
        raise
    except Exception as problem:
        interception.fail(problem)
        return None
    interception.passed()
    return answer
