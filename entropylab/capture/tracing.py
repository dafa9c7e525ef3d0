"""Which tokens of a model come from which of its inputs: codes are carried along, once, while the model runs.

Every input of interest has a colour, say "text", which is a bit. Beside the tensors that depend on it run codes on the
host, whose bits say for each entry on which colours it depends; nothing is asked of the model's device. Attention mixes
tokens, so each row that it returns counts as depending on its query alone: what remains is which rows *stand* for an
input. So it is with any function that is not known here: rows that it returns, as many as it was given, stand for the
same; if they are more or fewer, each depends on all that the function was given.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, reduce
from operator import or_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import one_line
from .changes import changed

MIXERS = {"scaled_dot_product_attention", "multi_head_attention_forward", "native_multi_head_attention"}
"""Functions that are attention."""

CASTING = {"to", "type", "type_as", "float", "half", "bfloat16", "double", "int", "long", "bool", "contiguous"}
CASTING |= {"detach", "cuda", "cpu", "dropout"}
"""Functions that give each entry of their first argument in another form."""

ENTRYWISE = {"truediv", "pow", "floordiv", "mod", "and", "or", "xor", "invert", "complex", "polar"}
"""Functions of each entry that PyTorch does not say to be such."""

MOVING = {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "swapaxes", "swapdims", "movedim"}
MOVING |= {"moveaxis", "squeeze", "unsqueeze", "expand", "expand_as", "view_as", "reshape_as", "broadcast_to", "get"}
MOVING |= {"split", "split_with_sizes", "chunk", "tensor_split", "unbind", "narrow", "select", "getitem", "setitem"}
MOVING |= {"repeat", "repeat_interleave", "tile", "roll", "flip", "pad", "gather", "index_select", "take_along_dim"}
MOVING |= {"where", "masked_fill", "pad_sequence"}
"""Functions that put entries elsewhere, or others in their place; "get" is a property such as ``mT``."""

JOINING = {"cat", "concat", "concatenate", "stack"}
"""Functions that put tensors side by side."""

COUNTING = {"any", "all", "sum", "cumsum", "amax", "amin", "max", "min"}
"""Functions of numbers and masks whose results have shapes that don't depend on the values."""

CONVOLUTIONS = {"conv2d", "conv3d"}
"""Functions whose results are pictures, whatever conditions have entered them."""

ABOUT = {"get", "size", "dim", "numel", "stride", "element_size", "is_floating_point", "is_complex", "len"}
"""Functions that tell of a tensor, but not its values."""

OPERATORS = {"add", "sub", "mul", "truediv", "pow", "floordiv", "mod", "and", "or", "xor", "matmul"}
"""What ``__radd__`` and ``__iadd__`` and their like do."""

TEXT, DECIDING, TOKENS = 2, 8, 7
BITS = {"image": 1, "text": TEXT, "reference": 4, "deciding": DECIDING}
"""Colours as they stand in codes; "deciding" are inputs whose values may decide where tokens stand: masks, numbers."""

NONE = torch.zeros((), dtype=torch.uint8, device="cpu")
"""The codes of what depends on nothing."""


class Marked(NamedTuple):
    """The tokens at which a tensor of numbers (batch, tokens), handed beside an input, holds ``value``."""

    numbers: Tensor
    value: int


Source = tuple[Tensor, slice | Marked]
"""An input and which of its tokens (its second dimension from the right, all of it for ``slice(None)``)."""


