"""Follow a pipeline: its call, its latents and the steps of its schedulers, while it samples as always.

Methods are replaced in the classes for the duration, and tell of the followed objects only: a pipeline may copy its
scheduler, compare its class, or ask for a method's signature, and finds all as it was.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from torch import Tensor, nn

from ..capture.changes import Shared, Undo, replaced, together
from ..errors import RefusedCallError

if TYPE_CHECKING:
    from .sight import Sight

MARK = "_followed_as"
"""Attribute of a followed object, and so of its copies: a name under which its listeners are known."""

lock = threading.Lock()
listeners: "dict[str, list[Sight]]" = {}
"""Name of a followed object -> who listens."""

classes = Shared()
"""Classes whose methods tell of the followed objects."""

Events = list[tuple[Any, ...]]
"""What is told: methods of a listener, by name, and their arguments."""


BEFORE: dict[str, Callable[[dict[str, Any]], Events]] = {
    "__call__": lambda given: [("on_parts",), ("on_call", given)],
    "set_timesteps": lambda given: [("on_timesteps",)],
    "step": lambda given: [("on_step", given.get("model_output"), given.get("sample"))],
}
"""Method -> what it tells before it runs, of what it is given."""


def after_latents(given: dict[str, Any], found: Any) -> Events:
    """The pipeline has made its latents."""
    first = found[0] if isinstance(found, tuple | list) and found else found
    return [("on_latents", first)] if isinstance(first, Tensor) else []


def after_change(given: dict[str, Any], found: Any) -> Events:
    """An attribute of the pipeline was set: a part may have been replaced."""
    *_, value = given.values()
    return [("on_parts",)] if isinstance(value, nn.Module) or hasattr(value, "set_timesteps") else []


AFTER: dict[str, Callable[[dict[str, Any], Any], Events]] = {
    "encode_prompt": lambda given, found: [("on_encoded", given, found)],
    "prepare_latents": after_latents,
    "__setattr__": after_change,
}
"""Method -> what it tells once it has run, of what it was given and what came of it."""

OF_PIPELINES = ("__call__", *AFTER)
OF_SCHEDULERS = ("set_timesteps", "step")


@contextmanager
def follow(pipe: Any, listener: "Sight") -> Iterator[Callable[[], None]]:
    """Tell ``listener`` what ``pipe`` does, while the context lasts; a bare module does nothing of the kind.

    Yields:
        ``catch_up()``: follows schedulers that have joined the pipeline since.
    """
    known: list[Any] = []
    with ExitStack() as stack:

        def catch_up() -> None:
            for part in () if isinstance(pipe, nn.Module) else pipe.components.values():
                steps = all(hasattr(part, name) for name in OF_SCHEDULERS)
                if steps and all(part is not other for other in known):
                    known.append(part)
                    stack.enter_context(followed(part, listener, OF_SCHEDULERS))

        if not isinstance(pipe, nn.Module):
            stack.enter_context(followed(pipe, listener, OF_PIPELINES))
        catch_up()
        yield catch_up


@contextmanager
def followed(thing: Any, listener: "Sight", methods: tuple[str, ...]) -> Iterator[None]:
    """Let ``listener`` be told of the methods of one object."""
    with classes.changed(type(thing), partial(see_methods, methods)):
        with lock:
            name = vars(thing).setdefault(MARK, uuid4().hex)
            listeners.setdefault(name, []).append(listener)
        try:
            yield
        finally:
            with lock:
                listeners[name].remove(listener)
                if not listeners[name]:
                    del listeners[name], thing.__dict__[MARK]


def see_methods(methods: tuple[str, ...], own: type) -> Undo:
    """Let methods of a class tell of themselves, as far as it has them."""
    return together([replaced(own, name, seen(name, own)) for name in methods if hasattr(own, name)])


def seen(name: str, own: type) -> Any:
    """A method of a class that tells of itself, unless one that a subclass has in its place does.

    What it is given is told by name.
    """
    original = getattr(own, name)
    parameters = inspect.signature(original).parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    before, after = BEFORE.get(name), AFTER.get(name)

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next((kind for kind in type(self).__mro__ if kind in classes), own) is not own:
            return original(self, *args, **kwargs)
        given = {**dict(zip(names, (self, *args), strict=False)), **kwargs}
        failed = True
        try:
            if before is not None and (told := listeners_of(self)):
                tell(told, before(given))
            found = original(self, *args, **kwargs)
            failed = False
        finally:
            if name == "__call__":
                tell(listeners_of(self), [("on_end", failed)])
        if after is not None and (told := listeners_of(self)):
            tell(told, after(given, found))
        return found

    return method


def listeners_of(thing: Any) -> "list[Sight]":
    """Who listens to an object, or to what it is a copy of."""
    return list(listeners.get(vars(thing).get(MARK, ""), ()))


def tell(told: "list[Sight]", events: Events) -> None:
    """Tell listeners what happens; the pipeline goes on whatever goes wrong there, if its call is not refused."""
    refusal = None
    for listener in told:
        for event, *about in events:
            if listener.looks_away and event != "on_parts":
                continue
            try:
                getattr(listener, event)(*about)
            except RefusedCallError as problem:  # everybody is told that the call begins, for all are that it ends
                refusal = refusal or problem
            except Exception as problem:
                listener.on_failure(problem)
    if refusal is not None:
        raise refusal
