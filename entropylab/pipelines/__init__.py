"""The only room that knows diffusers: what denoises in a pipeline, what its layers are, which image it is sampling."""

from .structure import (  # noqa: F401
    Layer,
    accepts,
    block_of,
    check_attends,
    check_sizes,
    conditioners,
    config_of,
    default_size,
    denoisers,
    is_split,
    layers,
    layers_of,
    train_size,
    vae_factor,
)
from .tokens import KINDS, grown_keys, image_keys, is_without_image, kind_of, part_of, tokens_at  # noqa: F401
