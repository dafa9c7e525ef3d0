"""The forward of a root that runs in a thread: its inputs, and what the tokens in it stand for."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import one_line
from .calls import AttentionCall
from .inputs import Inputs
from .roles import Layout, forget, layout_for, remember, roles_of
from .tracing import Trace

cached: "WeakKeyDictionary[nn.Module, WeakIdKeyDictionary]" = WeakKeyDictionary()
"""Codes of the tensors that are left of those forwards of a root that filled a cache; see ``Trace``."""


class Forward:
    """One forward of a root, in one thread: its inputs, and the roles of the tokens in it."""

    def __init__(self, root: nn.Module, inputs: Inputs) -> None:
        self.root, self.inputs = root, inputs
        self.counts: Counter = Counter()
        self.layout: Layout = layout_for(root, inputs.names, inputs.shapes, inputs.deciding)
        self.trace: Trace | None = None
        self.paused = 0
        if inputs.sources and not self.layout.whole:
            self.follow(inputs)

    def follow(self, inputs: Inputs) -> None:
        """Begin to follow the inputs; where that fails, for want of memory say, the forward goes unfollowed."""
        known = cached.get(self.root)
        if inputs.takes and not known:
            self.layout.failure = "it attends to keys of an earlier forward, which was not followed"
            return
        try:
            trace = Trace(inputs.sources, inputs.deciding, known if inputs.takes else None)
        except Exception as problem:
            self.layout.failure = one_line(problem, 300)
            return
        self.trace = trace
        trace.__enter__()

    def end(self, whole: bool) -> None:
        """The forward is over; if it ran to its end, what was traced is remembered, and so is that it failed.

        A forward that fills a cache is followed anew each time, for what stands in the cache is told by that alone.
        """
        if self.trace is not None:
            if not self.paused:
                self.trace.__exit__(None, None, None)
            self.layout.failure, self.layout.reads = self.trace.failure, self.trace.reads
            if self.inputs.fills:
                cached.setdefault(self.root, WeakIdKeyDictionary()).update(self.trace.codes)
            self.trace = None
        if whole and self.inputs.sources and not self.layout.whole and not self.inputs.fills:
            remember(self.root, self.inputs.names, self.inputs.shapes, self.layout)

    def pause(self) -> None:
        """Stop following during a module that would take another path if it were followed."""
        if self.trace is not None and not self.paused:
            self.trace.__exit__(None, None, None)
        self.paused += 1

    def go_on(self) -> None:
        """Follow again after such a module, if it did begin."""
        was_paused, self.paused = self.paused, max(0, self.paused - 1)
        if self.trace is not None and was_paused == 1:
            self.trace.__enter__()

    def narrow(self, part: Inputs) -> None:
        """Only a part of the batch is computed."""
        self.inputs = self.inputs.narrowed(part)

    def placed(
        self, call: AttentionCall, module: nn.Module, sides: tuple[Tensor, Tensor], counts: bool
    ) -> AttentionCall:
        """``call`` with its roles, read off its two ``sides``, and its number among the module's calls if it counts."""
        place = (id(module), self.counts.get(module, 0))
        if self.trace is not None:
            otherwise = "other" if "image" in self.inputs.sources else "image"
            roles = None if self.paused else roles_of(self.trace, *sides, otherwise)
            if counts:
                self.layout.calls[place] = roles
        else:
            roles = self.layout.calls.get(place)
            if self.layout.whole and self.layout.failure is None and place not in self.layout.calls:
                forget(self.root)
        if counts:
            self.counts[module] = place[1] + 1
        if roles is not None and not (roles.queries.codes is None and roles.keys.codes is None):
            roles = roles.fitted(call.query, call.key, self.inputs.images)
            if roles is None:
                forget(self.root)
        call.occurrence, call.roles, call.inputs = place[1], roles, self.inputs
        return call


@contextmanager
def unfollowed_here() -> Iterator[Trace | None]:
    """Follow nothing of what is computed inside; the trace that is paused, if there is one."""
    forward = running()
    if forward is not None:
        forward.pause()
    try:
        yield None if forward is None else forward.trace
    finally:
        if forward is not None:
            forward.go_on()


class Here(threading.local):
    """The forward that runs in a thread."""

    forward: Forward | None = None


here = Here()


def running() -> Forward | None:
    """The forward that runs in this thread."""
    return here.forward


def unfollowed(function: Callable) -> Callable:
    """Run ``function`` without tracing what it computes."""

    @wraps(function)
    def run(*args: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return function(*args)

    return run


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
