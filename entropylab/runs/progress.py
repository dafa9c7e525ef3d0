"""How far a run is: a bar on a terminal or in a notebook, a line for each unit elsewhere, with the time left."""

import sys
from collections import Counter
from collections.abc import Sequence
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
        bar: the bar, on a terminal or in a notebook.
        spent: size -> seconds and pixels that this process has spent on finished units.
        pending: units by their names, but for those that are finished, as far as it was told.
        count: size -> how many units there are.
        done: size -> how many units are finished.
        rest: size -> pixels of those that are not.
    """

    units: Sequence[Unit]
    shown: bool = True
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    bar: Any = None
    spent: dict[Size, tuple[float, int]] = field(default_factory=dict)
    pending: dict[str, Unit] = field(default_factory=dict)
    count: Counter[Size] = field(default_factory=Counter)
    done: Counter[Size] = field(default_factory=Counter)
    rest: Counter[Size] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for unit in self.units:
            self.pending[unit.name] = unit
            self.count[unit.size] += 1
            self.rest[unit.size] += unit.pixels

    def follow(self, finished: set[str]) -> None:
        """Count units that are finished: those that were so when it was told last may be left out."""
        for name in finished & self.pending.keys():
            unit = self.pending.pop(name)
            self.done[unit.size] += 1
            self.rest[unit.size] -= unit.pixels

    def lose(self, unit: Unit) -> None:
        """A unit is not finished after all."""
        if unit.name not in self.pending:
            self.pending[unit.name] = unit
            self.done[unit.size] -= 1
            self.rest[unit.size] += unit.pixels

    def begin(self, unit: Unit, finished: set[str]) -> None:
        """Work on a unit begins."""
        self.follow(finished)
        if self.shown and self.bar is None and (self.stream.isatty() or in_notebook()):
            layout = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
            total = sum(each.pixels for each in self.units)
            self.bar = bar_class()(total=total, file=self.stream, bar_format=layout, leave=False)
        if self.bar is not None:
            self.bar.set_description_str(f"{size_label(unit.size)} {unit.scaling}", refresh=False)
            self.bar.n = self.bar.total - self.rest.total()
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
        left = self.left(unit.size, workers)
        if self.bar is not None:
            self.bar.set_postfix_str(left)
        elif self.shown:
            print(
                f"{unit.label}: {seconds:.1f} s; {self.done[unit.size]} of {self.count[unit.size]} units at this size, "
                f"{self.done.total()} of {len(self.units)} in all; {left}",
                file=self.stream,
                flush=True,
            )

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

    def left(self, size: Size, workers: int = 1) -> str:
        """Time left at a size and in all, if so many processes are at work."""
        here, everywhere = (
            sum(self.pace(each) * self.rest[each] for each in sizes) / workers for sizes in ({size}, self.rest)
        )
        return f"{span(here)} left at this size, {span(everywhere)} in all"

    def pace(self, size: Size) -> float:
        """How long a pixel takes [s], at the nearest size of which this process has finished a unit."""
        if not self.spent:
            return 0.0
        nearest = min(self.spent, key=lambda known: abs(known[0] * known[1] - size[0] * size[1]))
        seconds, pixels = self.spent[nearest]
        return seconds / pixels


def span(seconds: float) -> str:
    """Seconds as hours, minutes and seconds."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
