"""Everything measured so far, by size and scaling: runs are averaged and added up, whatever is kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from ..errors import EntropyLabError
from ..sizes import KnownSize
from .moments import Moments, averaged, mean_known
from .run import Run

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


def common_timesteps(several: Sequence[np.ndarray]) -> np.ndarray:
    """The timestep of every step, of the longest of several runs: NaN where they had different ones."""
    longest = several[int(np.argmax([len(times) for times in several]))].copy()
    for times in several:
        longest[: len(times)][longest[: len(times)] != times] = np.nan
    return longest


def common_labels(several: Sequence[Sequence[Any]], samples: int) -> list[Any] | None:
    """The prompts, or seeds, of so many samples; None where one is not known, or is not the same in all of several."""
    longest = max(several, key=len)
    alike = all(list(labels) == list(longest[: len(labels)]) for labels in several)
    return list(longest) if alike and len(longest) == samples and None not in longest else None


@dataclass(frozen=True)
class LayerLabel:
    """What the coordinates say of a layer: its module, its block, its kind, and what its query rows stand for."""

    module: str
    block: str
    kind: str
    part: str


class Counted(NamedTuple):
    """What is counted of a layer at a size, whatever is averaged.

    Attributes:
        rows: query rows averaged, of one head and sample.
        empty: rows that the mask left no key, of all samples.
        tokens: N, mean number of keys of a row.
        bad: rows with NaN or infinity in their query or keys, of all samples.
        samples: how many samples N is the mean of.
    """

    rows: float
    empty: float
    tokens: float
    bad: float
    samples: float = 1.0

    def and_then(self, last: "Counted") -> "Counted":
        """What is counted of both: rows that were lost add up, N is the mean over samples, rows are the last ones."""
        samples = self.samples + last.samples
        tokens = self.tokens + (last.tokens - self.tokens) * last.samples / samples
        return Counted(last.rows, self.empty + last.empty, tokens, self.bad + last.bad, samples)


UNCOUNTED = Counted(np.nan, np.nan, np.nan, np.nan, np.nan)
"""Of a layer that did not run at a size."""


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
    grown: dict[KnownSize, dict[str, int | None]] = field(default_factory=dict)
    branches: list[str] = field(default_factory=list)
    arrays: dict[tuple[KnownSize, str], list[np.ndarray]] = field(default_factory=dict)
    moments: dict[tuple[KnownSize, str], Moments] = field(default_factory=dict)
    timesteps: dict[tuple[KnownSize, str], np.ndarray] = field(default_factory=dict)
    labels: dict[tuple[KnownSize, str], tuple[list[str], list[int]]] = field(default_factory=dict)
    multipliers: dict[tuple[KnownSize, str], dict[str, float]] = field(default_factory=dict)
    counted: dict[KnownSize, dict[str, Counted]] = field(default_factory=dict)

    @property
    def keeps_samples(self) -> bool:
        """Whether samples stay apart."""
        return self.keep is None or "sample" in self.keep

    @property
    def keeps_layers(self) -> bool:
        """Whether layers stay apart."""
        return self.keep is None or "layer" in self.keep

    def add(self, run: Run) -> None:
        """Take a finished run in."""
        key = (run.size, run.scaling)
        raw = run.array(list(self.layers), self.branches)
        self.count_rows(run.size, raw[: len(COUNTS)], raw[self.entries.index(BAD)])
        self.meet_growth(run.size, run.grown)
        changed = {layer: factor for layer, factor in run.multipliers.items() if factor != 1}
        if changed:
            self.multipliers.setdefault(key, {}).update(changed)
        values = averaged(raw[KEPT:], self.keep)
        self.meet_timesteps(key, run.timesteps())
        prompts, seeds = self.labels.setdefault(key, ([], []))
        if self.keeps_samples:
            own_prompts, own_seeds = run.labels(values.shape[2])
            prompts.extend(own_prompts)
            seeds.extend(own_seeds)
            self.arrays.setdefault(key, []).append(values)
        else:
            new = Moments.of(values)
            self.moments[key] = self.moments[key].merged(new) if key in self.moments else new

    def meet_growth(self, size: KnownSize, found: dict[str, int | None]) -> None:
        """Enter how many more keys layers have at the training size: None where that is not the same as before."""
        known = self.grown.setdefault(size, {})
        for layer, more in found.items():
            known[layer] = more if known.get(layer, more) == more else None

    def meet_timesteps(self, key: tuple[KnownSize, str], times: np.ndarray) -> None:
        """Enter the timesteps of a run beside those of others: NaN at steps that had different ones."""
        self.timesteps[key] = common_timesteps([self.timesteps.get(key, times), times])

    def count_rows(self, size: KnownSize, raw: np.ndarray, bad: np.ndarray) -> None:
        """Keep account of rows, of those without keys, of keys, and of bad rows, by layer, whatever is averaged."""
        rows, empty, tokens, broken = (np.moveaxis(part, -2, 0) for part in (*raw, bad))
        flat, others = rows.reshape(len(rows), -1), (1, 2, 3)
        ran, most = ~np.isnan(flat).all(1), np.fmax.reduce(flat, 1)
        keys = mean_known(tokens.reshape(flat.shape), 1)
        lost, spoiled = (np.nan_to_num(part).max(-1).sum(others) for part in (empty, broken))
        known = self.counted.setdefault(size, {})
        for place, path in enumerate(self.layers):
            if ran[place]:
                own = Counted(most[place], lost[place], float(keys[place]), spoiled[place], raw.shape[2])
                known[path] = known[path].and_then(own) if path in known else own

    @property
    def keyless(self) -> list[str]:
        """Modules that attended, and whose mask left no key to any row at any size."""
        found = [(self.layers[path].module, known) for ran in self.counted.values() for path, known in ran.items()]
        with_keys = {module for module, counted in found if counted.rows > 0 or counted.bad > 0}
        return [module for module in dict.fromkeys(module for module, _ in found) if module not in with_keys]

    def samples_of(self, size: KnownSize, scaling: str) -> int:
        """How many samples were averaged."""
        return int(self.moments[size, scaling].count.max()) if (size, scaling) in self.moments else 0

    def factors(self, size: KnownSize, scaling: str) -> list[float]:
        """The factor on the softmax scale that every layer had."""
        known = self.multipliers.get((size, scaling), {})
        return [known.get(label.module, 1.0) for label in self.layers.values()]
