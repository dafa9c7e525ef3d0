"""Ways to get a picture of a size: a scaling rule, or a baseline that samples otherwise.

The baselines are named like rules: ``scaling=("original", "sqrt_log", "resize", "multidiffusion")``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import pipelines
from ..errors import EntropyLabError
from ..runs.configuration import fingerprint
from ..scaling import LayerRule, NamedRule, check_train_size, named_rule, rescale, train_size_of
from ..sizes import Size

Generators = list[torch.Generator]
Draw = Callable[[Any, Size, list[str], Generators], Any]
"""``draw(pipe, size, prompts, generators)`` samples one batch: pictures in any form that `as_images` takes."""

Upscaler = Callable[[Tensor, Size, list[str], Generators], Any]
"""``upscaler(images, size, prompts, generators)``: uint8 (pictures, 3, height, width) made larger."""

PARTS = ("vae", "text_encoder", "tokenizer", "unet")
"""Of Stable Diffusion, beside its scheduler."""

WINDOWS = 16
"""Windows of MultiDiffusion that are denoised together."""


class Method(ABC):
    """A way to get pictures of a size."""

    name: str

    def check(self, pipe: Any, train_size: Any) -> None:  # noqa: B027 - most have nothing to check
        """Raise an EntropyLabError if the method is not for this pipeline; before any sampling."""

    def applies(self, pipe: Any, size: Size, train_size: Any) -> bool:
        """Whether there are pictures of this size at all by this method."""
        return True

    @property
    def description(self) -> dict[str, Any]:
        """What decides the pictures beside the pipeline, as far as it can be told."""
        return {"name": self.name}

    @abstractmethod
    def sample(self, pipe: Any, size: Size, prompts: list[str], generators: Generators, draw: Draw) -> Tensor:
        """One batch of pictures (pictures, 3, height, width) of uint8."""


@dataclass(frozen=True)
class Rescaled(Method):
    """Sample at the size itself, with the softmax scale of a rule; under "original" the pipeline is not touched."""

    rule: NamedRule
    train_size: Any = None

    @property
    def name(self) -> str:  # type: ignore[override]
        """The rule's."""
        return self.rule.name

    @property
    def description(self) -> dict[str, Any]:
        """The rule's name and what tells it from another of that name."""
        return {"name": self.name, "rule": fingerprint(self.rule)}

    def check(self, pipe: Any, train_size: Any) -> None:
        """As `entropylab.rescale`."""
        if not self.rule.is_original:
            train_size_of(self.rule, pipe, train_size)
        if isinstance(self.rule.function, LayerRule):
            self.rule.function.check(pipe)

    def sample(self, pipe: Any, size: Size, prompts: list[str], generators: Generators, draw: Draw) -> Tensor:
        """Under the rule."""
        with nullcontext() if self.rule.is_original else rescale(pipe, self.rule, train_size=self.train_size):
            return as_images(draw(pipe, size, prompts, generators))


@dataclass(frozen=True)
class Resized(Method):
    """Sample at the training size and resize: up to where the size is covered, then cut to it around the middle.

    ``upscaler(images, size, prompts, generators)`` makes the pictures larger first, such as a pipeline that takes
    images; what it gives is resized.
    """

    upscaler: Upscaler | None = None
    train_size: Any = None
    name: str = "resize"

    @property
    def description(self) -> dict[str, Any]:
        """The upscaler, if there is one."""
        return {"name": self.name, "upscaler": None if self.upscaler is None else name_of(self.upscaler)}

    def check(self, pipe: Any, train_size: Any) -> None:
        """The training size must be known."""
        check_train_size(pipe, train_size)

    def sample(self, pipe: Any, size: Size, prompts: list[str], generators: Generators, draw: Draw) -> Tensor:
        """Sampled at the training size, whatever the size."""
        images = as_images(draw(pipe, check_train_size(pipe, self.train_size), prompts, generators))
        if self.upscaler is not None:
            images = as_images(self.upscaler(images, size, prompts, generators))
        return resized(images, size)


@dataclass(frozen=True)
class MultiDiffusion(Method):
    """Windows of the training size, denoised each on its own and averaged where they overlap, at every step.

    Diffusers' StableDiffusionPanoramaPipeline, with windows of this pipeline's training size instead of 512 pixels, and
    with a last window that ends where the picture does. They are a quarter of a window apart, where diffusers takes an
    eighth at up to four times the cost. Sizes with a side below the training size have no window.

    Source: Bar-Tal et al. 2023, "MultiDiffusion".
    """

    train_size: Any = None
    name: str = "multidiffusion"

    def check(self, pipe: Any, train_size: Any) -> None:
        """Only Stable Diffusion's parts can be put together so."""
        check_train_size(pipe, train_size)
        missing = sorted({*PARTS, "scheduler"} - set(getattr(pipe, "components", {})))
        if missing:
            raise EntropyLabError(
                f"scaling 'multidiffusion' needs the parts of a StableDiffusionPipeline. {type(pipe).__name__} has no "
                f"{', '.join(missing)}."
            )

    def applies(self, pipe: Any, size: Size, train_size: Any) -> bool:
        """Both sides are at least the training size's."""
        trained = check_train_size(pipe, train_size)
        return size[0] >= trained[0] and size[1] >= trained[1]

    def sample(self, pipe: Any, size: Size, prompts: list[str], generators: Generators, draw: Draw) -> Tensor:
        """One picture after the other: diffusers mixes up the prompts of several."""
        panorama = new_panorama(pipe, self.train_size)
        pairs = zip(prompts, generators, strict=True)
        return torch.cat([as_images(draw(panorama, size, [prompt], [generator])) for prompt, generator in pairs])


