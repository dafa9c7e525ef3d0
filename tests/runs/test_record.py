"""A run whose record or prompts are lost or damaged: the command that made it goes on, and nothing is stranded."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.runs import merge, status
from entropylab.runs.folder import PROMPTS, RECORD, read_run

from .short import again, bare, files, truncate
from .stub import PROMPTS as TEXTS
from .stub import Stub

DEEP = "[" * 100_000


def by_hand(record: Path) -> None:
    record.write_text(record.read_text().replace('"samples": 8', '"samples": 6'))


def written(content: str) -> Callable[[Path], object]:
    return lambda record: record.write_text(content)


HARMS: dict[str, Callable[[Path], object]] = {
    "lost": Path.unlink,
    "by hand": by_hand,
    "empty": written(""),
    "cut": lambda record: record.write_text(record.read_text()[:200]),
    "a list": written("[]"),
    "deep": written(DEEP),
    "no text": lambda record: record.write_bytes(b"\xff\xfe\x00"),
    "no digest": written('{"format": 2, "configuration": {}, "attributes": {}}'),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_record_that_is_lost_or_damaged_is_written_again(harm: str, run: Path) -> None:
    before, record = entropylab.open(run), json.loads((run / RECORD).read_text())
    HARMS[harm](run / RECORD)
    for use in (entropylab.open, status, lambda path: merge([path])):
        with pytest.raises(EntropyLabError, match="holds no run: run.json is missing.* the command that made the run"):
            use(run)
    pipe = Stub()
    with pytest.raises(EntropyLabError, match="lost its run.json, and 32x32.* is a unit of another configuration"):
        again(run, pipe, seed=3)
    assert len(files(run)) == 4
    assert bare(again(run, pipe)).identical(bare(before))
    assert pipe.calls == 0
    assert json.loads((run / RECORD).read_text()) == record


@pytest.mark.parametrize("content", [None, "", "[1]\n", '"a"\n', DEEP])
def test_prompts_that_are_lost_are_written_again(content: str | None, run: Path) -> None:
    (run / PROMPTS).unlink()
    if content is not None:
        (run / PROMPTS).write_text(content)
    with pytest.raises(EntropyLabError, match=r"prompts.jsonl is missing or damaged.* the command that made the run"):
        entropylab.open(run)
    pipe = Stub()
    again(run, pipe)
    assert (pipe.calls, read_run(run).prompts) == (0, TEXTS)


def test_half_a_run_without_its_record_goes_on(run: Path) -> None:
    before = entropylab.open(run)
    (run / RECORD).unlink()
    (run / PROMPTS).unlink()
    files(run)[0].unlink()
    truncate(files(run)[1])
    (run / "notes.md").write_text("mine")
    pipe = Stub()
    assert bare(again(run, pipe)).identical(bare(before))
    assert pipe.calls == 2


def test_a_record_of_another_program_stays_and_one_of_another_format_is_named(run: Path) -> None:
    record = json.loads((run / RECORD).read_text())
    (run / RECORD).write_text(json.dumps(record | {"format": 9}))
    for use in (entropylab.open, again):
        with pytest.raises(EntropyLabError, match="run of format 9; this is for format 2"):
            use(run)
    assert again(run, overwrite=True).attrs["units_done"] == 4
    for file in files(run):
        file.unlink()
    (run / RECORD).write_text('{"of": "another program"}')
    for unit in (None, "metres.nc"):
        if unit is not None:
            (run / "units" / unit).write_text("of another program")
        for overwrite in (False, True):
            with pytest.raises(EntropyLabError, match=r"no run.json of ours, but prompts.jsonl, run.json, units"):
                again(run, overwrite=overwrite)
    assert (run / RECORD).read_text() == '{"of": "another program"}'


@pytest.mark.parametrize(("name", "begun"), [("prompts.jsonl", False), ("units/metres.txt", False), ("units", True)])
def test_only_a_folder_that_a_run_has_begun_is_taken_for_one(name: str, begun: bool, tmp_path: Path) -> None:
    if begun:
        (tmp_path / name).mkdir()
        (tmp_path / PROMPTS).write_text("half of th")
        assert again(tmp_path).sizes["size"] == 1
        return
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(EntropyLabError, match="out must be an empty folder or that of a run"):
            again(tmp_path, overwrite=overwrite)
    assert (tmp_path / name).read_text() == "mine"


def test_a_pipe_is_not_waited_for(run: Path) -> None:
    (run / RECORD).unlink()
    os.mkfifo(run / RECORD)
    for use in (entropylab.open, again):
        with pytest.raises(EntropyLabError, match=r"run.json|a pipe"):
            use(run)


def test_runs_without_end_are_refused_before_any_sampling(tmp_path: Path) -> None:
    pipe = Stub()
    with pytest.raises(EntropyLabError, match="samples must be at most 10000000. Got 1000000000"):
        again(tmp_path / "run", pipe, samples=10**9)
    assert pipe.calls == 0
    assert not (tmp_path / "run").exists()
