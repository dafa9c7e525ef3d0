"""Where every thread is, and who looks: the modules that run, and their observers. All state of looking is here.

Forward hooks say *where* we are. Knows torch modules, and no models.
"""

import inspect
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from math import prod
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling

from ..errors import EntropyLabError, one_line
from .calls import AttentionCall, Inputs, KnownCall
from .memory import makes_wait, stamp_of

if TYPE_CHECKING:
    from .forwards import Forward

OnAttention = Callable[[AttentionCall], "float | Tensor | bool | None"]
OnForward = Callable[[str, nn.Module, Inputs], None]
OnOutput = Callable[[str, nn.Module, Any], None]
ReadInputs = Callable[[nn.Module, tuple, dict], Inputs]


@dataclass(eq=False)
class Observer:
    """Somebody who looks at the attention of some modules; who rescales comes first, so that others see the result."""

    # Told of every attention call, until it returns False for one: then not of those that look like it. With
    # ``rescales``, what it returns multiplies the scale: a float, or one factor per head (heads,); or None.
    on_attention: OnAttention
    on_forward: OnForward | None = None  # told when a root's forward begins, with ``read_inputs``
    on_output: OnOutput | None = None  # told what it returns; None if it failed, or nothing can be told of it
    read_inputs: ReadInputs | None = None  # says what a root's arguments are; without it no tokens are known
    rescales: bool = False
    roots: tuple[str, ...] = ()  # names of the modules whose attention is of interest
    unseen: dict[str, str] = field(default_factory=dict)  # path -> why calls that a layer made are not measured
    untold: dict[str, str] = field(default_factory=dict)  # class of a root -> why nobody knows what its tokens are
    # With ``rescales``, what was last said of a call: by the layer's path and the shapes of q and k.
    answers: dict[tuple[str, torch.Size, torch.Size], "float | Tensor | None"] = field(default_factory=dict)
    watched: "WeakSet[nn.Module]" = field(default_factory=WeakSet)
    ended: bool = False  # whether it looks no more

    def lose(self, path: str, reason: str) -> None:
        """Note that attention calls of a layer were seen, and that not all of them are measured."""
        self.unseen[path] = reason

    def fail(self, problem: Exception) -> None:
        """Note that something went wrong in looking: of the innermost module, or of every root where none runs."""
        frame = session.here.frame
        path = None if frame is None else next((path for observer, path in frame.watchers if observer is self), None)
        if frame is not None and path is not None:
            frame.is_seen()
        for each in self.roots if path is None else (path,):
            self.lose(each, reason_of(problem))


Watched = tuple[tuple[Observer, str], ...]
"""Who watches a module, and by what path; those that rescale first."""


def in_order(watchers: Iterable[tuple[Observer, str]]) -> tuple[Watched, tuple[Observer, ...]]:
    """Those who watch, who rescale first; and the same without the paths."""
    ordered = tuple(sorted(watchers, key=lambda watcher: not watcher[0].rescales))
    return ordered, tuple(observer for observer, _ in ordered)


