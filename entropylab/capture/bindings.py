"""Other names of the functions that are seen: what a model's modules import, and what its classes and functions hold.

``from torch.nn.functional import scaled_dot_product_attention`` binds the function itself, which a substitute in
``torch.nn.functional`` does not reach. While somebody looks, every such name leads to the substitute.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from .changes import Shared, Undo, replaced, together

substitutes: dict[int, tuple[Any, Callable[..., Any]]] = {}
"""Id of a function that is seen now -> that function, and what stands in for it."""

WRAPPERS = {"compile_friendly_flex_attention": ("flex_attention", ("training",))}
"""Functions of libraries that keep a compiled copy of a function for good -> its name beside them, and what they
take beside its arguments."""

HOLDING = (staticmethod, partial)
"""Types of what may hold a function that is seen."""

CALLED = (FunctionType, MethodType, staticmethod, classmethod)
"""Types of what is a function, or made of one."""

changed = Shared()
"""Modules, classes, functions and instances that hold substitutes."""


@contextmanager
def bound_names(roots: Mapping[str, nn.Module]) -> Iterator[None]:
    """Have the substitutes stand in under every name that ``roots`` reach them by, while the context lasts."""
    begun: list[Any] = []
    try:
        for holder in holders(roots):
            if holder in changed or any(True for _ in held(holder)):
                changed.begin(holder, stand_in)
                begun.append(holder)
        yield
    finally:
        for holder in reversed(begun):
            changed.end(holder)


def holders(roots: Mapping[str, nn.Module]) -> Iterator[Any]:
    """Some models' modules and processors, their classes, the functions of both, and the packages they come from."""
    instances = [part for root in roots.values() for module in root.modules() for part in parts_of(module)]
    classes = {own: None for own in dict.fromkeys(map(type, instances)) for own in own_classes(own)}
    files = {own.__module__ for own in classes}
    packages = {name.partition(".")[0] for name in files} - {__name__.partition(".")[0]}
    yield from (
        module
        for name, module in list(sys.modules.items())
        if isinstance(module, ModuleType) and (name in files or name.partition(".")[0] in packages)
    )
    yield from classes
    met: set[int] = set()
    for holder in [*instances, *classes]:
        if id(holder) not in met:
            met.add(id(holder))
            if not isinstance(holder, type):
                yield holder
            for value in [each for each in vars(holder).values() if isinstance(each, CALLED)]:
                yield from functions_in(value, met)


def parts_of(module: nn.Module) -> list[Any]:
    """A module, and its attention processor if it has one."""
    processor = vars(module).get("processor")
    return [module] if processor is None or not hasattr(processor, "__dict__") else [module, processor]


def own_classes(cls: type) -> list[type]:
    """A class and those that it inherits from, but for PyTorch's and Python's."""
    return [own for own in cls.__mro__ if own.__module__.partition(".")[0] not in ("torch", "builtins")]


def functions_in(value: Any, met: set[int]) -> Iterator[FunctionType]:
    """The function that a value is, and those in its defaults and closure; each is met once."""
    value = getattr(value, "__func__", value) if isinstance(value, CALLED) else value
    if not isinstance(value, FunctionType) or id(value) in met or value.__module__.partition(".")[0] == "torch":
        return
    met.add(id(value))
    yield value
    inner = map(content, value.__closure__ or ())
    for other in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *inner):
        yield from functions_in(other, met)


def content(cell: Any) -> Any:
    """What is in a cell; None if nothing is yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def held(holder: Any) -> Iterator[tuple[Any, str, Any]]:
    """Owner, name and substitute of what a holder holds of the functions that are seen."""
    if isinstance(holder, FunctionType):
        defaults = tuple(stood_in(value) for value in holder.__defaults__ or ())
        if any(defaults):
            both = zip(defaults, holder.__defaults__ or (), strict=True)
            yield holder, "__defaults__", tuple(new or old for new, old in both)
        named = {name: found for name, value in (holder.__kwdefaults__ or {}).items() if (found := stood_in(value))}
        if named:
            yield holder, "__kwdefaults__", {**(holder.__kwdefaults__ or {}), **named}
        cells = holder.__closure__ or ()
        yield from ((cell, "cell_contents", found) for cell in cells if (found := stood_in(content(cell))))
        return
    names = vars(holder)
    for name, value in interesting(names):
        if (substitute := stood_in(value)) is not None:
            yield holder, name, staticmethod(substitute) if isinstance(holder, type) else substitute
        elif name in WRAPPERS and (inner := stood_in(names.get(WRAPPERS[name][0]))) is not None:
            yield holder, name, without(inner, WRAPPERS[name][1])


def interesting(names: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Those of some names that may lead to a function that is seen; of most classes and instances none do."""
    values = names.values()
    is_free = substitutes.keys().isdisjoint(map(id, values)) and WRAPPERS.keys().isdisjoint(names)
    if is_free and {FunctionType, *HOLDING}.isdisjoint(map(type, values)):
        return []
    return [
        (name, value)
        for name, value in names.items()
        if id(value) in substitutes
        or type(value) in HOLDING
        or name in WRAPPERS
        or (type(value) is FunctionType and value.__dict__)  # a compiled one says there what it was made of
    ]


def without(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """``function``, which is also handed arguments of these names and takes none of them."""

    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{name: value for name, value in kwargs.items() if name not in names})

    return called


def stood_in(value: Any) -> Any:
    """What stands in for a value: a function that is seen, bare, static, compiled or with some arguments; else None."""
    if id(value) in substitutes:
        return substitutes[id(value)][1]
    if isinstance(value, staticmethod):
        return stood_in(value.__func__)
    if isinstance(value, FunctionType) and "_torchdynamo_orig_callable" in vars(value):
        return stood_in(vars(value)["_torchdynamo_orig_callable"])
    if isinstance(value, partial) and (inner := stood_in(value.func)) is not None:
        return partial(inner, *value.args, **value.keywords)
    return None


def stand_in(holder: Any) -> Undo:
    """Put the substitutes into a holder."""
    return together([put(owner, name, substitute) for owner, name, substitute in list(held(holder))])


def put(owner: Any, name: str, substitute: Any) -> Undo:
    """Put one substitute into its place."""
    if name not in ("__defaults__", "__kwdefaults__", "cell_contents"):
        return replaced(owner, name, substitute)
    before = getattr(owner, name)
    setattr(owner, name, substitute)
    return lambda: setattr(owner, name, before)
