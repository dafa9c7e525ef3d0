"""One sampling step: the denoiser calls in it, and from them one array per layer with the guidance branches apart."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..capture import AttentionCall, Inputs
from ..capture.session import reason_of
from ..errors import EntropyLabError
from ..pipelines.guidance import Branch, Evidence, Handed, Texts, evidence
from ..pipelines.tokens import images_in
from .delivery import sent
from .moments import mean_known
from .reduce import Reduction, Sums


class Seen(NamedTuple):
    """What is known of a call of a layer beside its numbers; the same while calls look alike.

    Attributes:
        path: name of the call.
        layer: name of the layer.
        images: how many images the forward had then.
        place: first and last + 1 of those of them that the call is about; None for one of those calls that a layer
            makes image by image.
        parts: what the parts of the keys are, if they were told apart.
        fraction: how many rows there are for one that was looked at.
        shape: how many images and heads its sums are of.
        device: where they are.
    """

    path: str
    layer: str
    images: int
    place: tuple[int, int] | None
    parts: tuple[str, ...]
    fraction: float
    shape: tuple[int, int]
    device: torch.device


@lru_cache(maxsize=256)
def grouped(calls: tuple[Seen, ...]) -> tuple[tuple[int, ...], ...]:
    """Which calls' sums are put side by side: all of a device and sort."""
    groups: dict[Hashable, list[int]] = {}
    for index, call in enumerate(calls):
        groups.setdefault((call.device, call.parts, call.fraction), []).append(index)
    return tuple(map(tuple, groups.values()))


@dataclass(frozen=True)
class Forward:
    """What one forward of a denoiser gave.

    Attributes:
        groups: calls, and their sums over rows side by side, (batch * heads of all of them, ``entropy.rows.NUMBERS``),
            on their way to the host.
        batch: how many images it had, of all guidance branches.
        reduction: takes the means, once the sums have arrived.
    """

    groups: tuple[tuple[tuple[Seen, ...], Tensor], ...]
    batch: int
    reduction: Reduction

    @property
    def likeness(self) -> tuple[tuple[tuple[Seen, ...], ...], int]:
        """What two forwards have in common whose numbers stand in the same places."""
        return tuple([calls for calls, _ in self.groups]), self.batch

    @property
    def is_empty(self) -> bool:
        """Whether there is no layer whose numbers are there."""
        return not self.groups or are_empty(*self.likeness)


@lru_cache(maxsize=256)
def are_empty(groups: tuple[tuple[Seen, ...], ...], batch: int) -> bool:
    """Whether a forward that is like this is empty; told once."""
    calls = [call for group in groups for call in group]
    singles = Counter(call.layer for call in calls)
    return all(call.place is None and singles[call.layer] < batch for call in calls)


def values_of(forwards: Sequence[Forward], samples: int) -> dict[str, np.ndarray]:
    """Layer path -> (forwards, entries, branch, sample, heads) of forwards that are alike; NaN for images left out.

    Frames or places in a call's batch are averaged; calls of a layer that attends image by image are put together.
    """
    first = forwards[0]
    found: dict[str, np.ndarray] = {}
    singles: dict[str, list[np.ndarray]] = {}
    for index, (calls, _) in enumerate(first.groups):
        sums = torch.cat([one.groups[index][1] for one in forwards])
        entries = first.reduction.entries(sums, calls[0].parts, calls[0].fraction)
        stacked, start = entries.unflatten(1, (len(forwards), -1)).transpose(0, 1).numpy(), 0
        for call in calls:
            batch, heads = call.shape
            values = stacked[..., start : start + batch * heads].reshape(*stacked.shape[:2], batch, heads)
            start += batch * heads
            if call.place is None:
                singles.setdefault(call.layer, []).append(values)
                continue
            if batch > call.images and batch % call.images == 0:
                values = mean_known(values.reshape(*values.shape[:2], call.images, -1, heads), 3)
            if call.place != (0, first.batch):
                whole = np.full((*values.shape[:2], first.batch, heads), np.nan)
                whole[:, :, slice(*call.place)] = values
                values = whole
            found[call.path] = values
    found |= {layer: np.concatenate(one, 2) for layer, one in singles.items() if len(one) == first.batch}
    count = branches_in(first.batch, samples)
    return {path: values.reshape(*values.shape[:2], count, -1, values.shape[3]) for path, values in found.items()}


