"""``measure`` as a run: take a unit that nobody has in hand, measure it, write it, until there is none left."""

import json
import os
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
import xarray as xr

from ..errors import EntropyLabError
from ..measuring.cells import Cells
from ..measuring.provenance import provenance
from ..measuring.recorder import Recorder
from ..measuring.recording import report_bad, report_unmeasured, watching
from ..prompts import Prompts, count_cut
from ..scaling import NamedRule
from ..sizes import Size
from .beginning import begin, check_folder
from .configuration import configuration_of
from .folder import MOST_UNITS, RECORD, RunFolder, too_many
from .locks import Lock
from .merging import dataset_of, merge_run
from .place import Place, is_left_alone, is_restarted, placed
from .progress import Progress
from .state import to_dataset
from .units import Unit, default_samples

KEPT_APART = ("branch", "step", "layer", "head")
"""What a run keeps apart unless it is told: everything but samples, of which there may be many."""

ALONE = (
    "one process is at work: accelerate launch --cpu starts several only through mpirun (--mpirun_hostfile). Use "
    "torchrun --nproc_per_node N, or accelerate launch --multi_gpu --num_processes N, which needs no GPU."
)


@dataclass
class Worker:
    """One process at work on a run.

    Attributes:
        sample: ``sample(unit, progress)`` samples a unit while ``recorder`` measures.
        prompts: the prompt of every sample.
        place: which of several processes it is: one that speaks, and a share to begin with.
        strict: whether an attention layer that could not be measured is an error.
        queue: the units that it has not come to yet; None before it has looked.
        found: names of finished units that were found since it told of any.
    """

    run: RunFolder
    recorder: Recorder
    sample: Callable[[Unit, Progress], None]
    progress: Progress
    prompts: list[str]
    place: Place = field(default_factory=Place)
    strict: bool = False
    told: set[str] = field(default_factory=set)
    queue: deque[Unit] | None = None
    found: set[str] = field(default_factory=set)
    units: list[Unit] = field(init=False)
    source: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.units, known = self.run.units, provenance(self.recorder.pipe)
        self.source = {"device": device_name(known["device"]), "versions": known["versions"]}

    def work(self) -> None:
        """Measure until every unit is finished, by this process or another."""
        while (taken := self.next_unit()) is not None:
            unit, lock = taken
            with lock:
                if self.run.is_finished(unit):
                    continue
                self.run.check_still_there()
                try:
                    self.measure(unit)
                except BaseException as error:
                    self.tell_what_is_left(unit, error)
                    raise

    def tell_what_is_left(self, unit: Unit, error: BaseException) -> None:
        """Hang on an error where what was finished before it is, unless that was removed."""
        path = self.run.path
        if os.path.exists(path / RECORD):
            error.run = path  # type: ignore[attr-defined]
            error.add_note(
                f"While measuring {unit.label}. What was finished before is in {path}: the same command goes on from "
                f"there, and entropylab.open({str(path)!r}) reads it."
            )

    def next_unit(self) -> tuple[Unit, Lock] | None:
        """A unit to measure, locked; None when all are finished. Waits while others have the rest in hand.

        It goes through the units once, its own share of them first, and lists the folder again only for those that
        others had in hand: so a unit costs as much in a long run as in a short one.
        """
        locks = self.run.locks
        self.queue = deque(self.shared_out(self.pending())) if self.queue is None else self.queue
        while self.queue:
            unit = self.queue.popleft()
            if self.run.is_finished(unit):
                self.found.add(unit.name)
            elif (lock := locks.take(unit.name)) is not None:
                return unit, lock
        while pending := self.pending():
            for unit in pending:
                if (lock := locks.take(unit.name)) is not None:
                    return unit, lock
            self.tell_waiting(pending)
            if (lock := locks.take(pending[0].name, wait=True)) is not None:
                return pending[0], lock
        return None

    def shared_out(self, units: list[Unit]) -> list[Unit]:
        """The units in the order in which this process takes them: its own share, then the others' shares."""
        rank, world = self.place.rank, self.place.world
        return [unit for turn in range(world) for unit in units[(rank + turn) % world :: world]]

    def tell_waiting(self, pending: list[Unit]) -> None:
        """Say, once for each, whom this process waits for."""
        holders = self.run.locks.holders()
        found = [f"{unit.label}: in hand of {holders[unit.name]}" for unit in pending if unit.name in holders]
        for line in found:
            if line not in self.told:
                self.progress.say(f"waiting for {line}")
        self.told.update(found)

    def pending(self) -> list[Unit]:
        """The units that are not finished."""
        finished = self.run.finished()
        self.found |= finished
        return [unit for unit in self.units if unit.name not in finished]

    def measure(self, unit: Unit) -> None:
        """Measure one unit and write it."""
        self.progress.begin(unit, self.found)
        self.found = set()
        self.recorder.cells = Cells(self.recorder.reduction.names, self.recorder.keep)
        self.sample(unit, self.progress)
        check_scaling(unit, self.recorder.cells)
        if self.strict:
            report_unmeasured(self.recorder, strict=True)
        if not self.recorder.cells.timesteps:
            _ = self.recorder.dataset  # an EntropyLabError that says why it is empty
        prompts, seeds = self.prompts[unit.start : unit.stop], self.seeds(unit)
        ds = to_dataset(self.recorder.cells, prompts, seeds, self.unmeasured(), self.run.record)
        seconds = self.progress.clock() - self.progress.began
        ds.attrs |= {**self.source, "seconds": seconds}
        self.recorder.cells = Cells(self.recorder.reduction.names, self.recorder.keep)
        self.run.check_still_there()
        self.run.write(unit, ds)
        self.progress.end(unit, {unit.name}, max(1, len(self.run.locks.holders())))

    def seeds(self, unit: Unit) -> list[int]:
        """The unit's seeds."""
        return [self.run.configuration["seed"] + place for place in range(unit.start, unit.stop)]

    def unmeasured(self) -> list[str]:
        """Layers that could not be measured, with the reasons."""
        return [f"{path}: {reason}" for path, reason in self.recorder.unmeasured.items()]


