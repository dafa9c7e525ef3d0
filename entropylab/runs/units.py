"""Units of work: one size, one scaling rule, and a few samples."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ..sizes import Size, size_label

PARTS = 100
"""Samples of one size and rule are cut into about this many units at most, unless somebody says otherwise."""


@dataclass(frozen=True)
class Unit:
    """Samples ``start`` to ``stop`` (not included) of one size [pixels] under one rule, the run's number ``rule``."""

    size: Size
    rule: int
    scaling: str
    start: int
    stop: int

    @cached_property
    def name(self) -> str:
        """The name of its file, without ".nc"."""
        rule = re.sub(r"[^\w.-]+", "-", self.scaling)[:40]
        return f"{size_label(self.size)}_{self.rule}-{rule}_{self.start:06d}-{self.stop - 1:06d}"

    @property
    def samples(self) -> int:
        """How many samples it has."""
        return self.stop - self.start

    @property
    def pixels(self) -> int:
        """Pixels of all its images: units take time about in proportion."""
        return self.size[0] * self.size[1] * self.samples

    @property
    def label(self) -> str:
        """What it is, in words."""
        return f"{size_label(self.size)} {self.scaling}, samples {self.start} to {self.stop - 1}"


def cut(sizes: Sequence[Size], scalings: Sequence[str], samples: int, each: int) -> list[Unit]:
    """The units of a run in their canonical order, ``each`` samples in each."""
    return [
        Unit((size[0], size[1]), rule, scaling, start, min(start + each, samples))
        for size in sizes
        for rule, scaling in enumerate(scalings)
        for start in range(0, samples, each)
    ]


def default_samples(samples: int, batch_size: int) -> int:
    """How many samples a unit has: whole batches, so many that there are at most about ``PARTS`` units."""
    batches = -(-samples // batch_size)
    return -(-batches // PARTS) * batch_size
