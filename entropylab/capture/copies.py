"""Copies of watched modules, pickled or deep, that are made while somebody watches: they carry nothing of ours."""

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from .shared import Shared, Undo, replaced, stood_for, with_own

HOOKS = {
    "_forward_pre_hooks": ("_forward_pre_hooks_with_kwargs",),
    "_forward_hooks": ("_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
}
"""Where a module keeps its hooks, and what it knows of them, by number."""

MARK = "_watches"
"""Attribute of our hooks."""

states = Shared()
"""Classes that say what belongs into a copy of their modules."""


def mark(*hooks: Callable) -> None:
    """Let hooks be known as ours."""
    for hook in hooks:
        setattr(hook, MARK, True)


def owner_of_state(kind: type[nn.Module]) -> type:
    """The class from which modules of a class have ``__getstate__``, which says what a copy gets."""
    return next((base for base in kind.__mro__ if base is not object and "__getstate__" in vars(base)), nn.Module)


def without_watchers(owner: type) -> Undo:
    """Let the modules of a class leave out what is ours when they are copied."""
    original: Any = owner.__getstate__

    def __getstate__(self: nn.Module) -> Any:
        state = original(self)
        return own_state(self, state) if isinstance(state, dict) else state

    return replaced(owner, "__getstate__", __getstate__)


def own_state(module: nn.Module, state: dict[str, Any]) -> dict[str, Any]:
    """A module's attributes without our hooks, and without what stands in for others in it or in its processor."""
    state = with_own(module, dict(state))
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
