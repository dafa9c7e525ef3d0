"""Masks that are more than tensors: subclasses that say what attention is to do, such as ``CausalBias``."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import CausalBias, CausalVariant

lock = threading.RLock()


def read_mask(mask: Tensor | None, device: torch.device) -> tuple[Tensor | None, bool, str | None]:
    """What a mask for SDPA means: as a plain tensor, or as causal, or a reason why nobody can tell.

    A subclass without an answer of its own to PyTorch's functions means its values, as a parameter does.
    """
    if mask is None or not answers_itself(mask):
        return mask, False, None
    if type(mask) is not CausalBias:
        return None, False, f"its mask is a {type(mask).__name__}, and only that class knows what it means"
    queries, keys = mask.seq_len_q, mask.seq_len_kv
    if queries == keys or mask.variant == CausalVariant.UPPER_LEFT:
        return None, True, None
    last = torch.arange(queries, device=device)[:, None] + (keys - queries)
    return torch.arange(keys, device=device) <= last, False, None


def answers_itself(tensor: Any) -> bool:
    """Whether a tensor is of a subclass that decides what PyTorch's functions do with it."""
    for own in type(tensor).__mro__:
        if own is Tensor:
            return False
        if "__torch_function__" in vars(own):
            return vars(own)["__torch_function__"] is not torch._C._disabled_torch_function_impl
    return False


def are_plain(*tensors: Any) -> bool:
    """Whether no tensor is of a subclass that decides what PyTorch's functions do with it."""
    for tensor in tensors:  # noqa: SIM110 - it is asked at every call, where a generator costs more
        if tensor is not None and type(tensor) is not Tensor and answers_itself(tensor):
            return False
    return True


@contextmanager
def in_its_own_way(original: Any) -> Iterator[None]:
    """Put SDPA itself back into ``torch.nn.functional`` for tensors of subclasses, which may look for it."""
    with lock:
        substitute, F.scaled_dot_product_attention = F.scaled_dot_product_attention, original
        try:
            yield
        finally:
            F.scaled_dot_product_attention = substitute
