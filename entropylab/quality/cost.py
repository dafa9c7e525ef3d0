"""What a picture costs: seconds and peak memory, on a GPU by its events and allocator, else of the process."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch

MIB = 2**20

EVERY = 0.002
"""How often the process's memory is looked at [s]."""


@dataclass
class Meter:
    """Seconds a picture, peak memory, and memory added [MiB] of batches.

    ``aside`` are bytes on the device that are not the pipeline's, such as the models that judge.
    """

    device: torch.device
    aside: int = 0
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    added: list[float] = field(default_factory=list)

    @contextmanager
    def batch(self, pictures: int) -> Iterator[None]:
        """Measure what samples a batch of so many pictures."""
        with on_gpu(self.device) if self.device.type == "cuda" else on_cpu() as found:
            yield
        self.seconds.append(found["seconds"] / pictures)
        self.peaks.append((found["peak"] - self.aside) / MIB)
        self.added.append((found["peak"] - found["before"]) / MIB)

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


def how(device: torch.device) -> str:
    """How time and memory are measured on a device, in words."""
    if device.type == "cuda":
        return "CUDA events; peak of the CUDA allocator, without the models that judge"
    threads = f"{torch.get_num_threads()} threads of {psutil.cpu_count()} cores"
    return f"wall clock; most resident memory of the process, looked at every {1000 * EVERY:.0f} ms; {threads}"


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
def on_cpu() -> Iterator[dict[str, float]]:
    """Seconds by the wall clock, and the process's most resident memory [bytes], of what runs inside.

    Freed memory is handed back to the system first: what an earlier, larger batch left would count here.
    """
    found: dict[str, Any] = {}
    process, done = psutil.Process(), threading.Event()
    gc.collect()
    getattr(psutil, "heap_trim", int)()  # not for every C library
    before = process.memory_info().rss
    seen = [before]

    def watch() -> None:
        while not done.wait(EVERY):
            seen[0] = max(seen[0], process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    begin = time.perf_counter()
    try:
        yield found
        seconds = time.perf_counter() - begin
        peak = max(seen[0], process.memory_info().rss)
    finally:
        done.set()
        watcher.join()
    found.update(seconds=seconds, peak=peak, before=before)
