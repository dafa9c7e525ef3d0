"""What goes wrong with the files of a run: damage, full disks, foreign things, shut folders, what was removed."""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.errors import EntropyLabWarning
from entropylab.runs import folder, merge, status
from entropylab.runs.folder import PROMPTS, RECORD, read_run

from ..datasets import flip_byte
from .stub import PROMPTS as TEXTS
from .stub import Stub, again, bare, files

Harm = Callable[[Path], object]


def blank(path: Path) -> None:
    """A block of zeros, as a power cut leaves it, where HDF5 would never return from."""
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 512 : heap + 1024] = bytes(512)
    path.write_bytes(content)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def exchange(path: Path) -> None:
    path.write_bytes(files(path.parents[1])[0].read_bytes())


@pytest.mark.parametrize(
    "harm", [cut_off, blank, partial(flip_byte, name="sums"), exchange, partial(os.truncate, length=0)]
)
def test_a_damaged_unit_is_noticed_and_measured_again(harm: Harm, run: Path) -> None:
    before = entropylab.open(run)
    victim = files(run)[2]
    harm(victim)
    with pytest.raises(EntropyLabError, match=f"damaged units .1.; the command .* again.*{victim.stem}"):
        entropylab.open(run)
    assert list(status(run, check=True).damaged) == [victim.stem]
    pipe = Stub()
    assert bare(again(run, pipe)).identical(bare(before))
    assert pipe.calls == 1
    assert [path.name for path in (run / "units").glob("*.damaged")] == [f"{victim.name}.damaged"]


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def filled_folder(path: Path) -> None:
    path.mkdir()
    (path / "holiday.jpg").write_text("a picture")


@pytest.mark.parametrize("thing", [link_to_nothing, filled_folder])
def test_what_is_no_file_is_no_unit(thing: Harm, run: Path, tmp_path: Path) -> None:
    before, victim, moved = entropylab.open(run), files(run)[2], files(run)[1]
    moved.rename(tmp_path / "elsewhere.nc")
    moved.symlink_to(tmp_path / "elsewhere.nc")  # which is a file, and stays one
    victim.unlink()
    thing(victim)
    assert status(run).table[-1][2] == "3/4"
    with pytest.warns(EntropyLabWarning, match="it has 3 of 4 units"):
        entropylab.open(run)
    pipe = Stub()
    assert bare(again(run, pipe)).identical(bare(before))
    assert pipe.calls == 1
    assert os.path.lexists(f"{victim}.damaged")
    assert stat.S_ISREG(victim.lstat().st_mode)
    assert moved.is_symlink()


def by_hand(record: Path) -> None:
    record.write_text(record.read_text().replace('"samples": 8', '"samples": 6'))


@pytest.mark.parametrize(
    "harm", [by_hand, os.unlink, partial(os.truncate, length=200), partial(Path.write_bytes, data=b"[]")]
)
def test_a_record_that_is_lost_or_damaged_is_written_again(harm: Harm, run: Path) -> None:
    before, record = entropylab.open(run), json.loads((run / RECORD).read_text())
    harm(run / RECORD)
    for use in (entropylab.open, status, lambda path: merge([path])):
        with pytest.raises(EntropyLabError, match="holds no run: run.json is missing.* the command that made the run"):
            use(run)
    pipe = Stub()
    with pytest.raises(EntropyLabError, match="lost its run.json, and 32x32.* is a unit of another configuration"):
        again(run, pipe, seed=3)
    assert len(files(run)) == 4
    files(run)[0].unlink()
    cut_off(files(run)[0])
    (run / "notes.md").write_text("mine")
    assert bare(again(run, pipe)).identical(bare(before))
    assert pipe.calls == 2
    assert json.loads((run / RECORD).read_text()) == record


