"""Long runs on a Ray cluster: workers load the pipeline once; one process hands out units and writes what comes back.

That process, the driver, alone uses the run's folder: it locks a unit, as any process that measures there does, hands
it to a worker, and writes the Dataset that it gets. So nodes need no shared folder, and the unit that a lost worker had
in hand is handed to another.
"""

import inspect
import logging
import os
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import xarray as xr

from ..bars import quiet
from ..errors import EntropyLabError, EntropyLabWarning, check_positive, one_line
from ..models import load
from .configuration import differences
from .processes import Place
from .progress import Progress
from .units import Unit
from .worker import leaving_what_is_finished

LOOK = 2.0
"""How often the driver looks for nodes that joined, and for units that other processes gave back [s]."""

RESOURCES = {"num_gpus": "GPU", "num_cpus": "CPU"}
"""What a worker may take of a cluster, and what a cluster calls it."""

STARTED_HERE = {"RAY_raylet_start_wait_time_s": "300", "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""A cluster started here has patience on a busy machine, computes with usual priority, and reports to nobody."""


class Measurer:
    """A worker: an actor of Ray that loads the pipeline once and keeps it."""

    def prepare(self, loader: Callable[[], Any], request: Any, unit_samples: int | None) -> tuple[Any, ...]:
        """Load the pipeline; what its job knows, of which the first is to be the same on every worker."""
        self.open, pipe = ExitStack(), loader()
        self.open.enter_context(quiet(pipe))
        self.job = request.job(pipe, long=True)
        self.open.enter_context(self.job.watched())
        return self.job.known(unit_samples)

    def measure(self, unit: Unit) -> tuple[xr.Dataset, list[str]]:
        """A unit, measured, and what to warn of."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ds = self.job.measure(unit, Progress((), shown=False))
            self.job.report()
        return ds, [str(each.message) for each in caught if issubclass(each.category, EntropyLabWarning)]


@dataclass(frozen=True)
class Task:
    """What a worker is asked to do: to measure a unit, whose lock the driver has, or first of all to get ready."""

    worker: Any
    unit: Unit | None = None
    lock: ExitStack | nullcontext = field(default_factory=nullcontext)


@dataclass
class Pool:
    """The workers of a run, as the driver sees them."""

    ray: Any
    new_worker: Any
    sent: list[Any]  # the arguments of Measurer.prepare, in the memory of the cluster
    resources: Mapping[str, float]  # what a worker takes
    shown: Progress
    queue: deque[Unit] = field(default_factory=deque)
    idle: list[Any] = field(default_factory=list)
    tasks: dict[Any, Task] = field(default_factory=dict)  # by what will answer
    known: tuple[Any, ...] = ()  # what the first worker answered that was ready
    room: int = 0  # for so many workers, when it was looked at [s]
    looked: float = float("-inf")
    place: Place = field(default_factory=Place)  # the driver is alone, whatever launched it

    @property
    def in_hand(self) -> int:
        """How many units are being measured."""
        return sum(task.unit is not None for task in self.tasks.values())

    def work(self, run: Any, shown: Progress) -> None:
        """Measure until every unit of a run is finished: of a RunFolder, or an evaluation's PictureRun."""
        self.shown, warned = shown, set[str]()
        done = run.finished()
        shown.follow(done)
        self.queue = deque(unit for unit in run.units if unit.name not in done)
        with leaving_what_is_finished(run):
            while self.queue or self.in_hand:
                self.grow(len(self.queue) + self.in_hand)
                self.hand_out(run)
                for task, (ds, messages) in self.answers():
                    with task.lock:
                        self.hand_out(run)  # nobody waits until this unit is written
                        run.check_still_there()
                        shown.begin(task.unit)
                        run.write(task.unit, ds)
                    shown.end(task.unit, ds.attrs["seconds"], max(1, self.in_hand))
                    for message in set(messages) - warned:
                        warned.add(message)
                        warnings.warn(message, EntropyLabWarning, stacklevel=4)

    def grow(self, units: int) -> None:
        """Start workers, as many as there is room for and one that waits for a node to join; no more than units."""
        if time.monotonic() - self.looked > LOOK:
            there, self.looked = self.ray.cluster_resources(), time.monotonic()
            self.room = int(min(there.get(RESOURCES[name], 0) // each for name, each in self.resources.items()))
            if not self.room and not self.tasks:
                self.shown.say(f"the cluster has not {self.resources} yet, waiting for a node that has")
        for _ in range(min(self.room + 1, units) - len(self.idle) - len(self.tasks)):
            worker = self.new_worker.remote()
            self.tasks[worker.prepare.remote(*self.sent)] = Task(worker)

    def hand_out(self, run: Any) -> None:
        """Hand units that no other process has finished, or has in hand, to workers that have nothing to do."""
        for _ in range(len(self.queue)):
            if not self.idle:
                return
            unit = self.queue.popleft()
            if run.is_finished(unit):
                self.shown.follow({unit.name})
            elif (lock := run.locks.take(unit.name)) is None:
                self.queue.append(unit)
            else:
                worker = self.idle.pop()
                self.tasks[worker.measure.remote(unit)] = Task(worker, unit, lock)

    def answers(self) -> Iterator[tuple[Any, Any]]:
        """What workers have measured; nothing if none has for a while, or if one only got ready or was lost."""
        if not self.tasks:
            time.sleep(LOOK)
            return
        for answer in self.ray.wait([*self.tasks], timeout=LOOK)[0]:
            task = self.tasks[answer]
            try:
                found = self.ray.get(answer)
            except self.ray.exceptions.RayError as error:
                del self.tasks[answer]
                self.lose(task, error)
                continue
            del self.tasks[answer]
            self.idle.append(task.worker)
            if task.unit is not None:
                yield task, found
                continue
            self.known = self.known or found
            if changed := differences(self.known[0], found[0]):
                raise EntropyLabError(f"every worker must load the same pipeline. {'; '.join(changed)}.")

    def lose(self, task: Task, error: Any) -> None:
        """Give the unit of a worker that was lost to another; an error of the pipeline or of ours is raised."""
        self.end(task)
        label = "" if task.unit is None else task.unit.label
        if isinstance(error, self.ray.exceptions.RayTaskError):
            if label:
                error.cause.add_note(f"While a worker was measuring {label}.")
            raise error.cause from error
        if getattr(error, "actor_init_failed", False):
            raise EntropyLabError(f"a worker of the cluster can't be started: {one_line(error)}") from error
        if task.unit is not None:
            self.queue.appendleft(task.unit)
        self.shown.say(f"a worker was lost{label and f'; measuring again: {label}'} ({one_line(error, 300)})")

    def end(self, task: Task) -> None:
        """End a worker, and give back what it had in hand."""
        with task.lock, suppress(Exception):  # it may have ended, or the cluster
            self.ray.kill(task.worker)

    def close(self) -> None:
        """End all workers."""
        for task in (*self.tasks.values(), *map(Task, self.idle)):
            self.end(task)


def check_engine(engine: Any, address: Any, resources: Any) -> bool:
    """Whether the arguments engine, address and resources ask for a cluster."""
    if engine is None and (address is not None or resources is not None):
        raise EntropyLabError("address and resources are for an engine: pass engine='ray'.")
    if engine not in (None, "ray"):
        raise EntropyLabError(f"engine must be 'ray', or None for this process. Got {engine!r}.")
    if resources is not None:
        if not isinstance(resources, Mapping) or not resources or not resources.keys() <= RESOURCES.keys():
            raise EntropyLabError(f"resources must be a dict of {' and '.join(RESOURCES)}. Got {resources!r}.")
        for name, value in resources.items():
            check_positive(f"resources[{name!r}]", value, RESOURCES[name])
    return engine is not None


@contextmanager
def pool_on(
    address: str | None,
    resources: Mapping[str, float] | None,
    pipe: Any,
    request: Any,
    unit_samples: int | None,
    progress: bool,
) -> Iterator[Pool]:
    """Workers on a cluster, the first of which is ready; they end with the context.

    Each does what ``request.job(pipe, long=True)`` says, of the pipeline that ``pipe`` loads.
    """
    sent = (loader_of(pipe), request, unit_samples)
    with connected(address, sent) as ray:
        each = resources or ({"num_gpus": 1} if ray.cluster_resources().get("GPU") else {"num_cpus": 1})
        new_worker = ray.remote(Measurer).options(**{"num_cpus": 0, **each})
        pool = Pool(ray, new_worker, [ray.put(part) for part in sent], each, Progress((), progress))
        with closing(pool):
            while not pool.known:
                pool.grow(1)
                list(pool.answers())
            yield pool


def loader_of(pipe: Any) -> Callable[[], Any]:
    """What loads the pipeline on a worker."""
    if pipe is None or isinstance(pipe, str | Path):
        return partial(load, os.path.abspath(pipe) if pipe is not None and os.path.isdir(pipe) else pipe)
    if inspect.isroutine(pipe) or isinstance(pipe, partial | type):
        return pipe
    raise EntropyLabError(
        "engine: every worker loads the pipeline itself, and one that is loaded already can't be sent. Pass its hub "
        f"id, a folder that all nodes see, or a function without arguments that loads it. Got a {type(pipe).__name__}."
    )


def check_address(address: str) -> None:
    """Raise an EntropyLabError if nothing answers at HOST:PORT, where Ray would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, OverflowError) as error:
            said = f"address must be that of a Ray cluster. Nothing answers at {address}: {one_line(error)}."
            raise EntropyLabError(said) from error


@contextmanager
def connected(address: str | None, sent: Any) -> Iterator[Any]:
    """The module ``ray``, connected to a cluster to which ``sent`` can be sent; left as it was found."""
    try:
        import ray
    except ImportError:
        raise EntropyLabError("engine 'ray' needs Ray, which is not here: pip install 'entropylab[ray]'.") from None
    try:
        ray.cloudpickle.dumps(sent)
    except Exception as error:
        raise EntropyLabError(
            "engine: what loads the pipeline, `call` and rules must be such that they can be sent to a worker, as "
            f"functions of a module can. {one_line(error, 200)}"
        ) from error
    check_address(address or os.environ.get("RAY_ADDRESS", ""))
    if ray.is_initialized():
        yield ray
        return
    for name, value in STARTED_HERE.items():
        os.environ.setdefault(name, value)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        where = f"address must be that of a Ray cluster. Got {address!r}" if address else "no cluster could be started"
        raise EntropyLabError(f"engine 'ray': {where}: {one_line(error, 300)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()