def new_panorama(pipe: Any, train_size: Any) -> Any:
    """Diffusers' panorama pipeline of the parts of ``pipe``, with windows of its training size."""
    from diffusers import DDIMScheduler, StableDiffusionPanoramaPipeline

    factor = int(pipelines.vae_factor(pipe))
    high, wide = (side // factor for side in check_train_size(pipe, train_size))

    class Panorama(StableDiffusionPanoramaPipeline):
        """Diffusers' pipeline, whose windows are 64 latent pixels of an autoencoder that divides by 8 otherwise."""

        def get_views(self, panorama_height: int, panorama_width: int, *_: Any, **__: Any) -> list[tuple[int, ...]]:
            return [
                (top, top + high, left, left + wide)
                for top in starts(panorama_height // factor, high)
                for left in starts(panorama_width // factor, wide)
            ]

        def __call__(self, *arguments: Any, **settings: Any) -> Any:
            return super().__call__(*arguments, view_batch_size=WINDOWS, **settings)

    beside = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    made = Panorama(**{name: getattr(pipe, name) for name in PARTS}, scheduler=scheduler, **beside)
    made.set_progress_bar_config(disable=True)
    return made


def starts(length: int, window: int) -> list[int]:
    """Where windows begin on a side of ``length``: every quarter, and flush with the end [latent pixels]."""
    return [*range(0, length - window, max(1, window // 4)), length - window]


def resized(images: Tensor, size: Size) -> Tensor:
    """Pictures of uint8, resized until they cover ``size`` (height, width) and cut to it around the middle."""
    height, width = images.shape[-2:]
    if (height, width) == tuple(size):
        return images
    grown = max(size[0] / height, size[1] / width)
    covering = [max(side, round(grown * before)) for side, before in zip(size, (height, width), strict=True)]
    values = F.interpolate(images.float(), covering, mode="bicubic", antialias=True, align_corners=False)
    top, left = ((have - want) // 2 for have, want in zip(covering, size, strict=True))
    return values[..., top : top + size[0], left : left + size[1]].round().clamp(0, 255).byte()


def name_of(function: Any) -> str:
    """What a function is called, the same in every process."""
    return str(getattr(function, "__qualname__", type(function).__name__))


def as_images(found: Any) -> Tensor:
    """uint8 pictures (pictures, 3, height, width): from what a pipeline returned, arrays, a tensor, or PIL images.

    Arrays are (pictures, height, width, 3), tensors (pictures, 3, height, width); floats are in [0, 1].
    """
    found = getattr(found, "images", found)
    if isinstance(found, list | tuple):
        found = np.stack([np.asarray(image) for image in found]) if len(found) else np.zeros(0)
    values = found.detach().cpu() if isinstance(found, Tensor) else torch.as_tensor(np.asarray(found))
    values = values if isinstance(found, Tensor) or values.ndim != 4 else values.permute(0, 3, 1, 2)
    if values.ndim != 4 or values.shape[1] != 3:
        raise EntropyLabError(
            "call must give pictures: an array (pictures, height, width, 3), a tensor (pictures, 3, height, width), or "
            f"PIL images in RGB. Got shape {tuple(values.shape)}."
        )
    return values if values.dtype == torch.uint8 else (values.float() * 255).round().clamp(0, 255).byte()


BASELINES: dict[str, Callable[..., Method]] = {"resize": Resized, "multidiffusion": MultiDiffusion}
"""Methods by name that are no scaling rules."""


def check_methods(pipe: Any, scaling: Any, train_size: Any) -> list[Method]:
    """``scaling`` as methods: some, different in name, each of which works with ``pipe``."""
    methods = [as_method(one, train_size) for one in (scaling if isinstance(scaling, list | tuple) else [scaling])]
    names = [method.name for method in methods]
    if not names or len(set(names)) < len(names):
        raise EntropyLabError(f"scaling must name at least one rule or method, each once. Got {names}.")
    for method in methods:
        method.check(pipe, train_size)
    return methods


def as_method(one: Any, train_size: Any = None) -> Method:
    """A method, a baseline by name, or a scaling rule in any form that `entropylab.rescale` takes."""
    if isinstance(one, Resized | MultiDiffusion) and one.train_size is None:
        return replace(one, train_size=train_size)
    if isinstance(one, Method):
        return one
    if isinstance(one, str) and one in BASELINES:
        return BASELINES[one](train_size=train_size)
    try:
        return Rescaled(named_rule(one), train_size)
    except EntropyLabError as error:
        if not isinstance(one, str) or "must be one of" not in str(error):
            raise
        raise EntropyLabError(f"{error} Baselines are {', '.join(BASELINES)}.") from error
