"""The forward of a root that runs in a thread: its inputs, and what the tokens in it stand for."""

from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import one_line
from .calls import Inputs, KnownCall
from .roles import Layout, Roles, forget, layout_for, remember, roles_of
from .session import Frame, Observer, end_forward, looked_at, lose, reason_of, running, session
from .tracing import Trace

MOST = 64
"""So many layouts of inputs are known at once; the oldest goes."""

cached: "WeakKeyDictionary[nn.Module, WeakIdKeyDictionary]" = WeakKeyDictionary()
"""Codes of the tensors that are left of those forwards of a root that filled a cache; see ``Trace``."""


class Forward:
    """One forward of a root, in one thread."""

    def __init__(self, root: nn.Module, inputs: Inputs, observers: Sequence[Observer]) -> None:
        self.root, self.inputs, self.observers = root, inputs, observers
        self.counts: defaultdict[Any, int] = defaultdict(int)  # how many calls each module has made in it
        self.layout: Layout = layout_for(root, inputs.names, inputs.shapes, inputs.deciding)
        self.trace: Trace | None = None  # what follows the inputs, where the roles are not known yet
        self.paused = 0
        for module in self.layout.unheard:
            lose_unheard(module())
        if inputs.sources and not self.layout.whole:
            self.follow(inputs)
        # what is known of its calls, by what tells them apart
        self.known: dict[Hashable, KnownCall] = {} if self.trace is not None else self.known_before()

    def known_before(self) -> dict[Hashable, KnownCall]:
        """What is known of the calls of forwards that are laid out like this one."""
        told_by = self.layout if self.layout.whole else self.root  # without roles none is remembered
        key = (told_by, self.inputs.shapes, str(self.inputs.images))
        if key not in session.known and len(session.known) >= MOST:
            session.known.pop(next(iter(session.known)))
        return session.known.setdefault(key, {})

    def follow(self, inputs: Inputs) -> None:
        """Begin to follow the inputs; where that fails, for want of memory say, the forward goes unfollowed."""
        known = cached.get(self.root)
        if inputs.takes and not known:
            self.layout.failure = "it attends to keys of an earlier forward, which was not followed"
            return
        try:
            known = known if inputs.takes or inputs.fills else None
            trace = Trace(inputs.sources, inputs.deciding, known, self.on_sdpa)
        except Exception as problem:
            self.layout.failure = one_line(problem, 300)
            return
        self.trace = trace
        trace.__enter__()

    def on_sdpa(self) -> None:
        """SDPA ran: where nothing of ours called it, by a name that leads to no substitute."""
        if (frame := looked_at()) is not None and not frame.by_inputs:
            self.layout.unheard.append(ref(frame.module))
            lose_unheard(frame.module)

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
        if self.layout.failure is not None:
            for observer in self.observers:
                observer.untold.setdefault(type(self.root).__name__, self.layout.failure)

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
        if self.trace is None:
            self.known = self.known_before()

    def roles_at(
        self, place: tuple[int, int], query: Tensor, key: Tensor, sides: tuple[Tensor, Tensor], counts: bool
    ) -> Roles | None:
        """What the tokens of a call stand for."""
        if self.trace is not None:
            otherwise = "other" if "image" in self.inputs.sources else "image"
            roles = None if self.paused else roles_of(self.trace, *sides, otherwise)
            if counts:
                self.layout.calls[place] = roles
        else:
            roles = self.layout.calls.get(place)
            if self.layout.whole and self.layout.failure is None and place not in self.layout.calls:
                forget(self.root)
        if roles is not None and not roles.are_simple:
            roles = roles.fitted(query, key, self.inputs.images)
            if roles is None:
                forget(self.root)
        return roles


def lose_unheard(module: nn.Module | None) -> None:
    """Name a module whose attention can't be seen, by whatever name it goes; None has been freed."""
    place = None if module is None else session.places.get(module)
    if place is not None:
        lose(place.watchers, "calls attention by a name that can't be stood in for")


def begin_forward(frame: Frame) -> None:
    """A root begins a forward: the first observer to know of it reads its inputs, and follows them."""
    here, place, root = session.here, frame.place, frame.module
    here.products.clear()  # no softmax in it is of a product before it
    for observer, path in place.watchers:
        if observer not in place.roots or observer.read_inputs is None or observer.ended:
            continue
        try:
            forward = running()
            is_part = forward is not None and root is not forward.root and root in set(forward.root.modules())
            if forward is None or (frame.begun is None and not is_part):
                end_forward()
                forward = Forward(root, observer.read_inputs(root, frame.args, frame.kwargs), place.observers)
                frame.begun = here.forward = forward
            if observer.on_forward is not None:
                same = forward.root is root
                with torch._C.DisableTorchFunction():
                    inputs = forward.inputs if same else observer.read_inputs(root, frame.args, frame.kwargs)
                    observer.on_forward(path, root, inputs)
        except Exception as problem:
            here.blind[observer] = reason_of(problem)
        except BaseException:
            if frame.begun is not None:
                end_forward()
            raise


def end_root(frame: Frame, root: nn.Module, output: Any) -> None:
    """A root's forward has ended."""
    here = session.here
    try:
        if frame.begun is not None and frame.begun is running():
            end_forward(whole=output is not None)
    except Exception as problem:
        lose(frame.watchers, reason_of(problem))
    for observer, path in frame.watchers:
        if observer not in frame.place.roots or observer.ended:
            continue
        blind = here.blind.get(observer)
        if blind is not None and output is not None:
            observer.lose(path, blind)
        if observer.on_output is not None:
            try:
                observer.on_output(path, root, None if blind is not None else output)
            except Exception as problem:
                observer.lose(path, reason_of(problem))
