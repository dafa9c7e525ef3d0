"""Maps: what every query row does, and what every key gets, in its place in the picture, averaged on the device."""

import json
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ..capture import AttentionCall
from ..capture.session import reason_of
from ..dataset import describe
from ..entropy.rows import Rows
from ..entropy.sums import received, weight_on
from ..pipelines import config_of, kind_of, part_of
from ..pipelines.sight import Sight
from ..pipelines.tokens import Grid, grid_of
from ..pipelines.words import Words
from ..sizes import KnownSize
from .cells import UNCOUNTED, Cells, common_labels, common_timesteps
from .delivery import departures, sent
from .layout import LABELS, label_of
from .reduce import RowsApart, Sums
from .run import Run
from .steps import DenoiserCall, Seen, branches_in

Place = Grid | str
"""Where tokens stand: on a grid over the picture, or in a row of tokens of this name."""

Key = tuple[str, Place, str]
"""A map: path of its layer, where its tokens stand, and what it is of, one of `VARIABLES`."""

VARIABLES = ("entropy", "received", "words")
"""What maps may be of: the entropy of a row, the weight that a key gets of rows, and the weight of a row on words."""

DIMS = ("scaling", "branch", "sample", "step", "layer", "head")


class Piece(NamedTuple):
    """Tokens of a call of which something is kept: (batch, columns, tokens) of it.

    Columns are heads, 1 where they are averaged, times the values of a token, of which there is one for each word.
    """

    seen: Seen
    variable: str
    columns: int
    tokens: int
    place: Place

    def arranged(self, flat: np.ndarray, batch: int) -> np.ndarray:
        """Values of the call as (``batch`` images, columns, *grid); 0 for images left out."""
        many, seen = self.seen.shape[0], self.seen
        images = seen.images if seen.place is not None and many % seen.images == 0 else many
        apart = flat.reshape(images, -1, self.columns, self.tokens)
        found = self.place.arranged(apart) if isinstance(self.place, Grid) else apart.sum(1)
        if seen.place in (None, (0, batch)):
            return found
        whole = np.zeros((batch, *found.shape[1:]), found.dtype)
        whole[slice(*seen.place)] = found
        return whole


class Held(NamedTuple):
    """Sums over heads, and steps, of what is kept of some pieces side by side, and how many there are of each."""

    pieces: tuple[Piece, ...]
    sums: Tensor
    counts: Tensor

    def arranged(self, batch: int) -> Iterator[tuple[Key, np.ndarray]]:
        """A map, and its sums and counts: (2, ``batch`` images, columns, *grid)."""
        flat, first = torch.stack([self.sums, self.counts]).cpu().double().numpy(), 0
        singles: dict[Key, list[np.ndarray]] = {}
        for piece in self.pieces:
            last = first + piece.seen.shape[0] * piece.columns * piece.tokens
            values = np.stack([piece.arranged(side, batch) for side in flat[:, first:last]])
            first = last
            if piece.seen.place is None:  # its layer attends image by image
                singles.setdefault((piece.seen.layer, piece.place, piece.variable), []).append(values)
            else:
                yield (piece.seen.path, piece.place, piece.variable), values
        yield from ((key, np.concatenate(all_of, 1)) for key, all_of in singles.items() if len(all_of) == batch)


class Finished(NamedTuple):
    """A map of a run that is over: (samples, columns, *grid), NaN where there is none, from sample ``first`` on."""

    size: KnownSize
    scaling: str
    path: str
    place: Place
    variable: str
    branch: str
    step: int
    first: int
    values: np.ndarray


class Sampled(NamedTuple):
    """What a run that is over has sampled."""

    size: KnownSize
    scaling: str
    samples: int
    prompt: list[str]
    seed: list[int]
    timesteps: np.ndarray


