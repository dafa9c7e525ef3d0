"""A run's folder: its record, its prompts, its finished units, and the claims of those at work.

RUN/run.json        configuration and provenance
RUN/prompts.jsonl   the prompt of every sample, one a line
RUN/units/*.nc      what is finished
RUN/claims/*.json   what is in hand
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import xarray as xr

from .. import netcdf
from ..dataset import ATTRIBUTE
from ..errors import EntropyLabError, one_line
from ..files import flush_folder
from ..prompts import digest
from .claims import Claims
from .configuration import JOINED, differences, digest_of
from .state import CHECKSUM, checksum
from .units import Unit, cut

FORMAT = 2
RECORD, PROMPTS, UNITS, CLAIMS = "run.json", "prompts.jsonl", "units", "claims"
DAMAGED = ".damaged"
KEYS = {"format", "configuration", "digest", "attributes"}
"""What a record holds."""


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds a run.

    Attributes:
        path: the folder.
        configuration: what decides the numbers.
        attributes: where they come from: attributes of the Dataset.
        texts: the prompt of every sample, if they are in memory anyway; else they are read when they are needed.
    """

    path: Path
    configuration: dict[str, Any]
    attributes: dict[str, Any]
    texts: list[str] | None = None

    def digest(self, unit: Unit) -> str:
        """What a unit carries, to tell whose it is: what decides its numbers, and nothing of the run's other units."""
        known = {name: value for name, value in self.configuration.items() if name not in JOINED}
        own = {"rule": self.configuration["rules"][unit.rule], "seed": self.configuration["seed"]}
        return digest_of({**known, **own, "prompts": digest(self.prompts[unit.start : unit.stop]), "unit": unit.name})

    @property
    def units(self) -> list[Unit]:
        """All units in their canonical order."""
        known = self.configuration
        sizes = [(int(height), int(width)) for height, _, width in (size.partition("x") for size in known["sizes"])]
        return cut(sizes, known["scaling"], known["samples"], known["unit_samples"])

    @property
    def claims(self) -> Claims:
        """Who is at work."""
        return Claims(self.path / CLAIMS)

    def file(self, unit: Unit) -> Path:
        """Where a unit is, once it is finished."""
        return self.path / UNITS / f"{unit.name}.nc"

    def finished(self) -> set[str]:
        """Names of the units that are finished."""
        return {path.stem for path in (self.path / UNITS).glob("[!.]*.nc")}

    def write(self, unit: Unit, ds: xr.Dataset) -> None:
        """Write a finished unit, whole; if somebody has written it meanwhile, theirs stays."""
        ds.attrs |= {"configuration": self.digest(unit), "unit": unit.name, ATTRIBUTE: self.attributes[ATTRIBUTE]}
        ds.attrs[CHECKSUM] = checksum(ds)
        path = self.file(unit)
        if not path.exists():
            netcdf.save(ds, path, overwrite=True)
            flush_folder(path.parent)

    def read(self, unit: Unit) -> xr.Dataset:
        """Read a finished unit.

        Raises:
            EntropyLabError: it is damaged, or another run's.
        """
        ds = netcdf.read(self.file(unit))
        if ds.attrs.get("configuration") != self.digest(unit) or ds.attrs.get("unit") != unit.name:
            raise EntropyLabError(f"{self.file(unit)} is not a unit of this run.")
        if ds.attrs.get(CHECKSUM) != checksum(ds):
            raise EntropyLabError(f"{self.file(unit)} is damaged: its checksum is not that of its content.")
        return ds

    def set_aside(self, unit: Unit) -> None:
        """Rename a damaged unit, so that it counts as not finished."""
        path = self.file(unit)
        with suppress(FileNotFoundError):
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
        try:
            whole = digest(self.stored_prompts()) == self.configuration["prompts"]
        except (OSError, ValueError) as error:
            return f"{self.path / PROMPTS} can't be read: {one_line(error)}"
        return "" if whole else f"{self.path / PROMPTS} is damaged: its checksum is not that of its content"

    def check_still_there(self) -> None:
        """Raise an EntropyLabError if the run was removed, or another put in its place, since it was read."""
        gone = f"{self.path} was removed, or overwritten by another command, while this one was at work on it."
        try:
            there = read_record(self.path).configuration
        except EntropyLabError as error:
            raise EntropyLabError(f"{gone} {error}") from error
        changed = differences(self.configuration, there, but=("samples", "prompts"))
        if changed or there["samples"] < self.configuration["samples"]:
            raise EntropyLabError(f"{gone} {'; '.join(changed)}".strip())


def read_record(path: Path) -> RunFolder:
    """The run in a folder.

    Raises:
        EntropyLabError: there is none, or one of another format.
    """
    file = path / RECORD
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = f"a folder that holds no run: it has no {RECORD}" if path.is_dir() else "no folder of a run"
        raise EntropyLabError(f"{path} is {what}.") from None
    except OSError as error:
        raise EntropyLabError(f"{file} can't be read: {one_line(error)}.") from error
    except ValueError:
        record = None
    if not isinstance(record, dict) or not record.keys() >= KEYS:
        raise EntropyLabError(f"{file} can't be read: it is not what entropylab wrote.")
    if record["format"] != FORMAT:
        raise EntropyLabError(f"{path} holds a run of format {record['format']}; this is for format {FORMAT}.")
    if record["digest"] != digest_of(record["configuration"]):
        raise EntropyLabError(f"{file} is damaged or was changed: its checksum is not that of its configuration.")
    return RunFolder(path, record["configuration"], record["attributes"])
