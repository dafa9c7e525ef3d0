"""What one forward of a denoiser was handed."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .tracing import Source


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward of a denoiser."""

    image: list[Tensor]  # what is being denoised: one tensor, or one per image
    listed: bool  # whether it is one per image
    timestep: Any  # the time, as it came: a tensor, a number or None
    sources: dict[str, list[Source]]  # colour -> the inputs that have it, for a Trace
    names: Hashable  # which inputs there are
    shapes: Hashable  # their shapes, and the numbers among them
    deciding: list[Tensor]  # inputs whose values decide where tokens stand
    prompt: Tensor | None = None  # what the pipeline made of its prompt, (samples, tokens, channels), if that is known
    fills: bool = False  # whether the forward fills a cache of keys
    takes: bool = False  # whether it attends to keys in a cache that an earlier one has filled
    images: slice | None = None  # which images of the denoiser's batch these are; None if all, or if nobody can tell

    @property
    def batch(self) -> int:
        """How many images, of all guidance branches."""
        return len(self.image) if self.listed else int(self.image[0].shape[0]) if self.image else 1

    def narrowed(self, part: "Inputs") -> "Inputs":
        """These inputs cut down to ``part``, what of them is computed."""
        if part.batch == self.batch:
            return self
        return replace(self, image=part.image, images=place_of(part.image, self.image))

    @property
    def latent_size(self) -> tuple[int, int] | None:
        """Height and width [latent pixels] of an image that comes as a grid: (batch, channels, ..., height, width)."""
        if not self.image or self.image[0].ndim + self.listed < 4:
            return None
        return int(self.image[0].shape[-2]), int(self.image[0].shape[-1])

    @property
    def frames(self) -> tuple[int, ...]:
        """How many frames a video may have, if it is one: (batch, channels, frames, height, width), or frames first."""
        shape = (1, *self.image[0].shape) if self.listed else tuple(self.image[0].shape) if self.image else ()
        return shape[1:3][::-1] if len(shape) == 5 else ()

    @property
    def is_reference(self) -> bool:
        """Whether nothing of it is denoised: a model is shown a reference, whose keys it keeps."""
        return self.fills and "reference" in self.sources and "image" not in self.sources

    @property
    def texts(self) -> list[Tensor]:
        """The inputs that stand for text."""
        return [tensor for tensor, _ in self.sources.get("text", [])]

    @property
    def references(self) -> list[Tensor]:
        """The inputs that stand for pictures which the model is shown beside what it denoises."""
        if "reference" not in self.sources:
            return []
        return [tensor for tensor, _ in self.sources["reference"] if all(tensor is not part for part in self.image)]


def place_of(part: list[Tensor], whole: list[Tensor]) -> slice | None:
    """Where in a batch a stretch of it stands; None if ``part`` is no view of a stretch of ``whole``."""
    if len(part) != 1 or len(whole) != 1 or part[0].shape[1:] != whole[0].shape[1:]:
        return None
    firsts = range(len(whole[0]) - len(part[0]) + 1)
    first = next((first for first in firsts if whole[0][first:].data_ptr() == part[0].data_ptr()), None)
    return None if first is None else slice(first, first + len(part[0]))