def test_a_lost_record_of_a_run_that_had_grown_is_written_again(run: Path) -> None:
    """The last unit of before ends at another sample."""
    for samples in (9, 10):
        before = again(run, samples=samples)
    assert len(files(run)) == 6
    (run / RECORD).unlink()
    pipe = Stub()
    assert bare(again(run, pipe, samples=10)).identical(bare(before))
    assert pipe.calls == 0
    (run / RECORD).unlink()
    with pytest.raises(EntropyLabError, match="is a unit of another configuration"):
        again(run, samples=10, seed=3)


@pytest.mark.parametrize("content", [None, "", '"a"\n'])
def test_a_run_whose_prompts_are_lost_can_be_read_and_goes_on(content: str | None, run: Path, done: Path) -> None:
    before = entropylab.open(run)
    (run / PROMPTS).unlink()
    if content is not None:
        (run / PROMPTS).write_text(content)
    assert entropylab.open(run).identical(before)
    assert status(run, check=True).table == status(done).table
    exchange(files(run)[1])
    assert list(status(run, check=True).damaged) == [files(run)[1].stem, PROMPTS]
    with pytest.raises(EntropyLabError, match=r"prompts.jsonl is missing or damaged.* the command that made the run"):
        merge([run, done])
    pipe = Stub()
    again(run, pipe)
    assert (pipe.calls, read_run(run).prompts) == (1, TEXTS)


def test_a_record_of_another_program_stays_and_one_of_another_format_is_named(run: Path) -> None:
    record = json.loads((run / RECORD).read_text())
    (run / RECORD).write_text(json.dumps({"format": 9, "attributes": record["attributes"]}))
    for use in (entropylab.open, again):
        with pytest.raises(EntropyLabError, match="run of format 9; this is for format 2"):
            use(run)
    for file in (run / RECORD, *files(run)):
        file.unlink()
    (run / RECORD).write_text('{"of": "another program"}')
    for unit in (None, "metres.nc"):
        if unit is not None:
            (run / "units" / unit).write_text("of another program")
        for overwrite in (False, True):
            with pytest.raises(EntropyLabError, match=r"no run.json of ours, but prompts.jsonl, run.json, units"):
                again(run, overwrite=overwrite)
    assert (run / RECORD).read_text() == '{"of": "another program"}'


@pytest.mark.parametrize("name", ["units", "locks"])
def test_a_folder_of_the_run_that_is_something_else(name: str, run: Path) -> None:
    shutil.rmtree(run / name)
    (run / name).write_text("a file")
    for use in (status, again):
        with pytest.raises(EntropyLabError, match=f"{name}.* can't be"):
            use(run)


def test_a_disk_that_is_full_loses_only_the_unit_in_hand(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, run = folder.write_whole, tmp_path / "run"

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def full(path: Path, content: bytes) -> None:
        if len(files(run)) == 2:
            monkeypatch.setattr("os.fsync", no_space)
        write(path, content)

    monkeypatch.setattr(folder, "write_whole", full)
    with pytest.raises(EntropyLabError, match="can't be written: No space left"):
        again(run)
    with pytest.warns(EntropyLabWarning, match="2 of 4 units"):
        assert entropylab.open(run).attrs["units_done"] == 2
    assert not list(run.rglob("*.partial"))
    monkeypatch.undo()
    assert bare(again(run)).identical(bare(entropylab.open(done)))


def test_a_run_that_is_removed_or_replaced_under_a_process_that_is_at_work(done: Path, tmp_path: Path) -> None:
    def remove(pipe: Stub) -> None:
        shutil.rmtree(tmp_path / "run")

    def replace(pipe: Stub) -> None:
        remove(pipe)
        shutil.copytree(done, tmp_path / "run")

    for harm, message in ((remove, "it holds no run"), (replace, "seed: 5 there, 0 now")):
        pipe = Stub()
        pipe.on_call = harm
        with pytest.raises(EntropyLabError, match=f"was removed, or overwritten by another command, .*{message}"):
            again(tmp_path / "run", pipe, seed=5)
        assert pipe.calls == 1
    assert bare(entropylab.open(tmp_path / "run")).identical(bare(entropylab.open(done)))
