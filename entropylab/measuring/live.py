"""``on_step``: the Dataset of every step, handed over while the pipeline samples."""

import inspect
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import xarray as xr
from torch import Tensor

from ..dataset import describe
from ..errors import EntropyLabError, EntropyLabWarning, one_line
from .cells import KEEPABLE, Cells
from .delivery import departures, sent
from .layout import dataset_of
from .run import Run

OnStep = Callable[[xr.Dataset], Any]


def check_on_step(on_step: Any) -> None:
    """Raise an EntropyLabError unless it is None or a function whose call runs it."""
    if on_step is not None and not callable(on_step):
        raise EntropyLabError(f"on_step must be a function of a Dataset, or None. Got {on_step!r}.")
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    if any(is_of_kind(each) for is_of_kind in kinds for each in (on_step, type(on_step).__call__)):
        raise EntropyLabError(f"on_step must be a plain function, no `async def` and without `yield`. Got {on_step!r}.")


@dataclass(eq=False)
class Live:
    """Hands steps over, in their order, once their numbers are on the host: nothing waits for that while a run goes on.

    A step waits as a run of its own, and its number. While ``is_told``, what the pipeline does is not measured.
    """

    on_step: OnStep | None  # None from its first error on
    waiting: deque[tuple[Run, int]] = field(default_factory=deque)
    is_open: bool = False
    problem: EntropyLabWarning | None = None
    is_told: bool = False

    def take(self, run: Run, cells: Cells, is_view: bool | None = None) -> None:
        """Take the step that a run has just been given, or one of several views of the picture in it.

        Where nobody knows whether it is a view, steps before it tell; the first one waits for the second.
        """
        step, views = run.steps[-1], run.views()
        times = [step.timestep] if isinstance(step.timestep, Tensor) else []
        alone = replace(step, evidence=step.evidence.sent(sent), timestep=sent(*times) if times else step.timestep)
        alone.departed = [*step.departed, *departures([*step.evidence.tensors, *times])]
        if len(views[-1]) > 1 and self.waiting and self.is_open:
            steps = self.waiting[-1][0].steps
            steps.append(replace(alone, timestep=steps[0].timestep))
        else:
            self.waiting.append((replace(run, steps=[alone]), len(views) - 1))
        may_be_view = step.evidence.is_step and (len(run.steps) == 1 or len(run.steps) > len(views))
        self.is_open = may_be_view if is_view is None else is_view
        self.hand_over(cells)

    def hand_over(self, cells: Cells, wait: bool = False) -> None:
        """Hand over what has arrived; with ``wait`` everything. What goes wrong meanwhile is a warning."""
        try:
            while self.waiting and self.on_step is not None:
                run, number = self.waiting[0]
                is_whole = len(self.waiting) > 1 or not self.is_open
                arrived = is_whole and all(event.query() for step in run.steps for event in step.departed)
                if not (wait or arrived):
                    return
                self.waiting.popleft()
                self.is_told = True
                self.on_step(dataset_of_step(run, number, cells))
        except Exception as error:
            self.on_step = None
            said = f"on_step is not called again, after {type(error).__name__}: {one_line(error, 200)}"
            try:
                warnings.warn(said, EntropyLabWarning, stacklevel=2)
            except EntropyLabWarning as problem:
                self.problem = problem
        finally:
            self.is_told = False


def dataset_of_step(run: Run, number: int, cells: Cells) -> xr.Dataset:
    """What a run of one step gave, all its views, with the dimensions that ``cells`` keep; steps are always apart."""
    keep = None if cells.keep is None else tuple(name for name in KEEPABLE if name == "step" or name in cells.keep)
    alone = Cells(cells.entries, keep, dict(cells.layers))
    alone.add(run)
    return describe(dataset_of(alone)).assign_coords(step=[number])