def branches_in(batch: int, samples: int) -> int:
    """How many guidance branches a batch holds, if so many images are sampled."""
    return batch // samples if batch % samples == 0 else 1


class DenoiserCall:
    """What one forward of a denoiser was handed, returned, and gave to measure.

    Attributes:
        inputs: what it was handed.
        reduction: averages what was seen of its layers.
        batch: how many images, of all guidance branches.
        taken: the calls of its layers that were seen, and what is left of each: sums over rows (..., heads, numbers).
        rows: what maps keep of them: what they are, sums of entropies and how many rows these are of.
        alone: layer -> those of its calls that it made image by image.
        lost: layer path -> why its calls could not be averaged.
        output: (images of all branches, ...), or None if it can't be told.
        ended: whether it ran to its end.
        forward: what it gave, once it has.
    """

    def __init__(self, inputs: Inputs, reduction: Reduction) -> None:
        self.inputs, self.reduction, self.batch, self.ended = inputs, reduction, inputs.batch, False
        self.taken: list[tuple[Seen, Tensor]] = []
        self.rows: list[tuple[Any, Tensor, Tensor]] = []
        self.alone: dict[str, list[str]] = {}
        self.lost: dict[str, str] = {}
        self.output: Tensor | None = None
        self.forward: Forward

    def meet(self, query: Tensor) -> None:
        """Meet q (batch, heads, queries, d) of a layer: a module that is no denoiser may have its tokens first."""
        shape = self.inputs.image[0].shape if self.inputs.image else ()
        if self.inputs.timestep is None and len(shape) == 3 and shape[:2] == (query.shape[-2], query.shape[0]):
            self.batch = query.shape[0]

    def see(self, path: str, found: Sums, call: AttentionCall, layer: str) -> Seen:
        """Take what was found in ``call``, which is one of those of ``layer``.

        Frames or places in its batch are averaged. A layer that attends image by image has them put together.

        Raises:
            EntropyLabError: it can't be told which images the call's batch holds.
        """
        (batch, heads), inputs = found.sums.shape[:2], call.inputs
        images = self.batch if inputs is None or inputs.images is None else inputs.batch
        alone = self.alone.setdefault(layer, [])
        place = None
        if batch == 1 < images and call.occurrence == len(alone) and images_in(call, 1, self.batch) is None:
            alone.append(path)
        else:
            place = self.place_of(call, images if batch > images and batch % images == 0 else batch)
        seen = Seen(path, layer, images, place, found.parts, found.fraction, (batch, heads), found.sums.device)
        self.taken.append((seen, found.sums))
        return seen

    def place_of(self, call: AttentionCall, count: int) -> tuple[int, int]:
        """Which images of the batch the ``count`` that a call holds are: first and last + 1."""
        place = images_in(call, count, self.batch)
        if place is None:
            raise EntropyLabError(
                f"attends in a batch of {count} where its denoiser has {self.batch} images, and it can't be "
                "told which these are"
            )
        return place.start, place.stop

    def end(self) -> None:
        """It has run to its end: what it gave is put side by side, and sent to the host."""
        try:
            groups = [self.packed(members) for members in grouped(tuple([seen for seen, _ in self.taken]))]
        except Exception:  # for want of memory, say: one by one, and a layer whose own fails is lost
            groups = []
            for index, (call, _) in enumerate(self.taken):
                try:
                    groups.append(self.packed((index,)))
                except Exception as problem:
                    self.lost[call.layer.partition(":")[0]] = reason_of(problem)
        self.forward = Forward(tuple(groups), self.batch, self.reduction)
        self.ended = True

    def packed(self, members: tuple[int, ...]) -> tuple[tuple[Seen, ...], Tensor]:
        """Some of its calls, and what they gave, on its way to the host."""
        taken = [self.taken[index] for index in members]
        sums = torch.cat([one if one.ndim == 2 else one.flatten(0, 1) for _, one in taken])
        return tuple([seen for seen, _ in taken]), sent(sums)

    @property
    def incomplete(self) -> dict[str, str]:
        """Layer path -> what is wrong, of layers that attended for some images alone, or could not be averaged."""
        reason = f"attends in a batch of 1 where its denoiser has {self.batch} images, and not once for each"
        short = {layer.partition(":")[0]: reason for layer, calls in self.alone.items() if 0 < len(calls) < self.batch}
        return short | self.lost

    def take_in(self, beside: "DenoiserCall") -> dict[str, str]:
        """Take what a ControlNet gave that ran for this forward; layer path -> reason, of what can't be taken."""
        ours, theirs = ({seen.path for seen, _ in call.taken} for call in (self, beside))
        if beside.batch == self.batch and ours.isdisjoint(theirs):
            self.taken += beside.taken
            self.rows += beside.rows
            self.forward = replace(self.forward, groups=(*self.forward.groups, *beside.forward.groups))
            return {}
        reason = "runs more than once beside one forward of its denoiser"
        if beside.batch != self.batch:
            reason = (
                f"attends in a batch of {beside.batch} where its denoiser has {self.batch} images, and it can't be "
                "told which these are"
            )
        return {seen.layer.partition(":")[0]: reason for seen, _ in beside.taken}

    def take_output(self, output: Any) -> None:
        """Take what the forward returned: a tensor, the first of several, or one tensor per image."""
        first = next(iter(output.values())) if isinstance(output, dict) else output
        first = first[0] if isinstance(first, tuple) and first else first
        if isinstance(first, list) and len({part.shape for part in first}) == 1:
            first = torch.stack(first)
        if isinstance(first, Tensor) and first.ndim and len(first) == self.batch:
            self.output = first.detach()

    def count(self, samples: int) -> int:
        """How many guidance branches are in it, if so many images are sampled."""
        return branches_in(self.batch, samples)

    def branches(self, samples: int) -> list[Branch | None]:
        """What every guidance branch was handed and returned."""
        count = self.count(samples)
        if self.output is None:
            return [None] * count
        texts = Handed(self.inputs.texts, self.batch, self.inputs.listed, self.inputs.references)
        each = len(self.output) // count
        return [Branch(self.output[i * each : (i + 1) * each], texts, i, count) for i in range(count)]


