"""Pictures of an evaluation as units of a run, which processes share, or a cluster makes, and which goes on."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from ..errors import EntropyLabError
from ..files import make_folder
from ..runs.locks import Locks
from ..runs.place import by_environment
from ..runs.progress import Progress
from ..runs.units import Unit
from ..runs.worker import Worker
from ..sizes import Size
from .saving import Kept

LOCKS = ".locks"
"""The folder of the locks, beside those of the sizes."""


@dataclass(frozen=True)
class PictureRun:
    """A folder of pictures, SIZE/RULE/0000.png, as those that sample them see it: what a RunFolder is to `measure`.

    Attributes:
        path: the folder.
        kept: the folder of every size and method.
        record: what whoever samples a unit is told: the prompt of every picture.
    """

    path: Path
    kept: dict[tuple[Size, str], Kept]
    record: list[str]

    @cached_property
    def units(self) -> list[Unit]:
        """All units."""
        return [
            Unit(size, place, name, part.start, part.stop)
            for place, ((size, name), kept) in enumerate(self.kept.items())
            for part in kept.parts
        ]

    @property
    def locks(self) -> Locks:
        """Who is at work."""
        return Locks(self.path / LOCKS)

    def finished(self) -> set[str]:
        """Names of the units that are finished."""
        return {unit.name for unit in self.units if self.is_finished(unit)}

    def is_finished(self, unit: Unit) -> bool:
        """Whether a unit's pictures are there."""
        return self.kept[unit.size, unit.scaling].is_finished(unit)

    def check_still_there(self) -> None:
        """Raise an EntropyLabError if the folder was removed."""
        if not self.path.is_dir():
            raise EntropyLabError(f"pictures: {self.path} was removed while it was written to.")

    def write(self, unit: Unit, ds: xr.Dataset) -> None:
        """Write a unit's pictures."""
        self.kept[unit.size, unit.scaling].write(unit, torch.tensor(ds["images"].values), ds.attrs["cost"])


def share(run: PictureRun, job: Any, progress: bool, pool: Any = None) -> None:
    """Sample until all pictures are there: here, beside any other process that does the same, or on a cluster.

    Args:
        run: the pictures.
        job: samples them here, as `Sampling`.
        progress: whether to tell how far it is.
        pool: the workers of a cluster that sample instead, as `runs.engine.Pool`.

    Raises:
        EntropyLabError: pictures of something else are there, or they can't be written.
    """
    for kept in run.kept.values():
        kept.check()
    make_folder(run.path / LOCKS, "pictures")
    place = by_environment()
    shown = Progress(run.units, progress and place.is_main)
    try:
        if pool is None:
            Worker(run, job, shown, place).work()
        else:
            pool.work(run, shown)
    finally:
        shown.close()
    with run.locks.take("finish", wait=True) or nullcontext():
        for kept in run.kept.values():
            kept.finish()
