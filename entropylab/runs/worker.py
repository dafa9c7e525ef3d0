"""``measure`` as a run: take a unit that nobody has in hand, measure it, write it, until there is none left."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import xarray as xr

from ..errors import EntropyLabError
from ..measuring.cells import Cells
from ..measuring.plan import Plan
from ..measuring.provenance import provenance
from ..measuring.recorder import Recorder
from ..measuring.recording import report_bad, report_unmeasured, report_untold, watching
from ..prompts import Prompts, count_cut
from ..scaling import NamedRule
from ..sizes import Size
from .configuration import configuration_of
from .folder import RECORD, begin, check_folder
from .merging import merged, to_dataset
from .processes import Place, by_environment, is_left_alone, is_restarted, main_first
from .progress import Progress
from .units import Unit, default_samples

KEPT_APART = ("branch", "step", "layer", "head")
"""What a run keeps apart unless it is told: everything but samples, of which there may be many."""

ALONE = (
    "one process is at work: accelerate launch --cpu starts several only through mpirun (--mpirun_hostfile). Use "
    "torchrun --nproc_per_node N, or accelerate launch --multi_gpu --num_processes N, which needs no GPU."
)


@dataclass
class Job:
    """What ``measure`` was asked for, checked, and the pipeline that does it; ``attributes`` say where all is from."""

    pipe: Any
    plan: Plan
    recorder: Recorder
    sizes: list[Size]
    rules: list[NamedRule]
    train_size: Any
    strict: bool
    attributes: dict[str, Any]

    @cached_property
    def source(self) -> dict[str, str]:
        """What the pipeline is, and where."""
        return provenance(self.pipe)

    def known(self, unit_samples: int | None) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
        """Everything that decides the numbers, where they come from, and the prompt of every sample."""
        prompts, batch = self.plan.prompts, self.plan.batch_size
        each = unit_samples or default_samples(len(prompts), batch)
        if each % batch and each < len(prompts):
            raise EntropyLabError(f"unit_samples must be a multiple of batch_size = {batch}. Got {each}.")
        found = configuration_of(self.pipe, self.plan, self.recorder, self.sizes, self.rules, self.train_size, each)
        return found, {**self.source, **self.attributes}, prompts

    def watched(self) -> AbstractContextManager[None]:
        """The context in which units are measured one by one; its end, or `report` after each, says what is wrong."""
        return watching(self.recorder, self.strict)

    def report(self) -> None:
        """Warn of what could not be measured or told of the last unit."""
        report_unmeasured(self.recorder, strict=False)
        report_untold(self.recorder)

    def measure(self, unit: Unit, bar: Any) -> xr.Dataset:
        """Measure one unit; ``bar`` is told of the pixels sampled."""
        began, recorder = time.monotonic(), self.recorder
        recorder.cells = Cells(recorder.reduction.names, recorder.keep)
        rule = self.rules[unit.rule]
        self.plan.sample(self.pipe, recorder, unit.size, rule, self.train_size, bar, unit.start, unit.stop)
        others = [scaling for _, scaling in recorder.cells.timesteps if scaling != unit.scaling]
        if others:
            raise EntropyLabError(
                f"scaling must say under which rule a unit is sampled. {unit.label} was sampled under {others[0]!r}: "
                "let `measure` rescale, or put the whole run inside `rescale`."
            )
        if self.strict:
            report_unmeasured(recorder, strict=True)
        if not recorder.cells.timesteps:
            _ = recorder.dataset  # an EntropyLabError that says why it is empty
        seeds = [self.plan.seed + place for place in range(unit.start, unit.stop)]
        unmeasured = [f"{path}: {reason}" for path, reason in recorder.unmeasured.items()]
        ds = to_dataset(recorder.cells, self.plan.prompts[unit.start : unit.stop], seeds, unmeasured)
        layers = recorder.cells.layers
        recorder.cells = Cells(recorder.reduction.names, recorder.keep)
        recorder.cells.layers = layers  # of which `report` tells, and nothing else
        place = torch.device(self.source["device"] or "cpu")
        device = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
        return ds.assign_attrs(device=device, versions=self.source["versions"], seconds=time.monotonic() - began)


@dataclass
class Worker:
    """One process at work on a run: a RunFolder whose units a Job measures, or a PictureRun and a Sampling."""

    job: Any
    place: Place = field(default_factory=by_environment)

    def work(self, run: Any, shown: Progress) -> None:
        """Measure until every unit is finished, by this process or another; wait for what others have in hand.

        A pass through the units lists the folder once, so a unit costs as much in a long run as in a short one.
        """
        with self.job.watched():
            while pending := self.pending(run, shown):
                taken = [self.take(run, shown, unit) for unit in pending]
                if not any(taken):
                    who = run.locks.holders().get(pending[0].name, "another process")
                    shown.say(f"waiting for {pending[0].label}: in hand of {who}")
                    self.take(run, shown, pending[0], wait=True)

    def pending(self, run: Any, shown: Progress) -> list[Unit]:
        """The units that are not finished: its own share first, then the others' shares."""
        done = run.finished()
        shown.follow(done)
        rank, world = self.place.rank, self.place.world
        units = [unit for unit in run.units if unit.name not in done]
        return [unit for turn in range(world) for unit in units[(rank + turn) % world :: world]]

    def take(self, run: Any, shown: Progress, unit: Unit, wait: bool = False) -> bool:
        """Measure a unit, unless it is finished by now; whether nobody else has it in hand."""
        lock = run.locks.take(unit.name, wait)
        if lock is None:
            return False
        with lock:
            if run.is_finished(unit):
                shown.follow({unit.name})
                return True
            run.check_still_there()
            with leaving_what_is_finished(run, unit):
                shown.begin(unit)
                ds = self.job.measure(unit, shown)
                run.check_still_there()
                run.write(unit, ds)
                shown.end(unit, ds.attrs["seconds"], max(1, len(run.locks.holders())))
        return True