@dataclass
class Maps:
    """The maps of everything measured so far."""

    variables: tuple[str, ...]  # what they are of, some of `VARIABLES`
    keep: tuple[str, ...]  # what is kept apart of branch, step and head; samples and layers always are
    words: Words | None = None
    finished: list[Finished] = field(default_factory=list)
    sampled: list[Sampled] = field(default_factory=list)
    unplaced: dict[str, str] = field(default_factory=dict)  # layer, or layer and variable -> why there is no map of it
    spoken: set[str] = field(default_factory=set)  # words of which there is a map
    places: dict[Hashable, Piece | None] = field(default_factory=dict)  # of calls that look alike; None: no place

    @property
    def all_words(self) -> tuple[str, ...]:
        """The words that maps are of, if they are of some."""
        return () if self.words is None else self.words.words

    @property
    def missing(self) -> dict[str, str]:
        """What there is no map of -> why: layers, and words."""
        why = "its tokens were not found among what a denoiser was handed"
        return self.unplaced | {f"the word {word!r}": why for word in self.all_words if word not in self.spoken}

    def take(
        self, forward: DenoiserCall, seen: Seen, found: Sums, call: AttentionCall, part: str, sight: Sight
    ) -> None:
        """Take what there is of a call's tokens, averaged over heads unless these are kept; nothing is waited for."""
        for variable in self.variables if found.rows is not None else ():
            try:
                for stands_for, values in self.tokens_of(variable, forward, seen, found.rows, call, part):
                    shapes = None if call.inputs is None else call.inputs.shapes
                    key = (seen, variable, stands_for, values.shape, sight.latent, shapes)
                    if key not in self.places:
                        self.places[key] = self.piece_of(variable, seen, values.shape, call, stands_for, sight)
                    if (piece := self.places[key]) is not None:
                        sums, known = values.nan_to_num(), ~values.isnan()
                        if "head" not in self.keep:
                            sums, known = sums.sum(1), known.sum(1)
                        forward.rows.append((piece, sums.flatten(), known.flatten()))
            except Exception as problem:  # for want of memory, say: what was summed is there all the same
                self.unplaced[label_of_map(seen, variable)] = reason_of(problem)

    def tokens_of(
        self, variable: str, forward: DenoiserCall, seen: Seen, rows: RowsApart, call: AttentionCall, part: str
    ) -> Iterator[tuple[str, Tensor]]:
        """What some tokens stand for, and what there is to keep of them: (batch, heads, values, tokens), NaN for none.

        They are a call's rows, or its keys, those apart that stand for different things.
        """
        stands_for, asked, roles = part_of(call, part), rows.asked, call.roles
        given = Rows(asked.query, call.key, call.scale, asked.mask, asked.is_causal, ())
        count = asked.rows if roles is None or rows.where is None else roles.queries.count(part, asked.rows)
        if variable == "entropy":
            yield stands_for, together(stands_for, rows.entropy[:, :, None], rows.where, count)
        elif variable == "received":
            values = received(given, rows.lse)[:, :, None]
            if roles is None or roles.keys.codes is None:
                own = stands_for if kind_of(call) in ("self", "temporal") else "unknown"
                yield own if roles is None else roles.keys.parts[0], values
                return
            for name in roles.keys.parts:
                where, count = roles.keys.standing_for(name, values.device), roles.keys.count(name, values.shape[-1])
                if isinstance(where, slice):
                    yield name, values[..., where]
                else:
                    yield name, together(name, values.masked_fill(~where[:, None, None], torch.nan), where, count)
        elif stands_for in ("image", "all") and self.words is not None and is_to_text(call):
            keys, is_own = self.words.keys_of(call, seen.place, forward.batch)
            each = weight_on(given, rows.lse, keys.flatten(1)).unflatten(-1, keys.shape[1:])
            values = each.masked_fill(~is_own[:, None, None], 0).sum(-1)
            values = values.masked_fill(~is_own.any(-1)[:, None, None], torch.nan).movedim(-1, 2)
            yield stands_for, together(stands_for, values, rows.where, count)

    def piece_of(
        self, variable: str, seen: Seen, shape: torch.Size, call: AttentionCall, stands_for: str, sight: Sight
    ) -> Piece | None:
        """What tokens (batch, heads, values, tokens) are; None, and they are named, if they have no place."""
        batch, heads, depth, count = shape
        places = max(1, batch // seen.images) if seen.place is not None and batch % seen.images == 0 else 1
        place: Place | None = None
        why = f"what its {'keys' if variable == 'received' else 'rows'} stand for is not known"
        if stands_for in ("image", "all"):
            config = config_of(sight.roots.get(call.layer.partition(".")[0]))
            found = grid_of(call, config, sight.latent, "num_frames" in sight.asked, count, places)
            place, why = (found, "") if isinstance(found, Grid) else (None, found)
        elif stands_for != "unknown":
            place = f"{stands_for}_{count}" if places == 1 or variable == "received" else None
            why = f"{count} rows of {stands_for} are at {places} places of each image"
        if place is None:
            self.unplaced[label_of_map(seen, variable)] = why
            return None
        return Piece(seen, variable, depth * (heads if "head" in self.keep else 1), count, place)

    def add_step(self, run: Run, calls: list[DenoiserCall]) -> None:
        """Take the step that a run has just been given: it is added to those that are like it, unless steps are kept.

        ``run.maps`` holds what was added up, by what its steps have in common, the forward in them, and the device.
        """
        step, alike = run.steps[-1], self.likeness(run, len(run.steps) - 1)
        for number, call in enumerate(calls):
            for device in {sums.device for _, sums, _ in call.rows}:
                here = [row for row in call.rows if row[1].device == device]
                pieces = tuple(piece for piece, _, _ in here)
                sums, counts = (torch.cat([row[side] for row in here]).float() for side in (1, 2))
                if "step" in self.keep:
                    sums, counts = sent(sums), sent(counts)
                    step.departed = [*step.departed, *departures([row[1] for row in here])]
                key = (alike, number, device, pieces)
                if (before := run.maps.get(key)) is not None:
                    sums, counts = before.sums + sums, before.counts + counts
                run.maps[key] = Held(pieces, sums, counts)

    def likeness(self, run: Run, index: int) -> Hashable:
        """What a step of a run has in common with others; its number where steps are kept."""
        return index if "step" in self.keep else tuple(forward.likeness for forward in run.steps[index].forwards)

    def add(self, run: Run) -> None:
        """Take a finished run in, now that the host may wait for its maps."""
        found: dict[tuple[Any, ...], Any] = {}
        named, alike = run.names(), [self.likeness(run, index) for index in range(len(run.steps))]
        is_whole = all(len(views) == 1 for views in run.views())
        anew = set() if "step" in self.keep else begun_anew(run, alike)
        for (when, number, _, _), held in run.maps.items():
            members = [index for index, each in enumerate(alike) if each == when]
            step, names = run.steps[members[0]], named[members[0]]
            told = {(run.steps[index].samples, tuple(named[index])) for index in members}
            if not is_whole or len(told) > 1:
                several = "is denoised in several views of the picture"
                problem = "its guidance branches are not the same in every step" if len(told) > 1 else several
                self.unplaced |= {label_of_map(piece.seen, piece.variable): problem for piece in held.pieces}
                continue
            counts = [branches_in(forward.batch, step.samples) for forward in step.forwards]
            own = names[sum(counts[:number]) :][: counts[number]]
            for key, values in held.arranged(step.forwards[number].batch):
                if key[0] in anew:
                    problem = "its picture is sampled in parts, one after the other, unless steps are kept"
                    self.unplaced[key[0]] = problem
                elif values[1].any():  # else a mask left no key to any row, or there is no such word
                    parts = values.reshape(2, counts[number], -1, *values.shape[2:]).astype(np.float32)
                    for index, name in enumerate(own):
                        at = (*key, name if "branch" in self.keep else "mean", members[0] if "step" in self.keep else 0)
                        found[at] = found.get(at, 0) + parts[:, index]
        first = sum(each.samples for each in self.sampled if (each.size, each.scaling) == (run.size, run.scaling))
        for (path, place, variable, branch, when), (sums, counted) in found.items():
            nothing = np.full(sums.shape, np.nan)
            means = np.divide(sums, counted, out=nothing, where=counted > 0, dtype=float).astype(np.float32)
            at = (run.size, run.scaling, path, place, variable, branch, when, first)
            self.finished.append(Finished(*at, means))
            if variable == "words":
                known = counted.reshape(len(counted), -1, len(self.all_words), prod(counted.shape[2:])).any((0, 1, 3))
                self.spoken |= {word for word, is_known in zip(self.all_words, known, strict=True) if is_known}
        if found:
            samples = max(sums.shape[1] for sums in found.values())
            self.sampled.append(Sampled(run.size, run.scaling, samples, *run.labels(samples), run.timesteps()))

    def copy(self) -> "Maps":
        """The same, to which runs can be added."""
        return replace(self, finished=[*self.finished], sampled=[*self.sampled], unplaced={**self.unplaced})

    def tree(self, cells: Cells, factor: float, attributes: dict[str, Any]) -> xr.DataTree:
        """All maps: a group for each size of the picture, and in it one for each grid of tokens.

        ``cells`` are everything else that was measured, ``factor`` is pixels per latent pixel along one side.
        """
        unplaced = [f"{path}: {reason}" for path, reason in self.missing.items()]
        groups = {"/": xr.Dataset(attrs={**attributes, "unplaced": json.dumps(unplaced)})}
        sizes = list(dict.fromkeys(each.size for each in self.finished))
        for size in sizes:
            label = label_of(size, sizes)
            groups[label] = xr.Dataset()
            apart: dict[str, list[Finished]] = {}
            for each in self.finished:
                if each.size == size:
                    name = each.place.name if isinstance(each.place, Grid) else each.place
                    apart.setdefault(name, []).append(each)
            groups |= {f"{label}/{name}": self.group(own, cells, factor) for name, own in apart.items()}
        groups = {path: describe(ds) for path, ds in groups.items()}
        for ds in groups.values():
            if "entropy" in ds:
                ds["entropy"].attrs["long_name"] = "attention entropy of a row"
        return xr.DataTree.from_dict(groups)

    def group(self, found: list[Finished], cells: Cells, factor: float) -> xr.Dataset:
        """Maps on the same grid, or of as many tokens, at one size."""
        size, place, grid = found[0].size, found[0].place, found[0].values.shape[2:]
        runs = [run for run in self.sampled if run.size == size]
        scalings = list(dict.fromkeys(run.scaling for run in runs))
        samples = {name: sum(run.samples for run in runs if run.scaling == name) for name in scalings}
        longest = max(scalings, key=samples.__getitem__)
        branches = list(dict.fromkeys(each.branch for each in found))
        layers = [path for path in cells.layers if path in {each.path for each in found}]
        depths = {name: len(self.all_words) if name == "words" else 1 for name in VARIABLES}
        steps = 1 + max(each.step for each in found)
        heads = max(each.values.shape[1] // depths[each.variable] for each in found)
        shape = (len(scalings), len(branches), samples[longest], steps, len(layers), heads)
        more = ("token",) if isinstance(place, str) else ("frame", "y", "x")[-len(grid) :]
        sides = zip((*DIMS, *more), (*shape, *grid), strict=True)
        coords: dict[str, Any] = {name: np.arange(side) for name, side in sides}
        coords |= {"scaling": scalings, "branch": branches, "layer": layers}
        if isinstance(place, Grid):
            coords["y"] = (np.arange(place.height) + 0.5) * place.pitch[0] * factor
            coords["x"] = (np.arange(place.width) + 0.5) * place.pitch[1] * factor
        if "step" in self.keep:
            coords["timestep"] = ("step", common_timesteps([run.timesteps for run in runs])[:steps])
        for name in ("prompt", "seed"):
            several: dict[str, list[Any]] = {each: [] for each in scalings}
            for run in runs:
                several[run.scaling] += getattr(run, name)
            if known := common_labels([*several.values()], samples[longest]):
                coords[name] = ("sample", known)
        coords |= {each: ("layer", [getattr(cells.layers[path], each) for path in layers]) for each in LABELS}
        coords["tokens"] = ("layer", [cells.counted[size].get(path, UNCOUNTED).tokens for path in layers])
        coords["order"] = ("layer", [list(cells.layers).index(path) for path in layers])
        data: dict[str, Any] = {}
        for variable in (name for name in VARIABLES if any(each.variable == name for each in found)):
            means = np.full((*shape[:-1], heads * depths[variable], *grid), np.nan, np.float32)
            for each in (each for each in found if each.variable == variable):
                own, columns = slice(each.first, each.first + len(each.values)), slice(each.values.shape[1])
                scaling, branch = scalings.index(each.scaling), branches.index(each.branch)
                means[scaling, branch, own, each.step, layers.index(each.path), columns] = each.values
            data[variable] = ((*DIMS, *more), means)
            if variable == "words":
                data[variable] = ((*DIMS, "word", *more), means.reshape(*shape, depths[variable], *grid))
                coords["word"] = list(self.all_words)
        gone = [name for name in ("branch", "step", "head") if name not in self.keep]
        return xr.Dataset(data, coords).isel(dict.fromkeys(gone, 0), drop=True)


def begun_anew(run: Run, alike: list[Hashable]) -> set[str]:
    """Layers for which the timesteps begin anew within a run: what was denoised before was something else."""
    ran: dict[str, list[float]] = {}
    for when, time in zip(alike, run.timesteps(), strict=False):
        for path in {piece.seen.path for key, held in run.maps.items() if key[0] == when for piece in held.pieces}:
            ran.setdefault(path, []).append(time)
    return {path for path, own in ran.items() if own[0] in [time for time, _ in groupby(own)][1:]}


def together(stands_for: str, values: Tensor, where: Tensor | None, standing: int) -> Tensor:
    """Those of the tokens of an image that stand for it (None: all), in their order; all others stay in their places.

    ``where`` is boolean (batch, tokens); ``standing`` is how many they are, mean over images.
    """
    if where is None or stands_for != "image":
        return values
    order = (~where).to(torch.int8).argsort(dim=1, stable=True)[:, None, None, :standing]
    return values.gather(-1, order.expand(*values.shape[:-1], standing))


def is_to_text(call: AttentionCall) -> bool:
    """Whether text is among a call's keys, as far as is known."""
    return kind_of(call) in ("cross", "joint") and (call.roles is None or "text" in call.roles.keys.parts)


def label_of_map(seen: Seen, variable: str) -> str:
    """What a map is called that can't be had: its layer, and what it is of unless that is entropy."""
    return seen.path if variable == "entropy" else f"{seen.path} ({variable})"
