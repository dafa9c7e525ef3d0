"""Which of several processes this one is: by accelerate's PartialState (accelerate launch, torchrun), srun, mpirun."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import EntropyLabError

PLACES = {
    "SLURM_PROCID": ("SLURM_NTASKS", "SLURM_LOCALID"),
    "OMPI_COMM_WORLD_RANK": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "PMI_RANK": ("PMI_SIZE", "MPI_LOCALRANKID"),
}
"""Where srun and mpirun write a process's number -> the number of processes, and its number on its machine."""


@dataclass(frozen=True)
class Place:
    """One process among those that were launched together.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        local_rank: its number on its machine: it takes that GPU.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether it is the one that speaks."""
        return self.rank == 0


def number(name: str, default: int) -> int:
    """An environment variable as a number."""
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        raise EntropyLabError(f"{name} must be a whole number. Got {os.environ[name]!r}.") from None


def by_environment() -> Place:
    """This process's place as the launcher's environment has it; no process group is needed for that."""
    known = {"RANK": ("WORLD_SIZE", "LOCAL_RANK")} if is_launched() else PLACES
    for rank, (world, local_rank) in known.items():
        if rank in os.environ:
            return Place(number(rank, 0), number(world, 1), number(local_rank, 0))
    return Place()


def is_launched() -> bool:
    """Whether a launcher that PartialState knows has started several processes."""
    return "RANK" in os.environ and "LOCAL_RANK" in os.environ and number("WORLD_SIZE", 1) > 1


def is_left_alone() -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes: without mpirun it starts one."""
    several = os.environ.get("ACCELERATE_USE_CPU") == "True" and "MASTER_PORT" in os.environ
    return several and by_environment().world == 1


def is_restarted() -> bool:
    """Whether torchrun has started this process anew after one was lost (``--max-restarts``)."""
    return number("TORCHELASTIC_RESTART_COUNT", 0) > 0


@contextmanager
def main_first(place: Place, cpu: bool) -> Iterator[None]:
    """Let the main of the processes that were launched together go through the body before the others, or fail there.

    They wait in a process group, for as long as this takes: one that lasts ends all when one process is lost, and can't
    be made again when torchrun starts them anew. ``cpu`` is whether they compute on CPUs, and talk through gloo.
    """
    import torch
    from accelerate import PartialState

    had = torch.distributed.is_initialized()
    state = PartialState(cpu=cpu or not torch.cuda.is_available())
    try:
        if not place.is_main:
            state.wait_for_everyone()
        try:
            yield
        finally:
            if place.is_main:
                state.wait_for_everyone()
    finally:
        if not had and torch.distributed.is_initialized():
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
