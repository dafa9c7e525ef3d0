"""Entropy maps: the entropy of every query row in its place in the picture, averaged on the device."""

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..capture import AttentionCall
from ..dataset import describe
from ..entropy.sums import sums_and_entropy
from ..pipelines import part_of
from ..pipelines.grids import Grid, grid_of
from ..pipelines.guidance import agreed
from ..pipelines.sight import Sight
from .asked import Where, rows_at
from .cells import UNCOUNTED, Cells
from .delivery import departures, landed, sent
from .layout import LABELS, label_of
from .reduce import Reduction, Sums, joint_keys, key_parts
from .run import Run
from .steps import DenoiserCall, Seen, branches_in

Place = Grid | str
"""Where the rows of a layer stand: on a grid over the picture, or in a row of tokens of this name."""


class RowReduction(Reduction):
    """A reduction that leaves the entropy of every row beside the sums."""

    def is_plain(self, call: AttentionCall) -> bool:
        """No call takes the short way."""
        return False

    def over_several(self, call: AttentionCall, places: list[Where]) -> None:
        """Rows of each part are looked at by themselves."""

    def over_rows(self, call: AttentionCall, where: Where) -> Sums:
        """Sums over the query rows that stand somewhere, and the entropy of each: (batch, heads, rows)."""
        asked, keys = rows_at(call, where), joint_keys(call)
        parts = None if keys is None else key_parts(keys, call.key.device)
        sums, entropy = sums_and_entropy(self.question(call, asked), asked.counted, parts)
        sums = self.with_beyond(sums, call, asked) if self.beyond else sums
        apart = where if isinstance(where, Tensor) else None
        return Sums(sums, asked.fraction, () if keys is None else keys.parts, entropy, apart)


def together(entropy: Tensor, where: Tensor, count: int) -> Tensor:
    """The ``count`` rows of (batch, heads, all rows) that stand ``where`` (batch, all rows), in their order."""
    order = (~where).to(torch.int8).argsort(dim=1, stable=True)[:, None, :count]
    return entropy.gather(-1, order.expand(*entropy.shape[:2], count))


class Piece(NamedTuple):
    """Rows of a call whose entropies are kept: (batch, heads, rows) of them, 1 head where heads are averaged."""

    seen: Seen
    heads: int
    rows: int
    place: Place

    @property
    def shape(self) -> tuple[int, int, int]:
        """(batch, heads, rows)."""
        return self.seen.shape[0], self.heads, self.rows

    def arranged(self, values: np.ndarray, batch: int) -> np.ndarray:
        """Values (batch of the call, heads, rows) as (``batch`` images, heads, *grid); 0 for images left out."""
        images = self.seen.images if self.seen.place is not None else len(values)
        apart = values.reshape(images if len(values) % images == 0 else len(values), -1, self.heads, self.rows)
        found = self.place.arranged(apart) if isinstance(self.place, Grid) else apart[:, 0]
        if self.seen.place in (None, (0, batch)):
            return found
        whole = np.zeros((batch, *found.shape[1:]), found.dtype)
        whole[slice(*self.seen.place)] = found
        return whole


class Held(NamedTuple):
    """Sums over heads, and steps, of the entropies of some pieces side by side, and how many rows they are of."""

    pieces: tuple[Piece, ...]
    sums: Tensor
    counts: Tensor

    def arranged(self, batch: int) -> Iterator[tuple[tuple[str, Place], np.ndarray]]:
        """Layer path and place, and its sums and counts: (2, ``batch`` images, heads, *grid)."""
        flat, first = torch.stack([self.sums, self.counts]).cpu().double().numpy(), 0
        singles: dict[tuple[str, Place], list[np.ndarray]] = {}
        for piece in self.pieces:
            last = first + int(np.prod(piece.shape))
            values = np.stack([piece.arranged(side.reshape(piece.shape), batch) for side in flat[:, first:last]])
            first = last
            if piece.seen.place is None:
                singles.setdefault((piece.seen.layer, piece.place), []).append(values)
            else:
                yield (piece.seen.path, piece.place), values
        yield from ((key, np.concatenate(all_of, 1)) for key, all_of in singles.items() if len(all_of) == batch)


