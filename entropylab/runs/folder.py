"""A run's folder: how it begins, goes on and grows there; its record, its prompts, its finished units.

RUN/run.json        configuration and provenance
RUN/prompts.jsonl   the prompt of every sample, one a line
RUN/units/*.nc      what is finished
RUN/locks/*.lock    what is in hand
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import xarray as xr

from .. import netcdf
from ..dataset import ATTRIBUTE, encode
from ..errors import EntropyLabError
from ..files import PARTIAL, files, folder_for, interrupted_later, listed, told, write_whole
from ..prompts import digest
from .configuration import JOINED, differences, digest_of
from .processes import END, Locks, locked
from .units import Unit, cut

FORMAT = 2
RECORD, PROMPTS, UNITS, LOCKS = "run.json", "prompts.jsonl", "units", "locks"
DAMAGED = ".damaged"

LOCK = ".lock"
"""Held by the process that begins a run, or makes it longer."""

OWN = re.compile(rf"\d+x\d+_\d+-[\w.-]*_\d+-\d+(\.nc|\.nc{DAMAGED}|{END})|\.[0-9a-f]{{32}}{PARTIAL}")
"""Names of the files that a run makes in its folders of units and locks."""

MOST_SAMPLES = 10_000_000
"""More than this no run has: their prompts are held in memory."""

AGAIN = "If its units are there, the command that made the run writes it again."


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds a run: what decides its numbers, where they come from, and the prompt of every sample.

    ``prompts`` is empty where their file is lost: units that are finished carry their own.
    """

    path: Path
    configuration: dict[str, Any]
    attributes: dict[str, Any]
    prompts: list[str]

    @property
    def record(self) -> dict[str, Any]:
        """What stands in its record."""
        known = {"configuration": self.configuration, "digest": digest_of(self.configuration)}
        return {"format": FORMAT, **known, "attributes": self.attributes}

    @cached_property
    def units(self) -> list[Unit]:
        """All units in their canonical order."""
        known = self.configuration
        sizes = [(int(height), int(width)) for height, _, width in (size.partition("x") for size in known["sizes"])]
        return cut(sizes, known["scaling"], known["samples"], known["unit_samples"])

    @property
    def locks(self) -> Locks:
        """Who is at work."""
        return Locks(self.path / LOCKS)

    def prompts_of(self, unit: Unit) -> list[str]:
        """The prompts of a unit, finished or not."""
        if not self.prompts:
            raise EntropyLabError(
                f"{self.path / PROMPTS} is missing or damaged: the prompts of {unit.label} are not known. {AGAIN}"
            )
        return self.prompts[unit.start : unit.stop]

    def digest(self, unit: Unit, prompts: list[str]) -> str:
        """What a unit carries, to tell whose it is: what decides its numbers, and nothing of the run's other units."""
        known = {name: value for name, value in self.configuration.items() if name not in JOINED}
        own = {"rule": self.configuration["rules"][unit.rule], "seed": self.configuration["seed"]}
        return digest_of({**known, **own, "prompts": digest(prompts), "unit": unit.name})

    def file(self, unit: Unit) -> Path:
        """Where a unit is, once it is finished."""
        return self.path / UNITS / f"{unit.name}.nc"

    def finished(self) -> set[str]:
        """Names of the units that are finished: of files, whatever else may have such a name."""
        return files(self.path / UNITS, ".nc")

    def is_finished(self, unit: Unit) -> bool:
        """Whether one unit is finished."""
        with told(self.file(unit)):
            return self.file(unit).is_file()

    def write(self, unit: Unit, ds: xr.Dataset) -> None:
        """Write a finished unit, whole; if somebody has written it meanwhile, theirs stays."""
        known = {"configuration": self.digest(unit, self.prompts_of(unit)), "unit": unit.name}
        ds.attrs |= known | {ATTRIBUTE: self.attributes[ATTRIBUTE]}
        if not self.is_finished(unit):
            self.set_aside(unit)
            with interrupted_later(), told(self.file(unit)):
                write_whole(self.file(unit), netcdf.sealed(netcdf.to_bytes({"/": encode(ds)})))

    def read(self, unit: Unit) -> xr.Dataset:
        """Read a finished unit."""
        ds = netcdf.read(self.file(unit))
        if ds.attrs.get("unit") == unit.name:
            prompts = self.prompts[unit.start : unit.stop] or json.loads(str(ds["labels"].values))["prompts"]
            if ds.attrs.get("configuration") == self.digest(unit, prompts):
                return ds
        raise EntropyLabError(f"{self.file(unit)} is not a unit of this run.")

    def set_aside(self, unit: Unit) -> None:
        """Rename a damaged unit, or what else has its name, so that it counts as not finished."""
        path = self.file(unit)
        with told(path), suppress(FileNotFoundError):
            path.replace(path.with_name(path.name + DAMAGED))

    def check_still_there(self) -> None:
        """Raise an EntropyLabError if the run was removed, or another put in its place, since it was read."""
        record = record_of(self.path)
        there = {} if record is None else record["configuration"]
        growing = ("samples", "prompts")
        changed = differences(self.configuration, there, but=growing) if there else ["it holds no run"]
        if changed or there["samples"] < self.configuration["samples"]:
            raise EntropyLabError(
                f"{self.path} was removed, or overwritten by another command, while this one was at work on it: "
                f"{'; '.join(changed)}"
            )


