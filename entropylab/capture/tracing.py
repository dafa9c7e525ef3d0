"""Which tokens of a model come from which of its inputs: values are followed, once, while the model runs.

Every input of interest has a colour, say "text". Beside the tensors that depend on it runs a copy in which that input
is NaN; what is NaN in the copy depends on the input. Attention mixes tokens, so each row that it returns counts as
depending on its query alone: what remains is which rows *stand* for an input. The model's own values are computed as
always. The copies are made without gradients: they must save nothing for the backward pass, or a part that is
checkpointed would be found to differ when it is computed once more.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import one_line
from .compiled import run_compiled, run_eagerly

MIXERS = {"scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention"}
"""Functions that are attention."""

PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm", "einsum", "mm"}
"""Functions that apply a map made by hand to values."""

CHANCE = ("rand", "normal_", "uniform_", "bernoulli", "multinomial", "exponential_", "dropout", "cauchy_", "geometric_")
"""Parts of names of functions that draw random numbers, which must be drawn once."""

CHANCES = {"normal", "poisson", "binomial", "rrelu", "fractional_max_pool2d", "fractional_max_pool3d"}
"""Whole names of further ones."""

CONVOLUTIONS = {"conv2d", "conv3d"}
"""Functions whose results are pictures, whatever conditions have entered them."""

RANGES = {"amax", "amin", "aminmax", "max", "min"}
"""Functions that say how far values reach. Of a whole tensor, by which it is quantised, that tells tokens not apart."""

AVERAGING = {"batch_norm", "instance_norm"}
"""Functions that may write running averages to their arguments without anybody counting that."""

Source = tuple[Tensor, slice]
"""An input and which of its tokens (its second dimension from the right, all of it for ``slice(None)``)."""


class Trace(TorchFunctionMode):
    """Follows what depends on which colour, while it is the active mode."""

    def __init__(self, sources: Mapping[str, Sequence[Source]]) -> None:
        super().__init__()
        self.shadows = {colour: WeakIdKeyDictionary() for colour in sources}
        self.numbers = {colour: WeakIdKeyDictionary() for colour in sources}
        self.maps = WeakIdKeyDictionary()
        self.depth = 0
        self.may_compile = False
        self.failure: str | None = None
        for colour, inputs in sources.items():
            for tensor, tokens in inputs:
                self.paint(colour, tensor, tokens)

    def __enter__(self) -> "Trace":
        """Begin to follow; functions that were compiled can't be, and run as they were written."""
        self.may_compile = "torch._dynamo" in sys.modules
        if self.may_compile:
            run_eagerly()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        """Follow no more."""
        super().__exit__(*exception)
        if self.may_compile:
            run_compiled()

    @torch.no_grad()
    def paint(self, colour: str, tensor: Tensor, tokens: slice) -> None:
        """Give an input (or some of its tokens) a colour."""
        if not tensor.is_floating_point():
            self.numbers[colour][tensor] = True
            return
        copy = tensor.clone()
        (copy if tokens == slice(None) else copy[..., tokens, :]).fill_(torch.nan)
        self.shadows[colour][tensor] = copy

    def depends(self, colour: str, tokens: Tensor) -> Tensor | None:
        """Which tokens of (..., tokens, d) have a colour: boolean (..., tokens); None if none does."""
        with torch._C.DisableTorchFunction():
            shadow = self.shadows[colour].get(tokens)
            return None if shadow is None else shadow.isnan().any(-1)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run ``func``, and follow it."""
        kwargs = kwargs or {}
        if self.failure is not None:
            return func(*args, **kwargs)
        self.depth += 1
        try:
            return self.follow(func, args, kwargs)
        finally:
            self.depth -= 1

    def follow(self, func: Callable, args: tuple, kwargs: dict) -> Any:
        """The result of ``func``, with its colours noted."""
        name = getattr(func, "__name__", "")
        leaves, shape = tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        changes = changes_in_place(name) and tensors and tensors[0] is leaves[0]
        try:
            before = self.copies_before(tensors) if changes else {}
            versions = [version_of(tensor) for tensor in tensors]
        except Exception as problem:
            self.fail(name, problem)
            return func(*args, **kwargs)
        try:
            result = func(*args, **kwargs)
        except torch.OutOfMemoryError as problem:
            if changes:
                raise
            self.fail(name, problem)
        if self.failure is not None:  # the copies that took the model's memory are gone
            return func(*args, **kwargs)
        if name in MIXERS or not tensors:
            self.attended(result, kwargs.get("query", leaves[0] if leaves else None))
            return result
        from_map = [tensor in self.maps for tensor in tensors]
        if name.endswith("softmax") or all(from_map):
            self.note(self.maps, result)
        elif not (any(from_map) and name in PRODUCTS) and not self.by_chance(name, kwargs):
            try:
                averages = name in AVERAGING
                written = [t for t, v in zip(tensors, versions, strict=True) if averages or version_of(t) != v]
                self.note_colours(func, leaves, shape, result, before, written)
            except Exception as problem:  # a model's own function may do anything with a NaN
                self.fail(name, problem)
        return result

    def fail(self, name: str, problem: Exception) -> None:
        """Follow no further, and let go of every copy."""
        self.failure = f"{name}: {one_line(problem, 300)}"
        for registry in (self.maps, *self.shadows.values(), *self.numbers.values()):
            registry.clear()

    def attended(self, result: Any, query: Any) -> None:
        """What attention returns inherits from its queries, unless that fails."""
        try:
            self.inherit(result, query)
        except Exception as problem:
            self.fail("attention", problem)

    @torch.no_grad()
    def inherit(self, result: Any, query: Any) -> None:
        """The rows of what attention returns stand for what its query rows stand for; a single one is a pool's."""
        if not isinstance(result, Tensor) or not isinstance(query, Tensor) or query.shape[-2] < 2:
            return
        for colour, shadows in self.shadows.items():
            rows = self.depends(colour, query)
            if rows is not None and rows.shape == result.shape[:-1]:
                shadows[result] = result.masked_fill(rows[..., None], torch.nan)

    def by_chance(self, name: str, kwargs: dict) -> bool:
        """Whether a function draws random numbers."""
        return (name in CHANCES or any(part in name for part in CHANCE)) and kwargs.get("training") is not False

    def note(self, registry: WeakIdKeyDictionary, result: Any) -> None:
        """Enter every tensor of a result."""
        for leaf in tree_flatten(result)[0]:
            if isinstance(leaf, Tensor):
                registry[leaf] = True

    @torch.no_grad()
    def copies_before(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """Per colour, a copy of the tensor that is about to be changed, where a colour is about to enter it."""
        return {
            colour: tensors[0].clone()
            for colour, shadows in self.shadows.items()
            if tensors[0] not in shadows and any(tensor in shadows for tensor in tensors[1:])
        }

    @torch.no_grad()
    def note_colours(
        self,
        func: Callable,
        leaves: list,
        shape: Any,
        result: Any,
        before: dict[str, Tensor],
        written: list[Tensor],
    ) -> None:
        """Run ``func`` on the copies of its arguments, for every colour that they have.

        What it writes to (``out=``, running averages) must be written to once: a second run gets a copy.
        """
        for colour, shadows in self.shadows.items():
            if colour == "text" and getattr(func, "__name__", "") in CONVOLUTIONS:
                continue
            if func is F.embedding and leaves[0] in self.numbers[colour]:
                shadows[result] = torch.full_like(result, torch.nan)
                continue
            if is_by_row(func, leaves, result, shadows):
                shadows[result] = result.masked_fill(shadows[leaves[0]].isnan().any(-1, keepdim=True), torch.nan)
                continue
            if colour in before:
                enter(shadows, leaves[0], before[colour])
            if not any(isinstance(leaf, Tensor) and leaf in shadows for leaf in leaves):
                continue
            shadows.update({leaf: leaf.clone() for leaf in written if leaf not in shadows})
            swapped = [
                shadows.get(leaf, leaf.clone() if leaf.is_inference() else leaf) if isinstance(leaf, Tensor) else leaf
                for leaf in leaves
            ]
            has_tensors = any(isinstance(leaf, Tensor) for leaf in tree_flatten(result)[0])
            if not has_tensors and not changes_in_place(getattr(func, "__name__", "")):
                continue
            args, kwargs = tree_unflatten(swapped, shape)
            copy = func(*args, **kwargs)
            for real, other in zip(tree_flatten(result)[0], tree_flatten(copy)[0], strict=True):
                is_noted = isinstance(real, Tensor) and real is not other and can_be_nan(real)
                if is_noted and not is_of_whole(func, leaves, real):
                    shadows[real] = other


def is_by_row(func: Callable, leaves: list, result: Any, shadows: WeakIdKeyDictionary) -> bool:
    """Whether a function is a linear layer of tokens, whose rows depend on their own tokens alone.

    Also if it is quantised by the range of all of them: there NaN would spread to every token, or be lost.
    """
    tokens, *others = leaves
    return (
        getattr(func, "__name__", "").startswith("linear")
        and isinstance(tokens, Tensor)
        and isinstance(result, Tensor)
        and tokens in shadows
        and result.shape[:-1] == tokens.shape[:-1]
        and not any(isinstance(other, Tensor) and other in shadows for other in others)
    )


def is_of_whole(func: Callable, leaves: list, result: Tensor) -> bool:
    """Whether a function gives one number for a whole tensor, or how far more than a row of it reaches."""
    given = leaves[0]
    if not isinstance(given, Tensor) or given.ndim < 2:
        return False
    least = len(given[..., 0].flatten()) if getattr(func, "__name__", "") in RANGES else 2
    return result.numel() < min(least, given.numel())


def enter(shadows: WeakIdKeyDictionary, tensor: Tensor, copy: Tensor) -> None:
    """Give a tensor a copy; a part of another one gets the same part of the other's."""
    base = tensor._base
    if base is not None and base not in shadows:
        shadows[base] = whole = base.clone()
        copy = whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - base.storage_offset())
    shadows[tensor] = copy


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 if nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


def can_be_nan(tensor: Tensor) -> bool:
    """Whether a tensor can hold what marks a colour; indices made from NaN would point anywhere."""
    return tensor.is_floating_point() or tensor.is_complex()


def changes_in_place(name: str) -> bool:
    """Whether a function of this name changes its first argument."""
    special = {"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"}
    return name in special or (name.endswith("_") and not name.endswith("__"))
