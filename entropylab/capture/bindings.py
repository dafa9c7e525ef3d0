"""Other names of the functions that are seen: what a model's modules import, and what its classes and functions hold.

``from torch.nn.functional import scaled_dot_product_attention`` binds the function itself, which a substitute in
``torch.nn.functional`` does not reach. While somebody looks, every such name leads to the substitute.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import compress, repeat
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import nn

from .changes import changed, is_changed, replaced
from .roles import is_plain

substitutes: dict[int, tuple[Any, Callable[..., Any]]] = {}
"""Id of a function that is seen now -> that function, and what stands in for it."""

WRAPPERS = {"compile_friendly_flex_attention": ("flex_attention", ("training",))}
"""Functions of libraries that keep a compiled copy of a function for good -> its name beside them, and what they
take beside its arguments."""

MADE_OF = {staticmethod, partial}
"""Types of what may be made of a function that is seen."""

COMPILED = "_torchdynamo_orig_callable"
"""Attribute of a compiled function: the one that it was compiled from."""

CALLED = (FunctionType, MethodType, staticmethod, classmethod)
"""Types of what is a function, or made of one."""


def bind_names(stack: ExitStack, roots: Mapping[str, nn.Module]) -> None:
    """Have the substitutes stand in under every name that ``roots`` reach them by, until ``stack`` is closed."""
    for holder in holders(roots):
        if is_changed(holder, stand_in) or any(True for _ in held(holder)):
            stack.enter_context(changed(holder, stand_in))


def holders(roots: Mapping[str, nn.Module]) -> Iterator[Any]:
    """Some models' modules and processors, their classes, the functions of both, and the packages they come from."""
    modules = [module for root in roots.values() for module in root.modules() if not is_plain(module)]
    processors = [vars(module).get("processor") for module in modules]
    instances = modules + [each for each in processors if hasattr(each, "__dict__")]
    classes = {own: None for kind in dict.fromkeys(map(type, instances)) for own in kind.__mro__}
    classes = {own: None for own in classes if own.__module__.partition(".")[0] not in ("torch", "builtins")}
    files = {own.__module__ for own in classes}
    packages = {name.partition(".")[0] for name in files} - {__name__.partition(".")[0]}
    for name, module in list(sys.modules.items()):
        is_near = name.partition(".")[0] in packages or name in files
        if is_near and isinstance(module, ModuleType):
            yield module
    met: set[int] = set()
    kinds = {*MADE_OF, *CALLED, *(type(original) for original, _ in substitutes.values())}
    for holder in [*classes, *(each for each in instances if not kinds.isdisjoint(map(type, vars(each).values())))]:
        if id(holder) not in met:
            met.add(id(holder))
            yield holder
            for value in [each for each in vars(holder).values() if isinstance(each, CALLED)]:
                yield from functions_in(value, met)


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
        defaults, named = holder.__defaults__ or (), holder.__kwdefaults__ or {}
        if any(map(stood_in, defaults)):
            yield holder, "__defaults__", tuple(stood_in(value) or value for value in defaults)
        if any(map(stood_in, named.values())):
            yield holder, "__kwdefaults__", {name: stood_in(value) or value for name, value in named.items()}
        cells = holder.__closure__ or ()
        yield from ((cell, "cell_contents", found) for cell in cells if (found := stood_in(content(cell))))
        return
    names = vars(holder)
    values = names.values()
    if substitutes.keys().isdisjoint(map(id, values)) and MADE_OF.isdisjoint(map(type, values)):
        functions = compress(values, map({FunctionType}.__contains__, map(type, values)))
        if not any(map(hasattr, functions, repeat(COMPILED))):
            return  # of most modules, classes and instances none does
    for name, value in list(names.items()):
        if (substitute := stood_in(value)) is not None:
            yield holder, name, staticmethod(substitute) if isinstance(holder, type) else substitute
        elif name in WRAPPERS and (inner := stood_in(names.get(WRAPPERS[name][0]))) is not None:
            yield holder, name, without(inner, WRAPPERS[name][1])


def stood_in(value: Any) -> Any:
    """What stands in for a value: a function that is seen, bare, static, compiled or with some arguments; else None."""
    if id(value) in substitutes:
        return substitutes[id(value)][1]
    kind = type(value)
    if kind is staticmethod:
        return stood_in(value.__func__)
    if kind is FunctionType:
        return stood_in(value.__dict__.get(COMPILED))
    if kind is partial and (inner := stood_in(value.func)) is not None:
        return partial(inner, *value.args, **value.keywords)
    return None


def without(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    """``function``, which is also handed arguments of these names and takes none of them."""

    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **{name: value for name, value in kwargs.items() if name not in names})

    return called


@contextmanager
def stand_in(holder: Any) -> Iterator[None]:
    """Put the substitutes into a holder."""
    with ExitStack() as stack:
        for owner, name, substitute in list(held(holder)):
            if name in ("__defaults__", "__kwdefaults__", "cell_contents"):
                stack.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, substitute)
            else:
                stack.enter_context(replaced(owner, name, substitute))
        yield
