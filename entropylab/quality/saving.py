"""Pictures as PNG files that carry their prompt, and the record of what made those of one size by one method."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import EntropyLabError, one_line
from ..files import as_path, cannot_write, write_whole
from ..runs.units import Unit

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Ends of the names of picture files."""

RECORD = "made.json"
COSTS = ("seconds", "peaks", "added", "loads")
"""What a record says of pictures' costs: lists of `Meter`."""

Cost = dict[str, Any]
Part = range | Unit
"""Some of the pictures of one size and method: from ``start`` to ``stop`` (not included)."""


def save_pictures(images: Tensor, prompts: Sequence[str], folder: Path, first: int = 0) -> list[Path]:
    """Write pictures (pictures, 3, height, width) of uint8 as 0000.png, 0001.png, ... (or from number ``first`` on),
    each with its prompt as text.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    written = [folder / f"{number:04d}.png" for number in range(first, first + len(images))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, image, prompt in zip(written, images, prompts, strict=True):
            text = PngInfo()
            text.add_itxt("prompt", prompt)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path, pnginfo=text)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return written


def prompt_of(path: Path) -> str | None:
    """The prompt that a PNG carries, if it does."""
    from PIL import Image

    with Image.open(path) as image:
        found = image.info.get("prompt")
    return str(found) if found else None


def picture_files(folder: str | Path, name: str) -> list[Path]:
    """The pictures of a folder, by name; ``name`` is that of the argument that holds it.

    Raises:
        EntropyLabError: no folder, or one that can't be read.
    """
    place = as_path(folder, name, "folder")
    try:
        return sorted(path for path in place.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    except OSError as error:
        raise EntropyLabError(f"{name} must be a folder of pictures. {place}: {one_line(error)}.") from error


def read_picture(path: Path) -> Tensor:
    """A picture file as (3, height, width) of uint8.

    Raises:
        EntropyLabError: no picture.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)
    except OSError as error:
        raise EntropyLabError(f"{path} can't be read as a picture: {error}") from error


@dataclass(frozen=True)
class Kept:
    """The folder of one size and method: its pictures, and, once they are all there, what made them and what they cost.

    Until then every part of them has a small file that says so.

    Attributes:
        folder: SIZE/RULE.
        made: what decides the pictures, as JSON can hold it.
        prompts: one a picture.
        each: pictures of a part.
    """

    folder: Path
    made: dict[str, Any]
    prompts: list[str]
    each: int

    @property
    def parts(self) -> list[range]:
        """Numbers of the pictures of every part."""
        count = len(self.prompts)
        return [range(start, min(start + self.each, count)) for start in range(0, count, self.each)]

    def mark(self, part: Part) -> Path:
        """What says that a part is there."""
        return self.folder / f"part-{part.start:06d}-{part.stop - 1:06d}.json"

    def is_finished(self, part: Part) -> bool:
        """Whether a part's pictures are there."""
        return self.mark(part).is_file() or (self.folder / RECORD).is_file()

    def write(self, part: Part, images: Tensor, cost: Cost) -> None:
        """Write a part's pictures, then what says that they are there."""
        save_pictures(images, self.prompts[part.start : part.stop], self.folder, part.start)
        self.write_record(self.mark(part), cost)

    def write_record(self, path: Path, cost: Cost) -> None:
        """Write what made pictures, and what they cost."""
        write_whole(path, json.dumps({"made": self.made, "cost": cost}, indent=1).encode())

    def check(self) -> None:
        """Raise an EntropyLabError if pictures of something else are there, or a record is damaged."""
        for path in (self.folder / RECORD, *map(self.mark, self.parts)):
            if path.is_file():
                self.cost_in(path)

    def cost_in(self, path: Path) -> Cost:
        """What the pictures cost that a record speaks of, as `Meter` takes it.

        Raises:
            EntropyLabError: they are pictures of something else, or the record is damaged.
        """
        from ..runs.configuration import differences

        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            made, cost = dict(found["made"]), {name: list(found["cost"][name]) for name in COSTS}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EntropyLabError(f"pictures: {path} is damaged; remove it to sample again.") from error
        changed = differences(made, self.made)
        if changed:
            raise EntropyLabError(
                f"pictures: {self.folder} holds those of something else ({'; '.join(changed)}). Choose another folder."
            )
        return cost

    def finish(self) -> None:
        """Put what all parts cost into one record, once they are all there."""
        path = self.folder / RECORD
        if not path.is_file():
            costs = [self.cost_in(self.mark(part)) for part in self.parts]
            self.write_record(path, {name: [x for cost in costs for x in cost[name]] for name in COSTS})
        for part in self.parts:
            self.mark(part).unlink(missing_ok=True)

    @property
    def cost(self) -> Cost:
        """What all pictures cost."""
        return self.cost_in(self.folder / RECORD)

    def batches(self, batch_size: int) -> Iterator[tuple[int, Tensor]]:
        """The number of the first picture of every batch, and its pictures (batch, 3, height, width) of uint8."""
        numbers = range(len(self.prompts))
        for start in numbers[::batch_size]:
            files = [self.folder / f"{number:04d}.png" for number in numbers[start : start + batch_size]]
            yield start, torch.stack([read_picture(file) for file in files])
