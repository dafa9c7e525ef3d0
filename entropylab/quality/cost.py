"""What a picture costs: seconds and peak memory, on a GPU by its events and allocator, else of the process."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

MIB = 2**20

GPU = "CUDA events; peak of the CUDA allocator"
PROCESS = "wall clock; peak resident memory of the process, reset before each batch"
HIGH_WATER = "wall clock; peak resident memory of the process since it began"


@dataclass
class Meter:
    """Seconds and peak memory of batches, of one size and method.

    Attributes:
        device: where the pipeline is.
        seconds: of every batch, a picture [s].
        peaks: of every batch [MiB].
    """

    device: torch.device
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)

    @contextmanager
    def batch(self, pictures: int) -> Iterator[None]:
        """Measure what samples a batch of so many pictures."""
        watch = on_gpu if self.device.type == "cuda" else on_cpu
        with watch(self.device) as found:
            yield
        self.seconds.append(found["seconds"] / pictures)
        self.peaks.append(found["peak"] / MIB)

    @property
    def time(self) -> float:
        """Median seconds a picture, of the batches after the first, which pays for what is set up once."""
        return float(np.median(self.seconds[1:] or self.seconds)) if self.seconds else np.nan

    @property
    def memory(self) -> float:
        """Peak memory of all batches [MiB]."""
        return max(self.peaks, default=np.nan)


def how(device: torch.device) -> str:
    """How time and memory are measured on a device, in words."""
    if device.type == "cuda":
        return GPU
    return PROCESS if resettable() else HIGH_WATER


@contextmanager
def on_gpu(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds between two CUDA events, and the allocator's peak [bytes], of what runs inside."""
    found: dict[str, float] = {}
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.reset_peak_memory_stats(device)
    begin.record()
    yield found
    end.record()
    end.synchronize()
    found.update(seconds=begin.elapsed_time(end) / 1000, peak=torch.cuda.max_memory_allocated(device))


@contextmanager
def on_cpu(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds by the wall clock, and the process's peak resident memory [bytes], of what runs inside."""
    found: dict[str, float] = {}
    if resettable():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    begin = time.perf_counter()
    yield found
    found.update(seconds=time.perf_counter() - begin, peak=peak_resident())


def resettable() -> bool:
    """Whether the process's peak memory can be reset, as on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return True
    return False


def peak_resident() -> int:
    """Peak resident memory of the process [bytes], since it was reset, or since it began where it can't be."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if peak > 2**32 else peak * 1024  # macOS counts bytes, others KiB
