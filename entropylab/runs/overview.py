"""What is done of a run, and who is at work on it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import as_path, listed
from ..sizes import size_label
from .folder import DAMAGED, UNITS, read_run
from .merging import merged
from .units import Unit


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        path: its folder.
        units: all units.
        finished: names of those that are finished.
        at_work: unit -> host and process that has it in hand.
        damaged: unit -> what is wrong with it; only what was checked.
        size: bytes of the finished units.
    """

    path: Path
    units: list[Unit]
    finished: frozenset[str]
    at_work: dict[str, str]
    damaged: dict[str, str]
    size: int

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
    finished = run.finished() & {unit.name for unit in run.units}
    at_work = {name: who for name, who in run.locks.holders().items() if name not in finished}
    entries = {entry.name: entry for entry in listed(run.path / UNITS)}
    damaged = {name: f"{entries[name].path} was damaged" for name in sorted(entries) if name.endswith(DAMAGED)}
    if check:
        damaged |= {unit.name: problem for unit, problem in merged(run).damaged.items()}
    size = sum(entry.stat().st_size for name, entry in entries.items() if name.removesuffix(".nc") in finished)
    return Status(run.path, run.units, frozenset(finished), at_work, damaged, size)
