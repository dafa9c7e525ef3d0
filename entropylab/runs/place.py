"""Which of several processes this one is, by what torchrun, accelerate launch, srun and mpirun tell it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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
def main_first(cpu: bool) -> Iterator[None]:
    """Let the main of the processes that were launched together go through the body before the others.

    They wait in a process group for as long as this takes: one that lasts ends all when one process is lost, and can't
    be made again when torchrun starts them anew. ``cpu`` is whether they compute on CPUs, and talk through gloo.
    """
    import torch
    from accelerate import PartialState

    had = torch.distributed.is_initialized()
    state = PartialState(cpu=cpu or not torch.cuda.is_available())
    with state.main_process_first():
        yield
    if not had:
        state.destroy_process_group()
        PartialState._reset_state()


def own_device(device: str | None) -> str | None:
    """``device``, or for one of several processes on GPUs the GPU of its own."""
    place = by_environment()
    if device not in (None, "cuda") or place.world == 1:
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{place.local_rank % count}" if count else device
