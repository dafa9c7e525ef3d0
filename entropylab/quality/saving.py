"""Pictures as PNG files that carry their prompt, and the record of what made those of one size by one method."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import EntropyLabError
from ..files import write_whole
from ..runs.units import Unit

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
"""Ends of the names of picture files."""

RECORD = "made.json"
COSTS = ("seconds", "peaks", "added", "loads")


def save_pictures(images: Tensor, prompts: Sequence[str], folder: Path, first: int = 0) -> list[Path]:
    """Write pictures (pictures, 3, height, width) of uint8 as 0000.png, 0001.png, ... (or from number ``first`` on),
    each with its prompt as text.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, (image, prompt) in enumerate(zip(images, prompts, strict=True), first):
        text = PngInfo()
        text.add_itxt("prompt", prompt)
        written.append(folder / f"{number:04d}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(written[-1], pnginfo=text)
    return written


def prompt_of(path: Path) -> str | None:
    """The prompt that a PNG carries, if it does."""
    from PIL import Image

    with Image.open(path) as image:
        found = image.info.get("prompt")
    return str(found) if found else None


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

    Until then every unit of them has a small file that says so.

    Attributes:
        folder: SIZE/RULE.
        made: what decides the pictures, as JSON can hold it.
        units: the parts in which they are sampled.
    """

    folder: Path
    made: dict[str, Any]
    units: tuple[Unit, ...]

    def mark(self, unit: Unit) -> Path:
        """What says that a unit is there."""
        return self.folder / f"part-{unit.start:06d}-{unit.stop - 1:06d}.json"

    def is_finished(self, unit: Unit) -> bool:
        """Whether a unit's pictures are there."""
        return self.mark(unit).is_file() or (self.folder / RECORD).is_file()

    def write(self, unit: Unit, images: Tensor, prompts: Sequence[str], cost: dict[str, Any]) -> None:
        """Write a unit's pictures, then what says that they are there."""
        save_pictures(images, prompts, self.folder, unit.start)
        write_whole(self.mark(unit), self.record(cost))

    def record(self, cost: dict[str, Any]) -> bytes:
        """What made pictures, and what they cost."""
        return json.dumps({"made": self.made, "cost": cost}, indent=1).encode()

    def check(self) -> None:
        """Raise an EntropyLabError if pictures of something else are there, or a record is damaged."""
        for path in (self.folder / RECORD, *map(self.mark, self.units)):
            if path.is_file():
                self.cost_in(path)

    def cost_in(self, path: Path) -> dict[str, Any]:
        """What the pictures cost that a file speaks of, as `Meter` takes it.

        Raises:
            EntropyLabError: they are pictures of something else, or the file is damaged.
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
        """Put what all units cost into one file, once they are all there."""
        path = self.folder / RECORD
        if not path.is_file():
            parts = [self.cost_in(self.mark(unit)) for unit in self.units]
            write_whole(path, self.record({name: [x for part in parts for x in part[name]] for name in COSTS}))
        for unit in self.units:
            self.mark(unit).unlink(missing_ok=True)

    @property
    def cost(self) -> dict[str, Any]:
        """What all pictures cost."""
        return self.cost_in(self.folder / RECORD)

    def batches(self, starts: range, count: int) -> Iterator[tuple[int, Tensor]]:
        """The pictures, as `Sampling.batches` gives them."""
        for start in starts:
            numbers = range(start, min(start + starts.step, count))
            yield start, torch.stack([read_picture(self.folder / f"{number:04d}.png") for number in numbers])
