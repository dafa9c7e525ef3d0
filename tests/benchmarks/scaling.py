"""What a second process brings: a run by one process, by two, and by two that share nothing; one thread each."""

import multiprocessing
import os
import queue
import statistics
import tempfile
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

import entropylab
from entropylab.runs.folder import UNITS as UNITS_FOLDER

from .paired import spread

SIZE, STEPS, BATCH = 96, 6, 2
UNITS = 8
"""Units of the run; an even number, so that two processes can end together."""


def clock_of(folder: Path) -> float:
    """What time it is where a folder's files are [s]."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return os.stat(file.name).st_mtime


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

    def seconds(self, parts: Sequence[tuple[Path, int]]) -> float:
        """How long they take, each for a run of so many units in a folder, until the last unit is written [s].

        Processes with one folder share its run.
        """
        start = clock_of(parts[0][0].parent)
        for order, (out, units) in zip(self.orders, parts, strict=False):
            order.put((out, units * BATCH))
        for _ in parts:
            self.next_ready()
        written = [unit for out, _ in parts for unit in (out / UNITS_FOLDER).iterdir()]
        return max(path.stat().st_mtime for path in written) - start

    def end(self) -> None:
        """End them."""
        for order in self.orders:
            order.put(None)
        for process in self.processes:
            process.join(timeout=10)
            process.terminate()


ONE, TWO, APART = "1 process", "2 processes", "2 processes, half a run each"
CONTESTANTS = {ONE: 1, TWO: 2, APART: 2}
"""And how many processes each has. What two that know nothing of each other take is what the machine allows."""


def parts_of(contestant: str, folder: Path) -> list[tuple[Path, int]]:
    """Folder and number of units of the run of every process."""
    if contestant == APART:
        return [(folder / f"half{half}", UNITS // 2) for half in range(2)]
    return [(folder / "whole", UNITS)] * CONTESTANTS[contestant]


def run(repeats: int) -> list[dict[str, Any]]:
    """Time of two processes over one's, and the efficiency of each: one's time over twice that of two."""
    if len(os.sched_getaffinity(0)) < 2:
        raise entropylab.EntropyLabError("scaling needs two cores for two processes. Got one.")
    team, rounds = Team(2), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for turn in range(repeats):
                order = list(CONTESTANTS) if turn % 2 else list(CONTESTANTS)[::-1]
                found = {}
                for contestant in order:
                    own = Path(folder) / f"{turn}-{len(found)}"
                    own.mkdir()
                    found[contestant] = team.seconds(parts_of(contestant, own))
                rounds.append(found)
    finally:
        team.end()
    return [row_of(contestant, rounds) for contestant in CONTESTANTS]


def row_of(contestant: str, rounds: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Time over that of one process, and efficiency, over the rounds."""
    count = CONTESTANTS[contestant]
    efficiency = spread([found[ONE] / found[contestant] / count for found in rounds])
    return {
        "benchmark": "long run",
        "case": f"{UNITS} units of {BATCH} at {SIZE}x{SIZE}",
        "contestant": contestant,
        **spread([found[contestant] / found[ONE] for found in rounds]),
        "seconds": statistics.median(found[contestant] for found in rounds),
        **{f"efficiency{'' if name == 'ratio' else f'_{name}'}": value for name, value in efficiency.items()},
    }
