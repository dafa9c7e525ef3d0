"""From reduced attention calls to the Dataset: runs are collected by size and scaling, averaged, and laid out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..errors import EntropyLabError
from ..pipelines.guidance import NO_EVIDENCE, Evidence, agreed
from ..sizes import Size, size_label
from .reduce import SPLIT
from .steps import DenoiserCall, by_branch, named_by, samples_in

KEEPABLE = ("branch", "sample", "step", "layer", "head")
COUNTS = ("rows", "rows_empty", "tokens")
BAD = "rows_bad"
KEPT = 2
"""From here on the entries of a reduced call are kept by branch, sample, step, layer and head."""


def check_keep(keep: Any) -> tuple[str, ...] | None:
    """``keep`` as a tuple in the order of the dimensions, or an EntropyLabError."""
    if keep is None:
        return None
    names = (keep,) if isinstance(keep, str) else tuple(keep) if isinstance(keep, list | tuple) else (keep,)
    unknown = [name for name in names if name not in KEEPABLE]
    if unknown:
        raise EntropyLabError(f"keep must be some of {', '.join(KEEPABLE)}, or None for all. Got {list(names)}.")
    return tuple(name for name in KEEPABLE if name in names)


@dataclass(frozen=True)
class LayerLabel:
    """What the coordinates say of a layer: its module, its block, its kind, and what its query rows stand for."""

    module: str
    block: str
    kind: str
    part: str


@dataclass
class Step:
    """One sampling step, on its way from the device.

    Attributes:
        timestep: as the denoiser got it: a tensor, a number or None.
        values: layer path -> (entries, branch, sample, heads).
        evidence: what names the branches.
    """

    timestep: Any
    values: dict[str, Tensor]
    evidence: Evidence

    def decide(self) -> None:
        """Take samples apart that turn out to be two guidance branches, now that the host may look."""
        decided = self.evidence.decided()
        if decided is not self.evidence:
            self.values = {path: value[:, 0].unflatten(1, (2, -1)) for path, value in self.values.items()}
            self.evidence = decided


@dataclass
class Run:
    """One pipeline call: a few samples of one size under one scaling.

    Attributes:
        size: (height, width) [pixels]; None until it is known.
        scaling: name of the scaling rule.
        prompts: the samples' prompts, if known.
        seeds: the samples' seeds, if known.
        is_call: whether it lasts as long as a call of the pipeline.
        grown: layer path -> how many more keys than now it has at the training size, None if unknown.
        multipliers: layer path -> the factor on its softmax scale, mean over heads; NaN if it changed meanwhile.
        steps: what was measured; a step in which the denoiser saw one timestep in several views is several.
    """

    size: Size | None = None
    scaling: str = "original"
    prompts: Sequence[str] = ()
    seeds: Sequence[int] = ()
    is_call: bool = False
    grown: dict[str, int | None] = field(default_factory=dict)
    multipliers: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def add_multiplier(self, layer: str, factor: float | Tensor) -> None:
        """Take the factor on the softmax scale of a layer's call."""
        mean = float(factor.mean()) if isinstance(factor, Tensor) else factor
        self.multipliers[layer] = mean if self.multipliers.get(layer, mean) == mean else np.nan

    def add_step(self, calls: Sequence[DenoiserCall], combined: Any, sample: Any) -> None:
        """Take one step; on a GPU its numbers leave in one asynchronous copy."""
        samples = samples_in(calls, combined, sample)
        values = by_branch(calls, samples)
        packed = torch.cat([value.flatten() for value in values.values()])
        packed = packed.to("cpu", non_blocking=True)
        pieces = packed.split([value.numel() for value in values.values()])
        unpacked = {path: piece.view(value.shape) for (path, value), piece in zip(values.items(), pieces, strict=True)}
        evidence = NO_EVIDENCE if combined is None else named_by(calls, samples, combined, sample)
        self.steps.append(Step(calls[-1].inputs.timestep, unpacked, evidence))

    def views(self) -> list[list[Step]]:
        """The steps, those of one timestep together: a panorama is denoised in several views at each."""
        grouped: list[list[Step]] = []
        for step in self.steps:
            again = step.timestep is not None and grouped and step.timestep is grouped[-1][0].timestep
            if again and step.evidence.is_step:
                grouped[-1].append(step)
            else:
                grouped.append([step])
        return grouped

    def timesteps(self) -> np.ndarray:
        """Timestep of every step; NaN where the pipeline gave none."""
        times = [views[0].timestep for views in self.views()]
        return np.array([np.nan if t is None else float(torch.as_tensor(t).flatten()[0]) for t in times])

    def array(self, layers: Sequence[str], branches: list[str]) -> np.ndarray:
        """Everything as one array (entries, branch, sample, step, layer, head), NaN where a layer did not run.

        New names of branches are added to ``branches``.
        """
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        views = self.views()
        for step in self.steps:
            step.decide()
        named = agreed([step.evidence.names() for step in self.steps])
        names = {id(step): each for step, each in zip(self.steps, named, strict=True)}
        branches += [name for name in dict.fromkeys(n for many in names.values() for n in many) if name not in branches]
        shapes = [value.shape for step in self.steps for value in step.values.values()]
        entries, _, samples, heads = (max(shape[axis] for shape in shapes) for axis in range(4))
        filled = np.full((entries, len(branches), samples, len(views), len(layers), heads), np.nan)
        place = {path: index for index, path in enumerate(layers)}
        for index, together in enumerate(views):
            for path in dict.fromkeys(path for step in together for path in step.values):
                found = [
                    placed(step.values[path], names[id(step)], branches) for step in together if path in step.values
                ]
                mean = mean_known(np.stack(fit_shapes(found)))
                filled[: mean.shape[0], :, : mean.shape[2], index, place[path], : mean.shape[3]] = mean
        return filled