class Trace(TorchFunctionMode):
    """Follows what depends on which colour, while it is the active mode."""

    stance: AbstractContextManager[None]  # of the compiler, while it follows

    def __init__(
        self,
        sources: Mapping[str, Sequence[Source]],
        deciding: Sequence[Tensor],
        known: Mapping | None,
        on_sdpa: Callable[[], None],
    ) -> None:
        """Begin with what has which colour, what decides, and codes that are ``known``; tell whenever SDPA ran."""
        super().__init__()
        self.on_sdpa = on_sdpa
        # Tensor -> its codes (uint8, on the host), of size 1 in each dimension along which they are the same.
        self.codes = WeakIdKeyDictionary(known)
        self.depth = 0  # how many functions run inside of each other
        self.reads = False  # whether values that decide where tokens stand may have been read
        self.failure: str | None = None  # why nothing is followed any more
        self.tokens: dict[Any, Any] = {}  # what was read from codes, for those who read the same again
        for colour, inputs in {**sources, "deciding": [(tensor, slice(None)) for tensor in deciding]}.items():
            for tensor, tokens in inputs:
                codes = self.of(tensor).clone()
                if isinstance(tokens, Marked):
                    self.reads = True
                    codes[(tokens.numbers == tokens.value).cpu()] |= BITS[colour]
                else:
                    (codes if tokens == slice(None) else codes[..., tokens, :]).bitwise_or_(BITS[colour])
                self.codes[tensor] = thin(codes)

    def __enter__(self) -> "Trace":
        """Begin to follow; functions that were compiled can't be, and run as they were written."""
        self.stance = changed(torch.compiler, force_eager) if "torch._dynamo" in sys.modules else nullcontext()
        self.stance.__enter__()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        """Follow no more."""
        super().__exit__(*exception)
        self.stance.__exit__(*(exception or (None, None, None)))

    def of(self, tensor: Tensor) -> Tensor:
        """The codes of all entries of a tensor."""
        return self.codes.get(tensor, NONE).expand(tensor.shape)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run ``func``, and follow it."""
        self.depth += 1
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self.depth -= 1
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            self.on_sdpa()
        self.note(self.follow, func, args, kwargs or {}, result)
        return result

    def note(self, step: Callable, *given: Any) -> None:
        """Take a step in following; where it fails nothing is followed any more."""
        if self.failure is None:
            try:
                with torch.no_grad():
                    step(*given)
            except Exception as problem:  # a model's own function may do anything
                self.failure = f"{getattr(given[0], '__name__', 'attention')}: {one_line(problem, 300)}"
                self.codes.clear()

    def follow(self, func: Callable, args: tuple, kwargs: dict, result: Any) -> None:
        """Note the codes of what ``func`` gave, or of its first argument if that was written to."""
        name, changes = plain_name(func)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        found = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        coded = [tensor for tensor in given if tensor in self.codes]
        if not coded or name.startswith("new_") or name.endswith("_like"):
            return
        if name in MIXERS:
            self.inherit(result, kwargs.get("query", given[0]))
        elif not found and not changes:
            self.reads |= name not in ABOUT and self.are_deciding(coded)
        else:
            found = given[:1] if changes else found
            for tensor, codes in zip(found, self.carried(name, func, args, kwargs, given, found), strict=True):
                self.give(tensor, codes, changes)

    def give(self, tensor: Tensor, codes: Tensor, changes: bool) -> None:
        """Give a tensor codes; what it is a part of, if it was written to, has them there too."""
        codes = thin(codes.expand(tensor.shape))
        is_of_tokens = can_be_nan(tensor) and bool((codes & TOKENS).any())
        codes = codes & (TOKENS if is_of_tokens else DECIDING)  # what tokens hold decides nothing
        if changes and not tensor.is_inference() and (base := tensor._base) is not None:
            whole = torch.empty_strided(base.shape, base.stride(), dtype=torch.uint8, device="cpu").copy_(self.of(base))
            offset = tensor.storage_offset() - base.storage_offset()
            whole.as_strided(tensor.shape, tensor.stride(), offset).copy_(codes)
            self.codes[base] = thin(whole)
        if tensor in self.codes or bool(codes.any()):
            self.codes[tensor] = codes

    def inherit(self, result: Any, query: Tensor) -> None:
        """The rows of what attention returns stand for what its query rows stand for; a single one is a pool's."""
        if isinstance(result, Tensor) and query in self.codes and query.shape[-2] > 1:
            self.give(result, self.by_row(result, [query], False), False)

    def are_deciding(self, tensors: list[Tensor]) -> bool:
        """Whether values of some tensors come from what decides."""
        return any(bool((self.codes.get(tensor, NONE) & DECIDING).any()) for tensor in tensors)

    def carried(
        self, name: str, func: Callable, args: tuple, kwargs: dict, given: list[Tensor], found: list[Tensor]
    ) -> list[Tensor]:
        """The codes of what a function gave."""
        codes = [self.codes.get(tensor, NONE) for tensor in given]
        if all(tensor.numel() == 1 < given[0].numel() for tensor in found) or (
            (name in COUNTING or is_entrywise(name)) and not any(can_be_nan(tensor) for tensor in found)
        ):
            return [NONE + DECIDING * self.are_deciding(given)] * len(found)
        if name.startswith("foreach"):
            raise NotImplementedError("takes several tensors for one")
        if name == "copy":
            return codes[1:]
        if name in JOINING:
            return [self.joined(name, args, kwargs)]
        if name in MOVING:
            return self.moved(name, func, args, kwargs)
        if name in CASTING:
            return codes[:1]
        if is_entrywise(name):
            return [reduce(or_, codes)] * len(found)
        if name in ("embedding", "view_as_real"):
            return [codes[0][..., None]]
        return [self.by_row(tensor, given, name in CONVOLUTIONS) for tensor in found]

    def by_row(self, found: Tensor, given: list[Tensor], is_picture: bool) -> Tensor:
        """The codes of rows that stand for as many given ones; of other rows, and of pictures, those of all."""
        for tensor in given if not is_picture and can_be_nan(found) else ():
            rows, codes = tensor.shape[:-1], self.codes.get(tensor, NONE)
            if tensor.ndim > 1 and rows in (found.shape, found.shape[:-1]):
                return codes if codes is NONE else any_of(codes, -1, rows == found.shape[:-1])
        self.reads |= self.are_deciding(given)
        bits = reduce(or_, (any_of(self.codes.get(tensor, NONE).flatten(), 0, False) for tensor in given))
        return bits & ~(NONE + TEXT * is_picture)

    def joined(self, name: str, args: tuple, kwargs: dict) -> Tensor:
        """The codes of tensors put side by side."""
        tensors = [tensor for tensor in kwargs.get("tensors", args[0]) if tensor.numel()]
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0) % (tensors[0].ndim + (name == "stack"))
        parts = [self.of(tensor).unsqueeze(dim) if name == "stack" else self.of(tensor) for tensor in tensors]
        for other in range(parts[0].ndim):
            if other != dim and all(part.stride(other) == 0 for part in parts):
                parts = [part.narrow(other, 0, 1) for part in parts]
        ends = [part.narrow(dim, 0, 1) for part in parts]
        if all(part.stride(dim) == 0 and torch.equal(end, ends[0]) for part, end in zip(parts, ends, strict=True)):
            return ends[0]
        return torch.cat(parts, dim)

    def moved(self, name: str, func: Callable, args: tuple, kwargs: dict) -> list[Tensor]:
        """The codes of what a function puts elsewhere: it does the same to the codes, and fills with nothing."""
        leaves, shape = tree_flatten((args, kwargs))
        moved: list[Any] = []
        for index, leaf in enumerate(leaves):
            is_last = index == len(leaves) - 1 and name in ("where", "masked_fill", "setitem")
            is_place = isinstance(leaf, Tensor) and not can_be_nan(leaf) and (index > 0 or name == "where")
            if is_place and not is_last:
                self.reads |= self.are_deciding([leaf])
                moved.append(leaf.cpu())
            elif isinstance(leaf, Tensor):
                moved.append(self.of(leaf).clone() if name == "setitem" and not index else self.of(leaf))
            else:
                bounds = (leaf.start, leaf.stop) if isinstance(leaf, slice) else ()
                self.reads |= self.are_deciding([bound for bound in bounds if isinstance(bound, Tensor)])
                moved.append(0 if isinstance(leaf, float) or (is_last and isinstance(leaf, int)) else leaf)
        again, more = tree_unflatten(moved, shape)
        found = (Tensor.reshape if name == "view" else func)(*again, **more)
        return moved[:1] if name == "setitem" else tree_leaves(found)


