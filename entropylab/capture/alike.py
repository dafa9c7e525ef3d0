"""Whether tensors hold the same values, without making the host wait for a GPU more than once for each of them."""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


def stamp_of(tensor: Tensor) -> Hashable | None:
    """What stays the same while a tensor's values do, and differs for any other; None if nobody can tell.

    A weak reference to the memory keeps its number from being given to other memory, and lets the memory go.
    """
    if tensor.is_inference():
        return None  # nobody counts how often it is changed
    try:
        memory = StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):  # a subclass that has none of its own
        return None
    return memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version


def makes_wait(tensor: Tensor) -> bool:
    """Whether the host has to wait to know a tensor's values."""
    return tensor.device.type != "cpu"


class Values:
    """The values of a tensor, kept, and which tensors are known to hold the same ones, or others, by their stamps."""

    def __init__(self, tensor: Tensor) -> None:
        self.kept = tensor.detach().clone()
        self.known: dict[Any, bool] = {stamp_of(tensor): True}

    def are_in(self, tensor: Tensor) -> bool:
        """Whether a tensor holds the same values: it is read only if it was never met as it is now."""
        if tensor.shape != self.kept.shape:
            return False
        if not makes_wait(tensor):
            return torch.equal(self.kept.to(tensor.device), tensor)
        stamp = stamp_of(tensor)
        if stamp is None or stamp not in self.known:
            found = torch.equal(self.kept, tensor.to(self.kept.device))
            self.known = {other: alike for other, alike in self.known.items() if other and not other[0].expired()}
            self.known[stamp] = found
        return self.known[stamp]
