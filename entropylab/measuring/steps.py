"""One sampling step: the denoiser calls in it, and from them one array per layer with the guidance branches apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..capture import AttentionCall
from ..capture.inputs import Inputs
from ..capture.interception import reason_of
from ..errors import EntropyLabError
from ..pipelines.batches import images_in
from ..pipelines.guidance import Branch, Evidence, evidence
from .looks import Look
from .reduce import Reduction


@dataclass(frozen=True)
class Seen:
    """A look at a call of a layer.

    Attributes:
        look: the look.
        path: name of the call.
        layer: name of the layer.
        images: how many images the forward had then.
        place: which of them the call is about; None for one of those that a layer makes image by image.
    """

    look: Look
    path: str
    layer: str
    images: int
    place: slice | None = None


HELD = 64 * 2**20
"""Looks are averaged once they hold so much memory [bytes], or the forward ends."""


class DenoiserCall:
    """What one forward of a denoiser was handed, returned, and gave to measure.

    Attributes:
        inputs: what it was handed.
        reduction: averages what was seen of its layers.
        batch: how many images, of all guidance branches.
        looks: what was seen and is not averaged yet.
        held: how much memory that takes [bytes].
        values: layer path -> (entries, images of all branches, heads), on the device; NaN where an image was left out.
        lost: layer path -> why its looks could not be averaged.
        singles: path -> (entries, 1, heads), of layers that attend image by image, until all are there.
        output: (images of all branches, ...), or None if it can't be told.
        ended: whether it ran to its end.
    """

    def __init__(self, inputs: Inputs, reduction: Reduction) -> None:
        self.inputs, self.reduction, self.batch, self.ended = inputs, reduction, inputs.batch, False
        self.looks: list[Seen] = []
        self.held = 0
        self.values: dict[str, Tensor] = {}
        self.singles: dict[str, Tensor] = {}
        self.alone: dict[str, list[str]] = {}
        self.lost: dict[str, str] = {}
        self.output: Tensor | None = None

    def meet(self, query: Tensor) -> None:
        """Meet q (batch, heads, queries, d) of a layer: a module that is no denoiser may have its tokens first."""
        shape = self.inputs.image[0].shape if self.inputs.image else ()
        if self.inputs.timestep is None and len(shape) == 3 and shape[:2] == (query.shape[-2], query.shape[0]):
            self.batch = query.shape[0]

    def see(self, path: str, look: Look, call: AttentionCall, layer: str) -> None:
        """Take a look at ``call``, which is one of those of ``layer``.

        Frames or places in its batch are averaged. A layer that attends image by image has them put together.

        Raises:
            EntropyLabError: it can't be told which images the call's batch holds.
        """
        batch, inputs = len(look.query_sums), call.inputs
        images = self.batch if inputs is None or inputs.images is None else inputs.batch
        alone = self.alone.setdefault(layer, [])
        if batch == 1 < images and call.occurrence == len(alone) and images_in(call, 1, self.batch) is None:
            alone.append(path)
            self.looks.append(Seen(look, path, layer, images))
        else:
            count = images if batch > images and batch % images == 0 else batch
            self.looks.append(Seen(look, path, layer, images, self.place_of(call, count)))
        self.held += look.size
        if self.held > HELD:
            self.settle()

    def place_of(self, call: AttentionCall, count: int) -> slice:
        """Which images of the batch the ``count`` that a call holds are."""
        place = images_in(call, count, self.batch)
        if place is None:
            raise EntropyLabError(
                f"attends in a batch of {count} where its denoiser has {self.batch} images, and it can't be "
                "told which these are"
            )
        return place

    @torch.no_grad()
    def settle(self) -> None:
        """Average what was seen."""
        looks, self.looks, self.held = self.looks, [], 0
        if looks:
            with torch.autocast(looks[0].look.query_sums.device.type, enabled=False):
                self.average(looks)

    def average(self, looks: Sequence[Seen]) -> None:
        """Average looks in one go; where that fails, one by one, and a layer whose own fails is lost."""
        try:
            averages = self.reduction.averages([seen.look for seen in looks])
        except Exception as problem:
            if len(looks) == 1:
                self.lost[looks[0].layer.partition(":")[0]] = reason_of(problem)
                return
        else:
            for seen, values in zip(looks, averages, strict=True):
                self.take(seen, values)
            return
        for seen in looks:
            self.average([seen])

    def take(self, seen: Seen, values: Tensor) -> None:
        """Take the averages (entries, batch, heads) of a look."""
        if seen.place is None:
            self.singles[seen.path] = values
            alone = self.alone[seen.layer]
            if len(alone) == self.batch and all(each in self.singles for each in alone):
                self.values[seen.layer] = torch.cat([self.singles.pop(each) for each in alone], 1)
            return
        if values.shape[1] > seen.images and values.shape[1] % seen.images == 0:
            values = values.unflatten(1, (seen.images, -1)).nanmean(2)
        self.values[seen.path] = self.in_place(values, seen.place)

    def in_place(self, values: Tensor, place: slice) -> Tensor:
        """Values of some images as values of the whole batch, NaN elsewhere."""
        if place == slice(0, self.batch):
            return values
        whole = values.new_full((values.shape[0], self.batch, values.shape[2]), torch.nan)
        whole[:, place] = values
        return whole

    @property
    def incomplete(self) -> dict[str, str]:
        """Layer path -> what is wrong, of layers that attended for some images alone, or could not be averaged."""
        reason = f"attends in a batch of 1 where its denoiser has {self.batch} images, and not once for each"
        return {path.partition(":")[0]: reason for path in self.singles} | self.lost

    def take_in(self, beside: "DenoiserCall") -> dict[str, str]:
        """Take what a ControlNet gave that ran for this forward; layer path -> reason, of what can't be taken."""
        if beside.batch == self.batch and self.values.keys().isdisjoint(beside.values):
            self.values = beside.values | self.values
            return {}
        reason = "runs more than once beside one forward of its denoiser"
        if beside.batch != self.batch:
            reason = (
                f"attends in a batch of {beside.batch} where its denoiser has {self.batch} images, and it can't be "
                "told which these are"
            )
        return {path.partition(":")[0]: reason for path in beside.values}

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
    """Layer path -> (entries, branch, sample, heads), NaN in branches in which the layer did not run."""
    counts = [call.count(samples) for call in calls]
    widest = max(call.batch // count for call, count in zip(calls, counts, strict=True))
    found = {}
    for path in dict.fromkeys(path for call in calls for path in call.values):
        ran = [call.values[path] for call in calls if path in call.values]
        entries, heads = (max(value.shape[axis] for value in ran) for axis in (0, 2))
        pieces = []
        for call, count in zip(calls, counts, strict=True):
            shape = (entries, count, widest, heads)
            known = path in call.values
            values = call.values[path].to(ran[0].device).unflatten(1, (count, -1)) if known else None
            pieces.append(values if values is not None and values.shape == shape else padded(values, shape, ran[0]))
        found[path] = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
    return found


def padded(values: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Values (entries, branch, sample, heads) in a larger shape, NaN where there are none."""
    whole = like.new_full(shape, torch.nan)
    if values is not None:
        whole[: len(values), :, : values.shape[2], : values.shape[3]] = values
    return whole


def named_by(calls: Sequence[DenoiserCall], samples: int, combined: Any, sample: Any) -> Evidence:
    """What names the branches of a step."""
    branches = [call.branches(samples) for call in calls]
    flat = [branch for call in branches for branch in call]
    first = len(branches[0])
    home = next((branch.output.device for branch in flat if branch is not None), None)
    if home is not None:
        combined, sample = (side.to(home) if isinstance(side, Tensor) else side for side in (combined, sample))
    if len(flat) > 1 or calls[0].inputs.batch % 2 or not isinstance(sample, Tensor) or not isinstance(combined, Tensor):
        return evidence(flat, combined, sample, first)
    return evidence(flat, combined, sample, first).or_doubled(calls[0].branches(samples // 2), combined, sample)
