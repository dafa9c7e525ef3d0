"""Keys that are a module's own tokens, though they are more than its queries: a slice of the queries, or sinks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

from torch import Tensor


def own_keys(query: Tensor, key: Tensor, given: Iterable[Tensor]) -> int | None:
    """How many of a call's keys are the module's own tokens, where there are fewer queries; None if it can't be told.

    Args:
        query: (batch, heads, queries, d).
        key: (batch, heads, keys, d).
        given: what the module's forward was handed, its own tokens first. Further keys, such as sinks, are in no
            tensor of it.
    """
    queries, keys = query.shape[-2], key.shape[-2]
    if queries >= keys:
        return None
    if is_slice_of(query, keys):
        return keys
    own, *others = [set(tokens_in(tensor)) for tensor in given] or [set()]
    explained = any({keys, keys - queries} & other for other in others)
    return queries if queries in own and not explained else None


def is_slice_of(query: Tensor, queries: int) -> bool:
    """Whether q (batch, heads, tokens, d) lies in memory as some of so many queries."""
    return any(query.stride(dim) == queries * query.stride(2) for dim in (0, 1))


def tokens_in(tensor: Tensor) -> tuple[int, ...]:
    """How many tokens a tensor (batch, tokens, d), (batch, d, tokens) or (batch, d, height, width) may have."""
    return prod(tensor.shape[1:-1]), prod(tensor.shape[2:])


def handed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors among a forward's arguments that may be tokens, its own first."""
    first = kwargs.get("hidden_states")
    for value in (first, *args, *(value for value in kwargs.values() if value is not first)):
        if isinstance(value, Tensor) and value.ndim > 2 and value.is_floating_point():
            yield value
