"""Processes that share a run: which of several this one is, and which has a unit in hand.

A lock is the system's, on a small file for each unit, and ends with the process that holds it. Units are the same
whoever measures them, and appear whole: where a file system knows no locks, two processes at work on the same unit
waste time and harm nothing.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..files import files, told

END = ".lock"
"""End of the names of the files."""

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""What torchrun and accelerate set, whose processes can wait for each other."""

PLACES = (
    LAUNCHED,
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)
"""Where a launcher writes a process's number, how many there are, and its number on its machine."""


@dataclass(frozen=True)
class Place:
    """One process among those that were launched together; ``local_rank`` is its number on its machine."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    can_wait: bool = False

    @property
    def is_main(self) -> bool:
        """Whether it is the one that speaks."""
        return self.rank == 0


def by_environment() -> Place:
    """This process's place as the launcher's environment has it; no process group is needed for that."""
    for names in PLACES:
        rank, world, local_rank = map(number, names)
        if rank >= 0 and world > 1:
            return Place(rank, world, max(0, local_rank), names == LAUNCHED and local_rank >= 0)
    return Place()


def number(name: str) -> int:
    """An environment variable as a number; -1 if it is none, and then no launcher's."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else -1


def is_left_alone() -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes: without mpirun it starts one."""
    several = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ
    return several and by_environment().world == 1


def is_restarted() -> bool:
    """Whether torchrun has started this process anew after one was lost (``--max-restarts``)."""
    return number("TORCHELASTIC_RESTART_COUNT") > 0


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main of the processes that were launched together go through the body before the others.

    They wait in a process group for as long as this takes: one that lasts ends all when one process is lost, and can't
    be made again when torchrun starts them anew.
    """
    from torch import distributed

    had = distributed.is_initialized()
    if not had:
        distributed.init_process_group("gloo")
    group: Any = distributed.new_group(backend="gloo")
    is_main = distributed.get_rank() == 0
    if not is_main:
        distributed.barrier(group)
    yield
    if is_main:
        distributed.barrier(group)
    if not had:
        distributed.destroy_process_group()


def own_device(device: str | None) -> str | None:
    """``device``, or for one of several processes on GPUs the GPU of its own."""
    place = by_environment()
    if device not in (None, "cuda") or place.world == 1:
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{place.local_rank % count}" if count else device


@dataclass(frozen=True)
class Locks:
    """The locks of a run's units, files in a folder."""

    folder: Path

    def take(self, name: str, wait: bool = False) -> ExitStack | None:
        """Take a unit, which is given back when what is returned closes; None if somebody has it.

        With ``wait``, it is taken once nobody has it.
        """
        path = self.folder / f"{name}{END}"
        while True:
            with told(path), ExitStack() as held:
                file = held.enter_context(open(path, "a+b", buffering=0))
                if not locked(file, wait=False):
                    if not wait:
                        return None
                    file.seek(0)
                    if file.read(200) == me():
                        return ExitStack()  # nobody waits for himself
                    locked(file, wait=True)
                if is_still_there(path, file):  # else who had it has removed it meanwhile
                    file.truncate(0)
                    file.write(me())
                    held.callback(remove, path)
                    return held.pop_all()

    def holders(self) -> dict[str, str]:
        """Unit -> host and process that has it in hand."""
        found = {}
        for name in sorted(files(self.folder, END)):
            with suppress(OSError), open(self.folder / f"{name}{END}", "r+b", buffering=0) as file:
                if not locked(file, wait=False):
                    found[name] = file.read(200).decode(errors="replace") or "somebody"
        return found


def me() -> bytes:
    """This host and process."""
    return f"{platform.node()} process {os.getpid()}".encode()


def remove(path: Path) -> None:
    """Remove a lock's file, if the folder is still there and open; without its lock it holds nobody back."""
    with suppress(OSError):
        path.unlink()


def is_still_there(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def locked(file: IO[bytes], wait: bool) -> bool:
    """Lock an open file; False if somebody else has locked it. True as well where there are no such locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True