def placed(values: Tensor, names: Sequence[str], branches: Sequence[str]) -> np.ndarray:
    """(entries, branch, sample, heads) with the branches where ``branches`` has their names, NaN in others."""
    whole = np.full((values.shape[0], len(branches), *values.shape[2:]), np.nan)
    for name in dict.fromkeys(names):
        same = [values[:, index].numpy() for index, other in enumerate(names) if other == name]
        whole[:, branches.index(name)] = mean_known(np.stack(same))
    return whole


def mean_known(stacked: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN."""
    known = ~np.isnan(stacked)
    total = np.where(known, stacked, 0).sum(0)
    return np.divide(total, known.sum(0), out=np.full_like(total, np.nan), where=known.any(0))


@dataclass
class Moments:
    """Count, mean and sum of squared deviations over samples, updated online; two of them merge exactly.

    Each an array (entries, branch, step, layer, head); a sample that is NaN somewhere does not count there.
    """

    count: np.ndarray
    mean: np.ndarray
    m2: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Moments over axis 2 (sample) of (entries, branch, sample, step, layer, head)."""
        known = ~np.isnan(values)
        count = known.sum(axis=2)
        mean = np.where(known, values, 0).sum(axis=2) / np.maximum(count, 1)
        squares = np.where(known, values - mean[:, :, None], 0) ** 2
        return cls(count, mean, squares.sum(axis=2))

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both sets of samples together; layers, steps or heads may have grown in between."""
        ours, theirs = (
            [np.nan_to_num(part) for part in parts]
            for parts in zip(*(fit_shapes([a, b]) for a, b in zip(self.parts, other.parts, strict=True)), strict=True)
        )
        count = ours[0] + theirs[0]
        share, delta = theirs[0] / np.maximum(count, 1), theirs[1] - ours[1]
        return Moments(count, ours[1] + delta * share, ours[2] + theirs[2] + delta**2 * ours[0] * share)

    @property
    def parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count, mean and m2."""
        return self.count.astype(float), self.mean, self.m2

    def where_known(self, values: np.ndarray) -> np.ndarray:
        """``values`` with NaN where no sample counted, and a sample axis of length 1."""
        return np.where(self.count > 0, values, np.nan)[:, :, None]


@dataclass
class Cells:
    """Everything measured so far, by size and scaling.

    Attributes:
        entries: names of what a reduced call holds, in order.
        keep: dimensions that are kept apart; None for all.
        layers: layer path -> its labels, in the order in which data met them.
        grown: size -> layer path -> how many more keys it has at the training size, None if unknown.
        branches: names of the guidance branches, in the order in which data met them.
    """

    entries: tuple[str, ...]
    keep: tuple[str, ...] | None = None
    layers: dict[str, LayerLabel] = field(default_factory=dict)
    grown: dict[Size | None, dict[str, int | None]] = field(default_factory=dict)
    branches: list[str] = field(default_factory=list)
    arrays: dict[tuple[Size | None, str], list[np.ndarray]] = field(default_factory=dict)
    moments: dict[tuple[Size | None, str], Moments] = field(default_factory=dict)
    timesteps: dict[tuple[Size | None, str], np.ndarray] = field(default_factory=dict)
    labels: dict[tuple[Size | None, str], tuple[list[str], list[int]]] = field(default_factory=dict)
    multipliers: dict[tuple[Size | None, str], dict[str, float]] = field(default_factory=dict)
    counted: dict[Size | None, dict[str, tuple[float, float, float, float]]] = field(default_factory=dict)

    @property
    def keeps_samples(self) -> bool:
        """Whether samples stay apart."""
        return self.keep is None or "sample" in self.keep

    def add(self, run: Run) -> None:
        """Take a finished run in."""
        key = (run.size, run.scaling)
        raw = run.array(list(self.layers), self.branches)
        self.count_rows(run.size, raw[: len(COUNTS)], raw[self.entries.index(BAD)])
        self.grown.setdefault(run.size, {}).update(run.grown)
        changed = {layer: factor for layer, factor in run.multipliers.items() if factor != 1}
        if changed:
            self.multipliers.setdefault(key, {}).update(changed)
        values = averaged(raw[KEPT:], self.keep)
        self.timesteps.setdefault(key, run.timesteps())
        prompts, seeds = self.labels.setdefault(key, ([], []))
        if self.keeps_samples:
            prompts.extend(run.prompts)
            seeds.extend(run.seeds)
            self.arrays.setdefault(key, []).append(values)
        else:
            new = Moments.of(values)
            self.moments[key] = self.moments[key].merged(new) if key in self.moments else new

    def count_rows(self, size: Size | None, raw: np.ndarray, bad: np.ndarray) -> None:
        """Keep account of rows, of those without keys, of keys, and of bad rows, by layer, whatever is averaged."""
        rows, empty, tokens = raw
        known = self.counted.setdefault(size, {})
        for place, path in enumerate(self.layers):
            if not np.isnan(rows[..., place, :]).all():
                _, *before, _, spoiled = known.get(path, (0.0,) * 4)
                lost, broken = (np.nan_to_num(part[..., place, :]).max(axis=-1).sum() for part in (empty, bad))
                keys = float(mean_known(tokens[..., place, :].ravel()))
                known[path] = (np.nanmax(rows[..., place, :]), before[0] + lost, keys, spoiled + broken)

    @property
    def keyless(self) -> list[str]:
        """Modules that attended, and whose mask left no key to any row at any size."""
        found = [(self.layers[path].module, known) for ran in self.counted.values() for path, known in ran.items()]
        with_keys = {module for module, (rows, _, _, bad) in found if rows > 0 or bad > 0}
        return [module for module in dict.fromkeys(module for module, _ in found) if module not in with_keys]

    def samples_of(self, size: Size | None, scaling: str) -> int:
        """How many samples were averaged."""
        return int(self.moments[size, scaling].count.max()) if (size, scaling) in self.moments else 0

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
            means = {key: moments.where_known(moments.mean) for key, moments in self.moments.items()}
            spreads = {key: moments.where_known(moments.m2) for key, moments in self.moments.items()}
        coordinates = self.coordinates(sizes, scalings, next(iter(fit_shapes(list(means.values())))).shape)
        dataset = xr.Dataset(coords=coordinates)
        grid = self.grid(means, sizes, scalings)
        squares = self.grid(spreads, sizes, scalings) if spreads else None
        for index, name in enumerate(("keys", *self.entries[len(COUNTS) :])[: len(grid)]):
            if name == BAD or (name in SPLIT and np.isnan(grid[index]).all()):
                continue
            dataset[name] = (DIMENSIONS, grid[index].astype(np.float32))
            if squares is not None and not name.endswith("_se"):
                dataset[f"{name}_m2"] = (DIMENSIONS, squares[index])
        if spreads:
            counts = [[self.samples_of(s, c) for c in scalings] for s in sizes]
            dataset["samples"] = (("size", "scaling"), np.array(counts, dtype=np.int64))
        rows, empty, tokens, bad = (self.counts(sizes, index) for index in range(len(COUNTS) + 1))
        dims: tuple[str, ...] = ("size", "layer")
        if self.keep is not None and "layer" not in self.keep:
            dims, rows, empty, bad = ("size",), *(np.nansum(part, 1) for part in (rows, empty, bad))
            tokens = np.nanmean(tokens, 1)
        else:
            factors = [[list(self.factors(s, c)) for c in scalings] for s in sizes]
            dataset = dataset.assign_coords(multiplier=(("size", "scaling", "layer"), factors))
        dataset["rows"] = (dims, np.nan_to_num(rows).astype(np.int64))
        dataset["rows_empty"] = (dims, np.nan_to_num(empty).astype(np.int64))
        dataset[BAD] = (dims, np.nan_to_num(bad).astype(np.int64))
        dataset = dataset.assign_coords(tokens=(dims, tokens))
        ran = ~np.isnan(grid[0]).all(axis=tuple(axis for axis in range(grid.ndim - 1) if axis != 5))
        return self.without_averaged(dataset if ran.all() else dataset.isel(layer=ran))

    def counts(self, sizes: list, index: int) -> np.ndarray:
        """Rows (0), rows without keys (1), keys (2) or bad rows (3) of every size and layer: (size, layer)."""
        nothing = (np.nan,) * 4
        return np.array([[self.counted[size].get(path, nothing)[index] for path in self.layers] for size in sizes])

    def factors(self, size: Size | None, scaling: str) -> Iterator[float]:
        """The factor on the softmax scale that every layer had."""
        known = self.multipliers.get((size, scaling), {})
        return (known.get(label.module, 1.0) for label in self.layers.values())

    def train_tokens(self, sizes: list) -> list[float]:
        """T of every layer: its keys at the first size where it ran, and how many more it has at the training size."""
        known: dict[str, float] = {}
        for size in sizes:
            for path, (_, _, tokens, _) in self.counted[size].items():
                more = self.grown[size].get(path)
                if more is not None:
                    known.setdefault(path, tokens + more)
        return [float(known.get(path, np.nan)) for path in self.layers]

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
            "size": ["unknown" if size is None else size_label(size) for size in sizes],
            "height": ("size", [height for height, _ in known]),
            "width": ("size", [width for _, width in known]),
            "scaling": scalings,
            "branch": self.branches[:branches] if self.keep is None or "branch" in self.keep else ["mean"],
            "sample": np.arange(samples),
            "step": np.arange(steps),
            "timestep": ("step", times[0]) if alike else (("size", "step"), times),
            "layer": paths,
            **{
                name: ("layer", [getattr(self.layers[path], name) for path in paths])
                for name in ("module", "block", "kind", "part")
            },
            "train_tokens": ("layer", self.train_tokens(sizes)[:layers]),
            "head": np.arange(heads),
        }
        prompts, seeds = longest
        if self.keeps_samples and len(prompts) == samples:
            coordinates["prompt"] = ("sample", prompts)
        if self.keeps_samples and len(seeds) == samples:
            coordinates["seed"] = ("sample", seeds)
        return coordinates

    def without_averaged(self, dataset: xr.Dataset) -> xr.Dataset:
        """Drop the dimensions that were averaged away, with their coordinates."""
        if self.keep is None:
            return dataset
        gone = [name for name in KEEPABLE if name not in self.keep]
        dataset = dataset.isel({name: 0 for name in gone if name in dataset.dims}, drop=True)
        spoiled = {
            "step": ["timestep"],
            "layer": ["module", "block", "kind", "part", "train_tokens"],
            "sample": ["prompt", "seed"],
        }
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


def fit_shapes(arrays: list[np.ndarray], but: int | None = None) -> list[np.ndarray]:
    """Pad arrays with NaN to a common shape, except along axis ``but``."""
    common = [max(array.shape[axis] for array in arrays) for axis in range(arrays[0].ndim)]
    padded = []
    for array in arrays:
        wanted = [array.shape[axis] if axis == but else side for axis, side in enumerate(common)]
        padding = [(0, want - have) for want, have in zip(wanted, array.shape, strict=True)]
        padded.append(np.pad(array, padding, constant_values=np.nan) if any(p[1] for p in padding) else array)
    return padded
