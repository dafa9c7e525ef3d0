"""What memory tensors are in, and whether they are what they were, without making the host wait for a GPU."""

from collections.abc import Hashable

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


def memory_of(tensor: Tensor) -> StorageWeakRef | None:
    """The memory that a tensor is in, whose number is given to no other while it is known; None if it has none."""
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):
        return None


def stamp_of(tensor: Tensor) -> Hashable | None:
    """What stays the same while a tensor's values do, and differs for any other; None if nobody can tell."""
    if tensor.is_inference() or (memory := memory_of(tensor)) is None:  # nobody counts how often it is changed
        return None
    return memory, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version


def is_same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same numbers in memory."""
    alike = one.shape == other.shape and one.stride() == other.stride()
    return alike and one.data_ptr() == other.data_ptr() and memory_of(one) == memory_of(other)


def version_of(tensor: Tensor) -> int:
    """How often a tensor was changed in place; 0 if nobody counts."""
    return 0 if tensor.is_inference() else tensor._version


def makes_wait(tensor: Tensor) -> bool:
    """Whether the host has to wait to know a tensor's values."""
    return tensor.device.type != "cpu"
