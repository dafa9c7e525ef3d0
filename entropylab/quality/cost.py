"""What a picture costs: seconds and peak memory, on a GPU by its events and allocator, else of the process."""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

MIB = 2**20

GPU = "CUDA events; peak of the CUDA allocator, without the models that judge"
PROCESS = "wall clock; peak resident memory of the process, reset before each batch"
HIGH_WATER = "wall clock; peak resident memory of the process since it began"


@dataclass
class Meter:
    """Seconds and peak memory of batches, of one size and method.

    Attributes:
        device: where the pipeline is.
        aside: bytes on that device that are not the pipeline's, such as the models that judge.
        seconds: of every batch, a picture [s].
        peaks: of every batch [MiB].
        added: of every batch, above what was there when it began [MiB].
        loads: the machine's load average after every batch, where it tells.
    """

    device: torch.device
    aside: int = 0
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)
    loads: list[float] = field(default_factory=list)

    @contextmanager
    def batch(self, pictures: int) -> Iterator[None]:
        """Measure what samples a batch of so many pictures."""
        watch = on_gpu if self.device.type == "cuda" else on_cpu
        with watch(self.device) as found:
            yield
        self.seconds.append(found["seconds"] / pictures)
        self.peaks.append((found["peak"] - self.aside) / MIB)
        self.added.append((found["peak"] - found["before"]) / MIB)
        with suppress(OSError, AttributeError):  # not on every system
            self.loads.append(os.getloadavg()[0])

    @property
    def time(self) -> float:
        """Median seconds a picture, of the batches after the first, which pays for what is set up once."""
        return float(np.median(self.seconds[1:] or self.seconds)) if self.seconds else np.nan

    @property
    def memory(self) -> float:
        """Peak memory of all batches [MiB]."""
        return max(self.peaks, default=np.nan)

    @property
    def memory_added(self) -> float:
        """Most that a batch added to what was there [MiB]; the first, which loads code and sets up, does not count."""
        return max(self.added[1:] or self.added, default=np.nan)


def how(device: torch.device, loads: list[float]) -> str:
    """How time and memory are measured on a device, in words, and what else the machine had to do."""
    if device.type == "cuda":
        return GPU
    words = PROCESS if resettable() else HIGH_WATER
    if not loads:
        return words
    return f"{words}; {torch.get_num_threads()} threads of {os.cpu_count()} cores at a load of up to {max(loads):.1f}"


@contextmanager
def on_gpu(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds between two CUDA events, and the allocator's peak [bytes], of what runs inside."""
    found: dict[str, float] = {}
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    begin.record()
    yield found
    end.record()
    end.synchronize()
    peak = torch.cuda.max_memory_allocated(device)
    found.update(seconds=begin.elapsed_time(end) / 1000, peak=peak, before=before)


@contextmanager
def on_cpu(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds by the wall clock, and the process's peak resident memory [bytes], of what runs inside."""
    found: dict[str, float] = {}
    give_back()
    resettable()
    before = resident("VmRSS")
    begin = time.perf_counter()
    yield found
    found.update(seconds=time.perf_counter() - begin, peak=resident("VmHWM"), before=before)


def give_back() -> None:
    """Hand freed memory back to the system: what an earlier, larger batch left with the C library would count here."""
    gc.collect()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def resettable() -> bool:
    """Reset the process's peak memory, and say whether that can be done, as on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return True
    return False


def resident(name: str) -> int:
    """Resident memory of the process [bytes]: "VmRSS" now, "VmHWM" its peak since that was reset, or elsewhere than
    on Linux since the process began.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    import psutil

    memory = psutil.Process().memory_info()
    with suppress(ImportError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return int(memory.rss if name == "VmRSS" else peak if sys.platform == "darwin" else peak * 1024)  # macOS: bytes
    return int(getattr(memory, "peak_wset", memory.rss) if name == "VmHWM" else memory.rss)  # Windows
