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

    ``given`` are the tokens that its forward was handed, its own first; further keys, such as sinks, are in none.
    """
    queries, keys = query.shape[-2], key.shape[-2]
    if queries >= keys:
        return None
    if any(query.stride(dim) == keys * query.stride(2) for dim in (0, 1)):  # it lies in memory as some of so many
        return keys
    # tokens of (batch, tokens, d), and of (batch, d, tokens) or (batch, d, height, width)
    own, *others = [{prod(each.shape[1:-1]), prod(each.shape[2:])} for each in given] or [set()]
    explained = any({keys, keys - queries} & other for other in others)
    return queries if queries in own and not explained else None


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
    """How many tokens a forward was handed to attend to, other than its own once more.

    Where a MultiheadAttention is handed queries and keys in different memory on a GPU, the host would have to wait to
    compare them: it is ``told`` once, by the number of tokens, and holds from then on.
    """
    if not isinstance(module, nn.MultiheadAttention):
        context = kwargs.get("encoder_hidden_states", kwargs.get("key_value_states"))
        if not isinstance(context, Tensor) or context is own_tokens(args, kwargs) or context.ndim < 2:
            return None
        return int(context.shape[-2])
    given = inspect.signature(nn.MultiheadAttention.forward).bind(module, *args, **kwargs).arguments
    query, key = given["query"], given["key"]
    keys = int(in_batches(module, key).shape[1])
    if query is key or ((stamp := stamp_of(query)) is not None and stamp == stamp_of(key)):
        return None
    if query.shape != key.shape:
        return keys
    if keys not in told or not makes_wait(key):
        told[keys] = bool(torch.equal(query, key))
    return None if told[keys] else keys


def in_batches(module: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """Tokens as (batch, tokens, width), those of a nested tensor with zeros behind."""
    if tokens.is_nested:
        return tokens.to_padded_tensor(0.0)
    if tokens.ndim == 2:
        return tokens[None]
    return tokens if module.batch_first else tokens.transpose(0, 1)
