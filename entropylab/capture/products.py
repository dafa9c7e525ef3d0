"""Attention by hand in modules of any name: a softmax whose result multiplies values, seen where it is multiplied."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from math import prod
from typing import Any

import torch
from torch import Tensor

from .byhand import Noted, note, tell_of_logits
from .forwards import unfollowed
from .interception import Interception, active, anybody, fail, unseen
from .tracing import version_of

PRODUCTS: list[tuple[Any, str]] = [
    *((torch, name) for name in ("matmul", "bmm", "baddbmm", "einsum")),
    *((Tensor, name) for name in ("matmul", "__matmul__", "bmm", "baddbmm")),
]
"""Owner and name of the functions that multiply a map by values."""


@dataclass(frozen=True)
class Factor:
    """One of the two factors of a product.

    Attributes:
        tensor: the factor.
        summed: length of what is summed over: the keys, if this is a map.
        free: length of what only this factor has: the queries, if this is a map.
        other: the other factor.
    """

    tensor: Tensor
    summed: int
    free: int
    other: Tensor


class Scores(threading.local):
    """Shapes of the last products in this thread of two batches: softmax of one of them may be a map."""

    def __init__(self) -> None:
        self.shapes: deque[tuple[int, ...]] = deque(maxlen=8)


scores = Scores()


def seen_product(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``original``, one of ``PRODUCTS``; what it multiplies may be an attention map."""

    @wraps(original)
    def product(*args: Any, **kwargs: Any) -> Tensor:
        if not anybody():
            return original(*args, **kwargs)
        with unseen():  # whoever follows the model calls us once more
            result = original(*args, **kwargs)
        try:
            if isinstance(result, Tensor) and not result.is_nested:
                note_product(args, kwargs, result)
        except Exception as problem:
            fail(problem, of_rescaling=False)
        return result

    return product


def note_product(args: tuple, kwargs: dict[str, Any], result: Tensor) -> None:
    """Tell of the map among the factors of a product; without one, the product may be the logits of one."""
    factors = list(factors_of(args, kwargs))
    waits = any(frame.maps for interception in active for frame in interception.frames)
    dims = [factor.tensor.ndim for factor in factors]
    if not (waits and see_product(factors)) and dims and (min(dims) > 2 or max(dims) == 2):
        scores.shapes.append(tuple(result.shape))


