"""Stand in for what would go unheard: methods of a pipeline and its schedulers, caches, attention that hides itself.

Methods are replaced in the classes for the duration, and tell of the followed objects only: a pipeline may copy its
scheduler, compare its class, or ask for a method's signature, and finds all as it was. Nothing is put into the objects.
"""

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from ..capture import session
from ..capture.changes import changed, is_changed, replaced, together
from ..capture.forwards import running
from ..capture.roles import is_plain
from ..capture.session import fail
from ..errors import EntropyLabError, RefusedCallError
from .arguments import inputs_of

if TYPE_CHECKING:
    from .sight import Sight

OF_SCHEDULERS = ("set_timesteps", "step")
OF_PIPELINES = ("__call__", "encode_prompt", "prepare_latents", "__setattr__")
"""Methods that tell of themselves."""

BEFORE = {"__call__": "on_call", "set_timesteps": "on_timesteps", "step": "on_step"}
AFTER = {"encode_prompt": "on_encoded", "prepare_latents": "on_latents", "__setattr__": "on_set"}
"""Method -> what it tells before it runs, by what it is given; or once it has, by that and by what came of it."""

VISIBLE = ("native", "_native", "flex")
"""Beginnings of names of diffusers' backends whose attention is a function of PyTorch."""

HIDING = ("XFormers", "NPU", "XLA", "Sage", "Flash")
"""Parts of names of attention processors that call a library of their own."""

