"""What else may be in a run's folder, or be done to it: links to nowhere, pipes, foreign files, shut folders."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import entropylab
from entropylab import EntropyLabError
from entropylab.runs import status
from entropylab.runs.folder import RECORD, read_record

from .short import again, bare, files
from .stub import Stub


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def filled_folder(path: Path) -> None:
    path.mkdir()
    (path / "holiday.jpg").write_text("a picture")


THINGS = [link_to_nothing, link_to_itself, os.mkfifo, filled_folder]


@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_file_counts_as_a_unit_that_is_damaged(thing: Callable[[Path], None], run: Path) -> None:
    before, victim = entropylab.open(run), files(run)[2]
    victim.unlink()
    thing(victim)
    assert status(run).table[-1][2] == "3/4"
    assert list(status(run, check=True).damaged) == [victim.stem]
    with pytest.raises(EntropyLabError, match=f"damaged units .1.;.*{victim.stem}.nc is no file"):
        entropylab.open(run)
    pipe = Stub()
    assert bare(again(run, pipe)).identical(bare(before))
    assert pipe.calls == 1
    assert os.path.lexists(f"{victim}.damaged")
    assert stat.S_ISREG(victim.lstat().st_mode)


def test_a_unit_may_be_a_link_to_a_file(run: Path, tmp_path: Path) -> None:
    before, moved = entropylab.open(run), files(run)[2]
    moved.rename(tmp_path / "elsewhere.nc")
    moved.symlink_to(tmp_path / "elsewhere.nc")
    pipe = Stub()
    assert again(run, pipe).equals(before)
    assert pipe.calls == 0


@pytest.mark.parametrize("thing", THINGS)
def test_what_is_no_file_and_has_the_name_of_a_lock_holds_nobody_back(thing: Callable[[Path], None], run: Path) -> None:
    locks = read_record(run).locks
    thing(run / "locks" / "unit.lock")
    assert locks.holders() == {}
    lock = locks.take("unit")
    assert lock is not None
    lock.release()


@pytest.mark.parametrize("name", ["units", "locks"])
def test_a_folder_of_the_run_that_is_something_else(name: str, run: Path) -> None:
    shutil.rmtree(run / name)
    (run / name).write_text("a file")
    for use in (status, again) if name == "locks" else (status, again, entropylab.open):
        with pytest.raises(EntropyLabError, match=f"{name}.* can't be"):
            use(run)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder, and a user from whom it may be locked; root goes wherever it likes."""
    folder, user = Path(tempfile.mkdtemp()), os.geteuid()
    if user == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(user)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(folder)


@pytest.mark.parametrize("name", [".", "units", "locks"])
@pytest.mark.parametrize("mode", [0o500, 0o000], ids=["no writing", "no reading"])
def test_a_folder_that_is_shut_midway_is_named_and_loses_nothing(name: str, mode: int, nobody: Path) -> None:
    run = nobody / "run"

    def shut(pipe: Stub) -> None:
        if pipe.calls == 3:
            (run / name).chmod(mode)

    pipe = Stub()
    pipe.on_call = shut
    if (name, mode) == (".", 0o500):  # nothing more is written into the run's own folder
        again(run, pipe)
        return
    with pytest.raises(EntropyLabError, match=r"run.*: Permission denied"):
        again(run, pipe)
    if mode == 0:
        with pytest.raises(EntropyLabError, match=r"run.*: Permission denied"):
            status(run)
    for use in (entropylab.open, again):
        if (name, mode, use) == ("units", 0, entropylab.open):
            with pytest.raises(EntropyLabError, match=r"run.*: Permission denied"):
                use(run)
    (run / name).chmod(0o700)
    pipe = Stub()
    again(run, pipe)
    assert pipe.calls in (1, 2)


@pytest.mark.parametrize("folder", ["units", "locks"])
def test_overwriting_removes_what_is_the_runs_own_and_nothing_else(folder: str, run: Path) -> None:
    (run / folder / "holiday.jpg").write_text("a picture")
    before = sorted(path for path in run.rglob("*") if path.name != ".lock")
    pipe = Stub()
    with pytest.raises(EntropyLabError, match=f"overwrite: .*{folder} holds what is not the run's.*: holiday.jpg"):
        again(run, pipe, seed=1, overwrite=True)
    assert pipe.calls == 0
    assert sorted(path for path in run.rglob("*") if path.name != ".lock") == before
    (run / folder / "holiday.jpg").rename(run / folder / ".hidden")
    again(run, seed=1, overwrite=True)
    assert (run / folder / ".hidden").read_text() == "a picture"
    assert entropylab.open(run).attrs["seed"] == 1


@pytest.mark.parametrize("folder", ["units", "locks"])
def test_overwriting_does_not_go_through_links(folder: str, run: Path, tmp_path: Path) -> None:
    (run / folder).rename(tmp_path / "elsewhere")
    (run / folder).symlink_to(tmp_path / "elsewhere")
    names = sorted((tmp_path / "elsewhere").iterdir())
    with pytest.raises(EntropyLabError, match=f"overwrite: .*{folder} is a link"):
        again(run, seed=1, overwrite=True)
    assert sorted((tmp_path / "elsewhere").iterdir()) == names
    assert read_record(run).configuration["seed"] == 0
    again(run)  # without overwriting, a link is as good as a folder


def test_overwriting_leaves_units_that_are_folders_and_what_links_lead_to(run: Path, tmp_path: Path) -> None:
    first, second, *_ = files(run)
    (tmp_path / "mine.nc").write_text("mine")
    first.unlink()
    first.symlink_to(tmp_path / "mine.nc")
    again(run, seed=1, overwrite=True)
    assert (tmp_path / "mine.nc").read_text() == "mine"
    second.unlink()
    filled_folder(second)
    with pytest.raises(EntropyLabError, match=f"holds what is not the run's.*{second.name}"):
        again(run, seed=2, overwrite=True)
    assert (second / "holiday.jpg").exists()


def test_overwriting_leaves_the_record_of_another_program(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"of": "another program"}')
    with pytest.raises(EntropyLabError, match="overwrite: .*run.json is not what entropylab wrote"):
        again(tmp_path, overwrite=True)
    assert (tmp_path / RECORD).read_text() == '{"of": "another program"}'


def test_what_was_damaged_and_half_written_goes_with_the_run(run: Path) -> None:
    files(run)[0].write_bytes(b"")
    again(run)
    (run / "units" / f".{'0' * 32}.partial").write_text("half")
    again(run, seed=1, overwrite=True)
    assert len(list((run / "units").iterdir())) == 4
    assert list((run / "locks").iterdir()) == []
