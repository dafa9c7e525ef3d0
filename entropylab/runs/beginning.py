"""How a run begins, goes on, grows, or starts afresh in its folder, whatever is there already."""

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import EntropyLabError
from ..files import PARTIAL, cannot_write, create_whole, write_whole
from ..prompts import digest
from .claims import EXPIRES, Claims, is_dead
from .clocks import clock_of, modified
from .configuration import differences, digest_of, shown
from .folder import CLAIMS, FORMAT, PROMPTS, RECORD, UNITS, RunFolder, read_record


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
    now = clock_of(path)
    fresh = [name for name in busy if now - modified(path / CLAIMS / f"{name}.json") < EXPIRES]
    if fresh:
        raise EntropyLabError(
            f"overwrite: processes seem to be at work on {path} ({', '.join(fresh[:3])}); end them, or wait "
            f"{EXPIRES:g} s if they are dead."
        )


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
    if overwrite:
        clear(path)
    if not (path / RECORD).exists():
        make_folders(path)
        create_whole(path / RECORD, record_of(configuration, attributes))
    run = read_record(path)
    if unit_samples is None:
        configuration = {**configuration, "unit_samples": run.configuration["unit_samples"]}
    if differences(run.configuration, configuration):
        check_grown(run, configuration, prompts)
        write_prompts(path, prompts)
        write_whole(path / RECORD, record_of(configuration, {**run.attributes, **attributes}))
        run = read_record(path)
    make_folders(path)
    if run.problem_of_prompts():
        write_prompts(path, prompts)
    sweep(path)
    return RunFolder(path, run.configuration, run.attributes, prompts)


def make_folders(path: Path) -> None:
    """Make the folders of units and claims, if they are not there."""
    try:
        for name in (UNITS, CLAIMS):
            (path / name).mkdir(exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def record_of(configuration: dict[str, Any], attributes: dict[str, Any]) -> bytes:
    """What stands in a record."""
    digest = digest_of(configuration)
    record = {"format": FORMAT, "configuration": configuration, "digest": digest, "attributes": attributes}
    return json.dumps(record, indent=1).encode()


def write_prompts(path: Path, prompts: list[str]) -> None:
    """Write the prompt of every sample, as JSON, one a line."""
    write_whole(path / PROMPTS, "".join(json.dumps(text) + "\n" for text in prompts).encode())


def check_grown(run: RunFolder, configuration: dict[str, Any], prompts: list[str]) -> None:
    """Raise an EntropyLabError, with what differs, unless a configuration is the run's own with more samples."""
    there = run.configuration
    told = ("prompts", "rules") if there["scaling"] != configuration["scaling"] else ("prompts",)
    changed = differences(there, configuration, but=told)
    changed += [other] if (other := other_prompts(run, prompts)) else []
    names = {line.partition(":")[0] for line in changed}
    if names == {"samples"} and configuration["samples"] > there["samples"]:
        return
    joined = ", which entropylab merge can join to this one" if names <= {"sizes", "scaling"} else ""
    raise EntropyLabError(
        f"{run.path} holds a run of another configuration: {'; '.join(changed)}. Use another folder{joined}, or start "
        "afresh with overwrite=True (--overwrite)."
    )


def other_prompts(run: RunFolder, prompts: list[str]) -> str:
    """The first prompt that differs from the run's, in words; "" if there are only more of them, or fewer."""
    if digest(prompts[: run.configuration["samples"]]) == run.configuration["prompts"]:
        return ""
    if run.problem_of_prompts():
        return "prompts: not the same"
    pairs = enumerate(zip(run.prompts, prompts, strict=False))
    found = (f"prompts: sample {i} has {shown(old)} there, {shown(new)} now" for i, (old, new) in pairs if old != new)
    return next(found, "")


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
    now = clock_of(path)
    for folder in (path, path / UNITS, path / CLAIMS):
        for pattern in (f".*{PARTIAL}", ".*.aside"):
            for file in folder.glob(pattern):
                if now - modified(file) > 10 * EXPIRES:
                    with suppress(OSError):
                        file.unlink(missing_ok=True)
