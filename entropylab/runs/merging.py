"""Units as Datasets, and many units as one: in canonical order, whoever measured them, one in memory at a time."""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from ..dataset import describe
from ..errors import EntropyLabError, EntropyLabWarning
from ..files import as_path
from ..measuring import layout
from ..measuring.cells import KEPT, Cells, Counted, LayerLabel
from ..measuring.moments import Moments, fit_shapes
from ..prompts import digest
from ..sizes import size_label
from .configuration import JOINED, differences
from .folder import RunFolder, read_run
from .units import Unit

Row = dict[tuple[int, int, str], list[tuple[RunFolder, Unit]]]
"""Seeds of the first sample and after the last, and what tells the prompts of several runs -> where such units are."""


def to_dataset(cells: Cells, prompts: list[str], seeds: list[int], unmeasured: list[str]) -> xr.Dataset:
    """Cells that hold one size and one scaling as a Dataset of two variables of at most one dimension: every variable
    and every dimension costs milliseconds to write and to read.

    ``values`` are those of (entry, branch, sample, step, layer, head) where samples are kept apart, else ``sums``:
    count, mean and sum of squared deviations over the samples, of (sum, entry, branch, step, layer, head); dimensions
    that were averaged away have length 1. ``labels`` is JSON: their shape, what the entries, branches and layers are,
    and what is counted by layer.
    """
    ((key, timesteps),) = cells.timesteps.items()
    if cells.keeps_samples:
        name, numbers = "values", np.concatenate(fit_shapes(cells.arrays[key], but=2), axis=2)
    else:
        name, numbers = "sums", np.stack(cells.moments[key].parts)
    labels = {
        "shape": numbers.shape,
        "entries": cells.entries[KEPT:],
        "branches": cells.branches,
        "layers": [
            {
                "path": path,
                **{name: getattr(label, name) for name in layout.LABELS},
                "counted": cells.counted[key[0]].get(path),
                "grown": cells.grown[key[0]].get(path),
            }
            for path, label in cells.layers.items()
        ],
        "timesteps": timesteps.tolist(),
        "multipliers": cells.multipliers.get(key),
        "unmeasured": unmeasured,
        "prompts": prompts,
        "seeds": seeds,
    }
    return xr.Dataset({"labels": ((), np.array(json.dumps(labels, default=float))), name: ("number", numbers.ravel())})


def from_dataset(ds: xr.Dataset, size: Any, scaling: str, keep: tuple[str, ...] | None) -> Cells:
    """The Cells of which ``to_dataset`` made ``ds``; earlier versions wrote a dimension for each of the numbers'."""
    labels, key = json.loads(str(ds["labels"].values)), (size, scaling)
    cells = Cells((*("",) * KEPT, *labels["entries"]), keep, branches=labels["branches"])
    layers = {layer["path"]: layer for layer in labels["layers"]}
    cells.layers = {path: LayerLabel(**{name: layer[name] for name in layout.LABELS}) for path, layer in layers.items()}
    cells.grown[size] = {path: layer["grown"] for path, layer in layers.items()}
    cells.counted[size] = {path: Counted(*layer["counted"]) for path, layer in layers.items() if layer["counted"]}
    cells.timesteps[key] = np.array(labels["timesteps"], dtype=float)
    cells.labels[key] = (labels["prompts"], labels["seeds"]) if cells.keeps_samples else ([], [])
    if labels["multipliers"] is not None:
        cells.multipliers[key] = labels["multipliers"]
    numbers = ds["values" if cells.keeps_samples else "sums"].values
    numbers = numbers.reshape(labels.get("shape", numbers.shape))
    if cells.keeps_samples:
        cells.arrays[key] = [numbers]
    else:
        cells.moments[key] = Moments(*numbers)
    return cells


