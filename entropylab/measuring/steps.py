"""One sampling step: the denoiser calls in it, and from them one array per layer with the guidance branches apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..capture.inputs import Inputs
from ..pipelines.guidance import Branch, Evidence, evidence
from .looks import Look
from .reduce import Reduction


@dataclass(frozen=True)
class Seen:
    """A look at a call: which layer made it, the how manyeth of that layer, and how many images were sampled then."""

    look: Look
    path: str
    layer: str
    occurrence: int
    images: int


HELD = 64 * 2**20
"""Looks are averaged once they hold so much memory [bytes], or the forward ends."""


class DenoiserCall:
    """What one forward of a denoiser was handed, returned, and gave to measure.

    Attributes:
        inputs: what it was handed.
        reduction: averages what was seen of its layers.
        batch: how many images, of all guidance branches.
        looks: what was seen and is not averaged yet.
        values: layer path -> (entries, images of all branches, heads), on the device.
        output: (images of all branches, ...), or None if it can't be told.
        ended: whether it ran to its end.
    """

    def __init__(self, inputs: Inputs, reduction: Reduction) -> None:
        self.inputs, self.reduction, self.batch, self.ended = inputs, reduction, inputs.batch, False
        self.looks: list[Seen] = []
        self.values: dict[str, Tensor] = {}
        self.alone: dict[str, list[str]] = {}
        self.output: Tensor | None = None

    def meet(self, query: Tensor) -> None:
        """Meet q (batch, heads, queries, d) of a layer: a module that is no denoiser may have its tokens first."""
        shape = self.inputs.image[0].shape if self.inputs.image else ()
        if self.inputs.timestep is None and len(shape) == 3 and shape[:2] == (query.shape[-2], query.shape[0]):
            self.batch = query.shape[0]

    def see(self, path: str, look: Look, layer: str = "", occurrence: int = 0) -> None:
        """Take a look at a call, the ``occurrence``-th of what ``layer`` labels."""
        self.looks.append(Seen(look, path, layer, occurrence, self.batch))
        if sum(seen.look.size for seen in self.looks) > HELD:
            self.settle()

    @torch.no_grad()
    def settle(self) -> None:
        """Average what was seen."""
        looks, self.looks = self.looks, []
        if looks:
            with torch.autocast(looks[0].look.query_sums.device.type, enabled=False):
                averages = self.reduction.averages([seen.look for seen in looks])
            for seen, values in zip(looks, averages, strict=True):
                self.take(seen.path, values, seen.layer, seen.occurrence, seen.images)

    def take(self, path: str, values: Tensor, layer: str, occurrence: int, images: int) -> None:
        """Take a reduced call, (entries, batch, heads), of a forward of so many images.

        Frames or places in its batch are averaged. A layer that attends image by image has them put together.
        """
        batch = values.shape[1]
        if batch > images and batch % images == 0:
            values = values.unflatten(1, (images, -1)).nanmean(2)
        self.values[path] = values
        alone = self.alone.setdefault(layer, [])
        if batch == 1 < images and occurrence == len(alone):
            alone.append(path)
            if len(alone) == images:
                self.values[layer] = torch.cat([self.values.pop(each) for each in alone], 1)

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
        return self.batch // samples if self.batch % samples == 0 else 1

    def branches(self, samples: int) -> list[Branch | None]:
        """What every guidance branch was handed and returned."""
        count = self.count(samples)
        if self.output is None:
            return [None] * count
        each = len(self.output) // count
        return [Branch(self.output[i * each : (i + 1) * each], tuple(self.share(i, count))) for i in range(count)]

    def share(self, index: int, count: int) -> Sequence[Tensor]:
        """The text that one of so many branches was handed."""
        texts, batch = self.inputs.texts, self.batch
        if len(texts) == batch and self.inputs.listed:
            each = batch // count
            return texts[index * each : (index + 1) * each]
        return [text.chunk(count)[index] if text.shape[0] == batch else text for text in texts]


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


def by_branch(calls: Sequence[DenoiserCall], samples: int) -> dict[str, Tensor]:
    """Layer path -> (entries, branch, sample, heads), NaN in branches in which the layer did not run.

    A layer that attends in fewer branches than its call has does so in the first ones: perturbed ones come last.
    """
    counts = [call.count(samples) for call in calls]
    found = {}
    for path in dict.fromkeys(path for call in calls for path in call.values):
        example = next(call.values[path] for call in calls if path in call.values)
        pieces = []
        for call, count in zip(calls, counts, strict=True):
            width = samples if call.batch % samples == 0 else call.batch
            whole = example.new_full((example.shape[0], count * width, example.shape[2]), torch.nan)
            values = call.values.get(path)
            if values is not None and values.shape[1] <= whole.shape[1] and values.shape[0] == whole.shape[0]:
                whole[:, : values.shape[1]] = values
            pieces.append(whole.unflatten(1, (count, width)))
        widest = max(piece.shape[2] for piece in pieces)
        padded = [torch.nn.functional.pad(p, (0, 0, 0, widest - p.shape[2]), value=torch.nan) for p in pieces]
        found[path] = torch.cat(padded, 1)
    return found


def named_by(calls: Sequence[DenoiserCall], samples: int, combined: Any, sample: Any) -> Evidence:
    """What names the branches of a step."""
    branches = [call.branches(samples) for call in calls]
    flat = [branch for call in branches for branch in call]
    first = len(branches[0])
    if len(flat) > 1 or calls[0].inputs.batch % 2 or not isinstance(sample, Tensor) or not isinstance(combined, Tensor):
        return evidence(flat, combined, sample, first)
    return evidence(flat, combined, sample, first).or_doubled(calls[0].branches(samples // 2), combined, sample)
