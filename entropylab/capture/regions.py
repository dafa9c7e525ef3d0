"""Compiled modules stay compiled while they are watched: their graphs carry the look.

A first forward runs as it was written, and tells what attends. From then on the module is compiled once more, by the
backend that it had, with ``entropylab::attend`` in the place of SDPA: an op into which no compiler looks, and which
makes the very call as the layer that it stands in. Where that can't be had, the module runs as it was written.
"""

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, compile, nn
from torch.compiler import is_dynamo_compiling
from torch.utils._pytree import tree_flatten

from ..errors import EntropyLabError
from .bindings import COMPILED
from .changes import MARK, replaced, stood_for, together
from .session import Frame, Observer, Place, fail, lose, running, session
from .telling import finish

Beside = tuple[int | None, int | None]
"""``context`` and ``own`` of an attention call."""

Noted = dict[str, list[Beside]]
"""What attends in a forward: path of a part -> what it was handed at each of its calls."""

BACKEND = "_torchdynamo_orig_backend"
"""Attribute of what compiles: what it was made of."""

refused: "WeakSet[nn.Module]" = WeakSet()
"""Modules that can't be compiled with the look in them."""

part_hooks = torch.nn.modules.module._global_module_registration_hooks
"""Hooks on parts that modules get. A graph holds for those that there are, so ours are off while it runs."""


@dataclass(eq=False)
class Inside:
    """A compiled forward that runs."""

    module: nn.Module
    noted: Noted
    outer: Frame | None  # the watched module in whose forward it runs
    begun: dict[Any, int]  # how many calls each module had made before in the forward of its root
    calls: int = 0  # how many were seen in it

    def frame(self, path: str, number: int) -> Frame | None:
        """That of a part of it, which makes a call with this number among its own; None if nobody knows of it."""
        part = self.module.get_submodule(path)
        place = session.places.get(part)
        if place is None or path not in self.noted:
            return None
        frame = Frame(place, part, (), {}, self.outer)
        frame.noted = self.noted[path][number]
        if (forward := running()) is not None:
            forward.counts[part] = self.begun.get(part, 0) + number
        self.calls += 1
        return frame


@torch.library.custom_op("entropylab::attend", mutates_args=())
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    path: str = "",
    number: int = 0,
) -> Tensor:
    """SDPA as a part of the compiled module that runs calls it, seen by the observers.

    What it returns (batch, heads, tokens, d) lies in memory as (batch, tokens, heads, d).
    """
    here = session.here
    more = {"enable_gqa": True} if enable_gqa else {}
    try:
        if here.inside is not None:
            here.frame = here.inside.frame(path, number)
        found = F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **more)
        if here.frame is not None and here.frame.held:
            try:
                finish(here.frame)
            except Exception as problem:
                fail(problem)
    finally:
        here.frame = None
    return found.transpose(1, 2).contiguous().transpose(1, 2)


@attend.register_fake
def shape_of(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> Tensor:
    """What ``attend`` returns, without the numbers."""
    batch, heads, tokens, _ = query.shape
    return query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)


@dataclass(frozen=True)
class Looking:
    """A backend of the compiler that has ``attend`` in the place of SDPA; the rest is another backend's."""

    backend: Callable[..., Any]
    __name__ = "entropylab"

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Any:
        """What the other backend makes of a graph; an EntropyLabError if not every call that was noted is in it."""
        inside = session.here.inside
        paths, numbers = {id(part): path for path, part in inside.module.named_modules()}, Counter[str]()
        for node in graph.graph.nodes:
            if "autocast" in getattr(node.target, "__name__", ""):
                raise EntropyLabError("switches autocast on or off")
            if node.target is torch._C._nn.scaled_dot_product_attention:
                query, _, value = (side.meta["example_value"] for side in node.args[:3])
                if query.ndim != 4 or node.meta["example_value"].shape != (*query.shape[:3], value.shape[3]):
                    raise EntropyLabError("attends with tensors that are not (batch, heads, tokens, d)")
                running_in = list(node.meta.get("nn_module_stack") or ())
                path = paths[int(running_in[-1].partition("@")[0])] if running_in else ""
                node.target = torch.ops.entropylab.attend.default
                node.kwargs = {**node.kwargs, "path": path, "number": numbers[path]}
                numbers[path] += 1
        if numbers != {path: len(calls) for path, calls in inside.noted.items()}:
            raise EntropyLabError("attends in other ways than by SDPA")
        graph.recompile()
        return self.backend(graph, inputs)


