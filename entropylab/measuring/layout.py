"""The Dataset of what was measured: laid out by size, scaling, branch, sample, step, layer and head."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ..errors import EntropyLabError
from ..sizes import Clip, KnownSize, Packed, size_label
from .cells import BAD, COUNTS, KEEPABLE, UNCOUNTED, Cells, common_labels, common_timesteps
from .moments import fit_shapes
from .reduce import SPLIT

DIMENSIONS = ("size", "scaling", "branch", "sample", "step", "layer", "head")
LABELS = ("module", "block", "kind", "part")
SPOILED = {
    "step": ("timestep",),
    "layer": (*LABELS, "train_tokens"),
    "sample": ("prompt", "seed"),
}
"""Coordinates that go with a dimension that was averaged away."""

Sizes = Sequence[KnownSize]


def dataset_of(cells: Cells) -> xr.Dataset:
    """Everything that was measured as a Dataset.

    Raises:
        EntropyLabError: nothing was measured yet.
    """
    if not cells.timesteps:
        raise EntropyLabError("nothing was measured yet: no denoiser ran an attention layer inside the context.")
    sizes = list(dict.fromkeys(size for size, _ in cells.timesteps))
    scalings = list(dict.fromkeys(scaling for _, scaling in cells.timesteps))
    means, squares = statistics_of(cells)
    values = grid(means, sizes, scalings)
    dataset = xr.Dataset(coords=coordinates(cells, sizes, scalings, values.shape))
    dataset = dataset.assign(variables(cells, values, grid(squares, sizes, scalings) if squares else None))
    if squares:
        samples = [[cells.samples_of(size, scaling) for scaling in scalings] for size in sizes]
        dataset["samples"] = (("size", "scaling"), np.array(samples, dtype=np.int64))
    dataset = with_counts(dataset, cells, sizes)
    if cells.keeps_layers:
        factors = [[cells.factors(size, scaling) for scaling in scalings] for size in sizes]
        dataset = dataset.assign_coords(multiplier=(("size", "scaling", "layer"), factors))
    ran = ~np.isnan(values[0]).all(axis=tuple(axis for axis in range(values.ndim - 1) if axis != 5))
    return without_averaged(dataset if ran.all() else dataset.isel(layer=ran), cells)


def statistics_of(cells: Cells) -> tuple[dict[Any, np.ndarray], dict[Any, np.ndarray]]:
    """Means by size and scaling (entries, branch, sample, step, layer, head); if samples were averaged, m2 likewise."""
    if cells.keeps_samples:
        return {key: np.concatenate(fit_shapes(parts, but=2), axis=2) for key, parts in cells.arrays.items()}, {}
    means = {key: moments.where_known(moments.mean) for key, moments in cells.moments.items()}
    return means, {key: moments.where_known(moments.m2) for key, moments in cells.moments.items()}


def grid(found: Mapping[Any, np.ndarray], sizes: Sizes, scalings: Sequence[str]) -> np.ndarray:
    """All as one array (entries, size, scaling, branch, sample, step, layer, head); NaN where nothing was."""
    shaped = dict(zip(found, fit_shapes(list(found.values())), strict=True))
    empty = np.full_like(next(iter(shaped.values())), np.nan)
    return np.stack([np.stack([shaped.get((size, scaling), empty) for scaling in scalings], 1) for size in sizes], 1)


def variables(cells: Cells, values: np.ndarray, squares: np.ndarray | None) -> dict[str, Any]:
    """The variables that have all dimensions; those of joint attention only if there was any."""
    found: dict[str, Any] = {}
    for index, name in enumerate(("keys", *cells.entries[len(COUNTS) :])[: len(values)]):
        if name == BAD or (name in SPLIT and np.isnan(values[index]).all()):
            continue
        found[name] = (DIMENSIONS, values[index].astype(np.float32))
        if squares is not None and not name.endswith("_se"):
            found[f"{name}_m2"] = (DIMENSIONS, squares[index])
    return found


def with_counts(dataset: xr.Dataset, cells: Cells, sizes: Sizes) -> xr.Dataset:
    """The Dataset with the numbers of rows, and of tokens, of every size and layer."""
    counted = [[cells.counted[size].get(path, UNCOUNTED) for path in cells.layers] for size in sizes]
    rows, empty, tokens, bad, _ = np.moveaxis(np.array(counted, dtype=float), -1, 0)
    dims: tuple[str, ...] = ("size", "layer")
    if not cells.keeps_layers:
        dims, rows, empty, bad = ("size",), *(np.nansum(part, 1) for part in (rows, empty, bad))
        tokens = np.nanmean(tokens, 1)
    for name, values in (("rows", rows), ("rows_empty", empty), (BAD, bad)):
        dataset[name] = (dims, np.nan_to_num(values).astype(np.int64))
    return dataset.assign_coords(tokens=(dims, tokens))


def coordinates(cells: Cells, sizes: Sizes, scalings: Sequence[str], shape: tuple[int, ...]) -> dict[str, Any]:
    """The coordinates of the Dataset, for values (entries, size, scaling, branch, sample, step, layer, head)."""
    branches, samples, steps, layers, heads = shape[3:]
    labels = list(cells.layers.values())[:layers]
    return {
        "size": [label_of(size, sizes) for size in sizes],
        "height": ("size", [-1 if size is None or isinstance(size, Packed) else size[0] for size in sizes]),
        "width": ("size", [-1 if size is None or isinstance(size, Packed) else size[1] for size in sizes]),
        "scaling": list(scalings),
        "branch": cells.branches[:branches] if cells.keep is None or "branch" in cells.keep else ["mean"],
        "sample": np.arange(samples),
        "step": np.arange(steps),
        "timestep": timesteps(cells, sizes, steps),
        "layer": list(cells.layers)[:layers],
        **{name: ("layer", [getattr(label, name) for label in labels]) for name in LABELS},
        "train_tokens": ("layer", train_tokens(cells, sizes)[:layers]),
        "head": np.arange(heads),
        **sample_labels(cells, samples),
    }


def label_of(size: KnownSize, sizes: Sizes) -> str:
    """The label of a size; where several are not known, what the denoiser was handed tells them apart.

    Videos of other lengths are sizes of their own.
    """
    if isinstance(size, Clip):
        others = [other for other in sizes if other is not None and not isinstance(other, Packed)]
        alone = [other[:2] for other in others].count(size[:2]) == 1
        return size_label(size[:2]) if alone else f"{size_label(size[:2])} {size.length}"
    if isinstance(size, Packed):
        alone = sum(other is None or isinstance(other, Packed) for other in sizes) == 1
        return "unknown" if alone else f"input {size.tokens}x{size.width}"
    return "unknown" if size is None else size_label(size)


def timesteps(cells: Cells, sizes: Sizes, steps: int) -> tuple[Any, np.ndarray]:
    """The timestep of every step, by size where sizes differ."""
    times = np.full((len(sizes), steps), np.nan)
    for size in sizes:
        values = common_timesteps([own for (other, _), own in cells.timesteps.items() if other == size])[:steps]
        times[sizes.index(size), : len(values)] = values
    alike = all(np.array_equal(row, times[0], equal_nan=True) for row in times)
    return ("step", times[0]) if alike else (("size", "step"), times)


def train_tokens(cells: Cells, sizes: Sizes) -> list[float]:
    """T of every layer: its keys at the first size where it ran, and how many more it has at the training size.

    NaN where videos of several lengths have not the same.
    """
    known: dict[str, dict[str, float]] = {}
    for size in sizes:
        length = size.length if isinstance(size, Clip) else ""
        for path, counted in cells.counted[size].items():
            more = cells.grown[size].get(path)
            if more is not None:
                known.setdefault(path, {}).setdefault(length, counted.tokens + more)
    found = [set(known.get(path, {}).values()) for path in cells.layers]
    return [float(each.pop()) if len(each) == 1 else np.nan for each in found]


def sample_labels(cells: Cells, samples: int) -> dict[str, Any]:
    """Prompts and seeds, where samples are kept apart and all have one, the same at every size and scaling."""
    if not cells.keeps_samples:
        return {}
    both = zip(("prompt", "seed"), zip(*cells.labels.values(), strict=True), strict=True)
    return {name: ("sample", known) for name, all_of in both if (known := common_labels(all_of, samples))}


def without_averaged(dataset: xr.Dataset, cells: Cells) -> xr.Dataset:
    """Drop the dimensions that were averaged away, with their coordinates."""
    gone = [] if cells.keep is None else [name for name in KEEPABLE if name not in cells.keep]
    dataset = dataset.isel({name: 0 for name in gone if name in dataset.dims}, drop=True)
    return dataset.drop_vars([v for name in gone for v in SPOILED.get(name, ()) if v in dataset.coords])
