"""Ratios of time and of peak memory: the contestants take turns, so that a drift of the machine's speed cancels."""

import gc
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Work = Callable[[], Any]


def seconds(work: Work) -> float:
    """How long ``work`` takes, until the device is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def time_ratios(works: Mapping[str, Work], repeats: int) -> dict[str, dict[str, float]]:
    """Median and quartiles of every contestant's time over the first one's, pair by pair, after a warm-up."""
    for work in works.values():
        work()
    rounds = [{name: seconds(work) for name, work in works.items()} for _ in range(repeats)]
    (base, *_) = works
    return {
        name: spread([one[name] / one[base] for one in rounds]) | {"seconds": middle(rounds, name)} for name in works
    }


def middle(rounds: list[dict[str, float]], name: str) -> float:
    """Median time of one contestant [s]."""
    return statistics.median(one[name] for one in rounds)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else (values[0],) * 3
    return {"ratio": median, "low": low, "high": high}


def peak_memory(make: Callable[[], Work]) -> float:
    """Peak memory [MiB] that one run adds: on a GPU the allocator's, else of a process of its own."""
    if torch.cuda.is_available():
        work = make()
        work()
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / 2**20
    receive, send = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=run_alone, args=(make, send))
    process.start()
    peak = receive.recv()
    process.join()
    return peak


def run_alone(make: Callable[[], Work], send: Any) -> None:
    """Run the work in this process and report its peak resident memory [MiB]."""
    make()()
    send.send(high_water())


def high_water() -> float:
    """The most memory that this process has held so far [MiB]. A child's ``ru_maxrss`` begins at its parent's."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10
