"""Runs on a Ray cluster: the same numbers as without, whoever is lost meanwhile; what can't be sent is refused."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import entropylab
from entropylab import EntropyLabError
from entropylab.runs.engine import STARTED_HERE

from ..command_line import run as command
from .stub import PROMPTS, Stub, again, check, files, judged, measure

LOCK = threading.Lock()


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two CPUs."""
    found = pytest.importorskip("ray")
    os.environ.update(STARTED_HERE)
    found.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield found
    found.shutdown()


@pytest.mark.ray
def test_the_command_gives_what_one_process_gives_whoever_is_lost(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any, **options: Any) -> Stub:
        pipe = Stub()
        pipe.on_call = die if fatal.exists() else lambda pipe: None
        return pipe

    def die(pipe: Stub) -> None:
        if pipe.calls == 3:
            fatal.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

    fatal = tmp_path / "fatal"
    monkeypatch.setattr(entropylab, "load", load, raising=False)
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    words = ["measure", "--sizes", 32, "--steps", 2, "--batch-size", 2, "--prompts", tmp_path / "prompts.txt", "--out"]
    for out, more in (("alone", []), ("cluster", ["--engine", "ray", "--resources", "num_cpus=2"])):
        done = command(*words, tmp_path / out, *more)
        assert done.exit_code == 0, done.output
        assert "4 of 4 in all; 0:00:0" in done.stderr
        assert done.stderr.count("a worker was lost; measuring again: 32x") == len(more) // 4
        fatal.touch()
    alone, found = (entropylab.open(tmp_path / out) for out in ("alone", "cluster"))
    check(found, alone)
    with pytest.raises(AssertionError, match="differs"):
        check(found + 1e-7, alone)
    different = {name for name in alone.attrs if str(alone.attrs[name]) != str(found.attrs[name])}
    assert different <= {"command"}
    assert list((tmp_path / "cluster" / "locks").iterdir()) == []


class RayError(Exception):
    """A worker was lost."""


