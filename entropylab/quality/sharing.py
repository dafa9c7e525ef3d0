"""Pictures of an evaluation as units of a run: shared among processes by locks, and gone on with where they stopped."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from ..errors import EntropyLabError
from ..files import told
from ..runs.locks import Locks
from ..runs.place import by_environment
from ..runs.progress import Progress
from ..runs.units import Unit
from ..runs.worker import Worker
from ..sizes import Size
from .cost import Meter
from .methods import Method
from .saving import COSTS, Kept

TOGETHER = 32
"""About so many pictures are a unit."""

LOCKS = ".locks"
"""The folder of the locks, beside those of the sizes."""


@dataclass(frozen=True)
class PictureRun:
    """A folder of pictures, SIZE/RULE/0000.png, as those that sample them see it.

    Attributes:
        path: the folder.
        kept: the folder of every size and rule.
        prompts: one a picture.
    """

    path: Path
    kept: dict[tuple[Size, str], Kept]
    prompts: list[str]
    record = None

    @cached_property
    def units(self) -> list[Unit]:
        """All units."""
        return [unit for kept in self.kept.values() for unit in kept.units]

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
        images, prompts = torch.from_numpy(ds["images"].values), self.prompts[unit.start : unit.stop]
        self.kept[unit.size, unit.scaling].write(unit, images, prompts, ds.attrs["cost"])


@dataclass(frozen=True)
class PictureJob:
    """What samples pictures: their number, prompts and seeds are those of the evaluation.

    Attributes:
        methods: how a size's pictures are had, by name.
        aside: bytes on the device that are not the pipeline's.
    """

    sampling: Any
    methods: dict[str, Method]
    device: torch.device
    aside: int

    def measure(self, unit: Unit, record: Any, bar: Any) -> xr.Dataset:
        """A unit's pictures, and what they cost."""
        meter, began, parts = Meter(self.device, self.aside), time.monotonic(), []
        for _, images in self.sampling.batches(
            unit.size, self.methods[unit.scaling], meter, range(unit.start, unit.stop)
        ):
            parts.append(images)
            bar.update(unit.size[0] * unit.size[1] * len(images))
        cost = {name: getattr(meter, name) for name in COSTS}
        images = (("picture", "channel", "height", "width"), torch.cat(parts).numpy())
        return xr.Dataset({"images": images}, attrs={"cost": cost, "seconds": time.monotonic() - began})


def share(run: PictureRun, job: PictureJob, progress: bool) -> None:
    """Sample until all pictures are there, beside any other process that does the same.

    Raises:
        EntropyLabError: pictures of something else are there.
    """
    for kept in run.kept.values():
        kept.check()
    with told(run.path / LOCKS):
        (run.path / LOCKS).mkdir(exist_ok=True)
    place = by_environment()
    shown = Progress(run.units, progress and place.is_main)
    try:
        Worker(run, job, shown, place).work()
    finally:
        shown.close()
    with run.locks.take("finish", wait=True) or nullcontext():
        for kept in run.kept.values():
            kept.finish()
