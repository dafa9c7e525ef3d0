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

LONGEST = 1.0
"""Processes are killed at most this long after they began to measure [s]."""


def torment(folder: Path, times: int, seed: int, expected: Any, workers: int = 1) -> Counter[str]:
    """Kill ``times`` processes at random moments, run after run, and check after each kill that all is well.

    How many were killed, how many runs finished in spite of it, how many units were in hand at most at a kill.
    """
    moments, tally, known = random.Random(seed), Counter[str](), set[str]()
    while tally["kills"] < times or not tally["runs"] or known:
        run = folder / f"run{tally['runs']}"
        processes = [start(run) for _ in range(workers)]
        if tally["kills"] < times:
            while not (run / RECORD).exists() and any(process.is_alive() for process in processes):
                time.sleep(0.005)
            time.sleep(moments.uniform(0, LONGEST))
            victim = moments.choice(processes)
            if victim.is_alive():
                os.kill(victim.pid or 0, signal.SIGKILL)
                tally["kills"] += 1
        for process in processes:
            process.join()
        killed = [process.exitcode for process in processes if process.exitcode]
        if set(killed) - {-signal.SIGKILL}:
            raise AssertionError(f"a process failed by itself: {killed}")
        known = check_units(run, known, tally)
        if len(killed) < len(processes):
            check(entropylab.open(run), expected)
            tally["runs"] += 1
            known = set()
    return tally


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
    if not stub.bare(found).identical(stub.bare(expected)):
        raise AssertionError("the result differs from that of an undisturbed run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("--times", 50), ("--seed", 0), ("--workers", 1)):
        parser.add_argument(option, type=int, default=default)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        undisturbed = stub.measure(Path(name) / "undisturbed")
        print(torment(Path(name), asked.times, asked.seed, undisturbed, asked.workers))
