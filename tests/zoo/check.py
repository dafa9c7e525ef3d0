"""Record one family, see the same attention by other means, and say what was found."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

import entropylab
from entropylab import pipelines
from entropylab.errors import EntropyLabWarning

from .family import Family
from .reference import Seen, Sight, sight


@dataclass(frozen=True)
class Finding:
    """What came of recording a family.

    Attributes:
        family: which one.
        identical: whether the images are bit-identical to those sampled without recording.
        dataset: what was recorded.
        unmeasured: layers that were named as not measured, with the reason.
        unlisted: layers that attended, by the reference, and are neither measured nor named.
        errors: layer -> largest difference of its entropies from the reference [nats]; NaN where their number differs.
        unchecked: layers whose rows the reference can't tell apart, or does not see.
    """

    family: Family
    identical: bool
    dataset: xr.Dataset
    unmeasured: dict[str, str]
    unlisted: list[str]
    errors: dict[str, float]
    unchecked: list[str]

    @property
    def worst(self) -> float:
        """Largest error over layers [nats]."""
        return max((math.inf if math.isnan(error) else error for error in self.errors.values()), default=0.0)


def examine(family: Family, **options: Any) -> Finding:
    """Sample a family twice: seen by the reference, which disturbs nothing, and recorded with ``options``."""
    pipe = family.build()
    with sight({**pipelines.denoisers(pipe), **pipelines.conditioners(pipe)}) as seen:
        plain = family.sample(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EntropyLabWarning)
        with entropylab.record(pipe, **options) as recorder:
            images = family.sample(pipe)
    dataset = recorder.dataset
    errors, unchecked = compared(family, dataset, seen)
    known = {*calls_of(dataset), *recorder.unmeasured}
    return Finding(
        family=family,
        identical=torch.equal(plain, images),
        dataset=dataset,
        unmeasured=recorder.unmeasured,
        unlisted=[path for path in seen.calls if path not in known and path.partition(":")[0] not in known],
        errors=errors,
        unchecked=unchecked,
    )


def call_of(dataset: xr.Dataset, layer: str) -> str:
    """Path of a layer's module and number of its call, as the reference calls it."""
    part = str(dataset.part.sel(layer=layer).item())
    return layer.removesuffix(f":{part}")


def calls_of(dataset: xr.Dataset) -> set[str]:
    """The calls in a Dataset, as the reference calls them."""
    return {call_of(dataset, layer) for layer in dataset.layer.values}


def compared(family: Family, dataset: xr.Dataset, seen: Sight) -> tuple[dict[str, float], list[str]]:
    """Largest error of each layer, and the layers that the reference can't judge."""
    errors, unchecked = {}, []
    for layer in dataset.layer.values:
        call = call_of(dataset, layer)
        part = str(dataset.part.sel(layer=layer).item()) if call != layer else None
        calls = seen.calls.get(call, [])
        if family.unlike is not None:
            rows, module = family.unlike[str(dataset.part.sel(layer=layer).item())], call.partition(":")[0]
            of_module = (each for path, each in seen.calls.items() if path.partition(":")[0] == module)
            calls = [one for each in of_module for one in each if one.entropy.shape[-1] == rows]
        wanted = list(expected(family, calls, part))
        if not wanted:
            unchecked.append(str(layer))
            continue
        ours = dataset.entropy.sel(layer=layer).values.ravel()
        errors[str(layer)] = farthest(np.concatenate(wanted), ours)
    return errors, unchecked


def expected(family: Family, calls: list[Seen], part: str | None) -> Iterator[np.ndarray]:
    """Mean entropies of the rows that stand for ``part``, of every call, image and head."""
    for call in calls:
        entropy = call.entropy if call.unused is None else call.entropy.masked_fill(call.unused, torch.nan)
        rows = slice(None) if part is None else family.rows(part, entropy.shape[-1])
        if rows is None:
            return
        mean = entropy[..., rows].nanmean(-1)
        if len(mean) > call.images and len(mean) % call.images == 0:
            mean = mean.unflatten(0, (call.images, -1)).nanmean(1)
        yield mean.flatten().numpy()


def farthest(wanted: np.ndarray, ours: np.ndarray) -> float:
    """Largest difference of two sets of numbers in whatever order; NaN if they are not as many."""
    wanted, ours = (np.sort(values[~np.isnan(values)]) for values in (wanted, ours))
    if len(wanted) != len(ours):
        return math.nan
    return float(np.abs(wanted - ours).max()) if len(wanted) else 0.0
