"""What a second process brings: one run by one process and by two, one thread each, side by side and in turns."""

import multiprocessing
import os
import queue
import statistics
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import entropylab
from entropylab.runs.clocks import clock_of, modified
from entropylab.runs.folder import UNITS as UNITS_FOLDER

from .paired import spread

SIZE, STEPS, BATCH = 96, 6, 2
UNITS = 8
"""Units of the run; an even number, so that two processes can end together."""


def work(order: Any, ready: Any) -> None:
    """Measure whatever run comes in, with a model that is loaded and warm, until it is ended."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    pipe = entropylab.load()
    with tempfile.TemporaryDirectory() as folder:
        measure(pipe, Path(folder) / "warm", BATCH)
    ready.put(None)
    while (asked := order.get()) is not None:
        measure(pipe, *asked)
        ready.put(None)


def measure(pipe: Any, out: Path, samples: int) -> None:
    """A run of so many samples, one batch a unit."""
    entropylab.measure(
        pipe, [SIZE], samples=samples, steps=STEPS, batch_size=BATCH, unit_samples=BATCH, out=out, progress=False
    )


class Team:
    """Processes that wait for a run to measure together."""

    def __init__(self, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.ready = context.Queue()
        self.orders = [context.Queue() for _ in range(count)]
        self.processes: list[BaseProcess] = [
            context.Process(target=work, args=(order, self.ready), daemon=True) for order in self.orders
        ]
        for process in self.processes:
            process.start()
        for _ in self.processes:
            self.next_ready()

    def next_ready(self) -> Any:
        """What the next process that is ready says; an error if one has died."""
        while True:
            try:
                return self.ready.get(timeout=1)
            except queue.Empty:
                if not all(process.is_alive() for process in self.processes):
                    raise RuntimeError("a process that measures has died") from None

    def seconds(self, count: int, out: Path) -> float:
        """How long so many of them take for a run, until the last unit is written [s]."""
        start = clock_of(out.parent)
        for order in self.orders[:count]:
            order.put((out, UNITS * BATCH))
        for _ in range(count):
            self.next_ready()
        return max(modified(unit) for unit in (out / UNITS_FOLDER).iterdir()) - start

    def end(self) -> None:
        """End them."""
        for order in self.orders:
            order.put(None)
        for process in self.processes:
            process.join(timeout=10)
            process.terminate()


def run(repeats: int) -> list[dict[str, Any]]:
    """Time of two processes over one's, and the efficiency of each: one's time over twice that of two."""
    if len(os.sched_getaffinity(0)) < 2:
        raise entropylab.EntropyLabError("scaling needs two cores for two processes. Got one.")
    team, rounds = Team(2), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for turn in range(repeats):
                order = (1, 2) if turn % 2 else (2, 1)
                rounds.append({count: team.seconds(count, Path(folder) / f"{turn}-{count}") for count in order})
    finally:
        team.end()
    rows = []
    for count in (1, 2):
        time_ratio = spread([one[count] / one[1] for one in rounds])
        efficiency = spread([one[1] / one[count] / count for one in rounds])
        rows.append(
            {"benchmark": "long run", "case": f"{UNITS} units of {BATCH} at {SIZE}x{SIZE}"}
            | {"contestant": f"{count} process{'es' * (count > 1)}", **time_ratio}
            | {"seconds": statistics.median(one[count] for one in rounds)}
            | {f"efficiency{'' if name == 'ratio' else f'_{name}'}": value for name, value in efficiency.items()}
        )
    return rows