@dataclass
class RunMaps:
    """What is kept of a run while it goes on.

    Attributes:
        held: by what steps have in common (or by the step, if steps are kept), the forward in it, and the device.
        steps: what each step has in common with others, or its number.
        departed: when what steps gave had left for the host.
    """

    held: dict[tuple[Any, ...], Held] = field(default_factory=dict)
    steps: list[Hashable] = field(default_factory=list)
    departed: list[torch.cuda.Event] = field(default_factory=list)


@dataclass
class Finished:
    """The maps of a run, on the host: layer path and place -> branch and step -> (2, samples, heads, *grid)."""

    samples: int
    values: dict[tuple[str, Place], dict[tuple[str, int], np.ndarray]]
    timesteps: np.ndarray
    prompts: list[str]
    seeds: list[int]


@dataclass
class Maps:
    """The maps of everything measured so far.

    Attributes:
        keep: what is kept apart of branch, step and head; samples and layers always are.
        finished: by size and scaling, the runs that are over.
        unplaced: layer -> why its rows have no place in the picture.
    """

    keep: tuple[str, ...]
    finished: dict[Any, list[Finished]] = field(default_factory=dict)
    unplaced: dict[str, str] = field(default_factory=dict)
    places: dict[Hashable, Piece | None] = field(default_factory=dict)

    def take(
        self, forward: DenoiserCall, seen: Seen, found: Sums, call: AttentionCall, part: str, sight: Sight
    ) -> None:
        """Take the entropies of a call's rows, averaged over heads unless these are kept; nothing is waited for."""
        entropy = found.entropy
        if entropy is None:
            return
        if found.where is not None and part == "image" and call.roles is not None:
            entropy = together(entropy, found.where, call.roles.queries.count(part, entropy.shape[-1]))
        key = (seen, part, entropy.shape, sight.latent, None if call.inputs is None else call.inputs.shapes)
        if key not in self.places:
            self.places[key] = self.piece_of(seen, entropy.shape, call, part, sight)
        piece = self.places[key]
        if piece is None:
            return
        known = ~entropy.isnan()
        if piece.heads == 1:
            forward.rows.append((piece, entropy.nansum(1).flatten(), known.sum(1).flatten()))
        else:
            forward.rows.append((piece, entropy.nan_to_num().flatten(), known.flatten()))

    def piece_of(self, seen: Seen, shape: torch.Size, call: AttentionCall, part: str, sight: Sight) -> Piece | None:
        """What rows (batch, heads, rows) are; None, and they are named, if they have no place."""
        batch, heads, rows = shape
        stands_for = part_of(call, part)
        places = max(1, batch // seen.images) if seen.place is not None and batch % seen.images == 0 else 1
        place: Place | None = None
        why = "what its rows stand for is not known"
        if stands_for in ("image", "all"):
            config = getattr(sight.roots.get(call.layer.partition(".")[0]), "config", None)
            found = grid_of(call, config, sight.latent, "num_frames" in sight.asked, rows, places)
            place, why = (found, "") if isinstance(found, Grid) else (None, found)
        elif stands_for != "unknown":
            place = f"{stands_for}_{rows}" if places == 1 else None
            why = f"{rows} rows of {stands_for} are at {places} places of each image"
        if place is None:
            self.unplaced[seen.path] = why
            return None
        return Piece(seen, heads if "head" in self.keep else 1, rows, place)

    def add_step(self, run: Run, calls: list[DenoiserCall]) -> None:
        """Take the step that a run has just been given: it is added to those that are like it."""
        run.maps = kept = run.maps or RunMaps()
        alike: Hashable = tuple(call.forward.likeness for call in calls)
        kept.steps.append(len(run.steps) - 1 if "step" in self.keep else alike)
        for number, call in enumerate(calls):
            for device in {sums.device for _, sums, _ in call.rows}:
                here = [row for row in call.rows if row[1].device == device]
                pieces = tuple(piece for piece, _, _ in here)
                sums, counts = (torch.cat([row[side] for row in here]) for side in (1, 2))
                sums, counts = sums.float(), counts.float()
                if "step" in self.keep:
                    kept.departed += departures([sums])
                    sums, counts = sent(sums), sent(counts)
                key = (kept.steps[-1], number, device, pieces)
                before = kept.held.get(key)
                if before is not None:
                    sums, counts = before.sums + sums, before.counts + counts
                kept.held[key] = Held(pieces, sums, counts)

    def finish(self, run: Run) -> Finished | None:
        """The maps of a run, now that the host may wait for them; None if it gave none."""
        if run.maps is None:
            return None
        for step in run.steps:
            landed(step.departed)
            step.decide()
        landed(run.maps.departed)
        found: dict[tuple[str, Place], dict[tuple[str, int], np.ndarray]] = {}
        named = agreed([step.evidence.names() for step in run.steps])
        is_whole = all(len(views) == 1 for views in run.views())
        anew = set() if "step" in self.keep else self.begun_anew(run)
        for (when, number, _, _), held in run.maps.held.items():
            members = [index for index, each in enumerate(run.maps.steps) if each == when]
            step, names = run.steps[members[0]], named[members[0]]
            told = {(run.steps[index].samples, tuple(named[index])) for index in members}
            problem = "is denoised in several views of the picture" if not is_whole else None
            problem = "its guidance branches are not the same in every step" if len(told) > 1 else problem
            if problem is not None:
                self.unplaced |= {piece.seen.path: problem for piece in held.pieces}
                continue
            counts = [branches_in(forward.batch, step.samples) for forward in step.forwards]
            own = names[sum(counts[:number]) :][: counts[number]]
            for key, values in held.arranged(step.forwards[number].batch):
                if key[0] in anew:
                    self.unplaced[key[0]] = (
                        "its picture is sampled in parts, one after the other, unless steps are kept"
                    )
                    continue
                if not values[1].any():  # a mask left no key to any row
                    continue
                shape = (2, counts[number], -1, *values.shape[2:])
                for index, name in enumerate(own):
                    at = (name if "branch" in self.keep else "mean", members[0] if "step" in self.keep else 0)
                    one = values.reshape(shape)[:, index].astype(np.float32)
                    before = found.setdefault(key, {}).get(at)
                    found[key][at] = one if before is None else before + one
        samples = max((one.shape[1] for each in found.values() for one in each.values()), default=0)
        return Finished(samples, found, run.timesteps(), list(run.prompts), list(run.seeds))

    def begun_anew(self, run: Run) -> set[str]:
        """Layers for which the timesteps begin anew within a run: what was denoised before was something else."""
        times = run.timesteps()
        ran: dict[str, list[float]] = {}
        for when, time in zip(run.maps.steps, times, strict=False):
            paths = (piece.seen.path for key, held in run.maps.held.items() if key[0] == when for piece in held.pieces)
            for path in dict.fromkeys(paths):
                ran.setdefault(path, []).append(time)
        return {path for path, own in ran.items() if own[0] in [time for time, _ in groupby(own)][1:]}

    def copy(self) -> "Maps":
        """The same, to which runs can be added."""
        finished = {key: list(found) for key, found in self.finished.items()}
        return replace(self, finished=finished, unplaced=dict(self.unplaced))

    def add(self, run: Run) -> None:
        """Take a finished run in."""
        found = self.finish(run)
        if found is not None and found.samples:
            self.finished.setdefault((run.size, run.scaling), []).append(found)

    def tree(self, cells: Cells, factor: int, attributes: dict[str, Any]) -> xr.DataTree:
        """All maps: a group for each size of the picture, and in it one for each grid of tokens.

        Args:
            cells: everything else that was measured.
            factor: pixels per latent pixel along one side.
            attributes: of the Dataset.
        """
        unplaced = [f"{path}: {reason}" for path, reason in self.unplaced.items()]
        groups = {"/": xr.Dataset(attrs={**attributes, "unplaced": json.dumps(unplaced)})}
        sizes = list(dict.fromkeys(size for size, _ in self.finished))
        for size in sizes:
            label = label_of(size, sizes)
            groups[label] = xr.Dataset()
            runs = {scaling: found for (its, scaling), found in self.finished.items() if its == size}
            keys = dict.fromkeys(key for found in runs.values() for run in found for key in run.values)
            for name in dict.fromkeys(name_of(place) for _, place in keys):
                own = {path: place for path, place in keys if name_of(place) == name}
                counted = {path: cells.counted[size].get(path, UNCOUNTED).tokens for path in own}
                layers = {path: own[path] for path in cells.layers if path in own}
                labels = {each: ("layer", [getattr(cells.layers[p], each) for p in layers]) for each in LABELS}
                labels["tokens"] = ("layer", [counted[path] for path in layers])
                labels["order"] = ("layer", [list(cells.layers).index(path) for path in layers])
                groups[f"{label}/{name}"] = self.group(runs, layers, factor).assign_coords(labels)
        groups = {path: describe(ds) for path, ds in groups.items()}
        for ds in groups.values():
            if "entropy" in ds:
                ds["entropy"].attrs["long_name"] = "attention entropy of a row"
        return xr.DataTree.from_dict(groups)

    def group(self, runs: dict[str, list[Finished]], layers: dict[str, Place], factor: int) -> xr.Dataset:
        """The maps of layers on the same grid, or of as many tokens, at one size."""
        all_runs = [run for found in runs.values() for run in found]
        parts = [run.values[key] for run in all_runs for key in layers.items() if key in run.values]
        here = [values for part in parts for values in part.values()]
        branches = list(dict.fromkeys(branch for part in parts for branch, _ in part))
        steps = 1 + max(step for part in parts for _, step in part)
        samples = max(sum(run.samples for run in found) for found in runs.values())
        heads = max(values.shape[2] for values in here)
        shape = (2, len(runs), len(branches), samples, steps, len(layers), heads, *here[0].shape[3:])
        total = np.zeros(shape)
        for scaling, found in enumerate(runs.values()):
            first = 0
            for run in found:
                for layer, key in enumerate(layers.items()):
                    for (branch, step), values in run.values.get(key, {}).items():
                        at = (scaling, branches.index(branch), slice(first, first + values.shape[1]), step, layer)
                        total[:, *at, : values.shape[2]] += values
                first += run.samples
        sums, counts = total
        entropy = np.divide(sums, counts, out=np.full(shape[1:], np.nan), where=counts > 0).astype(np.float32)
        place = next(iter(layers.values()))
        more = ("token",) if isinstance(place, str) else ("y", "x") if place.frames is None else ("frame", "y", "x")
        dims = ("scaling", "branch", "sample", "step", "layer", "head", *more)
        coords: dict[str, Any] = {"scaling": list(runs), "branch": branches, "layer": list(layers)}
        coords |= {name: np.arange(size) for name, size in zip(dims, shape[1:], strict=True) if name not in coords}
        if isinstance(place, Grid):
            coords["y"] = (np.arange(place.height) + 0.5) * place.pitch[0] * factor
            coords["x"] = (np.arange(place.width) + 0.5) * place.pitch[1] * factor
        longest = max(runs.values(), key=lambda found: sum(run.samples for run in found))
        for name in ("prompt", "seed"):
            known = [value for run in longest for value in getattr(run, f"{name}s")]
            if len(known) == samples:
                coords[name] = ("sample", known)
        if "step" in self.keep:
            coords["timestep"] = ("step", all_runs[0].timesteps[:steps])
        ds = xr.Dataset({"entropy": (dims, entropy)}, coords)
        gone = [name for name in ("branch", "step", "head") if name not in self.keep]
        return ds.isel(dict.fromkeys(gone, 0), drop=True)


def name_of(place: Place) -> str:
    """The name of a group: its size in tokens, or what its tokens are."""
    return place.name if isinstance(place, Grid) else place
