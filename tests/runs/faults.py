"""``python -m tests.runs.faults --times 50``: kill processes at random moments; nothing finished may be lost."""

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import entropylab
from entropylab.runs.folder import RECORD, read_run

from . import stub
from .processes import start
from .short import bare

LONGEST = 1.5
"""Processes are killed at most this long after they began to measure [s]."""


def torment(folder: Path, times: int, seed: int, workers: int = 1, **options: Any) -> Counter[str]:
    """Kill ``times`` processes at random moments, run after run; check after each kill that all is well.

    How many were killed, how many runs finished in spite of it, how many units were in hand at most at a kill.
    """
    moments, tally = random.Random(seed), Counter[str]()
    expected = stub.measure(out=folder / "undisturbed", **options)
    while tally["kills"] < times or not tally["runs"]:
        run = folder / f"run{tally['runs']}"
        finish(run, times, moments, tally, workers, options)
        check(entropylab.open(run), expected)
        tally["runs"] += 1
    return tally


def finish(
    run: Path, times: int, moments: random.Random, tally: Counter[str], workers: int, options: dict[str, Any]
) -> None:
    """Measure one run to its end with processes that are killed."""
    known: set[str] = set()
    while True:
        processes = [start(run, **options) for _ in range(workers)]
        victim = moments.choice(processes)
        if tally["kills"] < times:
            wait_for(run, processes)
            time.sleep(moments.uniform(0, LONGEST))
            if victim.is_alive():
                assert victim.pid is not None
                os.kill(victim.pid, signal.SIGKILL)
                tally["kills"] += 1
        for process in processes:
            process.join()
        killed = [process for process in processes if process.exitcode]
        if any(process.exitcode != -signal.SIGKILL for process in killed):
            raise AssertionError(f"a process failed by itself: {[process.exitcode for process in killed]}")
        known = check_units(run, known, tally)
        if len(killed) < len(processes):
            return


def wait_for(run: Path, processes: list[Any]) -> None:
    """Wait until a run has begun, or its processes have ended."""
    while not (run / RECORD).exists() and any(process.is_alive() for process in processes):
        time.sleep(0.005)


def check_units(path: Path, known: set[str], tally: Counter[str]) -> set[str]:
    """Every unit that is there can be read, and none is lost; the units that are there."""
    if not (path / RECORD).exists():
        return set()
    run = read_run(path)
    finished = run.finished()
    if not known <= finished:
        raise AssertionError(f"lost: {known - finished}")
    for unit in run.units:
        if unit.name in finished:
            run.read(unit)
    tally["in_flight"] = max(tally["in_flight"], len(run.locks.holders()))
    return finished


def check(found: Any, expected: Any) -> None:
    """A run that was disturbed has the result of one that was not, bit for bit."""
    if not bare(found).identical(bare(expected)):
        raise AssertionError("the result differs from that of an undisturbed run")


def main() -> None:
    """The harness."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(torment(Path(folder), arguments.times, arguments.seed, arguments.workers))


if __name__ == "__main__":
    main()
