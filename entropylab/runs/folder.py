"""A run's folder: its record, its prompts, its finished units, and the locks of those at work.

RUN/run.json        configuration and provenance
RUN/prompts.jsonl   the prompt of every sample, one a line
RUN/units/*.nc      what is finished
RUN/locks/*.lock    what is in hand
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .. import hdf5, netcdf
from ..dataset import ATTRIBUTE
from ..errors import EntropyLabError, EntropyLabWarning, one_line
from ..files import files, interrupted_later, is_there, told, write_whole
from ..prompts import digest
from .configuration import JOINED, differences, digest_of
from .locks import Locks
from .units import Unit, cut

FORMAT = 2
RECORD, PROMPTS, UNITS, LOCKS = "run.json", "prompts.jsonl", "units", "locks"
DAMAGED = ".damaged"
CHECKSUM = "checksum"

GROWING = ("samples", "prompts")
"""What changes in a configuration when its run is to have more samples."""

MOST_SAMPLES, MOST_UNITS = 10_000_000, 1_000_000
"""More than this no run has: their prompts and units are held in memory."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds a run.

    Attributes:
        path: the folder.
        configuration: what decides the numbers.
        attributes: where they come from: attributes of the Dataset.
        texts: the prompt of every sample, if they are in memory anyway; else they are read when they are needed.
        problem: why its record can't be used, if what it held was found in the units.
    """

    path: Path
    configuration: dict[str, Any]
    attributes: dict[str, Any]
    texts: list[str] | None = None
    problem: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """What stands in its record, and in every unit, so that no record is needed to know whose they are."""
        known = {"configuration": self.configuration, "digest": digest_of(self.configuration)}
        return {"format": FORMAT, **known, "attributes": self.attributes}

    def digest(self, unit: Unit) -> str:
        """What a unit carries, to tell whose it is: what decides its numbers, and nothing of the run's other units."""
        known = {name: value for name, value in self.configuration.items() if name not in JOINED}
        own = {"rule": self.configuration["rules"][unit.rule], "seed": self.configuration["seed"]}
        return digest_of({**known, **own, "prompts": digest(self.prompts[unit.start : unit.stop]), "unit": unit.name})

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

    def file(self, unit: Unit) -> Path:
        """Where a unit is, once it is finished."""
        return self.path / UNITS / f"{unit.name}.nc"

    def finished(self) -> set[str]:
        """Names of the units that are finished: of files, whatever else may have such a name.

        Raises:
            EntropyLabError: the folder can't be read.
        """
        return files(self.path / UNITS, ".nc")

    def is_finished(self, unit: Unit) -> bool:
        """Whether one unit is finished."""
        with told(self.file(unit)):
            return self.file(unit).is_file()

    def write(self, unit: Unit, ds: xr.Dataset) -> None:
        """Write a finished unit, whole; if somebody has written it meanwhile, theirs stays."""
        ds.attrs |= {"configuration": self.digest(unit), "unit": unit.name, ATTRIBUTE: self.attributes[ATTRIBUTE]}
        ds.attrs[CHECKSUM] = checksum(ds)
        if not self.is_finished(unit):
            self.set_aside(unit)
            with interrupted_later(), told(self.file(unit)):
                write_whole(self.file(unit), hdf5.sealed(netcdf.to_bytes({"/": netcdf.encode(ds)})))

    def read(self, unit: Unit) -> xr.Dataset:
        """Read a finished unit.

        Raises:
            EntropyLabError: it is damaged, or another run's.
        """
        if not self.is_finished(unit):
            raise EntropyLabError(f"{self.file(unit)} is no file, but a folder, a link to nothing or a device.")
        ds = netcdf.read(self.file(unit))
        if ds.attrs.get("configuration") != self.digest(unit) or ds.attrs.get("unit") != unit.name:
            raise EntropyLabError(f"{self.file(unit)} is not a unit of this run.")
        if ds.attrs.get(CHECKSUM) != checksum(ds):
            raise EntropyLabError(f"{self.file(unit)} is damaged: its checksum is not that of its content.")
        return ds

    def set_aside(self, unit: Unit) -> None:
        """Rename a damaged unit, or what else has its name, so that it counts as not finished."""
        path = self.file(unit)
        with told(path), suppress(FileNotFoundError):
            path.replace(path.with_name(path.name + DAMAGED))

    @cached_property
    def prompts(self) -> list[str]:
        """The prompt of every sample.

        Raises:
            EntropyLabError: the file that holds them is gone or damaged.
        """
        if self.texts is not None:
            return self.texts
        if problem := self.problem_of_prompts():
            raise EntropyLabError(f"{problem}. The command that made the run writes it again.")
        return list(self.stored_prompts())

    def stored_prompts(self) -> Iterator[str]:
        """The prompts in the file, one after the other; the file of a run that is just growing may have more."""
        with open(self.path / PROMPTS, encoding="utf-8") as file:
            yield from (json.loads(line) for line in islice(file, self.configuration["samples"]))

    def problem_of_prompts(self) -> str:
        """Why the file of prompts can't be used; "" if it can."""
        path = self.path / PROMPTS
        if is_there(path) and not path.is_file():
            return f"{path} can't be read: it is no file"
        try:
            whole = digest(self.stored_prompts()) == self.configuration["prompts"]
        except (OSError, RecursionError, ValueError) as error:
            return f"{path} can't be read: {one_line(error)}"
        return "" if whole else f"{path} is damaged: its checksum is not that of its content"

    def check_still_there(self) -> None:
        """Raise an EntropyLabError if the run was removed, or another put in its place, since it was read."""
        gone = f"{self.path} was removed, or overwritten by another command, while this one was at work on it."
        try:
            there = read_record(self.path).configuration
        except EntropyLabError as error:
            raise EntropyLabError(f"{gone} {error}") from error
        changed = differences(self.configuration, there, but=GROWING)
        if changed or there["samples"] < self.configuration["samples"]:
            raise EntropyLabError(f"{gone} {'; '.join(changed)}".strip())


