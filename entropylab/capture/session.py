"""Where every thread is, and who looks: the modules that run, and their observers. All state of looking is here.

Forward hooks say *where* we are. Knows torch modules, and no models.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from ..errors import EntropyLabError, one_line
from .calls import AttentionCall, Beside, KnownCall
from .handed import context_tokens, handed, own_keys
from .inputs import Inputs

if TYPE_CHECKING:
    from .forwards import Forward

OnAttention = Callable[[AttentionCall], "float | Tensor | bool | None"]
OnForward = Callable[[str, nn.Module, Inputs], None]
OnOutput = Callable[[str, nn.Module, Any], None]
ReadInputs = Callable[[nn.Module, tuple, dict], Inputs]


@dataclass(eq=False)
class Observer:
    """Somebody who looks at the attention of some modules; see ``intercept``.

    Attributes:
        on_attention: told of every attention call, until it returns False for one: then not of those that look like
            it. With ``rescales``, what it returns multiplies the scale.
        on_forward: told when a root's forward begins.
        on_output: told what a root's forward returns; None if it failed, or nothing can be told of it.
        read_inputs: says what a root's arguments are; needed to tell what tokens stand for.
        rescales: whether what ``on_attention`` returns multiplies the scale.
        roots: names of the modules whose attention is of interest.
        unseen: path -> reason, of modules that look like attention and ran without an attention call that is seen.
        untold: class of a root -> why it can't be told what its tokens stand for, where following them failed.
        answers: with ``rescales``, what was last said of a call: by the layer's path and the shapes of q and k.
        watched: the modules that are watched.
        ended: whether it looks no more.
    """

    on_attention: OnAttention
    on_forward: OnForward | None = None
    on_output: OnOutput | None = None
    read_inputs: ReadInputs | None = None
    rescales: bool = False
    roots: tuple[str, ...] = ()
    unseen: dict[str, str] = field(default_factory=dict)
    untold: dict[str, str] = field(default_factory=dict)
    answers: dict[tuple[str, torch.Size, torch.Size], "float | Tensor | None"] = field(default_factory=dict)
    watched: "WeakSet[nn.Module]" = field(default_factory=WeakSet)
    ended: bool = False

    def lose(self, path: str, reason: str) -> None:
        """Note that attention calls of a layer were seen, and that not all of them are measured."""
        self.unseen[path] = reason

    def fail(self, problem: Exception) -> None:
        """Note that something went wrong in looking: of the innermost module, or of every root where none runs."""
        reason, frame = reason_of(problem), session.here.frame
        watchers = frame.watchers if frame is not None and not self.ended else ()
        paths = [path for observer, path in watchers if observer is self]
        if frame is not None and paths:
            frame.is_seen()
        for path in paths[:1] or self.roots:
            self.lose(path, reason)


Watched = tuple[tuple[Observer, str], ...]
"""Who watches a module, and by what path; those that rescale first."""


class Place:
    """A module that is watched, by whom and how; it does not keep the module alive.

    Attributes:
        is_attention: whether it, or a part of TorchScript, looks like an attention layer.
        is_fast: whether it has a fast path, which gives padding other values unless it is followed.
        is_script: whether it is TorchScript.
        may_be_skipped: whether something stands in for its forward that may leave it out, and tells if it does not.
        attended: whether it ever made an attention call.
        watchers: who watches it.
        observers: the same without the paths.
        roots: those of them to whom it is a root.
        told: by number of tokens, whether the queries and keys that it is handed are the same; see ``multihead``.
        handles: of its hooks; none once it has run without attending.
    """

    def __init__(self, is_attention: bool, is_fast: bool, is_script: bool, may_be_skipped: bool) -> None:
        self.is_attention, self.is_fast, self.is_script = is_attention, is_fast, is_script
        self.may_be_skipped = may_be_skipped
        self.attended = False
        self.watchers: Watched = ()
        self.observers: tuple[Observer, ...] = ()
        self.roots: tuple[Observer, ...] = ()
        self.told: dict[int, bool] = {}
        self.handles: list[Any] = []

    def add(self, observer: Observer, path: str, is_root: bool) -> None:
        """Somebody watches the module."""
        self.watchers = (*self.watchers, (observer, path))
        self.watchers = tuple(sorted(self.watchers, key=lambda watcher: not watcher[0].rescales))
        self.observers = tuple(each for each, _ in self.watchers)
        self.roots += (observer,) if is_root else ()

    def remove(self, observer: Observer) -> None:
        """Somebody watches it no more; without anybody, its hooks go."""
        self.watchers = tuple(watcher for watcher in self.watchers if watcher[0] is not observer)
        self.observers = tuple(each for each, _ in self.watchers)
        self.roots = tuple(each for each in self.roots if each is not observer)
        if not self.watchers:
            self.unhook()

    def unhook(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        self.handles = []


class Frame:
    """A module whose forward is running.

    Attributes:
        place: what is known of the module.
        module: the module.
        args: what its forward was handed by place.
        kwargs: and by name.
        outer: the watched module in whose forward it runs.
        watchers: who watches it, or a module around it, and by what path.
        observers: the same without the paths.
        has_onlookers: whether anybody watches who does more than rescale.
        skipped: whether something stands in for its forward that has not run it.
        attended: whether it made an attention call.
        seen: whether it or a part of it did.
        shown: whether that was shown to those who don't rescale only.
        by_inputs: whether its attention was read off its inputs.
        has_scores: whether it asked for its own attention scores.
        maps: softmaxes that it or a part of it took by hand, until something is multiplied by them.
        held: its last calls, if they may be slices of one.
        begun: the forward of a root that began with it.
        why: reason to give if no attention call is seen.
    """

    attended = seen = shown = by_inputs = has_scores = False
    maps: Sequence[Any] = ()
    held: "Sequence[tuple[AttentionCall, tuple[int, int]]]" = ()
    begun: "Forward | None" = None
    why = "ran without an attention call that can be seen"

    def __init__(self, place: Place, module: nn.Module, args: tuple, kwargs: dict, outer: "Frame | None") -> None:
        self.place, self.module, self.args, self.kwargs, self.outer = place, module, args, kwargs, outer
        self.watchers, self.observers, self.skipped = place.watchers, place.observers, place.may_be_skipped
        if outer is not None and outer.observers != place.observers:
            self.watchers += tuple(each for each in outer.watchers if each[0] not in place.observers)
            self.watchers = tuple(sorted(self.watchers, key=lambda watcher: not watcher[0].rescales))
            self.observers = tuple(each for each, _ in self.watchers)
        self.has_onlookers = not self.watchers[-1][0].rescales  # who rescale come first

    def is_seen(self, by_all: bool = True) -> None:
        """It made an attention call, which everybody was told of, or only those who don't rescale."""
        self.attended = True
        frame: Frame | None = self
        while frame is not None and not frame.seen:
            frame.place.attended = frame.shown = True
            frame.seen = by_all
            frame = frame.outer

    def beside(self, call: AttentionCall) -> Beside:
        """``context`` and ``own`` of a call of the module's."""
        context = context_tokens(self.module, self.args, self.kwargs, self.place.told)
        if call.roles is not None or context is not None:
            return context, None
        return context, own_keys(call.query, call.key, handed(self.args, self.kwargs))

    def around(self) -> "Iterator[Frame]":
        """It, and the frames around it."""
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.outer