def read_run(path: Path) -> RunFolder:
    """The run in a folder."""
    record = None if os.path.isfile(path) else record_of(path)
    if record is None:
        missing = f"{RECORD} is missing, or not what entropylab wrote. {AGAIN}"
        raise EntropyLabError(f"{path} holds no run: {missing if os.path.isdir(path) else 'there is no such folder.'}")
    known = record["configuration"]
    prompts = prompts_in(path, known["samples"])
    return RunFolder(path, known, record["attributes"], prompts if digest(prompts) == known["prompts"] else [])


def record_of(path: Path) -> dict[str, Any] | None:
    """What stands in a run's record; None if there is none, or not what was written."""
    file = path / RECORD
    with told(file):
        if not file.is_file():
            return None
        content = file.read_bytes()
    try:
        record = json.loads(content)
        form = record["format"]
        ours = form == FORMAT
        whole = ours and record["digest"] == digest_of(record["configuration"]) and ATTRIBUTE in record["attributes"]
    except (KeyError, TypeError, ValueError):
        return None
    if not ours:
        raise EntropyLabError(f"{path} holds a run of format {form}; this is for format {FORMAT}.")
    return record if whole else None


def prompts_in(path: Path, samples: int) -> list[str]:
    """The prompts of so many samples, none if they can't be read; the file of a run that is growing may have more."""
    try:
        with open(path / PROMPTS, encoding="utf-8") as lines:
            return [json.loads(line) for line in islice(lines, samples)]
    except (OSError, ValueError):
        return []


def check_folder(out: Any) -> Path:
    """``out`` as a Path, if a run can be written there or goes on there."""
    path = folder_for(out)
    there = {entry.name for entry in listed(path) if not entry.name.startswith(".")} - {LOCKS}
    units = {entry.name for entry in listed(path / UNITS)} if UNITS in there else set()
    begun = {UNITS, PROMPTS} if UNITS in there else set()
    if any(map(OWN.fullmatch, units)) or record_of(path) is not None or (not units and there <= begun):
        return path
    shown = ", ".join(sorted(there)[:3])
    raise EntropyLabError(f"out must be an empty folder or that of a run. {path} has no {RECORD} of ours, but {shown}.")


