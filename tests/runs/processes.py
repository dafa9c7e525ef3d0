"""Processes that measure the stub: forked from a server that has imported everything, so that each starts at once."""

import multiprocessing
import os
import socket
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from . import stub

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.runs.stub", "entropylab.runs.worker", "entropylab.quality.evaluation"])


def work(out: str, environment: dict[str, str], options: dict[str, Any]) -> None:
    """Measure the stub as a run, as one of several processes if the environment says so."""
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})
    stub.torch.set_num_threads(1)
    stub.measure(out=out, **options)


def start(out: Path, environment: dict[str, str] | None = None, **options: Any) -> BaseProcess:
    """Start a process."""
    process = CONTEXT.Process(target=work, args=(str(out), environment or {}, options))
    process.start()
    return process


def launch(out: Path, world: int, **options: Any) -> list[int | None]:
    """Start so many processes as torchrun and accelerate do, and wait for them; their exit codes."""
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "localhost"}
    shared["MASTER_PORT"] = str(free_port())
    processes = [start(out, {**shared, "RANK": str(i), "LOCAL_RANK": str(i)}, **options) for i in range(world)]
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def free_port() -> int:
    """A port that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
