"""One pipeline call, step by step: what was measured of a few samples of one size under one scaling."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pipelines.guidance import NO_EVIDENCE, Evidence, Texts, agreed
from ..sizes import KnownSize
from .delivery import departures, landed
from .moments import fit_shapes
from .steps import DenoiserCall, Forward, branches_in, named_by, samples_in, values_of


@dataclass
class Step:
    """One sampling step, on its way from the device.

    Attributes:
        timestep: as the denoiser got it: a tensor, a number or None.
        forwards: what the denoiser calls in it gave.
        samples: how many images are sampled.
        evidence: what names the branches.
        departed: when the values, the evidence and the timestep had left, on every GPU that has some of them.
    """

    timestep: Any
    forwards: tuple[Forward, ...]
    samples: int
    evidence: Evidence
    departed: Sequence[torch.cuda.Event] = ()

    @property
    def is_empty(self) -> bool:
        """Whether no layer was measured in it."""
        return all(forward.is_empty for forward in self.forwards)

    def decide(self) -> None:
        """Take samples apart that turn out to be two guidance branches, now that the host may look."""
        decided = self.evidence.decided()
        if decided is not self.evidence:
            self.samples //= 2
            self.evidence = decided

    @property
    def likeness(self) -> Hashable:
        """What two steps have in common whose numbers stand in the same places."""
        return (self.samples, tuple(forward.likeness for forward in self.forwards))


NOTHING, A_STEP = Evidence(0, is_step=False), Evidence(0)
"""Evidence where nothing was measured: in a denoiser call that no scheduler follows, and in a step."""

THEN = ", then "
"""Stands between the names of rules of which one took the place of the other during a run."""


@dataclass
class Run:
    """One pipeline call: a few samples of one size under one scaling.

    Attributes:
        size: (height, width) [pixels]; None until it is known.
        scaling: name of the scaling rule that is at work.
        prompts: the samples' prompts, if known.
        seeds: the samples' seeds, if known.
        is_call: whether it lasts as long as a call of the pipeline.
        latent: latent size of the image that the denoiser was handed, if that was all of it, and no view or tokens.
        is_mixed: whether forwards ran in two threads at once, so that nobody knows what is of which.
        grown: layer path -> how many more keys than now it has at the training size, None if unknown.
        multipliers: layer path -> the factor on its softmax scale, mean over heads; NaN if it changed meanwhile.
        texts: what the branches were handed.
        steps: what was measured; a step in which the denoiser saw one timestep in several views is several.
        maps: what is kept of every row, if maps are: see `maps.Maps.add_step`.
    """

    size: KnownSize = None
    scaling: str = "original"
    prompts: Sequence[str] = ()
    seeds: Sequence[int] = ()
    is_call: bool = False
    latent: tuple[int, int] | None = None
    is_mixed: bool = False
    grown: dict[str, int | None] = field(default_factory=dict)
    multipliers: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    texts: Texts = field(default_factory=Texts)
    maps: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was measured in any step."""
        return all(step.is_empty for step in self.steps)

    def labels(self, samples: int) -> tuple[list[Any], list[Any]]:
        """Prompts and seeds of so many samples; None of each where they are not as many, in some step at least."""
        nothing, is_same = [None] * samples, all(step.is_empty or step.samples == samples for step in self.steps)
        prompts, seeds = (
            list(own) if is_same and len(own) == samples else nothing for own in (self.prompts, self.seeds)
        )
        return prompts, seeds

    def meet_rule(self, rule: str, begun: bool) -> None:
        """Take the name of the rule under which a forward runs; after another one, the run carries both names.

        ``begun`` is whether a forward of this run came before that is in no step yet.
        """
        if not self.steps and not begun:
            self.scaling = rule
        elif self.scaling.split(THEN)[-1] != rule:
            self.scaling += THEN + rule

    def add_multiplier(self, layer: str, factor: float | Tensor) -> None:
        """Take the factor on the softmax scale of a layer's call; one that is on a GPU changes with time."""
        if isinstance(factor, Tensor):
            mean = float(factor.mean()) if factor.device.type == "cpu" else np.nan
        else:
            mean = factor
        self.multipliers[layer] = mean if self.multipliers.get(layer, mean) == mean else np.nan

    def add_step(self, calls: Sequence[DenoiserCall], combined: Any, sample: Any) -> None:
        """Take one step; its numbers leave in one asynchronous copy for every GPU that has some."""
        forwards, timestep = tuple([call.forward for call in calls]), calls[-1].inputs.timestep
        if all(forward.is_empty for forward in forwards):
            self.steps.append(Step(timestep, forwards, 1, NOTHING if combined is None else A_STEP))
            return
        samples = samples_in(calls, combined, sample)
        evidence = NO_EVIDENCE if combined is None else self.evidence(calls, samples, combined, sample)
        left = [sums for call in calls for _, sums in call.taken]
        times = [timestep] if isinstance(timestep, Tensor) else []
        departed = departures([*left, *evidence.tensors, *times])
        self.steps.append(Step(timestep, forwards, samples, evidence, departed))

    def evidence(self, calls: Sequence[DenoiserCall], samples: int, combined: Any, sample: Any) -> Evidence:
        """What names the branches of a step; where gathering that fails, other steps may name them."""
        try:
            return named_by(calls, samples, combined, sample, self.texts)
        except Exception:  # for want of memory, say: a step whose branches have numbers is better than none
            return Evidence(sum(call.count(samples) for call in calls))

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
        """Timestep of every step; NaN where there is none, or where images have several, as in training."""
        times = [views[0].timestep for views in self.views()]
        known = [set(torch.as_tensor(np.nan if time is None else time).flatten().tolist()) for time in times]
        return np.array([float(each.pop()) if len(each) == 1 else np.nan for each in known])

    def names(self) -> list[list[str]]:
        """The names of every step's branches; the host waits for what has not arrived yet."""
        for step in self.steps:
            landed(step.departed)
            step.decide()
        return agreed([step.evidence.names() for step in self.steps])

    def array(self, layers: Sequence[str], branches: list[str]) -> np.ndarray:
        """Everything as one array (entries, branch, sample, step, layer, head), NaN where a layer did not run.

        New names of branches are added to ``branches``.
        """
        named = self.names()
        views = self.views()
        when = {id(step): index for index, together in enumerate(views) for step in together}
        branches += [name for name in dict.fromkeys(n for many in named for n in many) if name not in branches]
        alike: dict[Hashable, list[int]] = {}
        for index, step in enumerate(self.steps):
            alike.setdefault((step.likeness, *named[index]), []).append(index)
        found = [(members, named[members[0]], self.values(members)) for members in alike.values()]
        shapes = [values.shape for _, _, layer in found for values in layer.values()]
        entries, samples, heads = (max(shape[axis] for shape in shapes) for axis in (1, 3, 4))
        total = np.zeros((len(layers), len(views), entries, len(branches), samples, heads))
        count = np.zeros_like(total, dtype=np.int32)
        place = {path: index for index, path in enumerate(layers)}
        for members, names, values_of_layers in found:
            views_of = np.array([when[id(self.steps[index])] for index in members])
            for shape in {values.shape for values in values_of_layers.values()}:
                alike_ones = {path: values for path, values in values_of_layers.items() if values.shape == shape}
                places, stacked = np.array([place[path] for path in alike_ones]), np.stack(list(alike_ones.values()))
                sides = slice(shape[1]), slice(shape[3]), slice(shape[4])
                known, numbers = ~np.isnan(stacked), np.nan_to_num(stacked)
                for index, name in enumerate(names[: shape[2]]):
                    where: Any = (places[:, None], views_of, sides[0], branches.index(name), *sides[1:])
                    np.add.at(total, where, numbers[:, :, :, index])
                    np.add.at(count, where, known[:, :, :, index])
        mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
        return np.ascontiguousarray(mean.transpose(2, 3, 4, 1, 0, 5))

    def values(self, members: Sequence[int]) -> dict[str, np.ndarray]:
        """Layer path -> (steps, entries, branch, sample, heads) of steps that are alike; NaN where it did not run."""
        steps = [self.steps[index] for index in members]
        samples = steps[0].samples
        parts = [values_of([step.forwards[n] for step in steps], samples) for n in range(len(steps[0].forwards))]
        counts = [branches_in(forward.batch, samples) for forward in steps[0].forwards]
        found = {}
        for path in dict.fromkeys(path for part in parts for path in part):
            known = [part[path] for part in parts if path in part]
            entries, wide, heads = (max(values.shape[axis] for values in known) for axis in (1, 3, 4))
            empty = [np.full((len(steps), entries, count, wide, heads), np.nan) for count in counts]
            pieces = [part.get(path, nothing) for part, nothing in zip(parts, empty, strict=True)]
            found[path] = np.concatenate(fit_shapes(pieces, but=2), 2)
        return found
