"""Changes that several observers want: made for the first, undone after the last, and never in a copy."""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

Undo = Callable[[], None]
Change = Callable[..., Undo]

MISSING = object()


made: dict[tuple[int, Change], tuple[Any, Undo, int]] = {}
"""Id of a thing and how it is changed -> the thing, the way back, and how many want it so."""

lock = threading.RLock()


def is_changed(thing: Any, change: Change) -> bool:
    """Whether a thing is changed so now."""
    return (id(thing), change) in made


@contextmanager
def changed(thing: Any, change: Change, *about: Any) -> Iterator[None]:
    """Have ``thing`` changed by ``change(thing, *about)``, which returns the way back, while the context lasts."""
    key = (id(thing), change)
    with lock:
        _, undo, count = made.get(key) or (thing, change(thing, *about), 0)
        made[key] = (thing, undo, count + 1)
    try:
        yield
    finally:
        with lock:
            _, undo, count = made.pop(key)
            if count > 1:
                made[key] = (thing, undo, count - 1)
            else:
                undo()


stood_for: dict[int, dict[str, Any]] = {}
"""Id of something with attributes of ours -> what it had in their places, ``MISSING`` if it had inherited that."""


def replaced(owner: Any, name: str, substitute: Any) -> Undo:
    """Put something in the place of an attribute; the way back leaves inherited what the owner had inherited."""
    own = vars(owner).get(name, MISSING)
    setattr(owner, name, substitute)
    stood_for.setdefault(id(owner), {})[name] = own

    def undo() -> None:
        del stood_for[id(owner)][name]
        if not stood_for[id(owner)]:
            del stood_for[id(owner)]
        if own is MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, own)

    return undo


def together(undoing: Sequence[Undo]) -> Undo:
    """Several ways back as one, the last change first."""

    def undo() -> None:
        for one in reversed(undoing):
            one()

    return undo


HOOKS = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}
"""Where a module keeps its hooks, and what it knows of them, by number."""

MARK = "_watches"
"""Attribute of our hooks."""


def without_ours(owner: type) -> Undo:
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
