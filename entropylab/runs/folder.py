"""A run's folder: its record, its prompts, its finished units, and the claims of those at work.

RUN/run.json        configuration and provenance
RUN/prompts.jsonl   the prompt of every sample, one a line
RUN/units/*.nc      what is finished
RUN/claims/*.json   what is in hand
"""

import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from ..dataset import ATTRIBUTE, open_dataset, save
from ..errors import EntropyLabError
from .claims import EXPIRES, Claims, is_dead
from .configuration import differences, digest_of
from .files import PARTIAL, cannot_write, create_whole, flush_folder, write_whole
from .prompts import digest
from .state import CHECKSUM, checksum
from .units import Unit, cut

FORMAT = 1
RECORD, PROMPTS, UNITS, CLAIMS = "run.json", "prompts.jsonl", "units", "claims"
DAMAGED = ".damaged"


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds a run.

    Attributes:
        path: the folder.
        configuration: what decides the numbers.
        attributes: where they come from: attributes of the Dataset.
    """

    path: Path
    configuration: dict[str, Any]
    attributes: dict[str, Any]

    @property
    def digest(self) -> str:
        """What every unit of the run carries."""
        return digest_of(self.configuration)

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
        ds.attrs |= {"configuration": self.digest, "unit": unit.name, ATTRIBUTE: self.attributes[ATTRIBUTE]}
        ds.attrs[CHECKSUM] = checksum(ds)
        path = self.file(unit)
        if not path.exists():
            save(ds, path, overwrite=True)
            flush_folder(path.parent)

    def read(self, unit: Unit) -> xr.Dataset:
        """Read a finished unit.

        Raises:
            EntropyLabError: it is damaged, or another run's.
        """
        ds = open_dataset(self.file(unit))
        if ds.attrs.get("configuration") != self.digest or ds.attrs.get("unit") != unit.name:
            raise EntropyLabError(f"{self.file(unit)} is not a unit of this run.")
        if ds.attrs.get(CHECKSUM) != checksum(ds):
            raise EntropyLabError(f"{self.file(unit)} is damaged: its checksum is not that of its content.")
        return ds

    def set_aside(self, unit: Unit) -> None:
        """Rename a damaged unit, so that it counts as not finished."""
        path = self.file(unit)
        with suppress(FileNotFoundError):
            path.replace(path.with_name(path.name + DAMAGED))

    def prompts(self) -> list[str]:
        """The prompt of every sample."""
        path = self.path / PROMPTS
        try:
            texts = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise EntropyLabError(f"{path} can't be read: {error}.") from error
        if digest(texts) != self.configuration["prompts"]:
            raise EntropyLabError(f"{path} is damaged: its checksum is not that of its content.")
        return texts


def check_folder(out: Any, overwrite: bool = False) -> Path:
    """``out`` as a Path, if a run can be written there or goes on there; the folder is made if need be.

    Raises:
        EntropyLabError: no name of a folder, a file, a folder that holds something else, or one that can't be written.
    """
    if not isinstance(out, str | os.PathLike) or not os.fspath(out):
        raise EntropyLabError(f"out must be the name of a folder. Got {out!r}.")
    path = Path(out)
    try:
        if path.exists() and not path.is_dir():
            raise EntropyLabError(f"out must be a folder for the run. Got the file {path}.")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        others = [entry.name for entry in path.iterdir() if entry.name not in (PROMPTS, CLAIMS)]
    except OSError as error:
        raise cannot_write(path, error) from error
    others = [name for name in others if not name.endswith(PARTIAL)]
    if RECORD not in others and others and not (others == [UNITS] and not any((path / UNITS).iterdir())):
        raise EntropyLabError(
            f"out must be an empty folder or that of a run. {path} has no {RECORD}, but "
            f"{', '.join(sorted(others)[:3])}."
        )
    if overwrite:
        check_nobody_works(path)
    return path


def check_nobody_works(path: Path) -> None:
    """Raise an EntropyLabError if processes seem to be at work on the run in a folder."""
    busy = [unit for unit, holder in Claims(path / CLAIMS).holders().items() if holder and not is_dead(holder)]
    fresh = [name for name in busy if time.time() - modified(path / CLAIMS / f"{name}.json") < EXPIRES]
    if fresh:
        raise EntropyLabError(
            f"overwrite: processes seem to be at work on {path} ({', '.join(fresh[:3])}); end them, or wait "
            f"{EXPIRES:g} s if they are dead."
        )


def modified(path: Path) -> float:
    """When a file was changed last [s]; long ago if it is gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def begin(
    path: Path, configuration: dict[str, Any], attributes: dict[str, Any], prompts: list[str], overwrite: bool = False
) -> RunFolder:
    """Start a run in a folder, or go on with the one that is there.

    Raises:
        EntropyLabError: the run there has another configuration; the message shows the difference.
    """
    if overwrite:
        clear(path)
    if not (path / RECORD).exists():
        for name in (UNITS, CLAIMS):
            (path / name).mkdir(exist_ok=True)
        write_whole(path / PROMPTS, "".join(json.dumps(text) + "\n" for text in prompts).encode())
        record = {"format": FORMAT, "configuration": configuration, "attributes": attributes}
        create_whole(path / RECORD, json.dumps(record, indent=1).encode())
    run = read_record(path)
    changed = differences(run.configuration, configuration)
    if changed:
        raise EntropyLabError(
            f"{path} holds a run of another configuration: {'; '.join(changed)}. Use another folder, or start afresh "
            "with overwrite=True (--overwrite)."
        )
    sweep(path)
    return run


def read_record(path: Path) -> RunFolder:
    """The run in a folder.

    Raises:
        EntropyLabError: there is none, or one of another format.
    """
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        run = RunFolder(path, record["configuration"], record["attributes"])
    except FileNotFoundError:
        raise EntropyLabError(f"{path} is a directory that holds no run: it has no {RECORD}.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EntropyLabError(f"{path / RECORD} can't be read: {error}.") from error
    if record.get("format") != FORMAT:
        raise EntropyLabError(f"{path} holds a run of format {record.get('format')}; this is for format {FORMAT}.")
    return run


def clear(path: Path) -> None:
    """Remove a run; its record last, so that what is half removed is still known for what it is."""
    try:
        for folder in (UNITS, CLAIMS):
            for file in (path / folder).glob("*"):
                file.unlink(missing_ok=True)
        for name in (RECORD, PROMPTS):
            (path / name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def sweep(path: Path) -> None:
    """Remove what processes that were killed left half written, long enough ago that nobody is writing it."""
    for folder in (path, path / UNITS, path / CLAIMS):
        for pattern in (f".*{PARTIAL}", ".*.aside"):
            for file in folder.glob(pattern):
                if time.time() - modified(file) > 10 * EXPIRES:
                    with suppress(OSError):
                        file.unlink(missing_ok=True)