@dataclass(eq=False)
class Place:
    """A module that is watched, by whom and how; it does not keep the module alive."""

    is_attention: bool  # whether it, or a part of TorchScript, looks like an attention layer
    is_fast: bool  # whether it has a fast path, which gives padding other values unless it is followed
    is_script: bool
    may_be_skipped: bool  # whether something stands in for its forward that may leave it out, and tells if it does not
    attended: bool = False  # whether it ever made an attention call
    watchers: Watched = ()
    observers: tuple[Observer, ...] = ()  # the same without the paths
    roots: tuple[Observer, ...] = ()  # those of them to whom it is a root
    told: dict[int, bool] = field(default_factory=dict)  # see ``context_tokens``
    handles: list[Any] = field(default_factory=list)  # of its hooks; none once it has run without attending

    def add(self, observer: Observer, path: str, is_root: bool) -> None:
        """Somebody watches the module."""
        self.watchers, self.observers = in_order((*self.watchers, (observer, path)))
        self.roots += (observer,) if is_root else ()

    def remove(self, observer: Observer) -> None:
        """Somebody watches it no more; without anybody, its hooks go."""
        self.watchers, self.observers = in_order(each for each in self.watchers if each[0] is not observer)
        self.roots = tuple(each for each in self.roots if each is not observer)
        if not self.watchers:
            self.unhook()

    def unhook(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        self.handles = []


class Frame:
    """A module whose forward is running."""

    attended = False  # whether it made an attention call
    seen = False  # whether it or a part of it did
    shown = False  # whether that was shown to those who don't rescale only
    by_inputs = False  # whether its attention was read off its inputs
    slices: Sequence[tuple[Tensor, Tensor, Tensor | None]] = ()  # parts of a call for which it asked its own scores
    maps: Sequence[Any] = ()  # softmaxes that it or a part of it took by hand, until something is multiplied by them
    held: "Sequence[tuple[AttentionCall, tuple[int, int]]]" = ()  # its last calls, if they may be slices of one
    begun: "Forward | None" = None  # the forward of a root that began with it
    noted: tuple[int | None, int | None] | None = None  # see ``beside``; of what runs in a compiled graph

    def __init__(self, place: Place, module: nn.Module, args: tuple, kwargs: dict, outer: "Frame | None") -> None:
        self.place, self.module, self.args, self.kwargs, self.outer = place, module, args, kwargs, outer
        # who watches it, or the module around it; ``skipped``: something in place of its forward has not run it
        self.watchers, self.observers, self.skipped = place.watchers, place.observers, place.may_be_skipped
        if outer is not None and outer.observers != place.observers:
            more = [each for each in outer.watchers if each[0] not in place.observers]
            self.watchers, self.observers = in_order((*self.watchers, *more))
        self.has_onlookers = not self.watchers[-1][0].rescales  # who rescale come first

    def is_seen(self, by_all: bool = True) -> None:
        """It made an attention call, which everybody was told of, or only those who don't rescale."""
        self.attended = True
        frame: Frame | None = self
        while frame is not None and not frame.seen:
            frame.place.attended = frame.shown = True
            frame.seen = by_all
            frame = frame.outer

    def beside(self, query: Tensor, key: Tensor) -> tuple[int | None, int | None]:
        """``context`` and ``own`` of a call of the module's, where nobody knows what its tokens stand for."""
        if self.noted is not None:
            return self.noted
        context = context_tokens(self)
        return context, own_keys(query, key, self.handed) if context is None else None

    @property
    def own_tokens(self) -> Tensor | None:
        """The tokens that its forward was handed as its own."""
        own = self.kwargs.get("hidden_states", self.args[0] if self.args else None)
        return own if isinstance(own, Tensor) else None

    @property
    def handed(self) -> Iterator[Tensor]:
        """The tensors among its forward's arguments that may be tokens, its own first."""
        first = self.kwargs.get("hidden_states")
        for value in (first, *self.args, *(value for value in self.kwargs.values() if value is not first)):
            if isinstance(value, Tensor) and value.ndim > 2 and value.is_floating_point():
                yield value

    def around(self) -> "Iterator[Frame]":
        """It, and the frames around it."""
        frame: Frame | None = self
        while frame is not None:
            yield frame
            frame = frame.outer


class Here(threading.local):
    """What runs in a thread."""

    frame: Frame | None = None  # the innermost module that runs and is watched
    forward: "Forward | None" = None  # the forward of a root that runs
    quiet: int = 0  # how many functions run whose insides are of no interest
    inside: Any = None  # the compiled forward that runs

    def __init__(self) -> None:
        self.blind: dict[Observer, str] = {}  # who can't be told of the forward that runs, and why
        self.products: deque[tuple[int, ...]] = deque(maxlen=8)  # shapes of the last products of two batches in it


class Session:
    """Who looks now, and at what; nothing of it is left when the last observer has ended."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.observers: list[Observer] = []
        self.places: WeakKeyDictionary[nn.Module, Place] = WeakKeyDictionary()
        # modules whose forward something stands in for, a cache, that may leave it out and tells if it does not
        self.stood_in_for: WeakSet[nn.Module] = WeakSet()
        # by how the inputs of their forward are laid out; forgotten when observers change
        self.known: dict[Hashable, dict[Hashable, KnownCall]] = {}
        self.here = Here()

    def begin(self, observer: Observer) -> None:
        """Somebody looks from now on."""
        with self.lock:
            self.observers = [*self.observers, observer]
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
        self.here.blind.pop(observer, None)
        for frame in list(self.here.frame.around()) if self.here.frame is not None else ():
            if observer in frame.place.roots:
                self.here.frame = frame.outer
                if frame.begun is not None and frame.begun is running():
                    end_forward()


session = Session()


def running() -> "Forward | None":
    """The forward of a root that runs in this thread."""
    return session.here.forward


def end_forward(whole: bool = False) -> None:
    """End the forward that seems to run in this thread: an exception ended it, if it is not ``whole``."""
    forward, session.here.forward = running(), None
    if forward is not None:
        forward.end(whole)


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
    """Name the innermost module: looking at it, and with ``of_rescaling`` rescaling it, failed; the model goes on."""
    frame = session.here.frame
    if frame is not None and (of_rescaling or frame.has_onlookers):
        frame.is_seen()
        lose(frame.watchers, reason_of(problem), of_rescaling)


def lose(watchers: Watched, reason: str, of_rescaling: bool = True) -> None:
    """Have all who watch a module name it, or those of them who don't rescale."""
    for observer, path in watchers:
        if of_rescaling or not observer.rescales:
            observer.lose(path, reason)


# What a module was handed: its own tokens, and others to attend to


def own_keys(query: Tensor, key: Tensor, given: Iterable[Tensor]) -> int | None:
    """How many of a call's keys are the module's own tokens, where there are fewer queries; None if it can't be told.

    ``given`` are the tokens that its forward was handed, its own first; further keys, such as sinks, are in none.
    """
    queries, keys = query.shape[-2], key.shape[-2]
    if queries >= keys:
        return None
    if any(query.stride(dim) == keys * query.stride(2) for dim in (0, 1)):  # it lies in memory as some of so many
        return keys
    # tokens of (batch, tokens, d), and of (batch, d, tokens) or (batch, d, height, width)
    own, *others = [{prod(each.shape[1:-1]), prod(each.shape[2:])} for each in given] or [set()]
    explained = any({keys, keys - queries} & other for other in others)
    return queries if queries in own and not explained else None


def context_tokens(frame: Frame) -> int | None:
    """How many tokens a forward was handed to attend to, other than its own once more.

    Where a MultiheadAttention is handed queries and keys in different memory on a GPU, the host would have to wait to
    compare them: they are compared once for a number of tokens, and what was found holds from then on.
    """
    module, told = frame.module, frame.place.told
    if not isinstance(module, nn.MultiheadAttention):
        context = frame.kwargs.get("encoder_hidden_states", frame.kwargs.get("key_value_states"))
        if not isinstance(context, Tensor) or context is frame.own_tokens or context.ndim < 2:
            return None
        return int(context.shape[-2])
    given = inspect.signature(nn.MultiheadAttention.forward).bind(module, *frame.args, **frame.kwargs).arguments
    query, key = given["query"], given["key"]
    keys = int(in_batches(module, key).shape[1])
    if query is key or ((stamp := stamp_of(query)) is not None and stamp == stamp_of(key)):
        return None
    if query.shape != key.shape:
        return keys
    if keys not in told or not makes_wait(key):
        told[keys] = bool(torch.equal(query, key))
    return None if told[keys] else keys


def in_batches(module: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Tokens as (batch, tokens, width), those of a nested tensor with zeros behind."""
    if tokens.is_nested:
        return tokens.to_padded_tensor(0.0)
    if tokens.ndim == 2:
        return tokens[None]
    return tokens if module.batch_first else tokens.transpose(0, 1)