def seen_softmax(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``original``, whose logits are noted by the modules that run."""

    @wraps(original)
    def softmax(*args: Any, **kwargs: Any) -> Tensor:
        if not anybody():
            return original(*args, **kwargs)
        with unseen():
            result = original(*args, **kwargs)
        try:
            given = dict(zip(("input", "dim"), args, strict=False)) | kwargs
            logits, dim = given.get("input"), given.get("dim")
            if isinstance(logits, Tensor):
                note(logits, dim)
                if isinstance(dim, int) and logits.ndim > 1 and not logits.is_nested and logits.numel():
                    note_map(logits, dim, result)
        except Exception as problem:
            fail(problem, of_rescaling=False)
        return result

    return softmax


@unfollowed
def note_map(logits: Tensor, dim: int, result: Tensor) -> None:
    """Let the innermost module that has parameters note a softmax, unless it is in a layer known to attend."""
    known = may_be_scores(logits, logits.shape[dim])
    for interception in active:
        frames = interception.frames
        if not frames or any(frame.is_attention for frame in frames):
            continue
        frame = next((each for each in frames[::-1] if next(each.module.parameters(), None) is not None), frames[0])
        frame.attended |= known  # so that it is followed again
        keep(interception, [Noted(logits, dim, version_of(logits), memory_of(result), known, frame.path)])


def factors_of(args: tuple, kwargs: dict[str, Any]) -> Iterator[Factor]:
    """Both factors of a product of two tensors; nothing of any other."""
    given = [*args, *(value for name, value in kwargs.items() if name != "out")]
    flat = [part for value in given for part in (value if isinstance(value, list | tuple) else [value])]
    tensors = [value for value in flat if isinstance(value, Tensor)]
    if flat and isinstance(flat[0], str):
        yield from factors_of_einsum(flat[0].replace(" ", ""), tensors)
    elif len(tensors) > 1 and all(tensor.ndim > 1 for tensor in tensors[-2:]):
        one, other = tensors[-2:]
        yield Factor(one, one.shape[-1], one.shape[-2], other)
        yield Factor(other, other.shape[-2], other.shape[-1], one)


def factors_of_einsum(equation: str, tensors: list[Tensor]) -> Iterator[Factor]:
    """Both factors of an einsum of two tensors."""
    left, _, out = equation.partition("->")
    names = left.split(",")
    if len(tensors) != 2 or len(names) != 2 or "->" not in equation:
        return
    for (own, tensor), (others, other) in zip(
        zip(names, tensors, strict=True), zip(names[::-1], tensors[::-1], strict=True), strict=True
    ):
        before, _, after = own.partition("...")
        sides = {name: tensor.shape[place] for place, name in enumerate(before)}
        sides |= {name: tensor.shape[place - len(after)] for place, name in enumerate(after)}
        summed = prod(side for name, side in sides.items() if name in others and name not in out)
        free = prod(side for name, side in sides.items() if name not in others and name in out)
        yield Factor(tensor, summed, free, other)


def may_be_scores(logits: Tensor, keys: int) -> bool:
    """Whether logits may have come from one of the last products, if with further keys."""
    rows = logits.numel() // keys
    return any(
        prod(shape) == logits.numel() or (prod(shape[:-1]) == rows and keys < 2 * shape[-1] < 2 * keys)
        for shape in scores.shapes
    )


@torch.no_grad()
@unfollowed
def see_product(factors: list[Factor]) -> bool:
    """Tell of the softmax that one of the factors is the result of, if that is attention; whether there is one."""
    found = False
    for interception in active:
        for index in reversed(range(len(interception.frames))):
            frame = interception.frames[index]
            for noted in frame.maps[::-1]:
                factor = next((each for each in factors if is_result(each, noted)), None)
                if factor is not None:
                    frame.maps = [each for each in frame.maps if each is not noted]
                    judge(interception, index, noted, factor)
                    found = True
    return found


def is_result(factor: Factor, noted: Noted) -> bool:
    """Whether a factor is what a softmax gave: in the same memory, or as many numbers and keys."""
    tensor, keys = factor.tensor, noted.keys
    if memory_of(tensor) == noted.memory is not None:
        return factor.summed <= keys
    return factor.summed == keys and tensor.numel() == noted.logits.numel()


def judge(interception: Interception, index: int, noted: Noted, factor: Factor) -> None:
    """Tell of a softmax that multiplies values, name it where it can't be told what it is, or leave it: a router's."""
    shape = noted.logits.shape
    rows = shape[1:-1] if noted.is_last else shape[1:]
    if factor.free == 1 and 1 not in rows:  # each row multiplies values of its own
        return
    is_shared = factor.other.ndim < 3
    if not noted.from_scores and (factor.free == 1 or is_shared):  # a pool, a choice among learned vectors
        return
    frame = interception.frames[index]
    frame.attended = True
    if interception.rescales:
        interception.lose(frame.path, "takes its softmax by hand")
    elif not noted.from_scores or is_shared or not noted.is_last or noted.is_changed:
        interception.lose(frame.path, UNSURE)
    else:
        inner = interception.frames[index + 1 :]
        del interception.frames[index + 1 :]
        try:
            tell_of_logits(interception, noted.logits.detach())
        finally:
            interception.frames.extend(inner)


UNSURE = "takes a softmax by hand that multiplies values, and may be that of an attention map"
UNMULTIPLIED = "takes a softmax of a product by hand, and may be attention"


def memory_of(tensor: Tensor) -> int | None:
    """The memory that a tensor is in; None if it has none of its own."""
    try:
        return tensor.untyped_storage()._cdata
    except (RuntimeError, NotImplementedError):
        return None


def hand_on(interception: Interception, maps: list[Noted]) -> None:
    """A module has ended before anything was multiplied by its softmaxes: the module around it may do that."""
    if interception.frames:
        keep(interception, maps)
    else:
        give_up(interception, maps)


def keep(interception: Interception, maps: list[Noted]) -> None:
    """Keep what the innermost module may multiply: the last two, for the logits of each take memory."""
    frame = interception.frames[-1]
    frame.maps += maps
    give_up(interception, frame.maps[:-2])
    del frame.maps[:-2]


def give_up(interception: Interception, maps: list[Noted]) -> None:
    """Name what looked like scores and was never seen to multiply anything."""
    for noted in maps:
        if noted.from_scores and noted.is_last and noted.logits.ndim > 2 and 1 not in noted.logits.shape[-2:]:
            interception.lose(noted.path, UNMULTIPLIED)
