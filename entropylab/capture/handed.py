"""What a module was handed: its own tokens, and others to attend to; which keys of a call are its own."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from .alike import makes_wait, stamp_of


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
    if any(query.stride(dim) == keys * query.stride(2) for dim in (0, 1)):  # it lies in memory as some of so many
        return keys
    own, *others = [set(tokens_in(tensor)) for tensor in given] or [set()]
    explained = any({keys, keys - queries} & other for other in others)
    return queries if queries in own and not explained else None


def tokens_in(tensor: Tensor) -> tuple[int, ...]:
    """How many tokens a tensor (batch, tokens, d), (batch, d, tokens) or (batch, d, height, width) may have."""
    return prod(tensor.shape[1:-1]), prod(tensor.shape[2:])


def handed(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors among a forward's arguments that may be tokens, its own first."""
    first = kwargs.get("hidden_states")
    for value in (first, *args, *(value for value in kwargs.values() if value is not first)):
        if isinstance(value, Tensor) and value.ndim > 2 and value.is_floating_point():
            yield value


def own_tokens(args: tuple, kwargs: dict) -> Tensor | None:
    """The tokens that a layer's forward was handed as its own."""
    own = kwargs.get("hidden_states", args[0] if args else None)
    return own if isinstance(own, Tensor) else None


def context_tokens(module: nn.Module, args: tuple, kwargs: dict, told: dict[int, bool]) -> int | None:
    """How many tokens a forward was handed to attend to, other than its own once more."""
    if isinstance(module, nn.MultiheadAttention):
        return other_keys(module, args, kwargs, told)
    context = kwargs.get("encoder_hidden_states", kwargs.get("key_value_states"))
    if not isinstance(context, Tensor) or context is own_tokens(args, kwargs) or context.ndim < 2:
        return None
    return int(context.shape[-2])


def other_keys(module: nn.MultiheadAttention, args: tuple, kwargs: dict, told: dict[int, bool]) -> int | None:
    """How many keys a MultiheadAttention is about to attend to, if they are not its queries.

    Where they are two tensors on a GPU the host would have to wait to compare them: it is ``told`` once, by the number
    of tokens, and holds from then on.
    """
    given = inspect.signature(nn.MultiheadAttention.forward).bind(module, *args, **kwargs).arguments
    query, key = given["query"], given["key"]
    keys = int(in_batches(module, key).shape[1])
    if query is key or (query.shape == key.shape and are_alike(query, key, told, keys)):
        return None
    return keys


def are_alike(query: Tensor, key: Tensor, told: dict[int, bool], tokens: int) -> bool:
    """Whether the queries and keys of one shape that a module is handed are the same tokens."""
    if (stamp := stamp_of(query)) is not None and stamp == stamp_of(key):
        return True
    if makes_wait(key) and tokens in told:
        return told[tokens]
    told[tokens] = bool(torch.equal(query, key))
    return told[tokens]


def in_batches(module: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Tokens as (batch, tokens, width), those of a nested tensor with zeros behind."""
    if tokens.is_nested:
        return tokens.to_padded_tensor(0.0)
    if tokens.ndim == 2:
        return tokens[None]
    return tokens if module.batch_first else tokens.transpose(0, 1)