lock = threading.Lock()
listeners: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""A followed object, or a copy of one -> who listens; they share one list."""


def follow(stack: ExitStack, pipe: Any, listener: "Sight") -> None:
    """Tell ``listener`` what a pipeline and its schedulers do, if it is not told yet, until ``stack`` is closed."""
    if isinstance(pipe, nn.Module):  # does nothing of the kind
        return
    schedulers = [part for part in pipe.components.values() if all(hasattr(part, name) for name in OF_SCHEDULERS)]
    for thing in (pipe, *schedulers):
        if listener not in listeners.get(thing, ()):
            stack.enter_context(followed(thing, listener, OF_PIPELINES if thing is pipe else OF_SCHEDULERS))


@contextmanager
def followed(thing: Any, listener: "Sight", methods: tuple[str, ...]) -> Iterator[None]:
    """Let ``listener`` be told of the methods of one object."""
    with changed(type(thing), see_methods, methods):
        with lock:
            own = listeners.setdefault(thing, [])
            own.append(listener)
        try:
            yield
        finally:
            with lock:
                own.remove(listener)
                if not own:
                    del listeners[thing]


def see_methods(own: type, methods: tuple[str, ...]) -> AbstractContextManager[None]:
    """Let methods of a class tell of themselves, as far as it has them, and copies of what is followed be followed."""
    telling = {name: seen(name, own) for name in methods if hasattr(own, name)}
    copying = {name: followed_copy(getattr(own, name, None)) for name in ("__copy__", "__deepcopy__")}
    return together(replaced(own, name, method) for name, method in (telling | copying).items())


def followed_copy(original: Callable[..., Any] | None) -> Callable[..., Any]:
    """``__copy__`` or ``__deepcopy__`` of a class, where it may have none; a copy is followed as what it is made of.

    With a deep copy of the whole pipeline nobody follows what is in it.
    """

    def copied(self: Any, *memo: Any) -> Any:
        if original is not None:
            found = original(self, *memo)
        else:
            made = self.__reduce_ex__(4)  # the class may say by it what a copy is made of
            again = copy._reconstruct  # type: ignore[attr-defined]
            found = self if isinstance(made, str) else again(self, *(memo or [None]), *made)
        own = listeners.get(self, ())
        if own and not any(id(listener.pipe) in each for listener in own for each in memo):
            listeners[found] = own
        return found

    return copied


def seen(name: str, own: type) -> Any:
    """A method of a class that tells what it is given, by name, unless one that a subclass has in its place does."""
    original = getattr(own, name)
    parameters = inspect.signature(original).parameters.values()
    names = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next((kind for kind in type(self).__mro__ if is_changed(kind, see_methods)), own) is not own:
            return original(self, *args, **kwargs)
        given = {**dict(zip(names, (self, *args), strict=False)), **kwargs}
        failed = True
        try:
            if name == "__call__":
                tell(self, "on_parts")
            if name in BEFORE:
                tell(self, BEFORE[name], given)
            found = original(self, *args, **kwargs)
            failed = False
        finally:
            if name == "__call__":
                tell(self, "on_end", failed)
        if name in AFTER:
            tell(self, AFTER[name], given, found[0] if isinstance(found, tuple | list) and found else found)
        return found

    return method


def tell(thing: Any, event: str, *about: Any) -> None:
    """Tell who listens to an object, or to what it is a copy of.

    The pipeline goes on whatever goes wrong there, if its call is not refused.
    """
    refusal = None
    for listener in list(listeners.get(thing, ())):
        if listener.looks_away and event not in ("on_parts", "on_set"):
            continue
        try:
            getattr(listener, event)(*about)
        except RefusedCallError as problem:  # everybody is told that the call begins, for all are that it ends
            refusal = refusal or problem
        except Exception as problem:
            listener.on_failure(problem)
    if refusal is not None:
        raise refusal


def see_parts(stack: ExitStack, roots: Mapping[str, nn.Module]) -> None:
    """Let attention processors call PyTorch's attention, and hear what caches run, until ``stack`` is closed.

    What is set is each processor's own backend, which goes before the process-wide default; that one is left alone.
    Hooks of diffusers stand in for modules: caches leave out some, or a part of the batch.
    """
    parts = [each for name, root in roots.items() for each in root.named_modules(prefix=name) if not is_plain(each[1])]
    for path, module in parts:
        hooks = getattr(vars(module).get("_diffusers_hook"), "hooks", {}).values()
        for reference in (getattr(hook, "fn_ref", None) for hook in hooks):
            if getattr(reference, "original_forward", None) is not None:
                stack.enter_context(changed(reference, hear, module))
        processor = getattr(module, "processor", None)
        name = type(processor).__name__
        if any(part in name for part in HIDING) and not name.endswith("2_0"):
            raise EntropyLabError(
                f"the attention of {path} is computed by {name}, which can't be observed: set another processor, "
                "e.g. pipe.disable_xformers_memory_efficient_attention() or "
                "model.set_attn_processor(AttnProcessor2_0())."
            )
        if is_changed(processor, replaced) or hides(processor):
            stack.enter_context(changed(processor, replaced, "_attention_backend", "native"))


def hides(processor: Any) -> bool:
    """Whether a processor's backend, its own or the process-wide one, hides the attention call."""
    if not hasattr(processor, "_attention_backend"):
        return False
    own = processor._attention_backend
    name = process_wide() if own is None else getattr(own, "value", own)
    return not str(name).startswith(VISIBLE)


def process_wide() -> str:
    """Name of the backend that diffusers uses where a processor names none."""
    try:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry
    except ImportError:
        return "native"
    active, _ = _AttentionBackendRegistry.get_active_backend()
    return str(getattr(active, "value", active))


def hear(reference: Any, module: nn.Module) -> AbstractContextManager[None]:
    """Let a forward that a hook wraps say that it runs, and which part of the batch it is handed if a denoiser's."""
    original = reference.original_forward
    session.stood_in_for.add(module)

    def forward(*args: Any, **kwargs: Any) -> Any:
        try:
            session.began(module)
            follows = running()
            if follows is not None and follows.root is module:
                follows.narrow(inputs_of(module, args, kwargs))
        except Exception as problem:
            fail(problem)
        return original(*args, **kwargs)

    return replaced(reference, "original_forward", forward)
