"""The only room that knows diffusers: what denoises in a pipeline, what its layers are, which image it is sampling."""

from ..sizes import as_pair
from .structure import (
    KINDS,
    Layer,
    accepts,
    block_of,
    check_attends,
    check_sizes,
    default_size,
    denoisers,
    grown_keys,
    is_without_image,
    kind_of,
    layers,
    part_of,
    tokens_at,
    train_size,
    vae_factor,
)

__all__ = [
    "KINDS",
    "Layer",
    "accepts",
    "as_pair",
    "block_of",
    "check_attends",
    "check_sizes",
    "default_size",
    "denoisers",
    "grown_keys",
    "is_without_image",
    "kind_of",
    "layers",
    "part_of",
    "tokens_at",
    "train_size",
    "vae_factor",
]
