"""A run that is to have more samples: also when two commands want that at once, and however many units it has."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import entropylab
from entropylab.runs import beginning
from entropylab.runs.folder import RECORD, read_record
from entropylab.runs.progress import Progress
from entropylab.runs.units import cut

from .processes import start
from .short import again, bare
from .stub import PROMPTS, Stub

LONG = [f"{text}, number {i}" for i in range(4) for text in PROMPTS]


def samples(run: Path) -> int:
    return int(json.loads((run / RECORD).read_text())["configuration"]["samples"])


def test_two_that_make_a_run_longer_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    again(run, prompts=LONG[:2])
    write, others = beginning.write_prompts, []

    def write_while_another_grows_it(path: Path, prompts: list[str]) -> None:
        """Let another process make the run longer between reading its record and writing it, if it can."""
        others.append(start(run, prompts=LONG[:8], sizes=[32], scaling="original"))
        for _ in range(15):
            if samples(run) == 8:
                break
            time.sleep(0.1)
        write(path, prompts)

    monkeypatch.setattr(beginning, "write_prompts", write_while_another_grows_it)
    assert int(again(run, prompts=LONG[:4]).samples[0, 0]) == 4
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0]
    assert samples(run) == 8
    assert read_record(run).prompts == LONG[:8]
    assert bare(entropylab.open(run)).identical(bare(again(tmp_path / "at once", prompts=LONG[:8])))


class Enough(Exception):
    pass


def python_calls_of_a_unit(run: Path, samples: int) -> int:
    """Python function calls between the sampling of two units, in a run of which all units but the last are finished.

    From one sampling of the pipeline to the next lies what a unit costs beside it: it is written, told of, and the
    next is chosen and claimed.
    """
    options: dict[str, Any] = {"prompts": ["a"], "samples": samples, "unit_samples": 2, "progress": True}

    def stop(pipe: Stub) -> None:
        raise Enough

    pipe = Stub()
    pipe.on_call = stop
    with pytest.raises(Enough):
        again(run, pipe, **options)
    known = read_record(run)
    for unit in known.units[:-4]:
        known.file(unit).touch()
    calls = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    def watch(pipe: Stub) -> None:
        if pipe.calls == 2:
            sys.setprofile(count)
        elif pipe.calls == 3:
            sys.setprofile(None)
            raise Enough

    pipe = Stub()
    pipe.on_call = watch
    try:
        with pytest.raises(Enough):
            again(run, pipe, **options)
    finally:
        sys.setprofile(None)
    return calls


def test_a_unit_costs_as_much_in_a_long_run_as_in_a_short_one(tmp_path: Path) -> None:
    short, long = (python_calls_of_a_unit(tmp_path / str(n), n) for n in (100, 2000))
    assert short > 1000
    assert long < short + 100


def test_units_that_are_lost_are_counted_again() -> None:
    units = cut([(32, 32)], ["original"], 8, 4)
    progress = Progress(units, shown=False)
    progress.follow({unit.name for unit in units} | {"of another run"})
    progress.follow({units[0].name})
    assert (progress.done.total(), progress.rest.total()) == (2, 0)
    progress.lose(units[1])
    progress.lose(units[1])
    assert (progress.done.total(), progress.rest.total()) == (1, units[1].pixels)