def check_scaling(unit: Unit, cells: Cells) -> None:
    """Raise an EntropyLabError if a unit was sampled under another rule than its own."""
    others = [scaling for _, scaling in cells.timesteps if scaling != unit.scaling]
    if others:
        raise EntropyLabError(
            f"scaling must say under which rule a unit is sampled. {unit.label} was sampled under {others[0]!r}: let "
            "`measure` rescale, or put the whole run inside `rescale`."
        )


def device_name(device: str) -> str:
    """What a device is: the name of a GPU, else its type."""
    place = torch.device(device or "cpu")
    return torch.cuda.get_device_name(place) if place.type == "cuda" else place.type


def measure_run(
    plan: Any,
    pipe: Any,
    recorder: Recorder,
    sizes: list[Size],
    rules: list[NamedRule],
    *,
    train_size: Any,
    out: Any,
    overwrite: bool,
    unit_samples: int | None,
    progress: bool,
    strict: bool,
    attributes: dict[str, Any],
) -> xr.Dataset:
    """What ``measure(..., out=...)`` does once its arguments are checked; the Dataset of the finished run."""
    count = len(plan.prompts)
    each = unit_samples or default_samples(count, plan.batch_size)
    if too_many(len(sizes) * len(rules), count, each):
        raise EntropyLabError(f"unit_samples must be so many that there are at most {MOST_UNITS} units. Got {each}.")
    if each % plan.batch_size and each < count:
        raise EntropyLabError(f"unit_samples must be a multiple of batch_size = {plan.batch_size}. Got {each}.")
    source = provenance(pipe)
    with ExitStack() as stack:
        overwrite = overwrite and not is_restarted()
        place = stack.enter_context(placed(source["device"].startswith("cpu"), wait=overwrite))
        run = started(
            place,
            lambda: configuration_of(pipe, plan, recorder, sizes, rules, train_size, each),
            {**source, **attributes},
            plan.prompts,
            out,
            overwrite,
            unit_samples,
        )

        def sample(unit: Unit, shown: Progress) -> None:
            plan.sample(pipe, recorder, unit.size, rules[unit.rule], train_size, shown, unit.start, unit.stop)

        shown = Progress(run.units, progress and place.is_main)
        stack.callback(shown.close)
        if is_left_alone():
            shown.say(ALONE)
        with watching(recorder, strict):
            worker = Worker(run, recorder, sample, shown, plan.prompts, place, strict)
            return finished(worker)


def started(
    place: Place,
    configuration: Callable[[], dict[str, Any]],
    attributes: dict[str, Any],
    prompts: list[str],
    out: Any,
    overwrite: bool,
    unit_samples: int | None,
) -> RunFolder:
    """The run's folder: the main process makes it, or clears it, before the others look."""
    if overwrite and place.world > 1 and place.state is None:
        raise EntropyLabError(
            "overwrite needs processes that can wait for each other: start them with accelerate launch or torchrun, "
            "or remove the folder first."
        )
    with place.main_first():
        fresh = overwrite and place.is_main
        path = check_folder(out, fresh)
        return begin(path, configuration(), attributes, prompts, overwrite=fresh, unit_samples=unit_samples)


def finished(worker: Worker) -> xr.Dataset:
    """Work until everything is finished and can be read; what is damaged is measured again."""
    while True:
        worker.work()
        merged = merge_run(worker.run)
        if not merged.missing:
            if worker.place.is_main:
                report_bad(merged.cells, stacklevel=4)
            return dataset_of(merged, worker.run)
        for unit, problem in merged.damaged.items():
            worker.progress.say(f"measuring again: {problem}")
            worker.run.set_aside(unit)
            worker.progress.lose(unit)


def source_of(pipe: Any, prompts: Prompts) -> dict[str, Any]:
    """Attributes that say where prompts come from, and what was wrong with them."""
    cut_off = count_cut(pipe, prompts)
    return {
        **({"prompts_source": prompts.source} if prompts.source else {}),
        **({"prompts_skipped": json.dumps(prompts.skipped)} if prompts.skipped else {}),
        **({"prompts_cut": cut_off} if cut_off else {}),
    }