class RayTaskError(RayError):
    """A worker failed."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class InThisProcess:
    """Ray as the driver uses it, with workers that are objects here, and answer when they are waited for.

    What they are sent, and answer, goes through ``copied``.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    cloudpickle = SimpleNamespace(dumps=lambda sent: b"")

    def __init__(self, cpus: int, copied: Any = lambda part: part) -> None:
        self.cluster_resources, self.is_initialized, self.put = lambda: {"CPU": cpus}, lambda: True, copied
        self.cpus, self.copied, self.actors = cpus, copied, list[Any]()

    def remote(self, actor: Any) -> Any:
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda: self.started(actor())))

    def started(self, actor: Any) -> Any:
        self.actors.append(actor)
        calls = {name: partial(partial, getattr(actor, name)) for name in ("prepare", "measure")}
        return SimpleNamespace(actor=actor, **{name: SimpleNamespace(remote=call) for name, call in calls.items()})

    def wait(self, answers: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return [answer for answer in answers if answer.func.__self__ in self.actors[: self.cpus]][:1], []

    def get(self, answer: Any) -> Any:
        try:
            return self.copied(answer())
        except RayError:
            raise
        except Exception as error:
            raise RayTaskError(error) from error

    def kill(self, worker: Any) -> None:
        self.actors.remove(worker.actor)
        worker.actor.open.close()


ENDS = [
    (RuntimeError("out of patience"), 1, "out of patience"),
    (KeyboardInterrupt("stop"), 1, "stop"),
    (None, 2, "every worker must load the same pipeline. weights: "),
]


@pytest.mark.parametrize(("error", "cpus", "message"), ENDS)
def test_what_ends_a_run_leaves_what_is_finished(
    error: BaseException | None, cpus: int, message: str, tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Stub] = []
    lost: list[Stub] = []

    def load() -> Stub:
        pipe = Stub()
        if loaded and error is None:
            pipe.unet.attn1.to_q.weight.data[0, 0] += 1
        pipe.on_call = fail
        loaded.append(pipe)
        return pipe

    def fail(pipe: Stub) -> None:
        if pipe.calls == 2 and not lost:
            lost.append(pipe)
            raise RayError("killed")
        if pipe.calls == 3 and error is not None:
            raise error

    run = tmp_path / "run"
    monkeypatch.setitem(sys.modules, "ray", InThisProcess(cpus))
    with pytest.raises(BaseException, match=message) as caught:
        again(run, load, engine="ray")
    assert any(f"finished before is in {run}" in note for note in caught.value.__notes__)
    if isinstance(error, RuntimeError):
        assert any("a worker was measuring 32x32 original, samples 6 to 7" in note for note in caught.value.__notes__)
    assert list((run / "locks").iterdir()) == []
    kept = {path: path.stat().st_mtime_ns for path in files(run)}
    assert len(kept) == (0 if error is None else 3)
    check(again(run), entropylab.open(done))  # this process alone goes on with what the cluster began
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize(
    ("pipe", "options", "message"),
    [
        (Stub(), {}, "one that is loaded already can't be sent. Pass its hub id, a folder .* Got a Stub"),
        (lambda lock=LOCK: Stub(), {}, "can be sent to a worker.* cannot pickle '_thread.lock'"),
        (Stub, {"engine": "dask"}, "engine must be 'ray', or None for this process. Got 'dask'"),
        (Stub, {"resources": {"gpus": 1}}, "resources must be a dict of num_gpus and num_cpus. Got {'gpus': 1}"),
        (Stub, {"resources": {"num_gpus": 0}}, r"resources\['num_gpus'\] must be a positive number \[GPU\]. Got 0"),
        (Stub, {"out": None}, "engine are for a long run: pass out=, a folder"),
        (Stub, {"address": "127.0.0.1:1"}, "address must be .* Nothing answers at 127.0.0.1:1: .*refused"),
        (Stub, {"address": "ray://[::1]:99999"}, "Nothing answers at ray"),
        (Stub(), {"engine": None, "address": "auto"}, "address and resources are for an engine"),
    ],
)
def test_refusals(pipe: Any, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(EntropyLabError, match=message):
        measure(**{"out": tmp_path / "run", "pipe": pipe, "engine": "ray", **options})
    assert not (tmp_path / "run").exists()


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EntropyLabError, match=r"needs Ray, which is not here: pip install 'entropylab\[ray\]'"):
        measure(tmp_path / "run", Stub, engine="ray")


def paint(pipe: Any, size: Any, prompts: list[str], generators: Any) -> Any:
    """Noise, as bright as a weight of the pipeline says."""
    brightness = pipe.unet.attn1.to_q.weight[0, 0].sigmoid().item()
    return torch.stack([(torch.rand(3, *size, generator=one) + brightness).clamp(0, 1) for one in generators])


def judge(pipe: Any, **options: Any) -> Any:
    """An evaluation of 12 pictures by each of two rules, three to a unit."""
    given = {"call": paint, "batch_size": 3, "prompts": PROMPTS, "sizes": [32]}
    given |= {"scaling": ("original", 1.5), "resamples": 5, "metrics": ("fid", "diversity", "time")}
    return judged(pipe, **given | options)


def test_pictures_are_those_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    monkeypatch.setattr("entropylab.quality.evaluation.TOGETHER", 3)
    monkeypatch.setitem(sys.modules, "ray", InThisProcess(1, lambda part: cloudpickle.loads(cloudpickle.dumps(part))))
    alone, cluster = tmp_path / "alone", tmp_path / "cluster"
    expected, found = judge(Stub(), pictures=alone), judge(Stub, pictures=cluster, engine="ray")
    for name in ("fid", "fid_interval", "pairwise_distance", "coverage"):
        assert found[name].equals(expected[name])
    assert not found.fid.equals(judge(Stub(), seed=1).fid)
    different = {name for name in expected.attrs if str(expected.attrs[name]) != str(found.attrs[name])}
    assert different <= {"cost"}
    ours, theirs = (sorted(path.relative_to(folder) for path in folder.rglob("*.*")) for folder in (cluster, alone))
    assert ours == theirs
    pictures = [path for path in ours if path.suffix == ".png"]
    assert len(pictures) == 24
    assert all((cluster / path).read_bytes() == (alone / path).read_bytes() for path in pictures)
    assert judge(Stub(), pictures=cluster).time.equals(found.time)  # one process reads what the cluster made
