"""``python -m tests.runs.cluster_faults --times 100``: kill workers, drivers and a node of a Ray cluster at random.

After each kill nothing finished may be lost, and at the end of each run its result is that of one process, bit for bit.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

import entropylab
from entropylab.runs.engine import STARTED_HERE
from entropylab.runs.folder import RECORD, read_run

from .stub import PROMPTS, Stub, check, measure


def slow() -> Stub:
    """A stub whose units take 0.2 s."""
    pipe = Stub()
    pipe.on_call = lambda pipe: time.sleep(0.2)
    return pipe


def drive(out: str, address: str) -> None:
    """The driver: a run of 160 units."""
    measure(out, slow, engine="ray", address=address, resources={"num_cpus": 1}, samples=80)


def units(out: Path) -> dict[str, int]:
    """Finished units, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (out / "units").glob("*.nc")}


def workers() -> list[psutil.Process]:
    """The processes of this cluster that measure, or load the pipeline."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found += [process] if "ray::Measurer" in " ".join(process.cmdline()) else []
    return found


def torment(folder: Path, times: int, seed: int, longest: float) -> tuple[Counter[str], int]:
    """Kill so many processes, at most ``longest`` seconds apart; how many of each kind, and how many runs were
    finished in spite of it, one at least.
    """
    os.environ.update({**STARTED_HERE, "OMP_NUM_THREADS": "1"})
    from ray.cluster_utils import Cluster

    expected = measure(folder / "alone", prompts=PROMPTS, samples=80)
    cluster, moments, kills, runs = Cluster(), random.Random(seed), Counter[str](), 0
    cluster.add_node(num_cpus=1, include_dashboard=False)
    node = cluster.add_node(num_cpus=1)
    driver, out, known, log = None, folder / "run0", {}, folder / "log"
    while sum(kills.values()) < times or known or driver is not None or not runs:
        if driver is None:
            command = [sys.executable, "-m", __spec__.name, "--drive", str(out), cluster.address]
            with open(log, "w") as said:
                driver = subprocess.Popen(command, stderr=said)
        time.sleep(moments.uniform(0, longest))
        kind = moments.choice(["worker"] * 5 + ["driver", "node"])
        measuring = workers()
        if sum(kills.values()) >= times or driver.poll() is not None or (kind == "worker" and not measuring):
            kind = "nobody"
        elif kind == "worker":
            moments.choice(measuring).kill()
        elif kind == "driver":
            driver.kill()
        else:
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            cluster.remove_node(node, allow_graceful=False)
            node = cluster.add_node(num_cpus=1)
        kills += Counter() if kind == "nobody" else Counter([kind])
        there = units(out)
        if not known.items() <= there.items():
            raise AssertionError(f"lost: {known.items() - there.items()}")
        known = there
        if kind != "nobody":
            print(f"{time.strftime('%X')} {kind} killed with {len(known)} of 160 units finished", flush=True)
        if kind == "driver" or driver.poll() is not None:
            if driver.wait() not in (0, -signal.SIGKILL):
                raise AssertionError(f"a driver failed by itself: {log.read_text()}")
            if driver.returncode == 0:
                check(entropylab.open(out), expected)
                runs, known = runs + 1, {}
                out = folder / f"run{runs}"
            elif (out / RECORD).exists():
                run = read_run(out)
                for unit in run.units:
                    if run.is_finished(unit):
                        run.read(unit)
            driver = None
    cluster.shutdown()
    return kills, runs


def main() -> None:
    """The harness, or with ``--drive`` one of its drivers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=float, default=6, help="seconds between kills")
    parser.add_argument("--drive", nargs=2, metavar=("OUT", "ADDRESS"))
    arguments = parser.parse_args()
    if arguments.drive:
        drive(*arguments.drive)
        return
    with tempfile.TemporaryDirectory() as folder:
        kills, runs = torment(Path(folder), arguments.times, arguments.seed, arguments.longest)
        print(f"{dict(kills)} killed, {runs} runs finished: nothing lost, every result as of one process")


if __name__ == "__main__":
    main()
