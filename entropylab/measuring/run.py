"""One pipeline call, step by step: what was measured of a few samples of one size under one scaling."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..pipelines.guidance import NO_EVIDENCE, Evidence, agreed
from ..sizes import KnownSize
from .delivery import departures, landed, sent
from .moments import fit_shapes, mean_known
from .steps import DenoiserCall, by_branch, named_by, samples_in


@dataclass
class Step:
    """One sampling step, on its way from the device.

    Attributes:
        timestep: as the denoiser got it: a tensor, a number or None.
        values: layer path -> (entries, branch, sample, heads).
        evidence: what names the branches.
        departed: when the values, the evidence and the timestep had left, on every GPU that has some of them.
    """

    timestep: Any
    values: dict[str, Tensor]
    evidence: Evidence
    departed: Sequence[torch.cuda.Event] = ()

    def decide(self) -> None:
        """Take samples apart that turn out to be two guidance branches, now that the host may look."""
        decided = self.evidence.decided()
        if decided is not self.evidence:
            self.values = {path: value[:, 0].unflatten(1, (2, -1)) for path, value in self.values.items()}
            self.evidence = decided


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
        grown: layer path -> how many more keys than now it has at the training size, None if unknown.
        multipliers: layer path -> the factor on its softmax scale, mean over heads; NaN if it changed meanwhile.
        steps: what was measured; a step in which the denoiser saw one timestep in several views is several.
    """

    size: KnownSize = None
    scaling: str = "original"
    prompts: Sequence[str] = ()
    seeds: Sequence[int] = ()
    is_call: bool = False
    grown: dict[str, int | None] = field(default_factory=dict)
    multipliers: dict[str, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    def meet_rule(self, rule: str, begun: bool) -> None:
        """Take the name of the rule under which a forward runs; after another one, the run carries both names.

        ``begun`` is whether a forward of this run came before that is in no step yet.
        """
        if not self.steps and not begun:
            self.scaling = rule
        elif self.scaling.split(THEN)[-1] != rule:
            self.scaling += THEN + rule

    def add_multiplier(self, layer: str, factor: float | Tensor) -> None:
        """Take the factor on the softmax scale of a layer's call."""
        mean = float(factor.mean()) if isinstance(factor, Tensor) else factor
        self.multipliers[layer] = mean if self.multipliers.get(layer, mean) == mean else np.nan

    def add_step(self, calls: Sequence[DenoiserCall], combined: Any, sample: Any) -> None:
        """Take one step; its numbers leave in one asynchronous copy for every GPU that has some."""
        samples = samples_in(calls, combined, sample)
        values = by_branch(calls, samples)
        evidence = NO_EVIDENCE if combined is None else self.evidence(calls, samples, combined, sample, values)
        timestep, on_host = calls[-1].inputs.timestep, sent(values)
        times = [timestep] if isinstance(timestep, Tensor) else []
        self.steps.append(Step(timestep, on_host, evidence, departures([*values.values(), *evidence.tensors, *times])))

    def evidence(
        self, calls: Sequence[DenoiserCall], samples: int, combined: Any, sample: Any, values: Any
    ) -> Evidence:
        """What names the branches of a step; where gathering that fails, other steps may name them."""
        try:
            return named_by(calls, samples, combined, sample)
        except Exception:  # for want of memory, say: a step whose branches have numbers is better than none
            return Evidence(next(iter(values.values())).shape[1])

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
        for step in self.steps:
            landed(step.departed)
            step.decide()
        views = self.views()
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
