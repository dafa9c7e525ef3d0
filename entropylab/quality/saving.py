"""Pictures as PNG files that carry their prompt, and a folder of them that processes, or a cluster, fill together."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..errors import EntropyLabError, one_line
from ..files import as_path, folder_for, listed, told, write_whole
from ..runs.configuration import differences
from ..runs.processes import Locks
from ..runs.progress import Progress
from ..runs.units import Unit
from ..sizes import Size, size_label
from .cost import Meter

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Ends of the names of picture files."""

WHOLE = "made.json"
"""What earlier versions wrote instead of records of units, once all pictures of a size and method were there."""

LOCKS = ".locks"
"""The folder of the locks, beside those of the sizes."""

COSTS = ("seconds", "peaks", "added")
"""What is kept of pictures' costs: lists of `Meter`."""


def save_pictures(images: Tensor, prompts: Sequence[str], folder: Path, first: int = 0) -> list[Path]:
    """Write pictures (pictures, 3, height, width) of uint8 as 0000.png, 0001.png, ... (or from number ``first`` on),
    each with its prompt as text.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    written = [folder / f"{number:04d}.png" for number in range(first, first + len(images))]
    with told(folder, "written"):
        folder.mkdir(parents=True, exist_ok=True)
        for path, image, prompt in zip(written, images, prompts, strict=True):
            text = PngInfo()
            text.add_itxt("prompt", prompt)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, pnginfo=text)
    return written


def prompt_of(path: Path) -> str | None:
    """The prompt that a PNG carries, if it does."""
    from PIL import Image

    with told(path, "read as a picture"), Image.open(path) as image:
        image.load()  # what stands behind the pixels is known only then
        found = image.info.get("prompt")
    return str(found) if found else None


def picture_files(folder: str | Path, name: str) -> list[Path]:
    """The pictures of a folder, by name; ``name`` is that of the argument that holds it."""
    place = as_path(folder, name, "folder")
    try:
        return sorted(path for path in place.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    except OSError as error:
        raise EntropyLabError(f"{name} must be a folder of pictures. {place}: {one_line(error)}.") from error


def read_picture(path: Path) -> Tensor:
    """A picture file as (3, height, width) of uint8."""
    from PIL import Image

    with told(path, "read as a picture"), Image.open(path) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)


@dataclass(frozen=True)
class PictureRun:
    """A folder of pictures, SIZE/RULE/0000.png, as those that sample them see it: what a RunFolder is to `measure`.

    Beside the pictures a small file for every unit says that it is finished, what made it, and what it cost.
    """

    path: Path
    made: dict[tuple[Size, str], dict[str, Any]]  # what decides the pictures of every size and method
    prompts: list[str]  # of every picture
    each: int  # pictures of a unit

    @cached_property
    def units(self) -> list[Unit]:
        """All units."""
        count = len(self.prompts)
        return [
            Unit(size, place, name, start, min(start + self.each, count))
            for place, (size, name) in enumerate(self.made)
            for start in range(0, count, self.each)
        ]

    @property
    def locks(self) -> Locks:
        """Who is at work."""
        return Locks(self.path / LOCKS)

    def folder(self, size: Size, name: str) -> Path:
        """Where the pictures of a size and method are."""
        return self.path / size_label(size) / name

    def mark(self, unit: Unit) -> Path:
        """What says that a unit is finished."""
        whole = self.folder(unit.size, unit.scaling) / WHOLE
        return whole if whole.is_file() else whole.with_name(f"part-{unit.start:06d}-{unit.stop - 1:06d}.json")

    def finished(self) -> set[str]:
        """Names of the units that are finished."""
        return {unit.name for unit in self.units if self.is_finished(unit)}

    def is_finished(self, unit: Unit) -> bool:
        """Whether a unit's pictures are there."""
        return self.mark(unit).is_file()

    def check_still_there(self) -> None:
        """Raise an EntropyLabError if the folder was removed."""
        if not self.path.is_dir():
            raise EntropyLabError(f"pictures: {self.path} was removed while it was written to.")

    def write(self, unit: Unit, ds: xr.Dataset) -> None:
        """Write a unit's pictures, then what says that they are there."""
        folder = self.folder(unit.size, unit.scaling)
        save_pictures(torch.tensor(ds["images"].values), self.prompts[unit.start : unit.stop], folder, unit.start)
        record = {"made": self.made[unit.size, unit.scaling], "cost": ds.attrs["cost"]}
        write_whole(self.mark(unit), json.dumps(record, indent=1).encode())

    def share(self, worker: Any, progress: bool) -> None:
        """Let a `runs.worker.Worker`, or the `runs.engine.Pool` of a cluster, sample until all pictures are there."""
        self.check()
        folder_for(self.path / LOCKS, "pictures", made=True)
        with closing(Progress(self.units, progress and worker.place.is_main)) as shown:
            worker.work(self, shown)

    def check(self) -> None:
        """Raise an EntropyLabError if other files or pictures of something else are there, or a record is damaged."""
        there = sorted(entry.name for entry in listed(self.path) if not entry.name.startswith("."))
        if there and not (self.path / LOCKS).is_dir() and not any(self.path.glob("*x*/*/*.json")):
            raise EntropyLabError(
                f"pictures must be an empty folder, or one of evaluate. In {self.path} are {', '.join(there[:3])}."
            )
        for cell, made in self.made.items():
            for path in sorted(self.folder(*cell).glob("*.json")):
                if changed := differences(read_record(path)["made"], made):
                    raise EntropyLabError(
                        f"pictures: {path.parent} holds those of something else ({'; '.join(changed)}). Choose another "
                        "folder."
                    )

    def meter(self, cell: tuple[Size, str], device: torch.device) -> Meter:
        """What all pictures of a size and method cost."""
        marks = dict.fromkeys(self.mark(unit) for unit in self.units if (unit.size, unit.scaling) == cell)
        costs = [read_record(mark)["cost"] for mark in marks]
        return Meter(device, 0, *([x for cost in costs for x in cost[name]] for name in COSTS))

    def batches(self, cell: tuple[Size, str], batch_size: int) -> Iterator[tuple[int, Tensor]]:
        """The number of the first picture of every batch, and its pictures (batch, 3, height, width) of uint8."""
        numbers = range(len(self.prompts))
        for start in numbers[::batch_size]:
            files = [self.folder(*cell) / f"{number:04d}.png" for number in numbers[start : start + batch_size]]
            yield start, torch.stack([read_picture(file) for file in files])


def read_record(path: Path) -> dict[str, Any]:
    """What made a unit's pictures, and what they cost."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {"made": dict(found["made"]), "cost": {name: list(found["cost"][name]) for name in COSTS}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EntropyLabError(f"pictures: {path} is damaged; remove it to sample again.") from error
