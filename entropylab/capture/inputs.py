"""What one forward of a denoiser was handed."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .tracing import Source


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward of a denoiser.

    Attributes:
        image: what is being denoised: one tensor, or one per image.
        listed: whether it is one per image.
        timestep: the time, as it came: a tensor, a number or None.
        sources: colour -> the inputs that have it, for a Trace.
        names: which inputs there are.
        shapes: their shapes, and the numbers among them.
        deciding: inputs whose values decide where tokens stand.
    """

    image: list[Tensor]
    listed: bool
    timestep: Any
    sources: dict[str, list[Source]]
    names: Hashable
    shapes: Hashable
    deciding: list[Tensor]

    @property
    def batch(self) -> int:
        """How many images, of all guidance branches."""
        return len(self.image) if self.listed else int(self.image[0].shape[0]) if self.image else 1

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
    def texts(self) -> list[Tensor]:
        """The inputs that stand for text."""
        return [tensor for tensor, _ in self.sources.get("text", [])]
