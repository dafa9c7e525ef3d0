"""How far a run is: a bar on a terminal or in a notebook, a line for each unit elsewhere, with the time left."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from ..bars import bar_class, in_notebook
from ..sizes import Size, size_label
from .units import Unit


@dataclass
class Progress:
    """What one process tells of a run, its own work and the others'.

    Attributes:
        units: all units.
        shown: whether to tell anything.
        stream: where to.
        clock: seconds that only go forward.
        spent: size -> seconds and pixels that this process has spent on finished units.
    """

    units: Sequence[Unit]
    shown: bool = True
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    clock: Callable[[], float] = time.monotonic
    spent: dict[Size, tuple[float, int]] = field(default_factory=dict)
    began: float = 0.0
    bar: Any = None

    def begin(self, unit: Unit, finished: set[str]) -> None:
        """Work on a unit begins."""
        self.began = self.clock()
        if self.shown and self.bar is None and (self.stream.isatty() or in_notebook()):
            layout = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
            total = sum(each.pixels for each in self.units)
            self.bar = bar_class()(total=total, file=self.stream, bar_format=layout, leave=False)
        if self.bar is not None:
            self.bar.set_description_str(f"{size_label(unit.size)} {unit.scaling}", refresh=False)
            self.bar.n = sum(each.pixels for each in self.units if each.name in finished)
            self.bar.refresh()

    def update(self, pixels: int) -> None:
        """A batch was sampled."""
        if self.bar is not None:
            self.bar.update(pixels)

    def end(self, unit: Unit, finished: set[str], workers: int = 1) -> float:
        """A unit is finished; how long it took [s]."""
        seconds = self.clock() - self.began
        before, pixels = self.spent.get(unit.size, (0.0, 0))
        self.spent[unit.size] = (before + seconds, pixels + unit.pixels)
        if self.bar is not None:
            self.bar.set_postfix_str(self.left(unit.size, finished, workers))
        elif self.shown:
            print(self.line(unit, seconds, finished, workers), file=self.stream, flush=True)
        return seconds

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

    def line(self, unit: Unit, seconds: float, finished: set[str], workers: int) -> str:
        """A finished unit as a line."""
        here = [each for each in self.units if each.size == unit.size]
        done, all_done = (sum(each.name in finished for each in part) for part in (here, self.units))
        return (
            f"{unit.label}: {seconds:.1f} s; {done} of {len(here)} units at this size, {all_done} of "
            f"{len(self.units)} in all; {self.left(unit.size, finished, workers)}"
        )

    def left(self, size: Size, finished: set[str], workers: int) -> str:
        """Time left at a size and in all, if so many processes are at work."""
        here, everywhere = (
            sum(self.expected(each) for each in self.units if each.name not in finished and each.size in sizes)
            for sizes in ({size}, {each.size for each in self.units})
        )
        return f"{span(here / workers)} left at this size, {span(everywhere / workers)} in all"

    def expected(self, unit: Unit) -> float:
        """How long a unit takes [s], as far as this process can know; 0 before it has finished any."""
        if not self.spent:
            return 0.0
        nearest = min(self.spent, key=lambda size: abs(size[0] * size[1] - unit.size[0] * unit.size[1]))
        seconds, pixels = self.spent[nearest]
        return seconds / pixels * unit.pixels


def span(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