class Region:
    """A module that was compiled, while it is watched. ``hook`` puts hooks on a part of it."""

    def __init__(self, module: nn.Module, backend: Any, hook: Callable[[Place, nn.Module], None]) -> None:
        own = vars(module).get("forward")
        self.forward = as_written(type(module).forward).__get__(module) if own is None else as_written(own)
        self.module, self.hook = module, hook
        dynamic = getattr(backend, "dynamic", None)
        self.compiled = compile(self.forward, backend=Looking(backend), fullgraph=True, dynamic=dynamic)
        self.noted: dict[Hashable, Noted] = {}  # what attends, by who looks and what its inputs look like
        self.bare_for: tuple[Observer, ...] | None = None  # who looks while its parts have no hooks, for the compiler
        self.lock = threading.RLock()  # held while its parts need their hooks

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward: compiled, if it has been noted what attends."""
        if is_dynamo_compiling() or self.module in refused:
            return self.forward(*args, **kwargs)
        here, place = session.here, session.places.get(self.module)
        is_seen = place is not None and not here.quiet and here.inside is None and not torch.is_grad_enabled()
        observers = place.observers if place is not None and is_seen else ()
        key = (observers, looks_of((args, kwargs)))
        fails = False
        if key in self.noted and may_compile():
            if self.bare_for != observers:  # the parts' hooks are off while a graph runs
                with self.lock:
                    for other, _ in self.parts():
                        other.unhook()
                    self.bare_for = observers
            begun = {} if (forward := running()) is None else dict(forward.counts)
            inside = Inside(self.module, self.noted[key], here.frame, begun)
            try:
                return self.run_compiled(inside, args, kwargs)
            except Exception:
                if inside.calls:
                    raise
                fails = True
        with self.lock:
            self.dress()
            output = self.note(key, args, kwargs) if observers else self.forward(*args, **kwargs)
        if fails:  # and what it was handed was not to blame
            refused.add(self.module)
        return output

    def run_compiled(self, inside: Inside, args: tuple, kwargs: dict) -> Any:
        """The compiled forward. If it does not attend as was noted, its layers are named as unseen."""
        here = session.here
        ours = {number: hook for number, hook in part_hooks.items() if hasattr(hook, MARK)}
        for number in ours:
            part_hooks.pop(number, None)
        here.inside, here.frame = inside, None
        try:
            output = self.compiled(*args, **kwargs)
        finally:
            here.inside, here.frame = None, inside.outer
            part_hooks.update(ours)
        if inside.calls != sum(map(len, inside.noted.values())):
            refused.add(self.module)
            self.dress()
            for path in inside.noted:
                if (place := session.places.get(self.module.get_submodule(path))) is not None:
                    lose(place.watchers, "its compiled forward ran without being seen")
        return output

    def note(self, key: Hashable, args: tuple, kwargs: dict) -> Any:
        """Run as it was written, and note what attends."""
        here, frame, noted = session.here, session.here.frame, Noted()
        outer = frame
        if frame is None or frame.module is not self.module:
            frame = here.frame = Frame(session.places[self.module], self.module, args, kwargs, frame)
        paths = {part: path for path, part in self.module.named_modules()}
        noter = Observer(lambda call: noted.setdefault(paths[call.module], []).append((call.context, call.own)))
        frame.watchers, frame.observers = (*frame.watchers, (noter, "")), (*frame.observers, noter)
        frame.has_onlookers = True
        try:
            output = self.forward(*args, **kwargs)
        finally:
            here.frame = outer
        if any(place.is_fast or place.is_script or place.may_be_skipped or place.roots for place, _ in self.parts()):
            refused.add(self.module)  # what only hooks see
        self.noted[key] = noted
        return output

    def parts(self) -> Iterator[tuple[Place, nn.Module]]:
        """The modules in it that are watched."""
        parts = (part for part in self.module.modules() if part is not self.module)
        return ((session.places[part], part) for part in parts if part in session.places)

    def dress(self) -> None:
        """Put hooks on its parts again."""
        for place, part in self.parts() if self.bare_for is not None else ():
            if not place.handles:
                self.hook(place, part)
        self.bare_for = None


def may_compile() -> bool:
    """Whether compiled code may run now: nothing is followed, no autocast is on, and nobody has said otherwise."""
    forward = running()
    is_followed = forward is not None and forward.trace is not None
    is_usual = torch._dynamo.eval_frame._stance.stance == "default"
    return is_usual and not is_followed and not torch._C._is_any_autocast_enabled()


def looks_of(value: Any) -> Any:
    """What tells forwards apart of their arguments: shapes, and which there are."""
    leaves, shape = tree_flatten(value)
    each = ((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
    return str(shape), tuple(one if isinstance(one, bool | str | tuple | None) else type(one) for one in each)


def write_out(module: nn.Module, hook: Callable[[Place, nn.Module], None]) -> AbstractContextManager[None]:
    """Let what is compiled in a module run as it was written, or with the look in it."""
    parts = {(module, name): original for name, original in compiled_parts(module).items()}
    backends = [backend_of(getattr(module, name)) for _, name in parts if name in ("forward", "_compiled_call_impl")]
    whole = getattr(module, "_orig_mod", module)
    if backends and backends[0] is not None and "forward" not in stood_for.get(id(whole), {}):
        region = Region(whole, backends[0], hook)
        parts[whole, "forward"] = wraps(region.forward)(partial(region.run))
    return together(replaced(owner, name, stands_in) for (owner, name), stands_in in parts.items())


def compiled_parts(module: nn.Module) -> dict[str, Any]:
    """Name of what is compiled in a module, the whole of it or a method -> what stands there as it was written."""
    own = {name: value for name, value in vars(module).items() if callable(value) and hasattr(value, COMPILED)}
    found = {name: as_written(value) for name, value in own.items() if name not in ("_compiled_call_impl", COMPILED)}
    forward = getattr(type(module), "forward", None)
    if "forward" not in vars(module) and hasattr(forward, COMPILED):
        found["forward"] = as_written(forward).__get__(module)
    if getattr(module, "_compiled_call_impl", None) is not None:
        found["_compiled_call_impl"] = None
    return found


def as_written(compiled: Any) -> Any:
    """What a compiled function was made of."""
    while hasattr(compiled, COMPILED):
        compiled = getattr(compiled, COMPILED)
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


def see_compile(compiler: Any) -> AbstractContextManager[None]:
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
            is_watched = any(part in session.places for part in module.modules())
            return (as_written(compiled) if is_watched else compiled)(*args, **kwargs)

        return run

    return replaced(compiler, "compile", compile)
