"""What was measured of a unit, as a Dataset that a file can hold, and back: exact sums, no rounded averages."""

import hashlib
import json
from typing import Any

import numpy as np
import xarray as xr

from ..errors import EntropyLabError
from ..measuring.cells import KEPT, NOTHING, Cells, Counted, LayerLabel
from ..measuring.moments import Moments, fit_shapes

SUMS = ("count", "mean", "m2")
AXES = ("entry", "branch", "step", "layer", "head")
LABELS = ("module", "block", "kind", "part")
CHECKSUM = "checksum"


def to_dataset(
    cells: Cells, prompts: list[str], seeds: list[int], unmeasured: list[str], run: dict[str, Any] | None = None
) -> xr.Dataset:
    """Cells that hold one size and one scaling as a Dataset of two variables (every one costs milliseconds to write).

    ``values`` (entry, branch, sample, step, layer, head) where samples are kept apart, else ``sums``: count, mean and
    sum of squared deviations over the samples (sum, entry, branch, step, layer, head); dimensions that were averaged
    away have length 1. ``labels`` is JSON: what the entries, branches and layers are, what is counted by layer, and the
    record of the run that it is a unit of.
    """
    ((size, scaling),) = cells.timesteps
    labels = {
        "entries": cells.entries[KEPT:],
        "branches": cells.branches,
        "layers": [
            {
                "path": path,
                **{name: getattr(label, name) for name in LABELS},
                "counted": cells.counted[size].get(path),
                "grown": cells.grown[size].get(path),
            }
            for path, label in cells.layers.items()
        ],
        "timesteps": cells.timesteps[size, scaling].tolist(),
        "multipliers": cells.multipliers.get((size, scaling)),
        "unmeasured": unmeasured,
        "prompts": prompts,
        "seeds": seeds,
        "run": run,
    }
    found: dict[str, Any] = {"labels": ((), np.array(json.dumps(labels, default=float)))}
    if cells.keeps_samples:
        arrays = fit_shapes(cells.arrays[size, scaling], but=2)
        found["values"] = (("entry", "branch", "sample", "step", "layer", "head"), np.concatenate(arrays, axis=2))
    else:
        found["sums"] = (("sum", *AXES), np.stack(cells.moments[size, scaling].parts))
    return xr.Dataset(found)


def labels_of(ds: xr.Dataset) -> dict[str, Any]:
    """The labels of a unit."""
    return json.loads(str(ds["labels"].values))


def from_dataset(ds: xr.Dataset, size: Any, scaling: str, keep: tuple[str, ...] | None) -> Cells:
    """The Cells of which ``to_dataset`` made ``ds``."""
    labels, key = labels_of(ds), (size, scaling)
    cells = Cells((*("",) * KEPT, *labels["entries"]), keep, branches=labels["branches"])
    layers = {layer["path"]: layer for layer in labels["layers"]}
    cells.layers = {path: LayerLabel(**{name: layer[name] for name in LABELS}) for path, layer in layers.items()}
    cells.grown[size] = {path: layer["grown"] for path, layer in layers.items()}
    cells.counted[size] = {path: Counted(*layer["counted"]) for path, layer in layers.items() if layer["counted"]}
    cells.timesteps[key] = np.array(labels["timesteps"], dtype=float)
    cells.labels[key] = ([], [])
    if labels["multipliers"] is not None:
        cells.multipliers[key] = labels["multipliers"]
    if cells.keeps_samples:
        cells.arrays[key] = [ds["values"].values]
        cells.labels[key] = (labels["prompts"], labels["seeds"])
    else:
        cells.moments[key] = Moments(*ds["sums"].values)
    return cells


def absorb(whole: Cells, part: Cells) -> None:
    """Add ``part`` to ``whole``, as if its samples had been measured there, next."""
    if whole.entries[KEPT:] != part.entries[KEPT:]:
        raise EntropyLabError(
            f"units must hold the same numbers: {', '.join(whole.entries[KEPT:])}. "
            f"Got {', '.join(part.entries[KEPT:])}: another version of entropylab measured them."
        )
    for path, label in part.layers.items():
        whole.layers.setdefault(path, label)
    whole.branches += [name for name in part.branches if name not in whole.branches]
    for size, found in part.grown.items():
        whole.grown.setdefault(size, {}).update(found)
    for size, numbers in part.counted.items():
        add_counts(whole.counted.setdefault(size, {}), numbers)
    for key in part.timesteps:
        whole.timesteps.setdefault(key, part.timesteps[key])
        prompts, seeds = whole.labels.setdefault(key, ([], []))
        prompts.extend(part.labels[key][0])
        seeds.extend(part.labels[key][1])
    whole.multipliers.update(part.multipliers)
    for key, arrays in part.arrays.items():
        whole.arrays.setdefault(key, []).extend(in_place(array, whole, part, np.nan, 1) for array in arrays)
    for key, moments in part.moments.items():
        new = Moments(*(in_place(getattr(moments, name), whole, part, 0, 0) for name in SUMS))
        whole.moments[key] = whole.moments[key].merged(new) if key in whole.moments else new


def add_counts(known: dict[str, Counted], numbers: dict[str, Counted]) -> None:
    """Add what was counted by layer: rows that were lost add up, rows and tokens are those of the last unit."""
    for path, new in numbers.items():
        before = known.get(path, NOTHING)
        known[path] = new._replace(empty=before.empty + new.empty, bad=before.bad + new.bad)


def in_place(array: np.ndarray, whole: Cells, part: Cells, empty: float, shift: int) -> np.ndarray:
    """An array of ``part`` with its branches and layers where ``whole`` has them, and ``empty`` elsewhere.

    ``shift`` is 1 if a sample axis stands after the branches.
    """
    kept = whole.keep
    for axis, name, ours, theirs in (
        (1, "branch", whole.branches, part.branches),
        (3 + shift, "layer", list(whole.layers), list(part.layers)),
    ):
        if (kept is None or name in kept) and ours[: len(theirs)] != theirs:
            places = [ours.index(entry) for entry in theirs]
            shape = list(array.shape)
            shape[axis] = max(places) + 1
            wider = np.full(shape, empty, dtype=array.dtype)
            wider[(slice(None),) * axis + (places,)] = array
            array = wider
    return array


def checksum(ds: xr.Dataset) -> str:
    """SHA-256 of everything in a Dataset: names, dimensions, values and attributes, but for the checksum itself."""
    found = hashlib.sha256()
    for name in sorted(map(str, ds.variables)):
        variable = ds.variables[name]
        text = variable.dtype.kind in "UTO"
        kind = "text" if text else variable.dtype.newbyteorder("<").str
        found.update(json.dumps([name, list(variable.dims), list(variable.shape), kind]).encode())
        values = variable.values
        found.update(
            json.dumps(values.tolist()).encode() if text else np.ascontiguousarray(values, dtype=kind).tobytes()
        )
    attributes = {str(name): value for name, value in ds.attrs.items() if name != CHECKSUM}
    found.update(json.dumps(attributes, sort_keys=True).encode())
    return found.hexdigest()
