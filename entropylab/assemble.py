"""From reduced attention calls to the Dataset: runs are collected by size and scaling, averaged, and laid out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .errors import EntropyLabError
from .pipelines import Size, branch_names

KEEPABLE = ("branch", "sample", "step", "layer", "head")
COUNTS = ("rows", "rows_empty", "tokens")


def check_keep(keep: Any) -> tuple[str, ...] | None:
    """``keep`` as a tuple in the order of the dimensions, or an EntropyLabError."""
    if keep is None:
        return None
    names = (keep,) if isinstance(keep, str) else tuple(keep)
    unknown = [name for name in names if name not in KEEPABLE]
    if unknown:
        raise EntropyLabError(f"keep must be some of {', '.join(KEEPABLE)}, or None for all. Got {list(names)}.")
    return tuple(name for name in KEEPABLE if name in names)


@dataclass
class Run:
    """One pipeline call: a few samples of one size under one scaling.

    Attributes:
        size: (height, width) [pixels]; None until it is known.
        scaling: name of the scaling rule.
        prompts: the samples' prompts, if known.
        seeds: the samples' seeds, if known.
        steps: per step its timestep and layer path -> (entries, branch, sample, heads), on the device until read.
    """

    size: Size | None = None
    scaling: str = "original"
    prompts: Sequence[str] = ()
    seeds: Sequence[int] = ()
    steps: list[tuple[Any, dict[str, Tensor]]] = field(default_factory=list)

    def add_step(self, timestep: Any, values: dict[str, Tensor]) -> None:
        """Take one step; on a GPU its numbers leave in one asynchronous copy."""
        packed = torch.cat([value.flatten() for value in values.values()])
        packed = packed.to("cpu", non_blocking=True)
        pieces = packed.split([value.numel() for value in values.values()])
        unpacked = {path: piece.view(value.shape) for (path, value), piece in zip(values.items(), pieces, strict=True)}
        self.steps.append((timestep, unpacked))

    def timesteps(self) -> np.ndarray:
        """Timestep of every step; NaN where the pipeline gave none."""
        return np.array([np.nan if t is None else float(torch.as_tensor(t).flatten()[0]) for t, _ in self.steps])

    def array(self, layers: Sequence[str]) -> np.ndarray:
        """Everything as one array (entries, branch, sample, step, layer, head), NaN where a layer did not run."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        shapes = [value.shape for _, values in self.steps for value in values.values()]
        entries, branches, samples, heads = (max(shape[axis] for shape in shapes) for axis in range(4))
        filled = np.full((entries, branches, samples, len(self.steps), len(layers), heads), np.nan)
        place = {path: index for index, path in enumerate(layers)}
        for step, (_, values) in enumerate(self.steps):
            for path, value in values.items():
                _, count, _, width = value.shape
                filled[:, :count, : value.shape[2], step, place[path], :width] = value.numpy()
        return filled


@dataclass
class Moments:
    """Count, mean and sum of squared deviations over samples, updated online; two of them merge exactly."""

    count: int
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Moments over axis 2 (sample) of (entries, branch, sample, step, layer, head)."""
        mean = values.mean(axis=2)
        return cls(values.shape[2], mean, ((values - mean[:, :, None]) ** 2).sum(axis=2))

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of samples together."""
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        return Moments(count, mean, self.m2 + other.m2 + delta**2 * (self.count * other.count / count))


