"""See every attention call of some modules: forward hooks say *where* we are, between them the call itself is seen."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.compiler import is_dynamo_compiling

from .bindings import bind_names
from .byhand import hand_on, is_linear
from .changes import MARK, changed, is_changed, without_ours
from .forwards import begin_forward, end_root
from .functions import see_functions, see_multihead, see_scores
from .regions import compiled_parts, see_compile, write_out
from .roles import forget, forget_if_changed, is_plain
from .session import Frame, Observer, OnAttention, Place, computes_again, fail, lose, running, session
from .telling import finish

PROJECTIONS = ("q", "k", "v", "wq", "wk", "wv", "query", "key", "value")
"""Words in names of the parts of an attention layer."""

FAST = (nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer)
"""Modules that take a fast path, which gives padding other values, unless they are followed."""

UNSEEN = "ran without an attention call that can be seen"


def looks_like_attention(module: nn.Module) -> bool:
    """Whether a module is, by its class and its parts, an attention layer (rather than a block that holds some)."""
    scripted = str(getattr(module, "original_name", "")) if isinstance(module, torch.jit.ScriptModule) else ""
    is_called_so = names_attention(type(module), scripted)  # type: ignore[arg-type]
    return isinstance(module, nn.MultiheadAttention) or (is_called_so and has_projections(module))


@lru_cache(maxsize=4096)
def names_attention(kind: type, scripted: str) -> bool:
    """Whether a class, or what TorchScript calls its own, is called attention."""
    classes = [scripted.lower(), *(own.__name__.lower() for own in kind.__mro__)]
    return any(("atten" in name or "attn" in name) and "processor" not in name for name in classes)


def has_projections(module: nn.Module) -> bool:
    """Whether a module makes queries, keys and values, by the words in its parts' names."""
    parts = [(set(re.split(r"[_\d]", name.lower())), part) for name, part in module.named_children()]
    apart = {word for words, _ in parts for word in words} & set(PROJECTIONS)
    at_once = any(  # "qkv", "Wqkv", "c_attn"
        words & {"qkv", "wqkv"} or ("attn" in words and getattr(getattr(part, "weight", None), "ndim", 0) == 2)
        for words, part in parts
    )
    return hasattr(module, "processor") or hasattr(module, "to_q") or len(apart) > 1 or at_once


@contextmanager
def intercept(roots: Mapping[str, nn.Module], on_attention: OnAttention, **told: Any) -> Iterator[Observer]:
    """Have an ``Observer`` told of every attention call made inside ``roots``, name -> module, while the context lasts.

    Compiled modules in ``roots`` are compiled once more with the look in their graph, or run as they were written where
    that can't be had. Where one runs inside of somebody's compiled function its attention is named as unseen.
    """
    observer = Observer(on_attention, roots=tuple(roots), **told)
    for root in roots.values() if not session.observers else ():
        forget_if_changed(root)
    with ExitStack() as stack:
        stack.callback(session.end, observer)
        for name, root in roots.items():
            watch_root(observer, stack, name, root)
        stack.enter_context(changed(F, see_functions))
        stack.enter_context(changed(torch, see_compile))
        session.begin(observer)
        bind_names(stack, roots)
        stack.callback(session.leave, observer)
        yield observer


def watch_root(observer: Observer, stack: ExitStack, name: str, root: nn.Module) -> None:
    """Watch the modules of a root that are not watched yet, until ``stack`` is closed."""
    new = [each for each in root.named_modules(prefix=name) if each[1] not in observer.watched]
    if observer in session.observers:
        forget(root)
    stack.enter_context(changed(nn.Module, without_ours))
    with session.lock:
        observer.watched.update(module for _, module in new)
    for path, module in new:
        if is_plain(module) and module is not root:
            continue
        if is_changed(module, write_out) or compiled_parts(module):
            stack.enter_context(changed(module, write_out, hook))
        if hasattr(module, "get_attention_scores") and hasattr(module, "heads"):
            stack.enter_context(changed(module, see_scores))
        with session.lock:
            if module not in session.places:
                is_script = isinstance(module, torch.jit.ScriptModule)
                attends = any(looks_like_attention(part) for part in (module.modules() if is_script else (module,)))
                is_skipped = module in session.stood_in_for
                session.places[module] = Place(attends, isinstance(module, FAST), is_script, is_skipped)
            place = session.places[module]
            place.add(observer, path.replace("._orig_mod", ""), module is root)
            if not place.handles:
                hook(place, module)


def hook(place: Place, module: nn.Module) -> None:
    """Hook a module. It stays so if it attends; else the hooks fall away once it has run."""
    place.handles = [
        module.register_forward_pre_hook(MethodType(enter, place), with_kwargs=True),
        module.register_forward_hook(MethodType(leave, place), always_call=True),
    ]


def enter(place: Place, module: nn.Module, args: tuple, kwargs: dict) -> None:
    """A module's forward begins."""
    if is_dynamo_compiling() or torch.compiler._is_compiling_flag:  # a compiled function calls the module
        if place.is_attention:
            lose(place.watchers, "runs inside of a compiled function, in which attention calls can't be seen")
        return
    here, begins = session.here, bool(place.roots) and not computes_again()
    for observer in place.roots if begins else ():
        session.leave(observer)
    frame = Frame(place, module, args, kwargs, here.frame)
    if begins:
        begin_forward(frame)
    here.frame = frame
    if place.is_fast and not computes_again():
        try:
            if isinstance(module, nn.MultiheadAttention):
                see_multihead(frame, module)
            if (forward := running()) is not None:
                forward.pause()
        except Exception as problem:
            fail(problem)


def leave(place: Place, module: nn.Module, args: tuple, output: Any) -> None:
    """A module's forward has ended; without an output, by an exception."""
    if is_dynamo_compiling():
        return
    here, frame = session.here, session.here.frame
    if frame is None or frame.module is not module:
        return
    is_plain = frame.seen and frame.attended and not (frame.held or frame.maps or place.roots or place.is_fast)
    if is_plain or computes_again():
        here.frame = frame.outer
        return
    if place.is_fast and (forward := running()) is not None:
        forward.go_on()
    try:
        if output is not None and frame.held:
            finish(frame)
        if output is not None and frame.maps:
            hand_on(frame)
    except Exception as problem:
        fail(problem)
    here.frame = frame.outer
    if output is not None:
        ended(frame, module)
    if place.roots:
        end_root(frame, module, output)


for ours in (enter, leave):
    setattr(ours, MARK, True)


def ended(frame: Frame, module: nn.Module) -> None:
    """A module has run to its end: if it looks like attention and was not seen to attend, it is named."""
    place = frame.place
    if place.is_attention and not frame.seen and not frame.skipped:
        why = "is TorchScript, in which attention calls can't be seen" if place.is_script else UNSEEN
        why = "linear attention has no softmax" if is_linear(module) else why
        name = type(getattr(module, "processor", module)).__name__
        often = "in some forwards " if place.attended else ""
        for observer, path in frame.watchers:
            if observer.rescales or not frame.shown:
                observer.unseen.setdefault(path, f"{name}: {often}{why}")
    elif not (frame.attended or place.is_attention or place.roots or place.is_fast):
        place.unhook()