def absorb(whole: Cells, part: Cells) -> None:
    """Add ``part`` to ``whole``, as if its samples had been measured there, next."""
    if whole.entries[KEPT:] != part.entries[KEPT:]:
        raise EntropyLabError(
            f"units must hold the same numbers: {', '.join(whole.entries[KEPT:])}. "
            f"Got {', '.join(part.entries[KEPT:])}: another version of entropylab measured them."
        )
    whole.layers |= part.layers
    whole.branches += [name for name in part.branches if name not in whole.branches]
    for size, found in part.grown.items():
        whole.meet_growth(size, found)
    for size, numbers in part.counted.items():
        known = whole.counted.setdefault(size, {})
        for path, last in numbers.items():
            known[path] = known[path].and_then(last) if path in known else last
    for key in part.timesteps:
        whole.meet_timesteps(key, part.timesteps[key])
        prompts, seeds = whole.labels.setdefault(key, ([], []))
        prompts.extend(part.labels[key][0])
        seeds.extend(part.labels[key][1])
    whole.multipliers.update(part.multipliers)
    for key, arrays in part.arrays.items():
        whole.arrays.setdefault(key, []).extend(in_place(array, whole, part, np.nan, 4) for array in arrays)
    for key, moments in part.moments.items():
        new = Moments(*(in_place(sums, whole, part, 0, 3) for sums in (moments.count, moments.mean, moments.m2)))
        whole.moments[key] = whole.moments[key].merged(new) if key in whole.moments else new


def in_place(array: np.ndarray, whole: Cells, part: Cells, empty: float, layer_axis: int) -> np.ndarray:
    """An array of ``part`` with its branches and layers where ``whole`` has them, and ``empty`` elsewhere."""
    kept = whole.keep
    for axis, name, ours, theirs in (
        (1, "branch", whole.branches, part.branches),
        (layer_axis, "layer", list(whole.layers), list(part.layers)),
    ):
        if (kept is None or name in kept) and ours != theirs:
            nothing = np.full_like(array.take([0], axis), empty)
            places = [theirs.index(entry) if entry in theirs else -1 for entry in ours]
            array = np.concatenate([array, nothing], axis).take(places, axis)
    return array


@dataclass
class Merged:
    """What was read of one or several runs, of which ``run`` is the first."""

    run: RunFolder
    cells: Cells
    total: int = 0  # units
    done: int = 0  # those that could be read
    damaged: dict[Unit, str] = field(default_factory=dict)  # those that are there and can't be read -> why
    unmeasured: dict[str, None] = field(default_factory=dict)
    devices: set[str] = field(default_factory=set)
    versions: set[str] = field(default_factory=set)
    unfinished: list[str] = field(default_factory=list)  # sizes and rules that lack samples, in words

    @property
    def dataset(self) -> xr.Dataset:
        """All of it."""
        if self.damaged:
            raise EntropyLabError(
                f"{self.run.path} has damaged units ({len(self.damaged)}); the command that made the run measures them "
                f"again: {'; '.join(self.damaged.values())}"
            )
        if not self.done:
            raise EntropyLabError(f"{self.run.path} has no finished unit yet, of {self.total}.")
        told = {"unmeasured": list(self.unmeasured), "devices": sorted(self.devices)}
        told |= {"versions_of_units": sorted(self.versions)} if len(self.versions) > 1 else {}
        found: dict[str, Any] = {name: json.dumps(values) for name, values in told.items()}
        found |= {"units": self.total, "units_done": self.done}
        return describe(layout.dataset_of(self.cells)).assign_attrs(self.run.attributes | found)

    def report_unfinished(self, name: str, stacklevel: int) -> None:
        """Warn of sizes that have not all of their samples yet."""
        if self.unfinished:
            message = f"{name} is not finished, it has {self.done} of {self.total} units: {'; '.join(self.unfinished)}"
            warnings.warn(message, EntropyLabWarning, stacklevel=stacklevel)