@dataclass
class Cells:
    """Everything measured so far, by size and scaling.

    Attributes:
        entries: names of what a reduced call holds, in order.
        keep: dimensions that are kept apart; None for all.
        layers: layer path -> (block, kind), in the order in which data met them.
        train_tokens: layer path -> number of keys at the training size, None if unknown.
    """

    entries: tuple[str, ...]
    keep: tuple[str, ...] | None = None
    layers: dict[str, tuple[str, str]] = field(default_factory=dict)
    train_tokens: dict[str, int | None] = field(default_factory=dict)
    arrays: dict[tuple[Size | None, str], list[np.ndarray]] = field(default_factory=dict)
    moments: dict[tuple[Size | None, str], Moments] = field(default_factory=dict)
    timesteps: dict[tuple[Size | None, str], np.ndarray] = field(default_factory=dict)
    labels: dict[tuple[Size | None, str], tuple[list[str], list[int]]] = field(default_factory=dict)
    multipliers: dict[tuple[Size | None, str], dict[str, float]] = field(default_factory=dict)

    @property
    def keeps_samples(self) -> bool:
        """Whether samples stay apart."""
        return self.keep is None or "sample" in self.keep

    def add(self, run: Run) -> None:
        """Take a finished run in."""
        key = (run.size, run.scaling)
        values = averaged(run.array(list(self.layers)), self.keep)
        self.timesteps.setdefault(key, run.timesteps())
        prompts, seeds = self.labels.setdefault(key, ([], []))
        if self.keeps_samples:
            prompts.extend(run.prompts)
            seeds.extend(run.seeds)
            self.arrays.setdefault(key, []).append(values)
        else:
            new = Moments.of(values)
            self.moments[key] = padded_merge(self.moments[key], new) if key in self.moments else new

    def dataset(self) -> xr.Dataset:
        """Lay everything out as the Dataset."""
        if not self.timesteps:
            raise EntropyLabError("nothing was measured yet: no denoiser ran an attention layer inside the context.")
        keys = list(self.timesteps)
        sizes = list(dict.fromkeys(size for size, _ in keys))
        scalings = list(dict.fromkeys(scaling for _, scaling in keys))
        if self.keeps_samples:
            means = {key: np.concatenate(fit_shapes(parts, but=2), axis=2) for key, parts in self.arrays.items()}
            spreads: dict = {}
        else:
            means = {key: moments.mean[:, :, None] for key, moments in self.moments.items()}
            spreads = {key: moments.m2[:, :, None] for key, moments in self.moments.items()}
        coordinates = self.coordinates(sizes, scalings, next(iter(fit_shapes(list(means.values())))).shape)
        dataset = xr.Dataset(coords=coordinates)
        grid = self.grid(means, sizes, scalings)
        for index, name in enumerate(self.entries):
            if name not in COUNTS:
                dataset[name] = (DIMENSIONS, grid[index].astype(np.float32))
        if spreads:
            squares = self.grid(spreads, sizes, scalings)
            for index, name in enumerate(self.entries):
                if name not in COUNTS:
                    dataset[f"{name}_m2"] = (DIMENSIONS, squares[index])
            counts = [[self.moments[s, c].count if (s, c) in self.moments else 0 for c in scalings] for s in sizes]
            dataset["samples"] = (("size", "scaling"), np.array(counts, dtype=np.int64))
        by_layer = dict(zip(COUNTS, (flat(grid[i]) for i in range(len(COUNTS))), strict=True))
        for name in ("rows", "rows_empty"):
            dataset[name] = (("size", "layer"), np.nan_to_num(np.round(by_layer[name])).astype(np.int64))
        dataset = dataset.assign_coords(tokens=(("size", "layer"), by_layer["tokens"]))
        if self.keep is None or "layer" in self.keep:
            factors = [[list(self.factors(s, c)) for c in scalings] for s in sizes]
            dataset = dataset.assign_coords(multiplier=(("size", "scaling", "layer"), factors))
        return self.without_averaged(dataset)

    def factors(self, size: Size | None, scaling: str) -> Iterator[float]:
        """The factor on the softmax scale that every layer had."""
        known = self.multipliers.get((size, scaling), {})
        return (known.get(path.split(":")[0], 1.0) for path in self.layers)

    def grid(self, cells: dict, sizes: list, scalings: list) -> np.ndarray:
        """The cells as one array (entries, size, scaling, branch, sample, step, layer, head), NaN where none is."""
        shaped = dict(zip(cells, fit_shapes(list(cells.values())), strict=True))
        empty = np.full_like(next(iter(shaped.values())), np.nan)
        return np.stack(
            [np.stack([shaped.get((size, scaling), empty) for scaling in scalings], 1) for size in sizes], 1
        )

    def coordinates(self, sizes: list, scalings: list, shape: tuple[int, ...]) -> dict:
        """The coordinates of the Dataset."""
        _, branches, samples, steps, layers, heads = shape
        known = [size if size is not None else (-1, -1) for size in sizes]
        paths = list(self.layers)[:layers]
        longest = max(self.labels.values(), key=lambda labels: len(labels[0]))
        times = np.full((len(sizes), steps), np.nan)
        for (size, _), values in self.timesteps.items():
            times[sizes.index(size), : min(len(values), steps)] = values[:steps]
        alike = all(np.array_equal(row, times[0], equal_nan=True) for row in times)
        coordinates: dict = {
            "size": [f"{height}x{width}" if height > 0 else "unknown" for height, width in known],
            "height": ("size", [height for height, _ in known]),
            "width": ("size", [width for _, width in known]),
            "scaling": scalings,
            "branch": branch_names(branches),
            "sample": np.arange(samples),
            "step": np.arange(steps),
            "timestep": ("step", times[0]) if alike else (("size", "step"), times),
            "layer": paths,
            "block": ("layer", [self.layers[path][0] for path in paths]),
            "kind": ("layer", [self.layers[path][1] for path in paths]),
            "train_tokens": ("layer", [float(self.train_tokens.get(path) or np.nan) for path in paths]),
            "head": np.arange(heads),
        }
        if self.keeps_samples and len(longest[0]) == samples:
            coordinates |= {"prompt": ("sample", longest[0]), "seed": ("sample", longest[1])}
        return coordinates

    def without_averaged(self, dataset: xr.Dataset) -> xr.Dataset:
        """Drop the dimensions that were averaged away, with their coordinates."""
        if self.keep is None:
            return dataset
        gone = [name for name in KEEPABLE if name not in self.keep]
        if "layer" in gone:
            dataset = dataset.assign_coords(tokens=dataset["tokens"].mean("layer"))
            dataset = dataset.assign({name: dataset[name].sum("layer") for name in ("rows", "rows_empty")})
        dataset = dataset.isel({name: 0 for name in gone if name in dataset.dims}, drop=True)
        spoiled = {"step": ["timestep"], "layer": ["block", "kind", "train_tokens"], "sample": ["prompt", "seed"]}
        return dataset.drop_vars([v for name in gone for v in spoiled.get(name, []) if v in dataset.coords])


