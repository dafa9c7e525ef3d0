"""How far a run is: a bar or lines with the time left for who measures, and a status for anybody else."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..bars import bar_class, in_notebook
from ..errors import EntropyLabError
from ..files import as_path, listed
from ..sizes import Size, size_label
from .folder import DAMAGED, PROMPTS, UNITS, RunFolder, read_run
from .units import Unit


class Progress:
    """What one process tells of a run: a bar on a terminal or in a notebook, elsewhere a line for each unit."""

    def __init__(self, units: Sequence[Unit], shown: bool = True) -> None:
        self.pending = {unit.name: unit for unit in units}
        self.count, self.shown = len(units), shown
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
        if self.shown and self.bar is None and (sys.stderr.isatty() or in_notebook()):
            layout = "{desc}: {percentage:3.0f}%|{bar}| {postfix}"
            self.bar = bar_class()(total=self.pixels, file=sys.stderr, bar_format=layout, leave=False)
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
            self.bar.write(text, file=sys.stderr)
        elif self.shown:
            print(text, file=sys.stderr, flush=True)

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


@dataclass(frozen=True)
class Status:
    """How far a run is."""

    path: Path
    units: list[Unit]
    finished: frozenset[str]  # their names
    at_work: dict[str, str]  # unit -> host and process that has it in hand
    damaged: dict[str, str]  # unit, or file -> what is wrong with it; of units only what was checked
    size: int  # bytes of the finished units

    @property
    def table(self) -> list[tuple[str, ...]]:
        """A header, a line for each size and rule, and one for all: units, samples and what is in hand."""
        rows: dict[tuple[str, str], list[Unit]] = {}
        for unit in self.units:
            rows.setdefault((size_label(unit.size), unit.scaling), []).append(unit)
        lines: list[tuple[str, ...]] = [("size", "scaling", "units", "samples", "at work")]
        for names, part in (*rows.items(), (("all", ""), self.units)):
            done = [unit for unit in part if unit.name in self.finished]
            samples = f"{sum(u.samples for u in done)}/{sum(u.samples for u in part)}"
            busy = str(sum(unit.name in self.at_work for unit in part))
            lines.append((*names, f"{len(done)}/{len(part)}", samples, busy))
        return lines

    @property
    def notes(self) -> list[str]:
        """Who is at work, and what is damaged."""
        lines = [f"{self.size / 2**20:.1f} MiB in {len(self.finished)} files"]
        lines += [f"at work on {count}: {who}" for who, count in Counter(self.at_work.values()).items()]
        return lines + [f"damaged: {problem}" for problem in self.damaged.values()]


def status(path: Any, check: bool = False) -> Status:
    """What is done of the run in a folder.

    Args:
        path: the folder.
        check: whether to read every unit and verify its checksum.

    Raises:
        EntropyLabError: it holds no run.
    """
    run = read_run(as_path(path, "run", "folder"))
    finished = frozenset(run.finished() & {unit.name for unit in run.units})
    at_work = {name: who for name, who in run.locks.holders().items() if name not in finished}
    entries = {entry.name: entry for entry in listed(run.path / UNITS)}
    damaged = {name: f"{entries[name].path} was damaged" for name in sorted(entries) if name.endswith(DAMAGED)}
    problems = {unit.name: problem_of(run, unit) for unit in run.units if check and unit.name in finished}
    damaged |= {name: problem for name, problem in problems.items() if problem}
    damaged |= {} if run.prompts else {PROMPTS: f"{run.path / PROMPTS} is missing, or not that of the run"}
    size = sum(entry.stat().st_size for name, entry in entries.items() if name.removesuffix(".nc") in finished)
    return Status(run.path, run.units, finished, at_work, damaged, size)


def problem_of(run: RunFolder, unit: Unit) -> str:
    """Why a finished unit can't be read; "" if it can, or was set aside meanwhile."""
    try:
        run.read(unit)
    except EntropyLabError as error:
        return str(error) if run.is_finished(unit) else ""
    return ""