def merged(*runs: RunFolder) -> Merged:
    """Read the units of runs one by one and add them up, samples by their seeds; a unit that several have counts once.

    Samples that are not there stand as NaN where samples are kept apart, so that those after them keep their places.
    """
    keep = runs[0].configuration["keep"]
    found = Merged(runs[0], Cells((), None if keep is None else tuple(keep)))
    cells = found.cells
    for key, row in rows_of(runs).items():
        done = total = 0
        missing: list[tuple[RunFolder, Unit]] = []
        for (seed, after, _), places in sorted(row.items(), key=lambda each: each[0]):
            ds = read_first(places, found)
            total += after - seed
            found.total += 1
            if ds is not None:
                part = from_dataset(ds, *key, cells.keep)
                cells.entries = cells.entries or part.entries
                absorb(cells, part)
                done += after - seed
                found.done += 1
                found.unmeasured |= dict.fromkeys(json.loads(str(ds["labels"].values))["unmeasured"])
                found.devices.add(ds.attrs["device"])
                found.versions.add(ds.attrs["versions"])
            elif cells.keeps_samples:
                run, unit = places[0]
                missing.append(places[0])
                cells.arrays.setdefault(key, []).append(np.full((1, 1, after - seed, 1, 1, 1), np.nan))
                prompts, seeds = cells.labels.setdefault(key, ([], []))
                prompts.extend(run.prompts[unit.start : unit.stop])
                seeds.extend(range(seed, after))
        if not done:  # nothing is known of a size and rule of which there is no unit
            cells.arrays.pop(key, None)
            cells.labels.pop(key, None)
        for run, unit in missing if done else ():
            run.prompts_of(unit)  # an EntropyLabError if they are lost
        if done < total:
            found.unfinished.append(f"{size_label(key[0])} {key[1]} {done} of {total} samples")
    return found


def read_first(places: list[tuple[RunFolder, Unit]], found: Merged) -> xr.Dataset | None:
    """A unit from the first run in which it can be read; None if it is in none."""
    problem = ""
    for run, unit in places:
        if run.is_finished(unit):
            try:
                return run.read(unit)
            except EntropyLabError as error:
                if run.is_finished(unit):  # not set aside meanwhile
                    problem = str(error)
    if problem:
        found.damaged[places[0][1]] = problem
    return None


def rows_of(runs: Sequence[RunFolder]) -> dict[tuple[Any, str], Row]:
    """The units of every size and rule, as they first come."""
    rows: dict[tuple[Any, str], Row] = {}
    rules: dict[str, str] = {}
    for run in runs:
        known = run.configuration
        changed = differences(runs[0].configuration, known, but=JOINED)
        for name, rule in zip(known["scaling"], known["rules"], strict=True):
            if rules.setdefault(name, rule) != rule:
                changed.append(f"scaling {name!r}: not the same rule")
        if changed:
            raise EntropyLabError(
                f"runs must have one configuration. {runs[0].path} and {run.path}: {'; '.join(changed)}."
            )
        for unit in run.units:
            seed, prompts = known["seed"], digest(run.prompts_of(unit)) if len(runs) > 1 else ""
            row = rows.setdefault((unit.size, unit.scaling), {})
            row.setdefault((seed + unit.start, seed + unit.stop, prompts), []).append((run, unit))
    for row in rows.values():
        for before, after in pairwise(sorted(row)):
            if before[1] > after[0]:
                places = [row[before][0], row[after][0]]
                named = " and ".join(f"{run.path} ({unit.label})" for run, unit in places)
                raise EntropyLabError(
                    f"runs must not share samples partly: {named}. Measure with seeds that are apart, or the same "
                    "samples in the same units."
                )
    return rows


def open_run(path: Any) -> xr.Dataset:
    """A finished or half-finished run as a Dataset; ``units_done`` of its ``units`` are in it.

    Samples that are not measured yet are not averaged in, or NaN where samples are kept apart; an EntropyLabWarning
    says of which sizes they are.

    Raises:
        EntropyLabError: no run, nothing finished yet, or damaged units, which the message names.
    """
    run = read_run(as_path(path, "run", "folder"))
    found = merged(run)
    ds = found.dataset
    found.report_unfinished(str(run.path), stacklevel=5)
    return ds


def merge(paths: Sequence[Any]) -> xr.Dataset:
    """Runs of the same configuration as one Dataset; they may differ in sizes, rules, seeds and prompts.

    A unit that several runs have counts once.

    Args:
        paths: folders that ``measure(..., out=...)`` wrote.

    Raises:
        EntropyLabError: no run, other configurations, samples that are partly the same, or damaged units.
    """
    if isinstance(paths, str | bytes) or not isinstance(paths, Sequence) or not paths:
        raise EntropyLabError(f"runs must be a list of at least one folder. Got {paths!r}.")
    runs = [read_run(as_path(path, "run", "folder")) for path in paths]
    seeds = sorted({run.configuration["seed"] for run in runs})
    found = merged(*runs)
    ds = found.dataset
    found.report_unfinished(", ".join(str(path) for path in paths), stacklevel=3)
    return ds if len(seeds) == 1 else ds.assign_attrs(seed=seeds)
