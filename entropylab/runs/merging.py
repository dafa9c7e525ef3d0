"""Many units as one Dataset: in canonical order, whoever measured them, and one in memory at a time."""

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr

from ..dataset import describe
from ..errors import EntropyLabError, EntropyLabWarning
from ..files import as_path
from ..measuring import layout
from ..measuring.cells import Cells
from ..sizes import size_label
from .configuration import JOINED, differences
from .folder import RunFolder, read_run
from .listing import is_there
from .state import absorb, from_dataset, labels_of
from .units import Unit


@dataclass(frozen=True)
class Piece:
    """A unit, and the runs it may be read from.

    Attributes:
        unit: the unit, as the first of its runs has it.
        seed: seed of its first sample.
        places: the runs that have it, and what they call it.
    """

    unit: Unit
    seed: int
    places: list[tuple[RunFolder, Unit]]

    @property
    def key(self) -> tuple[Any, str]:
        """Size and scaling."""
        return self.unit.size, self.unit.scaling


@dataclass
class Merged:
    """What was read of one or several runs.

    Attributes:
        cells: everything measured.
        total: how many units there are.
        done: how many of them could be read.
        damaged: units that are there and can't be read -> why.
        unmeasured: attention layers that ran and could not be measured.
        devices: what the units were measured on.
        versions: what versions of packages they were measured with.
        samples: (size, scaling) -> how many samples were read, and how many there are to be.
    """

    cells: Cells
    total: int
    done: int = 0
    damaged: dict[Unit, str] = field(default_factory=dict)
    unmeasured: dict[str, None] = field(default_factory=dict)
    devices: dict[str, None] = field(default_factory=dict)
    versions: dict[str, None] = field(default_factory=dict)
    samples: dict[tuple[Any, str], list[int]] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """How many units are not there, or can't be read."""
        return self.total - self.done

    @property
    def unfinished(self) -> list[str]:
        """Sizes and scalings that have not all of their samples yet, in words."""
        return [
            f"{size_label(size)} {scaling} {done} of {total} samples"
            for (size, scaling), (done, total) in self.samples.items()
            if done < total
        ]


def merge_pieces(pieces: Sequence[Piece], keep: tuple[str, ...] | None) -> Merged:
    """Read the units one by one and add them up."""
    merged = Merged(Cells((), keep), len(pieces))
    waiting: dict[Any, list[Piece]] = {}
    for piece in pieces:
        ds, counted = read_first(piece, merged), merged.samples.setdefault(piece.key, [0, 0])
        counted[1] += piece.unit.samples
        if ds is None:
            waiting.setdefault(piece.key, []).append(piece)
            continue
        part = from_dataset(ds, *piece.key, keep)
        if not merged.done:
            merged.cells.entries = part.entries
        if merged.cells.keeps_samples:
            leave_room(merged.cells, waiting.pop(piece.key, []))
        absorb(merged.cells, part)
        merged.done += 1
        counted[0] += piece.unit.samples
        merged.unmeasured |= dict.fromkeys(labels_of(ds)["unmeasured"])
        merged.devices[ds.attrs["device"]] = merged.versions[ds.attrs["versions"]] = None
    if merged.cells.keeps_samples:
        for key, missing in waiting.items():
            leave_room(merged.cells, missing if key in merged.cells.arrays else [])
    return merged


def read_first(piece: Piece, merged: Merged) -> xr.Dataset | None:
    """A unit from the first run in which it can be read; None if it is in none."""
    problem = ""
    for run, unit in piece.places:
        if is_there(run.file(unit)):
            try:
                return run.read(unit)
            except EntropyLabError as error:
                if is_there(run.file(unit)):
                    problem = str(error)
    if problem:
        merged.damaged[piece.unit] = problem
    return None


def leave_room(cells: Cells, missing: Iterable[Piece]) -> None:
    """Let samples that are not there stand as NaN, so that those after them keep their places."""
    for piece in missing:
        (run, unit), *_ = piece.places
        cells.arrays.setdefault(piece.key, []).append(np.full((1, 1, unit.samples, 1, 1, 1), np.nan))
        prompts, seeds = cells.labels.setdefault(piece.key, ([], []))
        prompts.extend(run.prompts[unit.start : unit.stop])
        seeds.extend(range(piece.seed, piece.seed + unit.samples))


def pieces_of(run: RunFolder) -> list[Piece]:
    """The units of one run."""
    seed = run.configuration["seed"]
    return [Piece(unit, seed + unit.start, [(run, unit)]) for unit in run.units]


