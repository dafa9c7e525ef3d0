"""What the figures measure: at which sizes, under which rules, and how much of it.

The numbers are chosen so that everything is done in under ten minutes on two slow cores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from ..calibration import Calibration, calibrate
from ..errors import check_count
from ..measurement import measure
from ..models import load
from ..models.prompts import embedded_prompts
from ..scaling import check_train_size
from ..sizes import Size

Sides = tuple[float, float]

TRAINED: Sides = (1, 1)
LOWER: Sides = (0.5, 0.5)
HIGHER: Sides = (2, 2)
SIDES: tuple[Sides, ...] = (LOWER, (0.75, 0.75), TRAINED, (1.5, 1.5), HIGHER, (3, 3), (1.5, 1), (1, 2))
"""Sizes as multiples of the training size's height and width: 32 to 192 pixels for the embedded pipeline."""

RULES = ("original", "sqrt_log")
NUMBERS = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0)
"""Multipliers of the sweep; "original" is 1."""

SAMPLES, STEPS = 4, 6
"""Of every size and rule, each sample with its own prompt. With 20 steps mean entropies are 0.02 to 0.03 nats less."""

FEW = 3
"""Samples of a calibration, and of the sweep, which sample once for every Newton step and every multiplier."""

EVALUATION = "evaluation.nc"
"""The file that the tables are made from."""

ITERATIONS = 3
"""Newton steps of the calibration, which starts from the second-order solution."""


@dataclass(frozen=True)
class Source:
    """What is sampled, and how much of it.

    Attributes:
        pipe: a text-to-image pipeline; prompts are those of the embedded one.
        samples: of every size and rule; None for the numbers of this file.
        steps: denoising steps; None for the numbers of this file.
        progress: show progress.
    """

    pipe: Any
    samples: int | None = None
    steps: int | None = None
    progress: bool = True

    @property
    def trained(self) -> Size:
        """The training size (height, width) [pixels]."""
        return check_train_size(self.pipe, None)

    def sizes(self, sides: Sequence[Sides]) -> list[Size]:
        """Sizes in pixels of sizes in training sizes."""
        height, width = self.trained
        return [(round(height * tall), round(width * wide)) for tall, wide in sides]

    def sampling(self, samples: int = SAMPLES) -> dict[str, Any]:
        """How to sample, as arguments of `entropylab.measure`; at most ``samples`` samples of each."""
        return {
            "prompts": mixed_prompts(),
            "samples": samples if self.samples is None else min(samples, self.samples),
            "steps": STEPS if self.steps is None else self.steps,
            "progress": self.progress,
        }

    def calibrated(self, sides: Sequence[Sides] | None = None) -> Calibration:
        """A calibration at these sizes, or at all of figures 5 and 6; the training size needs none."""
        sizes = [size for size in self.sizes(sides or SIDES) if size != self.trained]
        return calibrate(self.pipe, sizes, iterations=ITERATIONS, **self.sampling(FEW))

    def measured(self, scaling: Sequence[Any] = RULES) -> xr.Dataset:
        """The measurement that figures 5 and 6 share: every size under every rule, from the same seeds and prompts."""
        samples = SAMPLES if self.samples is None else self.samples
        return measure(self.pipe, self.sizes(SIDES), scaling=list(scaling), **self.sampling(samples))

    def cumulants(self) -> xr.Dataset:
        """Entropy and cumulants up to the fourth, as the model is: a lower size, the training size, a higher one.

        Third and fourth cumulant need a pass over the logits of their own, so there are fewer sizes and samples.
        """
        return measure(
            self.pipe,
            self.sizes((LOWER, TRAINED, HIGHER)),
            statistics=("entropy", "sigma2", "third", "fourth"),
            layers="self",
            keep=("sample", "step", "layer", "head"),
            **self.sampling(2),
        )

    def swept(self, calibration: Calibration) -> xr.Dataset:
        """A lower and a higher size under numbers and rules, and the training size as the model is."""
        options = {"layers": "self", "keep": ("sample", "layer", "head"), **self.sampling(FEW)}
        rules = [*RULES, calibration.invariant, calibration.calibrated, *NUMBERS]
        home = measure(self.pipe, [self.trained], **options)
        away = measure(self.pipe, self.sizes((LOWER, HIGHER)), scaling=rules, **options)
        return xr.concat([home, away], "size", join="outer", combine_attrs="override")


def new_source(
    model: str | None = None, *, samples: int | None = None, steps: int | None = None, progress: bool = True
) -> Source:
    """A pipeline, the embedded one if none is named, and how much to sample of it.

    Raises:
        EntropyLabError: as `entropylab.load`; samples or steps < 1; a pipeline that does not say its training size.
    """
    counts = check_count("samples", samples, None), check_count("steps", steps, None)
    found = Source(load(model), *counts, progress)
    check_train_size(found.pipe, None)
    return found


def mixed_prompts() -> list[str]:
    """The embedded pipeline's prompts, every fifth first, so that the first eight are of all sorts."""
    prompts = embedded_prompts()
    return [prompt for start in range(5) for prompt in prompts[start::5]]