@contextmanager
def leaving_what_is_finished(run: Any, unit: Unit | None = None) -> Iterator[None]:
    """Hang on an error where what was finished before it is, unless that was removed."""
    try:
        yield
    except BaseException as error:
        if os.path.exists(run.path / RECORD):
            error.run = run.path  # type: ignore[attr-defined]
            what = "" if unit is None else f"While measuring {unit.label}. "
            error.add_note(
                f"{what}What was finished before is in {run.path}: the same command goes on from there, and "
                f"entropylab.open({str(run.path)!r}) reads it."
            )
        raise


def measure_run(
    worker: Any, known: tuple[Any, ...], out: Any, overwrite: bool, unit_samples: int | None, progress: bool
) -> xr.Dataset:
    """What ``measure(..., out=...)`` does once its arguments are checked; the Dataset of the finished run.

    ``worker`` is this process, or a cluster's `Pool`; ``known`` is what its job says, as of `Job.known`.
    """
    place: Place = worker.place
    overwrite = overwrite and not is_restarted()
    together = overwrite and place.world > 1
    if together and not place.can_wait:
        raise EntropyLabError(
            "overwrite needs processes that can wait for each other: start them with accelerate launch or torchrun, "
            "or remove the folder first."
        )
    with main_first() if together else nullcontext():
        fresh = overwrite and place.is_main
        run = begin(check_folder(out), *known, overwrite=fresh, unit_samples=unit_samples)
    with closing(Progress(run.units, progress and place.is_main)) as shown:
        if is_left_alone():
            shown.say(ALONE)
        while True:
            worker.work(run, shown)
            found = merged(run)
            if found.done == found.total:
                break
            for unit, problem in found.damaged.items():
                shown.say(f"measuring again: {problem}")
                run.set_aside(unit)
        if place.is_main:
            report_bad(found.cells, stacklevel=4)
        return found.dataset


def source_of(pipe: Any, prompts: Prompts) -> dict[str, Any]:
    """Attributes that say where prompts come from, and what was wrong with them."""
    cut_off = count_cut(pipe, prompts)
    return {
        **({"prompts_source": prompts.source} if prompts.source else {}),
        **({"prompts_skipped": json.dumps(prompts.skipped)} if prompts.skipped else {}),
        **({"prompts_cut": cut_off} if cut_off else {}),
    }
