"""``on_step``: the Dataset of every step, handed over while the pipeline samples."""

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
    """Raise an EntropyLabError unless it is a function, or None."""
    if on_step is not None and not callable(on_step):
        raise EntropyLabError(f"on_step must be a function of a Dataset, or None. Got {on_step!r}.")


@dataclass(eq=False)
class Live:
    """Hands steps over, in their order, once their numbers are on the host: nothing waits for that while a run goes on.

    A step waits as a run of its own, and its number. While ``is_told``, what the pipeline does is not measured.
    """

    on_step: OnStep | None  # None from its first error on
    waiting: deque[tuple[Run, int]] = field(default_factory=deque)
    is_told: bool = False

    def take(self, run: Run, cells: Cells) -> None:
        """Take the step that a run has just been given."""
        step, number = run.steps[-1], len(run.views()) - 1
        times = [step.timestep] if isinstance(step.timestep, Tensor) else []
        alone = replace(step, evidence=step.evidence.sent(sent), timestep=sent(*times) if times else step.timestep)
        alone.departed = [*step.departed, *departures([*step.evidence.tensors, *times])]
        self.waiting.append((replace(run, steps=[alone]), number))
        self.hand_over(cells)

    def hand_over(self, cells: Cells, wait: bool = False) -> None:
        """Hand over what has arrived; with ``wait`` everything. What goes wrong meanwhile is a warning."""
        try:
            while self.waiting and self.on_step is not None:
                run, number = self.waiting[0]
                if not (wait or all(event.query() for event in run.steps[0].departed)):
                    return
                self.waiting.popleft()
                self.is_told = True
                self.on_step(dataset_of_step(run, number, cells))
        except Exception as error:
            self.on_step = None
            warnings.warn(
                f"on_step is not called again, after {type(error).__name__}: {one_line(error, 200)}",
                EntropyLabWarning,
                stacklevel=2,
            )
        finally:
            self.is_told = False


def dataset_of_step(run: Run, number: int, cells: Cells) -> xr.Dataset:
    """What a run of one step gave, with the dimensions that ``cells`` keep; steps are always apart."""
    keep = None if cells.keep is None else tuple(name for name in KEEPABLE if name == "step" or name in cells.keep)
    alone = Cells(cells.entries, keep, dict(cells.layers))
    alone.add(run)
    return describe(dataset_of(alone)).assign_coords(step=[number])
