"""Caches of diffusers, which leave out layers, or a part of a denoiser's batch: what they do run is heard of."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..capture.interception import began, running, stood_in_for
from .arguments import inputs_of


@contextmanager
def seen_caches(roots: Mapping[str, nn.Module]) -> Iterator[None]:
    """Hear what hooks of diffusers run of the modules that they stand in for, while the context lasts."""
    mine: list[Any] = []
    try:
        for module in (module for root in roots.values() for module in root.modules()):
            for reference in references(module):
                listen(reference, module)
                mine.append(reference)
        yield
    finally:
        for reference in mine:
            cease_to_listen(reference)


heard: dict[int, tuple[Callable[..., Any], int]] = {}
"""Id of a hook's reference to the forward that it wraps -> that forward, and how many listen."""
lock = threading.Lock()


def references(module: nn.Module) -> list[Any]:
    """Of the hooks that stand in for a module's forward: where each keeps the forward that it calls."""
    registry = vars(module).get("_diffusers_hook")
    hooks = getattr(registry, "hooks", {}).values()
    found = [getattr(hook, "fn_ref", None) for hook in hooks]
    return [reference for reference in found if getattr(reference, "original_forward", None) is not None]


def listen(reference: Any, module: nn.Module) -> None:
    """Let a hook's call of the forward that it wraps be heard, until as many times ``cease_to_listen``."""
    with lock:
        own, count = heard.get(id(reference), (reference.original_forward, 0))
        heard[id(reference)] = (own, count + 1)
        if not count:
            reference.original_forward = heard_forward(own, module)
            stood_in_for.add(module)


def cease_to_listen(reference: Any) -> None:
    """Undo one ``listen``."""
    with lock:
        own, count = heard.pop(id(reference))
        if count > 1:
            heard[id(reference)] = (own, count - 1)
        else:
            reference.original_forward = own


def heard_forward(original: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    """A forward that says that it runs, and which part of the batch it is handed if it is a denoiser's."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        began(module)
        follows = running()
        if follows is not None and follows.root is module:
            follows.narrow(inputs_of(module, args, kwargs))
        return original(*args, **kwargs)

    return forward
