"""Runs on a Ray cluster: the same numbers as without, whoever is lost meanwhile; what can't be sent is refused."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import entropylab
from entropylab import EntropyLabError
from entropylab.runs.engine import STARTED_HERE

from ..command_line import run as command
from . import faults
from .short import files, judged
from .stub import PROMPTS, Stub, measure

LOCK = threading.Lock()
SHORT: dict[str, Any] = {"scaling": "original", "sizes": [32]}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two CPUs."""
    found = pytest.importorskip("ray")
    os.environ.update(STARTED_HERE)
    found.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield found
    found.shutdown()


@pytest.fixture
def heeds_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where a shell that began the tests in the background lets it be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


ONE = {"num_cpus": 2}
"""The cluster has room for one such worker."""

CUT_SHORT = "ignore:Exception ignored in. <function File.close:pytest.PytestUnraisableExceptionWarning"
"""A file of h5netcdf that Ctrl-C stops while it is being made has not all attributes yet that its end looks for."""


def drive(pipe: Any, size: Any, prompts: list[str], generators: Any, first: Any, do: Any) -> None:
    """Sample the stub; on the worker that makes the file ``first``, do something else before its third batch."""
    if pipe.calls == 2 and not os.path.exists(first):
        Path(first).touch()
        do()
    pipe(prompts, *size, generators)


@pytest.mark.ray
def test_the_command_gives_what_one_process_gives(ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropylab, "load", lambda *_, **__: Stub(), raising=False)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    words = ["measure", "--sizes", 32, "--steps", 2, "--batch-size", 2, "--prompts", tmp_path / "prompts.txt", "--out"]
    for out, more in (("alone", []), ("cluster", ["--engine", "ray", "--resources", "num_cpus=1"])):
        done = command(*words, tmp_path / out, *more)
        assert done.exit_code == 0, done.output
        assert "4 of 4 in all; 0:00:0" in done.stderr
    alone, found = (entropylab.open(tmp_path / out) for out in ("alone", "cluster"))
    faults.check(found, alone)
    with pytest.raises(AssertionError, match="differs"):
        faults.check(found + 1e-7, alone)
    different = {name for name in alone.attrs if str(alone.attrs[name]) != str(found.attrs[name])}
    assert different <= {"command"}