def checksum(ds: xr.Dataset) -> str:
    """SHA-256 of everything in a Dataset: names, dimensions, values and attributes, but for the checksum itself."""
    found = hashlib.sha256()
    for name, variable in sorted(ds.variables.items()):
        text = variable.dtype.kind in "UTO"
        kind = "text" if text else variable.dtype.newbyteorder("<").str
        found.update(json.dumps([name, list(variable.dims), list(variable.shape), kind]).encode())
        values = variable.values
        found.update(
            json.dumps(values.tolist()).encode() if text else np.ascontiguousarray(values, dtype=kind).tobytes()
        )
    attributes = {str(name): value for name, value in ds.attrs.items() if name != CHECKSUM}
    found.update(json.dumps(attributes, sort_keys=True).encode())
    return found.hexdigest()


def labels_of(ds: xr.Dataset) -> dict[str, Any]:
    """The labels of a unit."""
    return json.loads(str(ds["labels"].values))


class Unusable(EntropyLabError):
    """A record that is lost or damaged; what it held may stand in the units."""


def read_run(path: Path) -> RunFolder:
    """The run in a folder, by its record, or by its units where that is lost or damaged; a warning says so.

    Raises:
        EntropyLabError: there is none, or one of another format.
    """
    try:
        return read_record(path)
    except Unusable as error:
        found = recovered(path, str(error))
        if found is None:
            raise
    message = f"{found.problem} What it held was found in the units; the command that made the run writes it again."
    warnings.warn(message, EntropyLabWarning, stacklevel=4)
    return found


