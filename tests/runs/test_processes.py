"""Several processes on one run: the same result as one, bit for bit; the dead and the slow hold nobody back."""

import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

import entropylab
from entropylab.runs.folder import RunFolder, read_run
from entropylab.runs.place import PLACES, Place, by_environment, is_left_alone, own_device
from entropylab.runs.progress import Progress
from entropylab.runs.worker import Worker

from . import faults, stub
from .processes import launch, start


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that one process made."""
    path = tmp_path_factory.mktemp("runs") / "alone"
    stub.measure(path)
    return path


@pytest.mark.parametrize(("world", "together"), [(2, True), (4, True), (2, False)])
def test_processes_give_what_one_gives(world: int, together: bool, alone: Path, tmp_path: Path) -> None:
    assert launch(tmp_path / "run", world, overwrite=together) == [0] * world
    found, expected = entropylab.open(tmp_path / "run"), entropylab.open(alone)
    faults.check(found, expected)
    with pytest.raises(AssertionError, match="differs"):
        faults.check(found + 1e-7, expected)
    for ours, theirs in zip(*(sorted((run / "units").iterdir()) for run in (tmp_path / "run", alone)), strict=True):
        assert ours.name == theirs.name
    assert list((tmp_path / "run" / "locks").iterdir()) == []


def test_processes_that_were_launched_together_overwrite_once_and_fail_together(tmp_path: Path) -> None:
    options = {"sizes": [32], "scaling": "original"}
    stub.measure(tmp_path / "run", seed=1, **options)
    assert launch(tmp_path / "run", 2, **options) == [1, 1]
    assert launch(tmp_path / "run", 2, overwrite=True, **options) == [0, 0]
    assert entropylab.open(tmp_path / "run").attrs["seed"] == 0


def test_processes_killed_at_random_moments(tmp_path: Path) -> None:
    tally = faults.torment(tmp_path, times=4, seed=0)
    assert tally["kills"] == 4
    assert tally["in_flight"] <= 1


def test_the_harness_notices_a_unit_that_is_lost(alone: Path) -> None:
    with pytest.raises(AssertionError, match="lost: {'another'}"):
        faults.check_units(alone, {"another"}, Counter())


def test_a_unit_of_a_process_that_was_killed_is_measured_by_the_next(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(out)
    while not (out / "locks").is_dir() or not any((out / "locks").iterdir()):
        assert process.is_alive()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    stub.measure(out)
    faults.check(entropylab.open(out), entropylab.open(alone))


def test_processes_begin_with_a_share_each_and_then_fill_what_is_missing(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(alone)
    monkeypatch.setattr(RunFolder, "finished", lambda self: set())
    for rank in range(3):
        shared = Worker(run, None, Progress(()), Place(rank, 3)).pending()
        assert shared[: len(run.units[rank::3])] == run.units[rank::3]
        assert sorted(shared, key=run.units.index) == run.units


def test_a_finished_unit_is_not_replaced_by_a_process_that_comes_late(alone: Path, tmp_path: Path) -> None:
    run = read_run(Path(shutil.copytree(alone, tmp_path / "run")))
    before = run.file(run.units[0]).read_bytes()
    ds = run.read(run.units[0])
    run.write(run.units[0], ds.assign_attrs(device="another"))
    assert run.file(run.units[0]).read_bytes() == before


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


def test_accelerate_that_starts_one_process_where_several_were_asked_for(unlaunched: pytest.MonkeyPatch) -> None:
    unlaunched.setenv("MASTER_PORT", "29500")
    assert not is_left_alone()
    unlaunched.setenv("ACCELERATE_USE_CPU", "True")
    assert is_left_alone()
    unlaunched.setenv("PMI_RANK", "0")
    unlaunched.setenv("PMI_SIZE", "2")
    assert not is_left_alone()


def test_processes_that_torchrun_starts_anew_do_not_overwrite_what_they_had_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe = stub.Stub()
    stub.measure(tmp_path / "run", pipe, sizes=[32], scaling="original")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    before = pipe.calls
    stub.measure(tmp_path / "run", pipe, sizes=[32], scaling="original", overwrite=True)
    assert pipe.calls == before
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    stub.measure(tmp_path / "run", pipe, sizes=[32], scaling="original", overwrite=True)
    assert pipe.calls == 2 * before
