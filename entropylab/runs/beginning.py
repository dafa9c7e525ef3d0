"""How a run begins, goes on, grows, or starts afresh in its folder, whatever is there already."""

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import EntropyLabError
from ..files import PARTIAL, cannot_write, files, listed, told, write_whole
from ..prompts import digest
from .configuration import differences, shown
from .folder import DAMAGED, LOCKS, PROMPTS, RECORD, UNITS, RunFolder, read_run
from .locks import END, Locks, locked

LOCK = ".lock"
"""Held by the process that begins a run, or makes it longer."""

OWN = re.compile(rf"\d+x\d+_\d+-[\w.-]*_\d+-\d+(\.nc|\.nc{DAMAGED}|{END})|\.[0-9a-f]{{32}}{PARTIAL}")
"""Names of the files that a run makes in its folders of units and locks."""

LONG_AGO = 1200.0
"""Nobody writes a unit's file for so long [s]."""


def check_folder(out: Any, overwrite: bool = False) -> Path:
    """``out`` as a Path, if a run can be written there or goes on there; the folder is made if need be.

    Raises:
        EntropyLabError: no name of a folder, a file, a folder that holds something else, or one that can't be written.
    """
    if not isinstance(out, str | os.PathLike) or not os.fspath(out).strip():
        raise EntropyLabError(f"out must be the name of a folder. Got {out!r}.")
    path = Path(out)
    try:
        if path.exists() and not path.is_dir():
            raise EntropyLabError(f"out must be a folder for the run. Got the file {path}.")
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error
    others = {entry.name for entry in listed(path)} - {PROMPTS, LOCKS, LOCK}
    others = {name for name in others if not name.endswith(PARTIAL)}
    if RECORD not in others and others and not is_of_units(path, others):
        raise EntropyLabError(
            f"out must be an empty folder or that of a run. {path} has no {RECORD}, but "
            f"{', '.join(sorted(others)[:3])}."
        )
    busy = [f"{unit} by {who}" for unit, who in Locks(path / LOCKS).holders().items()] if overwrite else []
    if busy:
        raise EntropyLabError(f"overwrite: processes are at work on {path} ({', '.join(busy[:3])}); end them first.")
    return path


def is_of_units(path: Path, others: set[str]) -> bool:
    """Whether a folder that has no record is a run's all the same: by its units, or one that was just begun."""
    there = [entry.name for entry in listed(path / UNITS)] if UNITS in others else []
    return any(OWN.fullmatch(name) for name in there) or (others == {UNITS} and not there)


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

    Args:
        path: the folder.
        configuration: what decides the numbers.
        attributes: provenance.
        prompts: the prompt of every sample.
        overwrite: whether to start afresh.
        unit_samples: what was asked for; None for that of the run that is there.

    Raises:
        EntropyLabError: the run there has another configuration; the message shows the difference.
    """
    with alone(path):
        if overwrite:
            clear(path)
        for name in (UNITS, LOCKS):
            with told(path / name):
                (path / name).mkdir(exist_ok=True)
        if not (path / RECORD).exists() and not files(path / UNITS, ".nc"):
            write_record(RunFolder(path, configuration, attributes))
        run = read_run(path)
        if unit_samples is None:
            configuration = {**configuration, "unit_samples": run.configuration["unit_samples"]}
        if differences(run.configuration, configuration):
            check_grown(run, configuration, prompts)
            write_prompts(path, prompts)
            run = RunFolder(path, configuration, {**run.attributes, **attributes})
            write_record(run)
        elif run.problem:
            write_record(run)
        if run.problem_of_prompts():
            write_prompts(path, prompts)
        sweep(path)
    return RunFolder(path, run.configuration, run.attributes, prompts)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time begin or grow a run, where the file system can; the system ends it with the process."""
    with told(path), open(path / LOCK, "ab") as file:
        locked(file, wait=True)
        yield


