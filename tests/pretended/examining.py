"""A family of the zoo on pretended GPUs, plain and recorded, and on the CPU."""

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch.nn.attention import SDPBackend, sdpa_kernel

import entropylab
from entropylab import pipelines
from entropylab.errors import EntropyLabWarning
from entropylab.measuring.recording import DEFAULT_STATISTICS

from ..zoo import BY_NAME, Family
from .gpu import GPUs
from .log import Log
from .placing import on_gpus, on_host, pretended

ATTENTION = ("aten::_safe_softmax", "aten::_softmax")
"""What a model launches once for each attention call."""


@dataclass(frozen=True)
class Finding:
    """What came of it, and what was asked of the GPUs."""

    identical: bool  # whether the images of all samplings are the same, recorded or not
    dataset: xr.Dataset  # what was recorded, of two samplings
    wanted: xr.Dataset  # the same on the CPU
    plain: Log  # of a sampling that is not recorded
    first: Log  # of the first one that is
    recorded: Log  # of the second

    error = property(lambda self: self.error_of("entropy"))

    def error_of(self, name: str) -> float:
        """Largest difference of a variable from the CPU's; infinite where one of them is NaN alone."""
        ours, theirs = (dataset[name].values for dataset in (self.dataset, self.wanted))
        if ours.shape != theirs.shape or (np.isnan(ours) != np.isnan(theirs)).any():
            return np.inf
        return float(np.nanmax(np.abs(ours - theirs)))

    waits = property(lambda self: self.waits_in(self.recorded))

    def waits_in(self, log: Log) -> Counter[str]:
        """What the host waited for in a sampling, and would not have without being recorded; and where."""
        recorded, plain = log.while_sampling, self.plain.while_sampling
        return recorded.places("wait", recorded.waits - plain.waits)

    @property
    def launches_to_follow(self) -> int:
        """How many launches more the first sampling had than the second."""
        return self.first.launches.total() - self.recorded.launches.total()

    @property
    def launches_per_call(self) -> float:
        """How many launches of ours there are for an attention call of the denoisers."""
        calls = self.plain.counted_in_forwards(ATTENTION)
        return (self.recorded.launches.total() - self.plain.launches.total()) / calls

    @property
    def launched(self) -> Counter[str]:
        """Where they are, the most frequent first."""
        return self.recorded.places("launch", self.recorded.launches)


def examine(
    family: Family,
    place: str,
    kernel: bool = True,
    statistics: tuple[str, ...] = DEFAULT_STATISTICS,
    **kept: Any,
) -> Finding:
    """Sample from a family of the zoo, on the CPU and at a place among pretended GPUs."""
    pipe = family.build()
    with pretended(kernel) as gpus, on_gpus(pipe, place), unwarned():
        family.sample(pipe)  # what a model computes but once
        with entropylab.record(pipe, statistics=statistics, **kept) as recorder:
            one, first = followed(gpus, family, pipe)
            two, recorded = followed(gpus, family, pipe)
        three, plain = followed(gpus, family, pipe)
        dataset = recorder.dataset
    images = [on_host(each) for each in (one, two, three)]
    identical = all(torch.equal(images[-1], each) for each in images)
    return Finding(identical, dataset, on_cpu(family.name, statistics), plain, first, recorded)


def followed(gpus: GPUs, family: Family, pipe: Any) -> tuple[Any, Log]:
    """What a family samples, and what it asks of the GPUs."""
    gpus.log = Log()
    with gpus.log.following(pipelines.denoisers(pipe).values()):
        return family.sample(pipe), gpus.log


@contextmanager
def unwarned() -> Iterator[None]:
    """Layers that are not measured are none of our business here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        yield


@cache
def on_cpu(name: str, statistics: tuple[str, ...] = DEFAULT_STATISTICS) -> xr.Dataset:
    """What is recorded of two samplings on the CPU; the model attends there as pretended GPUs do it."""
    family = BY_NAME[name]
    pipe = family.build()
    with unwarned(), entropylab.record(pipe, statistics=statistics) as recorder, sdpa_kernel(SDPBackend.MATH):
        family.sample(pipe)
        family.sample(pipe)
    return recorder.dataset