def plain_name(func: Callable) -> tuple[str, bool]:
    """What a function does, "add" for ``add_``, ``__radd__`` or ``__iadd__``; and whether to its first argument."""
    name = getattr(func, "__name__", "")
    plain = name.strip("_")
    if not name.startswith("__"):
        return plain, name.endswith("_")
    is_operator = plain[1:] in OPERATORS and plain[0] in "ir"
    return plain[is_operator:], plain == "setitem" or (is_operator and plain[0] == "i")


@lru_cache(maxsize=1024)
def tags_of(name: str) -> set[str]:
    """What PyTorch says of a function of this name."""
    packet = getattr(torch.ops.aten, name, None)
    return {str(tag) for each in (packet.overloads() if packet else ()) for tag in getattr(packet, each).tags}


def is_entrywise(name: str) -> bool:
    """Whether each entry of a function's results depends on the same entry of its arguments alone."""
    return name in ENTRYWISE | CASTING or "Tag.pointwise" in tags_of(name)


def force_eager(compiler: Any) -> AbstractContextManager[None]:
    """Let compiled code run as it was written."""
    stance: AbstractContextManager[None] = compiler.set_stance("force_eager")
    return stance


def thin(codes: Tensor) -> Tensor:
    """Codes cut to one entry along each dimension along which they are the same."""
    for dim in sorted(range(codes.ndim), key=codes.stride):
        first = codes.narrow(dim, 0, min(1, codes.shape[dim]))
        if codes.stride(dim) == 0 or bool((codes == first).all()):
            codes = first
    return codes.clone()


def any_of(codes: Tensor, dim: Any, keeps: bool = True) -> Tensor:
    """The bits that are anywhere along a dimension, or some."""
    return reduce(or_, ((codes & bit).amax(dim, keepdim=keeps) for bit in BITS.values()))


def can_be_nan(tensor: Tensor) -> bool:
    """Whether a tensor can hold what tokens are made of."""
    return tensor.is_floating_point() or tensor.is_complex()
