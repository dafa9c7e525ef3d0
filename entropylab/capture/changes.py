"""Changes that several observers want: made for the first, undone after the last, and never in a copy."""

import copy
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import nn

Change = Callable[..., AbstractContextManager[None]]
"""Changes a thing while its context lasts."""

MISSING = object()

made: dict[tuple[int, Change], tuple[Any, AbstractContextManager[None], int]] = {}
"""Id of a thing and how it is changed -> the thing, the change, and how many want it so."""

lock = threading.RLock()


def is_changed(thing: Any, change: Change) -> bool:
    """Whether a thing is changed so now."""
    return (id(thing), change) in made


@contextmanager
def changed(thing: Any, change: Change, *about: Any) -> Iterator[None]:
    """Have ``thing`` changed by ``change(thing, *about)`` while the context lasts, once for all who want it."""
    key = (id(thing), change)
    with lock:
        if key not in made:
            context = change(thing, *about)
            context.__enter__()
            made[key] = (thing, context, 0)
        made[key] = (*made[key][:2], made[key][2] + 1)
    try:
        yield
    finally:
        with lock:
            _, context, count = made.pop(key)
            if count > 1:
                made[key] = (thing, context, count - 1)
            else:
                context.__exit__(None, None, None)


stood_for: dict[int, dict[str, Any]] = {}
"""Id of something with attributes of ours -> what it had in their places, ``MISSING`` if it had inherited that."""


@contextmanager
def replaced(owner: Any, name: str, substitute: Any) -> Iterator[None]:
    """Put something in the place of an attribute; at the end what the owner had inherited is inherited again."""
    own = vars(owner).get(name, MISSING)
    setattr(owner, name, substitute)
    stood_for.setdefault(id(owner), {})[name] = own
    try:
        yield
    finally:
        del stood_for[id(owner)][name]
        if not stood_for[id(owner)]:
            del stood_for[id(owner)]
        if own is MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


@contextmanager
def together(changes: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    """Several changes as one."""
    with ExitStack() as stack:
        for change in changes:
            stack.enter_context(change)
        yield


HOOKS = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}
"""Where a module keeps its hooks, and what it knows of them, by number."""

MARK = "_watches"
"""Attribute of our hooks."""


def without_ours(owner: type) -> AbstractContextManager[None]:
    """Let modules leave out what is ours when they are copied or pickled."""
    original: Any = owner.__reduce_ex__

    def __reduce_ex__(self: nn.Module, protocol: Any) -> Any:
        made = original(self, protocol)
        if not isinstance(made, tuple) or len(made) < 3 or not isinstance(made[2], dict):
            return made
        return (*made[:2], own_state(self, made[2]), *made[3:])

    return replaced(owner, "__reduce_ex__", __reduce_ex__)


def own_state(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A module's attributes without our hooks, and without what stands in for others in it or in its processor."""
    state = with_own(module, state)
    for name, known in HOOKS.items():
        ours = {number for number, hook in (state.get(name) or {}).items() if hasattr(hook, MARK)}
        for each in (name, *known) if ours else ():
            kept = {number: value for number, value in state.get(each, {}).items() if number not in ours}
            state[each] = type(state[each])(kept)
    for name, value in state.items():
        if id(value) in stood_for and not isinstance(value, nn.Module | type):
            state[name] = copy.copy(value)
            state[name].__dict__ = with_own(value, vars(value))
    return state


def with_own(thing: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The attributes of something as they are without ours."""
    own = stood_for.get(id(thing), {})
    kept = {name: value for name, value in state.items() if name not in own}
    return kept | {name: value for name, value in own.items() if value is not MISSING}