@pytest.mark.ray
def test_a_worker_that_is_killed_loses_nothing(ray: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    call = partial(drive, first=tmp_path / "killed", do=die)
    found = measure(tmp_path / "run", Stub, engine="ray", resources=ONE, call=call, progress=True)
    assert (tmp_path / "killed").exists()
    assert capfd.readouterr().err.count("a worker was lost; measuring again: 32x") == 1
    faults.check(found, measure(tmp_path / "alone", call=call))
    assert list((tmp_path / "run" / "locks").iterdir()) == []


@pytest.mark.filterwarnings(CUT_SHORT)
@pytest.mark.ray
def test_what_ends_a_run_leaves_what_is_finished(ray: Any, tmp_path: Path, heeds_interrupts: None) -> None:
    def interrupt(driver: int) -> None:
        while len(files(run)) < 2:  # while it writes, Ctrl-C may come where Python can only ignore it, as in a __del__
            time.sleep(0.05)
        time.sleep(0.2)
        os.kill(driver, signal.SIGINT)
        signal.pause()

    def fail() -> None:
        raise RuntimeError("out of patience")

    run = tmp_path / "run"
    for error, do in ((KeyboardInterrupt, partial(interrupt, os.getpid())), (RuntimeError, fail)):
        call = partial(drive, first=tmp_path / error.__name__, do=do)
        with pytest.raises(error) as caught:
            measure(run, Stub, engine="ray", resources=ONE, call=call)
        assert any(f"finished before is in {run}" in note for note in caught.value.__notes__)
        assert list((run / "locks").iterdir()) == []
    kept = {path: path.stat().st_mtime_ns for path in files(run)}
    assert 2 <= len(kept) < 16
    found = measure(run, call=call)  # this process alone goes on with what the cluster began
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    faults.check(found, measure(tmp_path / "alone", call=call))


@pytest.mark.ray
def test_workers_that_load_different_pipelines(ray: Any, tmp_path: Path) -> None:
    def load() -> Stub:
        pipe = Stub()
        if (tmp_path / "first").exists():
            pipe.unet.attn1.to_q.weight.data[0, 0] += 1
        (tmp_path / "first").touch()
        return pipe

    def wait(*arguments: Any) -> None:
        signal.pause()

    with pytest.raises(EntropyLabError, match="every worker must load the same pipeline. weights: "):
        measure(tmp_path / "run", load, engine="ray", call=wait)


@pytest.mark.parametrize(
    ("pipe", "options", "message"),
    [
        (Stub(), {}, "one that is loaded already can't be sent. Pass its hub id, a folder .* Got a Stub"),
        (lambda lock=LOCK: Stub(), {}, "can be sent to a worker.* cannot pickle '_thread.lock'"),
        (Stub, {"engine": "dask"}, "engine must be 'ray', or None for this process. Got 'dask'"),
        (Stub, {"resources": {"gpus": 1}}, "resources must be a dict of num_gpus and num_cpus. Got {'gpus': 1}"),
        (Stub, {"resources": {"num_gpus": 0}}, r"resources\['num_gpus'\] must be a positive number \[GPU\]. Got 0"),
        (Stub, {"out": None}, "engine are for a long run: pass out=, a folder"),
        (Stub(), {"engine": None, "address": "auto"}, "address and resources are for an engine"),
    ],
)
def test_refusals(pipe: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(EntropyLabError, match=message):
        measure(**{"out": tmp_path / "run", "pipe": pipe, "engine": "ray", **SHORT, **options})


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(EntropyLabError, match=r"needs Ray, which is not here: pip install 'entropylab\[ray\]'"):
        measure(tmp_path / "run", Stub, engine="ray")


def paint(pipe: Any, size: Any, prompts: list[str], generators: Any, fatal: Path) -> Any:
    """Noise, as bright as a weight of the pipeline says; the process that removes the file ``fatal`` is killed."""
    if fatal.exists() and generators[0].initial_seed() == 6:
        fatal.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    brightness = pipe.unet.attn1.to_q.weight[0, 0].sigmoid().item()
    return torch.stack([(torch.rand(3, *size, generator=one) + brightness).clamp(0, 1) for one in generators])


def judge(folder: Path, pipe: Any, **options: Any) -> Any:
    """An evaluation of 12 pictures by each of two rules, three to a unit."""
    given = {"call": partial(paint, fatal=folder / "fatal"), "pictures": folder / "pictures", "batch_size": 3}
    given |= {"prompts": PROMPTS, "sizes": [32], "scaling": ("original", 1.5), "resamples": 5}
    return judged(pipe, **given | {"metrics": ("fid", "diversity", "time")} | options)


@pytest.mark.ray
def test_pictures_are_those_of_one_process_whoever_is_lost(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entropylab.quality.evaluation.TOGETHER", 3)
    alone, cluster = tmp_path / "alone", tmp_path / "cluster"
    for folder in (alone, cluster):
        folder.mkdir()
    (cluster / "fatal").touch()
    expected, found = judge(alone, Stub()), judge(cluster, Stub, engine="ray", resources=ONE)
    assert not (cluster / "fatal").exists()
    for name in ("fid", "fid_interval", "pairwise_distance", "coverage"):
        assert found[name].equals(expected[name])
    assert not found.fid.equals(judge(alone, Stub(), pictures=None, seed=1).fid)
    different = {name for name in expected.attrs if str(expected.attrs[name]) != str(found.attrs[name])}
    assert different <= {"cost"}
    ours, theirs = (sorted(path.relative_to(folder) for path in folder.rglob("*.*")) for folder in (cluster, alone))
    assert ours == theirs
    pictures = [path for path in ours if path.suffix == ".png"]
    assert len(pictures) == 24
    assert all((cluster / path).read_bytes() == (alone / path).read_bytes() for path in pictures)
    assert judge(cluster, Stub()).time.equals(found.time)  # one process reads what the cluster made


@pytest.mark.parametrize(
    ("pipe", "options", "message"),
    [
        (Stub(), {}, "one that is loaded already can't be sent"),
        (Stub, {"pictures": None}, "engine is for pictures that are kept: pass pictures=, a folder"),
        (Stub, {"metrics": ("beauty",)}, "metrics must be some of"),
        (Stub(), {"engine": None, "resources": ONE}, "address and resources are for an engine"),
    ],
)
def test_refusals_of_an_evaluation(pipe: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(EntropyLabError, match=message):
        judge(tmp_path, pipe, **{"engine": "ray", **options})
    assert list(tmp_path.iterdir()) == []
