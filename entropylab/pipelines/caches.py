"""Caches of diffusers, which leave out layers, or a part of a denoiser's batch: what they do run is heard of."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import nn

from ..capture import session
from ..capture.changes import Shared, Undo, replaced
from ..capture.forwards import running
from ..capture.session import fail
from .arguments import inputs_of

heard = Shared()
"""Hooks' references to the forwards that they wrap, whose calls are heard."""


@contextmanager
def seen_caches(roots: Mapping[str, nn.Module]) -> Iterator[None]:
    """Hear what hooks of diffusers run of the modules that they stand in for, while the context lasts."""
    with ExitStack() as stack:
        for module in (module for root in roots.values() for module in root.modules()):
            for reference in references(module):
                stack.enter_context(heard.changed(reference, partial(listen, module)))
        yield


def references(module: nn.Module) -> list[Any]:
    """Of the hooks that stand in for a module's forward: where each keeps the forward that it calls."""
    registry = vars(module).get("_diffusers_hook")
    hooks = getattr(registry, "hooks", {}).values()
    found = [getattr(hook, "fn_ref", None) for hook in hooks]
    return [reference for reference in found if getattr(reference, "original_forward", None) is not None]


def listen(module: nn.Module, reference: Any) -> Undo:
    """Let a hook's call of the forward that it wraps be heard."""
    session.stood_in_for.add(module)
    return replaced(reference, "original_forward", heard_forward(reference.original_forward, module))


def heard_forward(original: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    """A forward that says that it runs, and which part of the batch it is handed if it is a denoiser's."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            session.began(module)
            follows = running()
            if follows is not None and follows.root is module:
                follows.narrow(inputs_of(module, args, kwargs))
        except Exception as problem:
            fail(problem)
        return original(*args, **kwargs)

    return forward