class Here(threading.local):
    """What runs in a thread.

    Attributes:
        frame: the innermost module that runs and is watched.
        forward: the forward of a root that runs.
        quiet: how many functions run whose insides are of no interest.
        blind: observer -> why nothing can be told of the forward that runs.
        inside: the compiled forward that runs.
    """

    frame: Frame | None = None
    forward: "Forward | None" = None
    quiet: int = 0
    blind: "dict[Observer, str] | None" = None
    inside: Any = None


class Session:
    """Who looks now, and at what; nothing of it is left when the last observer has ended.

    Attributes:
        observers: who looks, those that rescale first.
        places: what is known of the modules that are watched.
        stood_in_for: modules whose forward something stands in for, a cache, that may leave it out and tells if not.
        known: what is known of calls, by how the inputs of their forward are laid out; forgotten when observers change.
        here: what runs, by thread.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.observers: list[Observer] = []
        self.places: WeakKeyDictionary[nn.Module, Place] = WeakKeyDictionary()
        self.stood_in_for: WeakSet[nn.Module] = WeakSet()
        self.known: dict[Hashable, dict[Hashable, KnownCall]] = {}
        self.here = Here()

    def begin(self, observer: Observer) -> None:
        """Somebody looks from now on."""
        with self.lock:
            self.observers = sorted([*self.observers, observer], key=lambda other: not other.rescales)
            self.known.clear()

    def end(self, observer: Observer) -> None:
        """Somebody looks no more."""
        observer.ended = True
        with self.lock:
            self.observers = [other for other in self.observers if other is not observer]
            self.known.clear()
            for module in list(observer.watched):
                if (place := self.places.get(module)) is not None:
                    place.remove(observer)
                    if not place.watchers:
                        del self.places[module]
            if not self.observers:
                self.here = Here()

    def began(self, module: nn.Module) -> None:
        """What stands in for a module's forward does run it."""
        for frame in self.here.frame.around() if self.here.frame is not None else ():
            frame.skipped &= frame.module is not module

    def leave(self, observer: Observer) -> None:
        """None of an observer's roots runs in this thread: an exception may have ended them unseen."""
        for frame in list(self.here.frame.around()) if self.here.frame is not None else ():
            if observer in frame.place.roots:
                self.here.frame = frame.outer
                end_forward(frame)


session = Session()


def running() -> "Forward | None":
    """The forward of a root that runs in this thread."""
    return session.here.forward


def end_forward(frame: Frame, whole: bool = False) -> None:
    """End the forward of a root that began with a module's, if that still runs."""
    begun, frame.begun = frame.begun, None
    if begun is None or running() is not begun:
        return
    session.here.forward = None
    begun.end(whole)
    if (failure := begun.layout.failure) is not None:
        for observer in frame.place.observers:
            observer.untold.setdefault(type(begun.root).__name__, failure)


def apart(function: Callable) -> Callable:
    """Run ``function`` without tracing what it computes, and without gradients."""

    @wraps(function)
    def run(*args: Any) -> Any:
        with torch._C.DisableTorchFunction():
            if not torch.is_grad_enabled():
                return function(*args)
            with torch.no_grad():
                return function(*args)

    return run


def computes_again() -> bool:
    """Whether this thread is in a backward pass: what runs there is a checkpointed part of a forward, once more."""
    return torch._C._current_graph_task_id() != -1


@contextmanager
def unseen() -> Iterator[None]:
    """See nothing of what is computed inside: it is what was seen already, or our own."""
    here = session.here
    here.quiet += 1
    try:
        yield
    finally:
        here.quiet -= 1


def looked_at() -> Frame | None:
    """The innermost module that runs, if what is computed now is of interest; never inside of a compiled graph."""
    if is_dynamo_compiling():  # a graph must not hold for what runs now
        return None
    here = session.here
    frame = here.frame
    return None if frame is None or here.quiet or torch.compiler._is_compiling_flag else frame


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
    frame = session.here.frame
    for observer, _ in frame.watchers if frame is not None else ():
        if of_rescaling or not observer.rescales:
            observer.fail(problem)
