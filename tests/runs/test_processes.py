"""Several processes on one run: the same result as one, bit for bit; the dead and the slow hold nobody back."""

import os
import signal
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Event, Thread

import pytest

import entropylab
from entropylab.runs.folder import RunFolder, read_run
from entropylab.runs.processes import END, PLACES, Locks, Place, by_environment, is_left_alone, own_device
from entropylab.runs.progress import Progress
from entropylab.runs.worker import Worker

from . import stub
from .processes import CONTEXT, launch, start
from .stub import check, files


@pytest.mark.parametrize(("world", "together"), [(3, True), (2, False)])
def test_processes_give_what_one_gives(world: int, together: bool, alone: Path, tmp_path: Path) -> None:
    if together:
        stub.measure(tmp_path / "run", seed=1, sizes=[32], scaling="original")
    assert launch(tmp_path / "run", world, overwrite=together) == [0] * world
    found, expected = entropylab.open(tmp_path / "run"), entropylab.open(alone)
    check(found, expected)
    with pytest.raises(AssertionError, match="differs"):
        check(found + 1e-7, expected)
    assert [path.name for path in files(tmp_path / "run")] == [path.name for path in files(alone)]
    assert list((tmp_path / "run" / "locks").iterdir()) == []


def in_hand(run: Path) -> bool:
    return any((run / "locks").glob(f"*{END}"))


def half_written(run: Path) -> bool:
    return any((run / "units").glob("*.partial"))


def test_processes_that_are_killed_lose_nothing_that_is_finished(alone: Path, tmp_path: Path) -> None:
    """While a unit is in hand, while it is written, and at a moment that nobody chose."""
    out, kept = tmp_path / "run", dict[Path, int]()
    for moment in (in_hand, half_written, None):
        process, count = start(out), len(kept)
        while not (moment(out) if moment else len(files(out)) > count + 1):
            assert process.is_alive()
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        there = {path: path.stat().st_mtime_ns for path in files(out)}
        assert kept.items() <= there.items()
        kept, run = there, read_run(out)
        assert {run.read(unit).attrs["unit"] for unit in run.units if run.is_finished(unit)} == run.finished()
        assert run.locks.holders() == {}
    assert 2 <= len(kept) < 16
    stub.measure(out)
    assert kept.items() <= {path: path.stat().st_mtime_ns for path in files(out)}.items()
    check(entropylab.open(out), entropylab.open(alone))


def test_processes_begin_with_a_share_each_and_then_fill_what_is_missing(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(alone)
    monkeypatch.setattr(RunFolder, "finished", lambda self: set())
    for rank in range(3):
        shared = Worker(None, Place(rank, 3)).pending(run, Progress(()))
        assert shared[: len(run.units[rank::3])] == run.units[rank::3]
        assert sorted(shared, key=run.units.index) == run.units


@pytest.fixture
def unlaunched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*(name for names in PLACES for name in names), "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("names", PLACES)
def test_places(names: tuple[str, ...], unlaunched: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert by_environment() == Place()
    for name, value in zip(names, "581", strict=True):
        unlaunched.setenv(name, value)
    place = by_environment()
    assert (place.rank, place.world, place.local_rank, place.is_main) == (5, 8, 1, False)
    unlaunched.setattr("torch.cuda.device_count", lambda: 4)
    assert [own_device(one) for one in (None, "cuda", "cpu", "cuda:0")] == ["cuda:1", "cuda:1", "cpu", "cuda:0"]
    if names != PLACES[0]:
        with pytest.raises(entropylab.EntropyLabError, match="overwrite needs processes that can wait"):
            stub.measure(tmp_path / "run", overwrite=True)
    unlaunched.setenv(names[0], "0")
    assert by_environment().is_main
    for alone in ("1", "", "many"):
        unlaunched.setenv(names[1], alone)
        assert by_environment() == Place()


def test_accelerate_that_starts_one_process_where_several_were_asked_for(
    unlaunched: pytest.MonkeyPatch, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    unlaunched.setenv("MASTER_PORT", "29500")
    assert not is_left_alone()
    unlaunched.setenv("ACCELERATE_USE_CPU", "True")
    stub.again(run, progress=True)
    assert "one process is at work: accelerate launch --cpu" in capfd.readouterr().err
    unlaunched.setenv("PMI_RANK", "0")
    unlaunched.setenv("PMI_SIZE", "2")
    assert not is_left_alone()


def test_processes_that_torchrun_starts_anew_do_not_overwrite_what_they_had_measured(
    monkeypatch: pytest.MonkeyPatch, run: Path
) -> None:
    for count, calls in (("1", 0), ("0", 4)):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        pipe = stub.Stub()
        stub.again(run, pipe, overwrite=True)
        assert pipe.calls == calls


def hold(folder: str, ready: object) -> None:
    """Take a unit and keep it until the process is killed."""
    lock = Locks(Path(folder)).take("unit")
    assert lock is not None
    ready.set()  # type: ignore[attr-defined]
    signal.pause()


@pytest.fixture
def held(tmp_path: Path) -> Iterator[BaseProcess]:
    """A process that has a unit in hand."""
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=hold, args=(str(tmp_path), ready))
    process.start()
    assert ready.wait(60)
    yield process
    process.kill()
    process.join()


def test_one_holder_at_a_time_who_gives_it_back_also_after_an_error(tmp_path: Path) -> None:
    one, other = Locks(tmp_path), Locks(tmp_path)
    with pytest.raises(KeyboardInterrupt), one.take("unit") or pytest.fail("not taken"):
        assert other.take("unit") is one.take("unit") is None
        with other.take("another") or pytest.fail("not taken"):
            assert set(one.holders()) == {"unit", "another"}
        assert str(os.getpid()) in other.holders()["unit"]
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends_when_the_holder_does_who_was_told(held: BaseProcess, tmp_path: Path) -> None:
    taken, locks = Event(), Locks(tmp_path)

    def wait() -> None:
        with locks.take("unit", wait=True) or pytest.fail("not taken"):
            taken.set()

    assert locks.take("unit") is None
    assert str(held.pid) in locks.holders()["unit"]
    waiting = Thread(target=wait)
    waiting.start()
    assert not taken.wait(0.2)
    held.kill()
    assert taken.wait(60)
    waiting.join()
    assert locks.holders() == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wait", [True, False])
def test_nobody_waits_for_himself(wait: bool, tmp_path: Path) -> None:
    locks, taken = Locks(tmp_path), []
    with locks.take("unit") or pytest.fail("not taken"):
        own = Thread(target=lambda: taken.append(locks.take("unit", wait)), daemon=True)
        own.start()
        own.join(60)
        assert [each is not None for each in taken] == [wait]
        assert locks.take("unit") is None


def test_a_file_that_was_removed_by_its_holder_is_not_taken_for_a_lock(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    with locks.take("unit") or pytest.fail("not taken"):
        (tmp_path / f"unit{END}").unlink()  # as a holder does just before it lets go
        with locks.take("unit") or pytest.fail("not taken"):
            assert locks.take("unit") is None