def joined_pieces(runs: Sequence[RunFolder]) -> list[Piece]:
    """The units of several runs in canonical order: sizes and rules as they first come, samples by their seeds.

    Raises:
        EntropyLabError: other configurations, or samples that are partly the same.
    """
    first = runs[0]
    for run in runs[1:]:
        changed = differences(first.configuration, run.configuration, but=JOINED) + other_rules(first, run)
        if changed:
            raise EntropyLabError(
                f"runs must have one configuration. {first.path} and {run.path}: {'; '.join(changed)}."
            )
    cells: dict[tuple[Any, str], dict[int, Piece]] = {}
    for run in runs:
        prompts = run.prompts
        for piece in pieces_of(run):
            known = cells.setdefault(piece.key, {}).setdefault(piece.seed, piece)
            if known is not piece:
                check_same(known, run, piece.unit, prompts)
                known.places.append((run, piece.unit))
    sizes = list(dict.fromkeys(size for size, _ in cells))
    rules = list(dict.fromkeys(scaling for _, scaling in cells))
    ordered = []
    for key in [(size, rule) for size in sizes for rule in rules if (size, rule) in cells]:
        row = [cells[key][seed] for seed in sorted(cells[key])]
        for before, after in pairwise(row):
            if before.seed + before.unit.samples > after.seed:
                raise overlap(before, after)
        ordered += row
    return ordered


def other_rules(first: RunFolder, run: RunFolder) -> list[str]:
    """Rules of two runs that have one name and are not the same."""
    known, there = (dict(zip(r.configuration["scaling"], r.configuration["rules"], strict=True)) for r in (first, run))
    return [f"scaling {name!r}: not the same rule" for name in known if name in there and known[name] != there[name]]


def check_same(known: Piece, run: RunFolder, unit: Unit, prompts: list[str]) -> None:
    """Two units with the same first seed must have the same samples and the same prompts."""
    there, own = known.places[0]
    if unit.samples != own.samples or there.prompts[own.start : own.stop] != prompts[unit.start : unit.stop]:
        raise overlap(known, Piece(unit, known.seed, [(run, unit)]))


def overlap(one: Piece, other: Piece) -> EntropyLabError:
    """Two units that share some samples and not all."""
    return EntropyLabError(
        f"runs must not share samples partly: {one.places[0][0].path} ({one.unit.label}, from seed {one.seed}) and "
        f"{other.places[0][0].path} ({other.unit.label}, from seed {other.seed}). Measure with seeds that are apart, "
        "or the same samples in the same units."
    )


def dataset_of(merged: Merged, run: RunFolder) -> xr.Dataset:
    """The Dataset of what was merged.

    Raises:
        EntropyLabError: damaged units, or nothing finished yet.
    """
    if merged.damaged:
        raise EntropyLabError(
            f"{run.path} has damaged units ({len(merged.damaged)}); the command that made the run measures them again: "
            f"{'; '.join(merged.damaged.values())}"
        )
    if not merged.done:
        raise EntropyLabError(f"{run.path} has no finished unit yet, of {merged.total}.")
    attributes = {
        **run.attributes,
        "unmeasured": json.dumps(list(merged.unmeasured)),
        "devices": json.dumps(sorted(merged.devices)),
        **({"versions_of_units": json.dumps(sorted(merged.versions))} if len(merged.versions) > 1 else {}),
        "units": merged.total,
        "units_done": merged.done,
    }
    return describe(layout.dataset_of(merged.cells)).assign_attrs(attributes)


def keep_of(run: RunFolder) -> tuple[str, ...] | None:
    """What a run keeps apart."""
    keep = run.configuration["keep"]
    return None if keep is None else tuple(keep)


def merge_run(run: RunFolder) -> Merged:
    """Everything that one run has measured so far."""
    return merge_pieces(pieces_of(run), keep_of(run))


def open_run(path: Any) -> xr.Dataset:
    """A finished or half-finished run as a Dataset; ``units_done`` of its ``units`` are in it.

    Samples that are not measured yet are not averaged in, or NaN where samples are kept apart; an EntropyLabWarning
    says of which sizes they are.

    Raises:
        EntropyLabError: no run, nothing finished yet, or damaged units, which the message names.
    """
    run = read_run(as_path(path, "run", "folder"))
    merged = merge_run(run)
    ds = dataset_of(merged, run)
    report_unfinished(merged, str(run.path), stacklevel=5)
    return ds


def report_unfinished(merged: Merged, name: str, stacklevel: int) -> None:
    """Warn of sizes that have not all of their samples yet."""
    if merged.unfinished:
        listed = "; ".join(merged.unfinished)
        message = f"{name} is not finished, it has {merged.done} of {merged.total} units: {listed}"
        warnings.warn(message, EntropyLabWarning, stacklevel=stacklevel)


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
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise EntropyLabError(f"runs must differ from each other. Got {', '.join(str(path) for path in paths)}.")
    seeds = sorted({run.configuration["seed"] for run in runs})
    merged = merge_pieces(joined_pieces(runs), keep_of(runs[0]))
    ds = dataset_of(merged, runs[0])
    report_unfinished(merged, ", ".join(str(path) for path in paths), stacklevel=3)
    return ds if len(seeds) == 1 else ds.assign_attrs(seed=seeds)