def begin(
    path: Path,
    configuration: dict[str, Any],
    attributes: dict[str, Any],
    prompts: list[str],
    *,
    overwrite: bool = False,
    unit_samples: int | None = None,
) -> RunFolder:
    """Start a run in a folder, or go on with the one that is there, also if it is to have more samples now.

    ``unit_samples`` is what was asked for; None for that of the run that is there.
    """
    folder_for(path, made=True)
    with alone(path):
        if overwrite:
            clear(path)
        for name in (UNITS, LOCKS):
            with told(path / name):
                (path / name).mkdir(exist_ok=True)
        record = record_of(path)
        if record is not None:
            there = record["configuration"]
            if unit_samples is None:
                configuration = {**configuration, "unit_samples": there["unit_samples"]}
            grown = check_grown(path, there, configuration, prompts)
            attributes = {**record["attributes"], **(attributes if grown else {})}
        run = RunFolder(path, configuration, attributes, prompts)
        if record is None:
            check_units(run)
        if prompts_in(path, len(prompts)) != prompts:  # before the record: who reads a longer one finds them all
            write_whole(path / PROMPTS, "".join(json.dumps(text) + "\n" for text in prompts).encode())
        if run.record != record:
            write_whole(path / RECORD, json.dumps(run.record, indent=1).encode())
    return run


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time begin or grow a run, where the file system can; the system ends it with the process."""
    with told(path), open(path / LOCK, "ab") as file:
        locked(file, wait=True)
        yield


def check_grown(path: Path, there: dict[str, Any], now: dict[str, Any], prompts: list[str]) -> bool:
    """Whether a configuration is the run's with more samples; an EntropyLabError with what differs if it is neither."""
    changed = differences(there, now, but=("prompts",))
    if digest(prompts[: there["samples"]]) != there["prompts"] and now["samples"] >= there["samples"]:
        changed.append("prompts: not the same")
    names = {line.partition(":")[0] for line in changed}
    if not names <= {"samples"} or now["samples"] < there["samples"]:
        joined = ", which entropylab merge can join to this one" if names <= {"sizes", "scaling", "rules"} else ""
        raise EntropyLabError(
            f"{path} holds a run of another configuration: {'; '.join(changed)}. Use another folder{joined}, or start "
            "afresh with overwrite=True (--overwrite)."
        )
    return bool(changed)


def check_units(run: RunFolder) -> None:
    """Raise an EntropyLabError if units of another run are in a folder whose record, which would tell, is lost.

    Units that end elsewhere are its own too: those of before it had more samples.
    """
    own = {unit.name.rpartition("_")[0]: unit for unit in run.units}
    for name in sorted(run.finished()):
        try:
            ds = netcdf.read(run.path / UNITS / f"{name}.nc")
        except EntropyLabError:  # a damaged unit is measured again
            continue
        kind, _, samples = name.rpartition("_")
        unit = own.get(kind)
        if unit is not None and (found := re.fullmatch(r"(\d+)-(\d+)", samples)):
            unit = replace(unit, start=int(found[1]), stop=int(found[2]) + 1)
        if unit is None or ds.attrs.get("configuration") != run.digest(unit, run.prompts_of(unit)):
            raise EntropyLabError(
                f"{run.path} has lost its {RECORD}, and {name} is a unit of another configuration. Use another folder, "
                "or start afresh with overwrite=True (--overwrite)."
            )


def clear(path: Path) -> None:
    """Remove a run, and nothing else; its record last, so that what is half removed is still known for what it is."""
    busy = [f"{unit} by {who}" for unit, who in Locks(path / LOCKS).holders().items()]
    if busy:
        raise EntropyLabError(f"overwrite: processes are at work on {path} ({', '.join(busy[:3])}); end them first.")
    for folder in (path / UNITS, path / LOCKS):
        if folder.is_symlink():
            raise EntropyLabError(f"overwrite: {folder} is a link, and what is behind it is not removed.")
    entries = [entry for name in (UNITS, LOCKS) for entry in listed(path / name) if OWN.fullmatch(entry.name)]
    own = [Path(entry.path) for entry in entries if not entry.is_dir(follow_symlinks=False)]
    with told(path, "written"):
        for file in (*own, path / PROMPTS, path / RECORD):
            file.unlink(missing_ok=True)
