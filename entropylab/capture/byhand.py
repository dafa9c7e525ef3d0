"""Attention by hand, in modules of any name: a softmax of a product of two batches, which then multiplies values."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, wraps
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ..errors import EntropyLabError
from .calls import AttentionCall, KnownCall, check_readable
from .memory import memory_of, version_of
from .session import Frame, apart, fail, looked_at, lose, running, session, unseen
from .telling import handed_apart, show

PRODUCTS: list[tuple[Any, str]] = [
    *((torch, name) for name in ("matmul", "bmm", "baddbmm", "einsum")),
    *((Tensor, name) for name in ("matmul", "__matmul__", "bmm", "baddbmm")),
]
"""Owner and name of the functions that multiply a map by values."""

HEADS = ("heads", "num_heads", "num_attention_heads", "n_heads", "n_head")
"""What modules call the number of their heads."""

UNSURE = "takes a softmax by hand that multiplies values, and may be that of an attention map"
UNMULTIPLIED = "takes a softmax of a product by hand, and may be attention"


@dataclass(frozen=True, eq=False)
class Noted:
    """A softmax that was taken, and may be a map."""

    logits: Tensor
    dim: int
    version: int  # how often the logits had been changed in place
    memory: StorageWeakRef | None  # that its result is in
    from_scores: bool  # whether the logits may have come from a product of two batches
    owner: Frame  # the module that took it

    @property
    def is_last(self) -> bool:
        """Whether it is over the last dimension."""
        return self.dim in (-1, self.logits.ndim - 1)


class Factor(NamedTuple):
    """One of the two factors of a product."""

    tensor: Tensor
    summed: int  # length of what is summed over: the keys, if this is a map
    free: int  # length of what only this factor has: the queries, if this is a map
    other: Tensor


Note = Callable[[Frame, tuple, dict[str, Any], Any], None]


def noted_by(note: Note, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``original``, of whose arguments and result ``note`` is told."""

    @wraps(original)
    def function(*args: Any, **kwargs: Any) -> Tensor:
        if (frame := looked_at()) is None:
            return original(*args, **kwargs)
        with unseen():  # whoever follows the model calls us once more
            result = original(*args, **kwargs)
        try:
            note(frame, args, kwargs, result)
        except Exception as problem:
            fail(problem, of_rescaling=False)
        return result

    return function