def samples_in(calls: Sequence[DenoiserCall], combined: Any, sample: Any) -> int:
    """How many images are sampled: what the scheduler steps, else what the denoiser was handed."""
    inputs = calls[0].inputs
    for stepped in (sample, combined):
        if isinstance(stepped, Tensor) and stepped.ndim and inputs.image:
            count = len(stepped)
            if stepped.ndim != inputs.image[0].ndim + inputs.listed:
                each = sum(part.numel() for part in inputs.image) // inputs.batch
                count = stepped.numel() // each if stepped.numel() % each == 0 else count
            if inputs.batch % count == 0:
                return count
    return min(call.batch for call in calls)


def named_by(calls: Sequence[DenoiserCall], samples: int, combined: Any, sample: Any, texts: Texts) -> Evidence:
    """What names the branches of a step."""
    branches = [call.branches(samples) for call in calls]
    prompt = calls[0].inputs.prompt
    flat = [branch for call in branches for branch in call]
    first = len(branches[0])
    home = next((branch.output.device for branch in flat if branch is not None), None)
    if home is not None:
        combined, sample = (side.to(home) if isinstance(side, Tensor) else side for side in (combined, sample))
    if len(flat) > 1 or calls[0].inputs.batch % 2 or not isinstance(sample, Tensor) or not isinstance(combined, Tensor):
        return evidence(flat, combined, sample, first, prompt, texts)
    halves = calls[0].branches(samples // 2)
    found = evidence(flat, combined, sample, first, prompt, texts)
    return found.or_doubled(halves, combined, sample, prompt, texts)
