"""How far a run is: a bar on a terminal or in a notebook, a line for each unit elsewhere, with the time left."""

import sys
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TextIO

from ..bars import bar_class, in_notebook
from ..sizes import Size, size_label
from .units import Unit


class Progress:
    """What one process tells of a run, its own work and the others'."""

    def __init__(self, units: Sequence[Unit], shown: bool = True, stream: TextIO | None = None) -> None:
        self.pending = {unit.name: unit for unit in units}
        self.count, self.shown, self.stream = len(units), shown, stream or sys.stderr
        self.bar: Any = None
        self.rest: Counter[Size] = Counter()  # pixels by size
        for unit in units:
            self.rest[unit.size] += unit.pixels
        self.pixels = self.rest.total()
        self.spent: dict[Size, tuple[float, int]] = {}  # by this process: seconds and pixels

    def follow(self, finished: set[str]) -> None:
        """Count units that are finished: those that were so when it was told last may be left out."""
        for name in finished & self.pending.keys():
            unit = self.pending.pop(name)
            self.rest[unit.size] -= unit.pixels

    def begin(self, unit: Unit) -> None:
        """Work on a unit begins."""
        if self.shown and self.bar is None and (self.stream.isatty() or in_notebook()):
            layout = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
            self.bar = bar_class()(total=self.pixels, file=self.stream, bar_format=layout, leave=False)
        if self.bar is not None:
            self.bar.set_description_str(f"{size_label(unit.size)} {unit.scaling}", refresh=False)
            self.bar.n = self.pixels - self.rest.total()
            self.bar.refresh()

    def update(self, pixels: int) -> None:
        """A batch was sampled."""
        if self.bar is not None:
            self.bar.update(pixels)

    def end(self, unit: Unit, seconds: float, workers: int = 1) -> None:
        """A unit is finished that took so long [s], while so many were at work."""
        self.follow({unit.name})
        before, pixels = self.spent.get(unit.size, (0.0, 0))
        self.spent[unit.size] = (before + seconds, pixels + unit.pixels)
        left = f"{timedelta(seconds=round(self.left / workers))} left"
        if self.bar is not None:
            self.bar.set_postfix_str(left)
        else:
            done = self.count - len(self.pending)
            self.say(f"{unit.label}: {seconds:.1f} s; {done} of {self.count} in all; {left}")

    def say(self, text: str) -> None:
        """Tell something else."""
        if self.bar is not None:
            self.bar.write(text, file=self.stream)
        elif self.shown:
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    @property
    def left(self) -> float:
        """Time left for one process [s], by what a pixel took at the nearest size of which it has finished a unit."""
        seconds = 0.0
        for (height, width), pixels in self.rest.items():
            nearest = min(self.spent, key=lambda size: abs(size[0] * size[1] - height * width))
            spent, sampled = self.spent[nearest]
            seconds += pixels * spent / sampled
        return seconds