DIMENSIONS = ("size", "scaling", "branch", "sample", "step", "layer", "head")
AXES = {"branch": 1, "step": 3, "layer": 4, "head": 5}


def averaged(values: np.ndarray, keep: tuple[str, ...] | None) -> np.ndarray:
    """Average over the dimensions that are not kept; each stays with length 1. NaN (padding) is not averaged in."""
    axes = tuple(axis for name, axis in AXES.items() if keep is not None and name not in keep)
    if not axes:
        return values
    counted = ~np.isnan(values)
    total = np.where(counted, values, 0).sum(axis=axes, keepdims=True)
    count = counted.sum(axis=axes, keepdims=True)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def flat(values: np.ndarray) -> np.ndarray:
    """(size, scaling, branch, sample, step, layer, head) averaged to (size, layer), NaN not averaged in."""
    moved = values.transpose(0, 5, 1, 2, 3, 4, 6).reshape(values.shape[0], values.shape[5], -1)
    count = (~np.isnan(moved)).sum(-1)
    return np.divide(np.nansum(moved, -1), count, out=np.full(count.shape, np.nan), where=count > 0)


def fit_shapes(arrays: list[np.ndarray], but: int | None = None) -> list[np.ndarray]:
    """Pad arrays with NaN to a common shape, except along axis ``but``."""
    common = [max(array.shape[axis] for array in arrays) for axis in range(arrays[0].ndim)]
    padded = []
    for array in arrays:
        wanted = [array.shape[axis] if axis == but else side for axis, side in enumerate(common)]
        padding = [(0, want - have) for want, have in zip(wanted, array.shape, strict=True)]
        padded.append(np.pad(array, padding, constant_values=np.nan) if any(p[1] for p in padding) else array)
    return padded


def padded_merge(one: Moments, other: Moments) -> Moments:
    """Merge moments whose layers or heads may have grown in between."""
    mean_one, mean_other = fit_shapes([one.mean, other.mean])
    m2_one, m2_other = fit_shapes([one.m2, other.m2])
    return Moments(one.count, mean_one, m2_one).merged(Moments(other.count, mean_other, m2_other))