@apart
def note_softmax(frame: Frame, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
    """Note a softmax of the attention layer that runs, if that is not seen otherwise, or the inmost with parameters."""
    given = dict(zip(("input", "dim"), args, strict=False)) | kwargs
    logits, dim = given.get("input"), given.get("dim")
    if not isinstance(logits, Tensor) or not isinstance(dim, int) or logits.is_nested or logits.ndim < 2:
        return
    frames = list(frame.around())
    layer = next((each for each in frames if each.place.is_attention), None)
    if not logits.numel() or (layer is not None and (layer.seen or layer.by_inputs)):
        return
    keys = logits.shape[dim]
    known = any(  # they may have come from one of the last products, if with further keys
        prod(shape) == logits.numel()
        or (prod(shape[:-1]) == logits.numel() // keys and keys < 2 * shape[-1] < 2 * keys)
        for shape in session.here.products
    )
    owner = layer or next((each for each in frames if next(each.module.parameters(), None) is not None), frames[-1])
    owner.attended |= known  # so that it is followed again
    if known:
        check_readable(logits, logits)
    keep(layer or frame, [Noted(logits, dim, version_of(logits), memory_of(result), known, owner)])


def keep(frame: Frame, maps: Sequence[Noted]) -> None:
    """Keep what a module may multiply: the last two, for the logits of each take memory."""
    kept = [*frame.maps, *maps]
    give_up(kept[:-2])
    frame.maps = kept[-2:]


def hand_on(frame: Frame) -> None:
    """A module has ended before anything was multiplied by its softmaxes: the module around it may do that."""
    if frame.outer is not None:
        keep(frame.outer, frame.maps)
    else:
        give_up(frame.maps)


def give_up(maps: Sequence[Noted]) -> None:
    """Name what looked like scores and was never seen to multiply anything, unless its module was seen to attend."""
    for noted in maps:
        looks_so = noted.from_scores and noted.is_last and noted.logits.ndim > 2 and 1 not in noted.logits.shape[-2:]
        if looks_so and not noted.owner.seen:  # some choose by a softmax what they then attend to
            lose(noted.owner.watchers, UNMULTIPLIED)


def note_product(frame: Frame, args: tuple, kwargs: dict[str, Any], result: Any) -> None:
    """Tell of the map among the factors of a product; without one, the product may be the logits of one."""
    if not isinstance(result, Tensor) or result.is_nested:
        return
    factors = list(factors_of(args, kwargs))
    waits = any(each.maps for each in frame.around())
    dims = [factor.tensor.ndim for factor in factors]
    if not (waits and see_product(frame, factors)) and dims and (min(dims) > 2 or max(dims) == 2):
        session.here.products.append(tuple(result.shape))


seen_softmax, seen_product = partial(noted_by, note_softmax), partial(noted_by, note_product)
"""A softmax, or one of ``PRODUCTS``, that is seen."""


def factors_of(args: tuple, kwargs: dict[str, Any]) -> Iterator[Factor]:
    """Both factors of a product of two tensors; nothing of any other."""
    given = [*args, *(value for name, value in kwargs.items() if name != "out")]
    flat = [part for value in given for part in (value if isinstance(value, list | tuple) else [value])]
    tensors = [value for value in flat if isinstance(value, Tensor)]
    if flat and isinstance(flat[0], str):  # of einsum
        sides, arrow, out = flat[0].replace(" ", "").partition("->")
        names = sides.split(",") if arrow else []
    else:
        names, out = ["...qk", "...kd"], "...qd"
        tensors = [tensor for tensor in tensors[-2:] if tensor.ndim > 1]
    if len(tensors) == len(names) == 2:
        yield factor_of(tensors[0], tensors[1], names[0], names[1], out)
        yield factor_of(tensors[1], tensors[0], names[1], names[0], out)


def factor_of(tensor: Tensor, other: Tensor, own: str, others: str, out: str) -> Factor:
    """The first factor of a product of two tensors, whose dimensions are called ``own`` and ``others``."""
    before, _, after = own.partition("...")
    sides = dict(zip(before, tensor.shape, strict=False)) | dict(zip(after[::-1], tensor.shape[::-1], strict=False))
    summed = prod(side for name, side in sides.items() if name in others and name not in out)
    free = prod(side for name, side in sides.items() if name not in others and name in out)
    return Factor(tensor, summed, free, other)


@apart
def see_product(frame: Frame, factors: list[Factor]) -> bool:
    """Tell of the softmax that one of the factors is the result of, if that is attention; whether there is one."""
    found = [
        (each, noted, factor)
        for each in frame.around()
        for noted in each.maps
        if (factor := next((one for one in factors if is_result(one, noted)), None)) is not None
    ]
    found = [one for one in found if is_in_its_memory(one[2].tensor, one[1])] or found
    for each, noted, factor in found:
        each.maps = [one for one in each.maps if one is not noted]
        judge(each, noted, factor, len(found) == 1)
    return bool(found)


def is_result(factor: Factor, noted: Noted) -> bool:
    """Whether a factor is what a softmax gave: in the same memory, or as many numbers and keys."""
    tensor, keys = factor.tensor, noted.logits.shape[noted.dim]
    if is_in_its_memory(tensor, noted):
        return factor.summed <= keys
    return factor.summed == keys and tensor.numel() == noted.logits.numel()


def judge(frame: Frame, noted: Noted, factor: Factor, is_alone: bool) -> None:
    """Tell of a softmax that multiplies values, name it where it can't be told what it is, or leave it: a router's."""
    shape = noted.logits.shape
    rows = shape[1:-1] if noted.is_last else shape[1:]
    is_own = factor.free == 1 and 1 not in rows  # each row multiplies values of its own
    is_shared = factor.other.ndim < 3
    is_choice = not noted.from_scores and (factor.free == 1 or is_shared)  # a pool, a choice among learned vectors
    if is_own or is_choice or (frame.place.is_attention and is_linear(frame.module)):
        return
    frame.attended = True
    is_whole = noted.is_last and version_of(noted.logits) == noted.version
    is_sure = noted.from_scores and is_alone and is_whole and not is_shared
    for observer, path in frame.watchers:
        if observer.rescales or not is_sure:
            observer.lose(path, "takes its softmax by hand" if observer.rescales else UNSURE)
    if is_sure:
        here = session.here
        inner, here.frame = here.frame, frame
        try:
            tell_of_logits(frame, noted.logits.detach())
        finally:
            here.frame = inner


def tell_of_logits(frame: Frame, logits: Tensor) -> None:
    """Tell of the attention that a module computes by hand, by its logits; it can't be rescaled.

    They are (batch, heads, queries, keys) or (batch * heads, queries, keys).
    """
    check_readable(logits, logits)
    heads, forward = heads_of(frame.module), running()
    number, known = 0, None
    if forward is not None:
        place = ("by hand", frame.module)
        number = forward.counts[place]
        forward.counts[place] += 1
        known = forward.known.setdefault((place, number, logits.shape, frame.watchers), KnownCall())
    if logits.ndim == 3:
        own = frame.own_tokens
        is_one_head = heads > 1 and own is not None and len(own) == len(logits)
        if is_one_head and len(logits) % heads == 0:
            raise EntropyLabError(f"{UNSURE}: of one head of every image, or of all heads of some")
        logits = logits[:, None] if is_one_head or len(logits) % heads else logits.unflatten(0, (-1, heads))
    logits = logits.flatten(0, -4) if logits.ndim > 4 else logits
    if logits.shape[1] != heads == logits.shape[2]:
        logits = logits.transpose(1, 2)
    query = logits.new_zeros(*logits.shape[:3], 1)
    key = logits.new_zeros(*logits.shape[:2], logits.shape[3], 1)
    known, inputs = handed_apart(frame, known, query, key), None if forward is None else forward.inputs
    show(frame, AttentionCall("", frame.module, query, key, logits, 1.0, False, number, inputs, known))
    frame.is_seen(by_all=False)


def heads_of(module: Any) -> int:
    """How many heads a module says that it has; 1 if it says nothing."""
    return next((n for name in HEADS if isinstance(n := getattr(module, name, None), int)), 1)


def heads_in_batch(frame: Frame, length: int) -> int:
    """How many heads of a module stand in a batch of this length, as (batch * heads, tokens, d); 1 if none do."""
    heads, own = heads_of(frame.module), frame.own_tokens
    return heads if own is not None and length == len(own) * heads else 1


def is_linear(module: nn.Module) -> bool:
    """Whether a layer is linear attention, by the name of its class or of its processor's."""
    return any("linear" in type(part).__name__.lower() for part in (module, getattr(module, "processor", None)))


def is_in_its_memory(tensor: Tensor, noted: Noted) -> bool:
    """Whether a tensor is in the memory that a softmax gave its result in; either may have none, in ``torch.vmap``."""
    own = memory_of(tensor)
    return own is not None and noted.memory is not None and own == noted.memory
