"""Claims: one holder at a time, given back, taken over from the dead, the silent and the slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from entropylab.runs.claims import WIDTH, Claim, Claims, content, holder_of, is_dead, machine, started


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def others(folder: Path, clock: Clock | None = None, **changes: object) -> Claims:
    """Claims as another machine sees and makes them."""
    claims = Claims(folder, expires=60, clock=clock or Clock())
    claims.me |= {"host": "elsewhere", **changes}
    return claims


def dead_process() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    one, other = Claims(tmp_path), Claims(tmp_path)
    claim = one.take("unit")
    assert claim is not None
    assert other.take("unit") is None
    assert one.take("unit") is None
    assert other.take("another") is not None
    claim.release()
    assert other.take("unit") is not None


def test_a_claim_is_given_back_also_after_an_error(tmp_path: Path) -> None:
    claims = Claims(tmp_path)
    claim = claims.take("unit")
    assert claim is not None
    with pytest.raises(KeyboardInterrupt):
        with claim:
            assert claims.holders()["unit"]["pid"] == os.getpid()
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_dead_process_of_this_machine_loses_its_claim_at_once(tmp_path: Path) -> None:
    claims, pid = Claims(tmp_path), dead_process()
    dead = Claims(tmp_path)
    dead.me |= {"pid": pid, "started": "12345"}
    assert dead.take("unit") is not None
    assert is_dead(claims.holders()["unit"])
    assert claims.take("unit") is not None


def test_a_process_that_has_the_number_of_a_dead_one_is_not_taken_for_it() -> None:
    living = {**machine(), "pid": os.getpid(), "started": started(os.getpid())}
    assert not is_dead(living)
    assert is_dead({**living, "started": "1"}) or started(os.getpid()) == "unknown"
    assert not is_dead({**living, "started": "1", "host": "elsewhere"})
    assert not is_dead({})


def test_a_heartbeat_that_stops_frees_the_unit_by_our_own_clock(tmp_path: Path) -> None:
    clock = Clock()
    theirs = others(tmp_path).take("unit")
    assert theirs is not None
    ours = Claims(tmp_path, expires=60, clock=clock)
    assert ours.take("unit") is None
    clock.now = 59
    theirs.path.write_bytes(content(theirs.holder, 1))
    assert ours.take("unit") is None
    clock.now = 118
    assert ours.take("unit") is None
    clock.now = 119.5
    assert ours.take("unit") is not None


def test_a_slow_holder_keeps_its_unit_only_as_long_as_others_have_patience(tmp_path: Path) -> None:
    clock = Clock()
    theirs = others(tmp_path).take("unit")
    assert theirs is not None
    ours = Claims(tmp_path, expires=60, clock=clock)
    for beat in range(10):
        clock.now += 50
        theirs.path.write_bytes(content(theirs.holder, beat))
        assert ours.take("unit", patience=1000) is None
    assert ours.take("unit", patience=400) is not None
    theirs.release()
    assert ours.holders()["unit"]["host"] == machine()["host"]


def test_who_was_overtaken_neither_beats_nor_gives_back_what_is_no_longer_its_own(tmp_path: Path) -> None:
    theirs = others(tmp_path).take("unit")
    assert theirs is not None
    theirs.beat = 0.001
    with theirs:
        clock = Clock()
        ours = Claims(tmp_path, expires=60, clock=clock)
        ours.take("unit", patience=1)
        clock.now = 2
        mine = ours.take("unit", patience=1)
        assert mine is not None
        before = mine.path.read_bytes()
    assert mine.path.read_bytes() == before


def test_a_heartbeat_changes_the_file_in_place(tmp_path: Path) -> None:
    claim = Claims(tmp_path, beat=0.001).take("unit")
    assert claim is not None
    before = claim.path.read_bytes()
    with claim:
        while claim.path.read_bytes() == before:
            pass
        assert len(claim.path.read_bytes()) == WIDTH == len(before)
        assert holder_of(claim.path.read_bytes())["id"] == claim.holder["id"]


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff\xff", json.dumps({"pid": 1}).encode()])
def test_a_claim_that_cannot_be_read_is_believed_until_it_expires(raw: bytes, tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "unit.json").write_bytes(raw)
    ours = Claims(tmp_path, expires=60, clock=clock)
    assert ours.take("unit") is None
    clock.now = 61
    assert isinstance(ours.take("unit"), Claim)


def test_asking_after_a_process_never_ends_it_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(*arguments: object) -> None:
        raise AssertionError("os.kill(pid, 0) ends a process on Windows")

    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self, **options: "proc" not in self.parts and exists(self, **options))
    monkeypatch.setattr(os, "kill", end)
    here = started(os.getpid())
    assert here not in ("", "unknown")
    assert started(os.getpid()) == here
    assert started(dead_process()) == ""
    assert is_dead({**machine(), "pid": os.getpid(), "started": "1"})