def write_record(run: RunFolder) -> None:
    """Write a run's record, also where a pipe or a link that leads nowhere has its name."""
    file = run.path / RECORD
    if os.path.lexists(file) and not file.is_file() and not file.is_dir():
        file.unlink()
    write_whole(file, json.dumps(run.record, indent=1).encode())


def write_prompts(path: Path, prompts: list[str]) -> None:
    """Write the prompt of every sample, as JSON, one a line."""
    write_whole(path / PROMPTS, "".join(json.dumps(text) + "\n" for text in prompts).encode())


def check_grown(run: RunFolder, configuration: dict[str, Any], prompts: list[str]) -> None:
    """Raise an EntropyLabError, with what differs, unless a configuration is the run's own with more samples."""
    there = run.configuration
    shown_otherwise = ("prompts", "rules") if there["scaling"] != configuration["scaling"] else ("prompts",)
    changed = differences(there, configuration, but=shown_otherwise)
    if digest(prompts[: there["samples"]]) != there["prompts"] and run.problem_of_prompts():
        changed.append("prompts: not the same")
    elif digest(prompts[: there["samples"]]) != there["prompts"]:  # or there are only fewer
        pairs = enumerate(zip(run.prompts, prompts, strict=False))
        found = (f"prompts: sample {i} has {shown(a)} there, {shown(b)} now" for i, (a, b) in pairs if a != b)
        changed += list(islice(found, 1))
    names = {line.partition(":")[0] for line in changed}
    if names == {"samples"} and configuration["samples"] > there["samples"]:
        return
    joined = ", which entropylab merge can join to this one" if names <= {"sizes", "scaling"} else ""
    raise EntropyLabError(
        f"{run.path} holds a run of another configuration: {'; '.join(changed)}. Use another folder{joined}, or start "
        "afresh with overwrite=True (--overwrite)."
    )


def clear(path: Path) -> None:
    """Remove a run; its record last, so that what is half removed is still known for what it is.

    Raises:
        EntropyLabError: its folders are links, or hold what is not a run's; nothing is removed then.
    """
    own = [file for folder in (UNITS, LOCKS) for file in own_files(path / folder)]
    record: Any = {"configuration": "damaged, or gone"}
    if (path / RECORD).is_file():
        with suppress(OSError, RecursionError, ValueError):
            record = json.loads((path / RECORD).read_bytes())
    if not isinstance(record, dict) or "configuration" not in record:
        raise EntropyLabError(f"overwrite: {path / RECORD} is not what entropylab wrote, and is not removed.")
    try:
        for file in (*own, path / PROMPTS, path / RECORD):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def own_files(folder: Path) -> list[Path]:
    """What a run has made in a folder of its own; what is hidden and not a run's stays there.

    Raises:
        EntropyLabError: the folder is a link, or holds something else.
    """
    if folder.is_symlink():
        raise EntropyLabError(f"overwrite: {folder} is a link, and what is behind it is not removed.")
    entries = listed(folder)
    own = [entry for entry in entries if OWN.fullmatch(entry.name) and not entry.is_dir(follow_symlinks=False)]
    others = sorted({entry.name for entry in entries if not entry.name.startswith(".")} - {entry.name for entry in own})
    if others:
        raise EntropyLabError(
            f"overwrite: {folder} holds what is not the run's, and nothing is removed: {', '.join(others[:3])}."
        )
    return [Path(entry.path) for entry in own]


def sweep(path: Path) -> None:
    """Remove what processes that were killed left half written, long enough ago that nobody is writing it.

    The time is that of the folder's file system, which need not be this machine's.
    """
    with suppress(OSError):
        os.utime(path / LOCK)
        now = (path / LOCK).stat().st_mtime
        for entry in (*listed(path), *listed(path / UNITS)):
            half = entry.name.startswith(".") and entry.name.endswith(PARTIAL)
            if half and now - entry.stat(follow_symlinks=False).st_mtime > LONG_AGO:
                os.unlink(entry.path)
