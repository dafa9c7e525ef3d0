"""The loop that samples all pictures of one size by one method, from the same seeds and prompts as every other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import pipelines
from ..errors import EntropyLabError
from ..sizes import Size, size_label
from .cost import Meter
from .methods import Draw, Method


def own_call(settings: dict[str, Any]) -> Draw:
    """The pipeline's own call, with these settings."""

    def draw(pipe: Any, size: Size, prompts: list[str], generators: list[torch.Generator]) -> Any:
        given = settings | {"output_type": "np"}
        return pipe(prompt=prompts, height=size[0], width=size[1], generator=generators, **given).images

    return draw


@dataclass(frozen=True)
class Sampling:
    """What every size and method is sampled from.

    Attributes:
        prompts: one a picture.
        seed: of the first picture; the next has the next.
        batch_size: pictures sampled together.
        draw: samples a batch.
        settings: what ``draw`` calls the pipeline with, for the record.
    """

    prompts: list[str]
    seed: int
    batch_size: int
    draw: Draw
    settings: dict[str, Any]

    @property
    def starts(self) -> range:
        """The number of the first picture of every batch."""
        return range(0, len(self.prompts), self.batch_size)

    def of(self, start: int) -> list[str]:
        """The prompts of the batch that begins with picture ``start``."""
        return self.prompts[start : start + self.batch_size]

    def batches(self, pipe: Any, size: Size, method: Method, meter: Meter) -> Iterator[tuple[int, Tensor]]:
        """Every batch of one size by one method: the number of its first picture, and its pictures
        (batch, 3, height, width) of uint8; ``meter`` is told what it costs.
        """
        for start in self.starts:
            prompts = self.of(start)
            seeds = range(self.seed + start, self.seed + start + len(prompts))
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            with meter.batch(len(prompts)):
                images = method.sample(pipe, size, prompts, generators, self.draw)
            if tuple(images.shape[-2:]) != size or len(images) != len(prompts):
                raise EntropyLabError(
                    f"call must give {len(prompts)} pictures of {size_label(size)} pixels. Got {tuple(images.shape)}."
                )
            yield start, images


def device_of(pipe: Any) -> torch.device:
    """Where the denoiser is."""
    root = next(iter(pipelines.denoisers(pipe).values()))
    return next(root.parameters()).device