def read_record(path: Path) -> RunFolder:
    """The run in a folder, by its record.

    Raises:
        EntropyLabError: there is none, or one of another format.
    """
    file = path / RECORD
    try:
        record = json.loads(file.read_bytes() if file.is_file() or not is_there(file) else b"")
    except FileNotFoundError:
        what = f"a folder that holds no run: it has no {RECORD}" if path.is_dir() else "no folder of a run"
        raise Unusable(f"{path} is {what}.") from None
    except OSError as error:
        raise EntropyLabError(f"{file} can't be read: {one_line(error)}.") from error
    except (RecursionError, ValueError):
        record = None
    if not isinstance(record, dict):
        raise Unusable(f"{file} can't be read: it is not what entropylab wrote.")
    if isinstance(known := record.get("format"), int) and known != FORMAT:
        raise EntropyLabError(f"{path} holds a run of format {known}; this is for format {FORMAT}.")
    if not record.keys() >= {"format", "configuration", "digest", "attributes"}:
        raise Unusable(f"{file} can't be read: it is not what entropylab wrote.")
    if record["digest"] != digest_of(record["configuration"]):
        raise Unusable(f"{file} is damaged or was changed: its checksum is not that of its configuration.")
    if wrong := problem_of(record):
        raise Unusable(f"{file} is damaged or was changed: {wrong}.")
    return RunFolder(path, record["configuration"], record["attributes"])


def recovered(path: Path, problem: str) -> RunFolder | None:
    """The run of the units in a folder, as the one that knows of most samples has it; None if no unit tells.

    Raises:
        EntropyLabError: they are of several runs.
    """
    best, known = None, ""
    for name in sorted(files(path / UNITS, ".nc")):
        try:
            ds = netcdf.read(path / UNITS / f"{name}.nc")
            record = labels_of(ds)["run"]
            if ds.attrs.get(CHECKSUM) != checksum(ds) or problem_of(record):
                continue
        except (AttributeError, EntropyLabError, KeyError, RecursionError, TypeError, ValueError):
            continue
        run = RunFolder(path, record["configuration"], record["attributes"], problem=problem)
        if best is not None and (changed := differences(best.configuration, run.configuration, but=GROWING)):
            raise EntropyLabError(f"{problem} Units {known} and {name} are of different runs: {'; '.join(changed)}.")
        if best is None or run.configuration["samples"] > best.configuration["samples"]:
            best, known = run, name
    return best


def are_texts(value: Any) -> bool:
    """Whether a value is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def are_sizes(value: Any) -> bool:
    """Whether a value is a list of labels of sizes."""
    return are_texts(value) and all(re.fullmatch(r"[1-9]\d{0,6}x[1-9]\d{0,6}", size) for size in value)


def is_int(value: Any, least: int, most: int = 2**63) -> bool:
    """Whether a value is a whole number between two."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


USED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "sizes": ('labels such as "64x64"', lambda value: are_sizes(value) and len(value) > 0),
    "scaling": ("texts", lambda value: are_texts(value) and len(value) > 0),
    "rules": ("texts", are_texts),
    "keep": ("names of dimensions, or null", lambda value: value is None or are_texts(value)),
    "prompts": ("a text", lambda value: isinstance(value, str)),
    "samples": (f"an int from 1 to {MOST_SAMPLES}", lambda value: is_int(value, 1, MOST_SAMPLES)),
    "unit_samples": ("an int from 1", lambda value: is_int(value, 1)),
    "seed": ("an int from 0", lambda value: is_int(value, 0)),
}
"""The parts of a configuration that are used here: what they must be, in words, and whether they are."""


def problem_of(record: Any) -> str:
    """What is wrong with the parts of a record that are used here, in words; "" if nothing is."""
    known, attributes = (record.get(name) for name in ("configuration", "attributes"))
    if not isinstance(known, dict) or not isinstance(attributes, dict):
        return "configuration and attributes must be dicts"
    if not isinstance(attributes.get(ATTRIBUTE), str):
        return f"it has no {ATTRIBUTE}"
    for name, (expected, fits) in USED.items():
        if not fits(known.get(name)):
            return f"{name} must be {expected}. Got {known.get(name)!r:.100}"
    if len(known["rules"]) != len(known["scaling"]):
        return f"rules must be as many as scaling. Got {known['rules']!r:.100}"
    if too_many(len(known["sizes"]) * len(known["scaling"]), known["samples"], known["unit_samples"]):
        return f"a run has at most {MOST_UNITS} units"
    return ""


def too_many(cells: int, samples: int, each: int) -> bool:
    """Whether so many sizes and rules with so many samples, ``each`` in a unit, are more units than a run may have."""
    return cells * -(-samples // each) > MOST_UNITS
