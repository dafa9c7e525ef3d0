"""Locks: one holder at a time, given back, and freed by the system when a process dies."""

import os
import signal
from pathlib import Path
from threading import Event, Thread

import pytest

from entropylab.runs.locks import END, Locks

from .processes import CONTEXT


def hold(folder: str, ready: object) -> None:
    """Take a unit and keep it until the process is killed."""
    lock = Locks(Path(folder)).take("unit")
    assert lock is not None
    ready.set()  # type: ignore[attr-defined]
    signal.pause()


@pytest.fixture
def held(tmp_path: Path):
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


def test_who_has_it_is_told_and_a_dead_process_has_nothing(held, tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    assert locks.take("unit") is None
    assert str(held.pid) in locks.holders()["unit"]
    held.kill()
    held.join()
    assert locks.holders() == {}
    with locks.take("unit") or pytest.fail("not taken"):
        assert str(os.getpid()) in locks.holders()["unit"]
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


def test_waiting_ends_when_the_holder_does(held, tmp_path: Path) -> None:
    taken = Event()

    def wait() -> None:
        with Locks(tmp_path).take("unit", wait=True) or pytest.fail("not taken"):
            taken.set()

    waiting = Thread(target=wait)
    waiting.start()
    assert not taken.wait(0.2)
    held.kill()
    assert taken.wait(60)
    waiting.join()


def test_a_file_that_was_removed_by_its_holder_is_not_taken_for_a_lock(tmp_path: Path) -> None:
    locks = Locks(tmp_path)
    with locks.take("unit") or pytest.fail("not taken"):
        (tmp_path / f"unit{END}").unlink()  # as a holder does just before it lets go
        with locks.take("unit") or pytest.fail("not taken"):
            assert locks.take("unit") is None
