"""What is compiled: where it is found, what it was made of, and how it runs as it was written.

Whatever is not watched stays compiled. While a forward is followed, the compiler's stance lets everything run as it was
written, also functions that the model calls.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import nn

from .changes import Shared, Undo, replaced

stances, written = Shared(), Shared()
"""Stances of the compiler, and modules that run as they were written."""

ORIGINAL = "_torchdynamo_orig_callable"
"""Attribute of what was compiled: what it was made of."""

BACKEND = "_torchdynamo_orig_backend"
"""Attribute of what compiles: what it was made of."""


def compiled_parts(module: nn.Module) -> dict[str, Any]:
    """Name of what is compiled in a module, the whole of it or a method -> what stands there as it was written."""
    own = {name: value for name, value in vars(module).items() if callable(value) and hasattr(value, ORIGINAL)}
    found = {name: as_written(value) for name, value in own.items() if name not in ("_compiled_call_impl", ORIGINAL)}
    forward = getattr(type(module), "forward", None)
    if "forward" not in vars(module) and hasattr(forward, ORIGINAL):
        found["forward"] = as_written(forward).__get__(module)
    if getattr(module, "_compiled_call_impl", None) is not None:
        found["_compiled_call_impl"] = None
    return found


def as_written(compiled: Any) -> Any:
    """What a compiled function was made of."""
    while hasattr(compiled, ORIGINAL):
        compiled = getattr(compiled, ORIGINAL)
    return compiled


def backend_of(compiled: Any) -> Callable[..., Any] | None:
    """What compiles a compiled function; None if it can't be told."""
    backend = None
    while backend is None and compiled is not None:
        names = getattr(getattr(compiled, "__code__", None), "co_freevars", ())
        closed_over = dict(zip(names, getattr(compiled, "__closure__", None) or (), strict=False))
        backend = closed_over["callback"].cell_contents if "callback" in closed_over else None
        compiled = getattr(compiled, "__wrapped__", None)
    while hasattr(backend, BACKEND):
        backend = getattr(backend, BACKEND)
    return backend if callable(backend) else None


def see_compile(is_watched: Callable[[nn.Module], bool], compiler: Any) -> Undo:
    """Let modules that are compiled from now on run as they were written for as long as they are watched."""
    original = compiler.compile

    @wraps(original)
    def compile(model: Any = None, *args: Any, **kwargs: Any) -> Any:
        found = original(model, *args, **kwargs)
        module = model if isinstance(model, nn.Module) else getattr(model, "__self__", None)
        if not isinstance(module, nn.Module):
            return found
        if not isinstance(found, nn.Module):
            return unless_watched(found, module)
        found.forward = unless_watched(found.forward, module)
        return found

    def unless_watched(compiled: Callable, module: nn.Module) -> Callable:
        @wraps(compiled)
        def run(*args: Any, **kwargs: Any) -> Any:
            return (as_written(compiled) if is_watched(module) else compiled)(*args, **kwargs)

        return run

    return replaced(compiler, "compile", compile)


def force_eager(compiler: Any) -> Undo:
    """Let compiled code run as it was written."""
    stance = compiler.set_stance("force_eager")
    return lambda: stance.__exit__(None, None, None)
