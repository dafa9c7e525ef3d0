"""Follow a pipeline: its call, its latents and the steps of its schedulers, while it samples as always.

Methods are replaced in the classes for the duration, and tell of the followed objects only: a pipeline may copy its
scheduler, compare its class, or ask for a method's signature, and finds all as it was.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol
from uuid import uuid4

from torch import Tensor, nn

from ..capture.changes import Shared, Undo, replaced, together
from ..errors import RefusedCallError


class Listener(Protocol):
    """What is told of a pipeline that samples."""

    def on_parts(self) -> None:
        """The pipeline may have other parts than before."""

    def on_call(self, arguments: dict[str, Any]) -> None:
        """The pipeline is called with these arguments, by name."""

    def on_end(self, failed: bool) -> None:
        """The pipeline's call is over; ``failed`` if by an exception."""

    def on_latents(self, latents: Tensor) -> None:
        """The pipeline has made the latents to start from."""

    def on_encoded(self, arguments: dict[str, Any], found: Any) -> None:
        """The pipeline has encoded a prompt: what it was asked, by name, and what came of it."""

    def on_timesteps(self) -> None:
        """A scheduler is asked to set its timesteps: sampling begins."""

    def on_step(self, combined: Any, sample: Any) -> None:
        """A scheduler makes a step with ``sample``, by the combination of what the denoiser returned."""

    def on_failure(self, problem: Exception) -> None:
        """Something went wrong in telling any of these, which must not end the pipeline's own work."""


MARK = "_followed_as"
"""Attribute of a followed object, and so of its copies: a name under which its listeners are known."""

lock = threading.Lock()
listeners: dict[str, list[Listener]] = {}
"""Name of a followed object -> who listens."""

classes = Shared()
"""Classes whose methods tell of the followed objects."""

Seen = Callable[[Any], Any]
"""Makes a method of a class's own method, which tells of itself."""


@contextmanager
def follow(pipe: Any, listener: Listener) -> Iterator[Callable[[], None]]:
    """Tell ``listener`` what ``pipe`` does, while the context lasts; a bare module does nothing of the kind.

    Yields:
        ``catch_up()``: follows schedulers that have joined the pipeline since.
    """
    known: list[Any] = []
    with ExitStack() as stack:

        def catch_up() -> None:
            for part in () if isinstance(pipe, nn.Module) else pipe.components.values():
                steps = hasattr(part, "step") and hasattr(part, "set_timesteps")
                if steps and all(part is not other for other in known):
                    known.append(part)
                    methods = {"set_timesteps": seen_timesteps, "step": seen_step}
                    stack.enter_context(followed(part, listener, methods))

        if not isinstance(pipe, nn.Module):
            methods = {
                "__call__": seen_call,
                "encode_prompt": seen_encoding,
                "prepare_latents": seen_latents,
                "__setattr__": seen_change,
            }
            stack.enter_context(followed(pipe, listener, methods))
        catch_up()
        yield catch_up


@contextmanager
def followed(thing: Any, listener: Listener, methods: Mapping[str, Seen]) -> Iterator[None]:
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


def see_methods(methods: Mapping[str, Seen], own: type) -> Undo:
    """Let methods of a class tell of themselves, as far as it has them."""
    return together(
        [replaced(own, name, seen(getattr(own, name))) for name, seen in methods.items() if hasattr(own, name)]
    )


def listeners_of(thing: Any) -> list[Listener]:
    """Who listens to an object, or to what it is a copy of."""
    return list(listeners.get(vars(thing).get(MARK, ""), ()))


def tell(listener: Listener, event: str, *about: Any) -> None:
    """Call ``listener.<event>(*about)``; the pipeline goes on whatever goes wrong there, if its call is not refused."""
    try:
        getattr(listener, event)(*about)
    except RefusedCallError:
        raise
    except Exception as problem:
        listener.on_failure(problem)


def named(names: Sequence[str], args: tuple, kwargs: dict) -> dict[str, Any]:
    """Arguments by name: those by place after the ``names`` of the parameters that can be so given."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def names_of(method: Any) -> list[str]:
    """Names of a method's parameters that can be given by place, its object's first."""
    parameters = inspect.signature(method).parameters.values()
    return [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]


def seen_call(original: Any) -> Any:
    """A pipeline's ``__call__`` that tells of itself."""
    names = names_of(original)

    @functools.wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = named(names, (self, *args), kwargs) if listeners_of(self) else {}
        failed = True
        try:
            for listener in listeners_of(self):
                tell(listener, "on_parts")
                tell(listener, "on_call", given)
            found = original(self, *args, **kwargs)
            failed = False
            return found
        finally:
            for listener in listeners_of(self):
                tell(listener, "on_end", failed)

    return call


def seen_change(original: Any) -> Any:
    """A pipeline's ``__setattr__`` that tells when a part may have been replaced."""

    @functools.wraps(original)
    def __setattr__(self: Any, name: str, value: Any) -> None:
        original(self, name, value)
        if isinstance(value, nn.Module) or hasattr(value, "set_timesteps"):
            for listener in listeners_of(self):
                tell(listener, "on_parts")

    return __setattr__


def seen_latents(original: Any) -> Any:
    """A pipeline's ``prepare_latents`` that tells what it made."""

    @functools.wraps(original)
    def prepare_latents(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        first = found[0] if isinstance(found, tuple | list) and found else found
        for listener in listeners_of(self) if isinstance(first, Tensor) else ():
            tell(listener, "on_latents", first)
        return found

    return prepare_latents


def seen_encoding(original: Any) -> Any:
    """A pipeline's ``encode_prompt`` that tells what it made."""
    names = names_of(original)

    @functools.wraps(original)
    def encode_prompt(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(self, *args, **kwargs)
        for listener in listeners_of(self):
            tell(listener, "on_encoded", named(names, (self, *args), kwargs), found)
        return found

    return encode_prompt


def seen_timesteps(original: Any) -> Any:
    """A scheduler's ``set_timesteps`` that tells of itself."""

    @functools.wraps(original)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> Any:
        for listener in listeners_of(self):
            tell(listener, "on_timesteps")
        return original(self, *args, **kwargs)

    return set_timesteps


def seen_step(original: Any) -> Any:
    """A scheduler's ``step`` that tells what it is given."""
    names = names_of(original)

    @functools.wraps(original)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        told = listeners_of(self)
        given = named(names, (self, *args), kwargs) if told else {}
        for listener in told:
            tell(listener, "on_step", given.get("model_output"), given.get("sample"))
        return original(self, *args, **kwargs)

    return step
