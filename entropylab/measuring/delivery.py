"""Numbers on their way to the host: a GPU is never waited for while sampling, and is waited for before they are read.

What is waited for is the stream that computed them, of each GPU that had a part in it: synchronising the current GPU
says nothing of another. Where there is no CUDA tensor, CUDA is left alone; its context would take half a gigabyte.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def sent(numbers: Tensor) -> Tensor:
    """The same on the host; those of a GPU may not be read before ``landed``.

    Other devices are waited for here: whether they copy without waiting, and what tells of the end, differs by device.
    """
    return numbers.to("cpu", non_blocking=True) if numbers.is_cuda else numbers.cpu()


def departures(tensors: Iterable[Tensor]) -> list[torch.cuda.Event]:
    """One event for every GPU that has some of the tensors: they, and copies of them, are there once it has passed."""
    devices = {tensor.device for tensor in tensors if tensor.is_cuda}
    return [torch.cuda.current_stream(device).record_event() for device in devices]


def landed(departed: Iterable[torch.cuda.Event]) -> None:
    """Wait until what left before these events is there."""
    for event in departed:
        event.synchronize()
