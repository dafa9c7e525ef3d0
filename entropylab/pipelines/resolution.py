"""Which image sizes a pipeline takes, was trained at, and samples unless it is told; pixels and latent pixels."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import EntropyLabError
from ..sizes import Size, as_pair, size_label
from .structure import denoisers

VAE_FACTORS = (
    "vae_scale_factor",
    "vae_scale_factor_spatial",
    "vae_spatial_scale_factor",
    "vae_spatial_compression_ratio",
)
"""What pipelines call the factor between pixels and latent pixels along one side."""


def vae_factor(pipe: Any) -> int:
    """Pixels per latent pixel along one side."""
    levels = getattr(getattr(getattr(pipe, "vae", None), "config", None), "block_out_channels", None)
    by_levels = 2 ** (len(levels) - 1) if isinstance(levels, list | tuple) else 1
    said = (getattr(pipe, name, None) for name in VAE_FACTORS)
    return int(next((factor for factor in said if factor), by_levels))


def size_multiple(pipe: Any) -> int:
    """Both sides of an image must be a multiple of this [pixels]."""
    patch = getattr(getattr(getattr(pipe, "transformer", None), "config", None), "patch_size", 1)
    patch = patch if isinstance(patch, int) else 1
    processor = getattr(getattr(pipe, "image_processor", None), "config", {})
    packed = processor.get("vae_scale_factor", 1) if isinstance(processor, Mapping) else 1
    return math.lcm(8, vae_factor(pipe) * patch, packed)


def check_sizes(pipe: Any, sizes: Any) -> list[Size]:
    """``sizes`` as (height, width) pairs: an int is a square.

    Raises:
        EntropyLabError: nothing given, not whole numbers, not positive, given twice, or not a multiple of what the
            pipeline can sample; the message names the nearest sizes that are.
    """
    if isinstance(sizes, str | bytes) or not isinstance(sizes, Sequence):
        raise EntropyLabError(f"sizes must be a list of ints and (height, width) pairs [pixels]. Got {sizes!r}.")
    if not sizes:
        raise EntropyLabError("sizes must name at least one size. Got an empty list.")
    pairs = [as_pair(size) for size in sizes]
    multiple = size_multiple(pipe)
    for pair in pairs:
        if any(side % multiple for side in pair):
            near = sorted({rounded(pair, multiple, up) for up in (False, True)})
            raise EntropyLabError(
                f"sizes must be multiples of {multiple} pixels for this pipeline. Got {size_label(pair)}; "
                f"near it: {', '.join(map(size_label, near))}."
            )
    twice = [pair for pair in pairs if pairs.count(pair) > 1]
    if twice:
        raise EntropyLabError(f"sizes must differ from each other. Got {size_label(twice[0])} more than once.")
    return pairs


def rounded(size: Size, multiple: int, up: bool) -> Size:
    """A size whose sides are rounded down or up to multiples, at least one."""
    height, width = (multiple * max(1, -(-side // multiple) if up else side // multiple) for side in size)
    return height, width


def default_size(pipe: Any) -> Size | None:
    """Height and width that the pipeline samples if it is not told [pixels], as far as it says."""
    side = getattr(pipe, "default_sample_size", None)
    return (side * vae_factor(pipe), side * vae_factor(pipe)) if isinstance(side, int) else None


def train_size(pipe: Any) -> Size | None:
    """Height and width that the pipeline was trained at [pixels], as far as its config says; else None."""
    sides = [getattr(getattr(part, "config", None), "sample_size", None) for part in denoisers(pipe).values()]
    sides.append(getattr(pipe, "default_sample_size", None))
    for side in sides:
        if isinstance(side, int):
            return side * vae_factor(pipe), side * vae_factor(pipe)
        if isinstance(side, Sequence) and len(side) == 2:
            return side[0] * vae_factor(pipe), side[1] * vae_factor(pipe)
    return None
