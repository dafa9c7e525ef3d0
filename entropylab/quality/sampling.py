"""The loop that samples all pictures of one size by one method, from the same seeds and prompts as every other."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import pipelines
from ..errors import EntropyLabError
from ..pipelines import Size
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
    """What every size and method is sampled from."""

    prompts: list[str]
    seed: int
    batch_size: int
    draw: Draw

    def sample(self, pipe: Any, size: Size, method: Method, bar: Any) -> tuple[Tensor, Meter]:
        """All pictures of one size by one method (pictures, 3, height, width) of uint8, and what they cost."""
        images, meter = [], Meter(device_of(pipe))
        for start in range(0, len(self.prompts), self.batch_size):
            prompts = self.prompts[start : start + self.batch_size]
            seeds = range(self.seed + start, self.seed + start + len(prompts))
            generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
            with meter.batch(len(prompts)):
                images.append(method.sample(pipe, size, prompts, generators, self.draw))
            bar.update(size[0] * size[1] * len(prompts))
        found = torch.cat(images)
        if tuple(found.shape[-2:]) != size or len(found) != len(self.prompts):
            raise EntropyLabError(
                f"call must give {len(self.prompts)} pictures of {size[0]}x{size[1]} pixels. Got {tuple(found.shape)}."
            )
        return found, meter


def device_of(pipe: Any) -> torch.device:
    """Where the denoiser is."""
    root = next(iter(pipelines.denoisers(pipe).values()))
    return next(root.parameters()).device
