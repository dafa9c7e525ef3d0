"""Record one family, see the same attention by other means, and say what was found."""

import math
import warnings
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
    """What came of recording a family."""

    family: Family
    identical: bool  # whether the images are bit-identical to those sampled without recording
    dataset: xr.Dataset
    unmeasured: dict[str, str]  # layers that were named as not measured, with the reason
    unlisted: list[str]  # layers that attended, by the reference, and are neither measured nor named
    errors: dict[str, float]  # layer -> largest difference from the reference [nats]; NaN where their number differs
    unchecked: list[str]  # layers whose rows the reference can't tell apart, or does not see

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
    known = {*recorder.unmeasured, *(call_of(dataset, layer) for layer in dataset.layer.values)}
    unlisted = [path for path in seen.calls if path not in known and path.partition(":")[0] not in known]
    identical = torch.equal(plain, images)
    return Finding(family, identical, dataset, recorder.unmeasured, unlisted, errors, unchecked)


def call_of(dataset: xr.Dataset, layer: str) -> str:
    """Path of a layer's module and number of its call, as the reference calls it."""
    return layer.removesuffix(f":{dataset.part.sel(layer=layer).item()}")


def compared(family: Family, dataset: xr.Dataset, seen: Sight) -> tuple[dict[str, float], list[str]]:
    """Largest error of each layer, and the layers that the reference can't judge."""
    errors, unchecked = {}, []
    for layer in map(str, dataset.layer.values):
        call, part = call_of(dataset, layer), str(dataset.part.sel(layer=layer).item())
        calls = seen.calls.get(call, [])
        if family.unlike is not None:
            module = call.partition(":")[0]
            of_module = (each for path, each in seen.calls.items() if path.partition(":")[0] == module)
            calls = [one for each in of_module for one in each if one.entropy.shape[-1] == family.unlike[part]]
        rows = slice(None) if call == layer else family.rows(part)
        if rows is None or not calls:
            unchecked.append(layer)
        else:
            wanted = np.concatenate([expected(each, rows) for each in calls])
            errors[layer] = farthest(wanted, dataset.entropy.sel(layer=layer).values.ravel())
    return errors, unchecked


def expected(call: Seen, rows: slice) -> np.ndarray:
    """Mean entropies of these rows, of every image and head."""
    entropy = call.entropy if call.unused is None else call.entropy.masked_fill(call.unused, torch.nan)
    mean = entropy[..., rows].nanmean(-1)
    if len(mean) > call.images and len(mean) % call.images == 0:
        mean = mean.unflatten(0, (call.images, -1)).nanmean(1)
    return mean.flatten().numpy()


def farthest(wanted: np.ndarray, ours: np.ndarray) -> float:
    """Largest difference of two sets of numbers in whatever order; NaN if they are not as many."""
    wanted, ours = (np.sort(values[~np.isnan(values)]) for values in (wanted, ours))
    if len(wanted) != len(ours):
        return math.nan
    return float(np.abs(wanted - ours).max()) if len(wanted) else 0.0
