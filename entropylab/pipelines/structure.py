"""What is known of a pipeline before any sampling: what denoises in it, its attention layers, the sizes it takes."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..capture import looks_like_attention
from ..capture.byhand import heads_of
from ..capture.roles import is_plain
from ..errors import EntropyLabError
from ..sizes import Size, as_pair, size_label
from .arguments import parameters_of, time_in, unwrapped

CONDITIONERS = ("ControlNet", "Adapter")
"""Parts of class names of models that run beside a denoiser, in every step."""

DENOISERS = ("unet", "transformer", "prior", "decoder", "denoiser")
"""What a pipeline calls its denoiser; asked where nothing takes a timestep."""

VAE_FACTORS = (
    "vae_scale_factor",
    "vae_scale_factor_spatial",
    "vae_spatial_scale_factor",
    "vae_spatial_compression_ratio",
)
"""What pipelines call the factor between pixels and latent pixels along one side."""

AUTOENCODERS = ("vae", "movq", "vqvae", "vqgan")
"""What pipelines call the model that makes latents of pictures."""


@dataclass(frozen=True)
class Layer:
    """One attention layer of a denoiser, as it can be known before any sampling.

    Attributes:
        path: module path from the pipeline, e.g. "unet.mid_block.attentions.0.transformer_blocks.0.attn1".
        kind: "self" or "cross", as far as the module says before it runs.
        heads: number of attention heads (1 if the module does not say).
        processor: class name of the attention processor, or of the module itself if it has none.
    """

    path: str
    kind: str
    heads: int
    processor: str


def denoisers(pipe: Any) -> dict[str, nn.Module]:
    """Name -> module of the parts of ``pipe`` that denoise; a bare ``torch.nn.Module`` is its own ("model")."""
    if isinstance(pipe, nn.Module):
        return {"model": pipe}
    components = getattr(pipe, "components", None)
    if not isinstance(components, Mapping):
        raise EntropyLabError(
            f"pipe must be a diffusers pipeline or a torch.nn.Module. Got {type(pipe).__name__}; "
            "entropylab.load(...) loads a pipeline from a hub id or a folder."
        )
    modules = {name: part for name, part in components.items() if isinstance(part, nn.Module)}
    timed = {name: part for name, part in modules.items() if takes_time(part)}
    found = {name: part for name, part in timed.items() if not is_called(part, (*CONDITIONERS, "Autoencoder"))}
    found = found or timed or {name: part for name, part in modules.items() if name in DENOISERS}
    if not found:
        raise EntropyLabError(
            f"{type(pipe).__name__} has no denoiser: none of its components {sorted(components)} is a module that "
            "takes a timestep. Record the module itself: entropylab.record(pipe.<component>)."
        )
    return found


def conditioners(pipe: Any) -> dict[str, nn.Module]:
    """Name -> module of the parts of ``pipe`` that run beside its denoisers in every step, and may attend: ControlNets.

    Encoders of text and of pictures run once, before the first step: what they attend to is no part of denoising.
    """
    if isinstance(pipe, nn.Module):
        return {}
    denoising = denoisers(pipe)
    others = {name: part for name, part in pipe.components.items() if isinstance(part, nn.Module)}
    others = {name: part for name, part in others.items() if is_called(part, CONDITIONERS) and takes_time(part)}
    return {name: part for name, part in others.items() if name not in denoising}


def takes_time(part: nn.Module) -> bool:
    """Whether the forward of a component takes the time it is at; no text encoder or autoencoder does."""
    return time_in(parameters_of(part)) is not None


def is_called(part: nn.Module, words: Sequence[str]) -> bool:
    """Whether the name of a module's class, of what is wrapped if it is a wrapper, has one of the words."""
    return any(word in type(unwrapped(part)).__name__ for word in words)


def layers(pipe: Any) -> list[Layer]:
    """The attention layers of ``pipe``'s denoisers, in the order of their modules, before any sampling.

    Returns:
        A list of `Layer`: path, kind, heads, processor.

    Raises:
        EntropyLabError: ``pipe`` is no pipeline or module, or has no attention layer at all.

    Examples:
        >>> layer = entropylab.layers(pipe)[0]
        >>> layer.path
        'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1'
        >>> layer.kind, layer.heads
        ('self', 4)
    """
    found = layers_of(denoisers(pipe))
    if not found:
        raise EntropyLabError(f"{type(pipe).__name__} has no attention layer to measure.")
    return found


def layers_of(roots: Mapping[str, nn.Module]) -> list[Layer]:
    """The attention layers of some modules, in the order of their parts."""
    found = []
    for name, root in roots.items():
        for path, module in root.named_modules(prefix=name):
            if looks_like_attention(module):
                is_cross = "cross" in path.rpartition(".")[2].lower() or getattr(module, "is_cross_attention", False)
                processor = type(getattr(module, "processor", module)).__name__
                kind = "cross" if is_cross else "self"
                found.append(Layer(path.replace("._orig_mod", ""), kind, heads_of(module), processor))
    return found


def is_split(root: nn.Module, path: str) -> bool:
    """Whether diffusers hands a layer of ``root`` its batch in parts, as split inference of AnimateDiff does."""
    part: Any = root
    for name in path.split(".")[1:]:
        part = getattr(part, name, None)
        if type(part).__name__ == "SplitInferenceModule":
            return True
    return False


def check_attends(pipe: Any) -> None:
    """Raise an EntropyLabError if ``pipe`` has no denoiser, or one that is made of PyTorch's plain layers alone."""
    if all(is_plain(module) for root in denoisers(pipe).values() for module in root.modules()):
        raise EntropyLabError(f"{type(pipe).__name__} has no attention layer to measure.")


def block_of(path: str) -> str:
    """The block a layer belongs to: its path up to the first index, without the denoiser's name."""
    parts = path.split(".")[1:]
    for place, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: place + 1]) if not parts[0].startswith("mid") else parts[0]
    return parts[0] if parts else path


def accepts(pipe: Any) -> set[str]:
    """Names of the arguments that ``pipe(...)`` takes."""
    return set(inspect.signature(type(pipe).__call__).parameters)


def vae_factor(pipe: Any, root: nn.Module | None = None) -> float:
    """Pixels per latent pixel along one side, of a denoiser where pipelines within the pipeline have their own.

    That of the priors of Stable Cascade and Würstchen is no whole number.
    """
    parts = () if root is None else vars(pipe).values()
    within = [part for part in parts if callable(part) and hasattr(part, "components")]
    pipe = next((part for part in within if any(each is root for each in part.components.values())), pipe)
    config = getattr(pipe, "config", None)
    if isinstance(config, Mapping) and "resolution_multiple" in config:
        return float(config["resolution_multiple"])
    said = (getattr(pipe, name, None) for name in VAE_FACTORS)
    return int(next((factor for factor in said if factor), factor_of_levels(pipe)))


def factor_of_levels(pipe: Any) -> int:
    """Pixels per latent pixel by the levels of the pipeline's autoencoder; 1 without one."""
    for name in AUTOENCODERS:
        config: Any = getattr(getattr(pipe, name, None), "config", None)
        levels = getattr(config, "block_out_channels", None)
        if isinstance(levels, list | tuple):
            return 2 ** (len(levels) - 1)
        if hasattr(config, "up_down_scale_factor"):  # of Paella
            return int(config.up_down_scale_factor * 2 ** (config.levels - 1))
    return 1


def size_multiple(pipe: Any) -> int:
    """Both sides of an image must be a multiple of this [pixels]."""
    patch = getattr(getattr(getattr(pipe, "transformer", None), "config", None), "patch_size", 1)
    processor = getattr(getattr(pipe, "image_processor", None), "config", {})
    packed = processor.get("vae_scale_factor", 1) if isinstance(processor, Mapping) else 1
    factor = vae_factor(pipe) * (patch if isinstance(patch, int) else 1)
    return math.lcm(8, factor if isinstance(factor, int) else 1, packed)


def check_sizes(pipe: Any, sizes: Any) -> list[Size]:
    """``sizes`` as (height, width) pairs: an int is a square.

    Raises:
        EntropyLabError: nothing given, not whole numbers, not positive, given twice, or not a multiple of what the
            pipeline can sample; the message names the nearest sizes that are.
    """
    sizes = sizes.tolist() if hasattr(sizes, "tolist") else sizes
    if isinstance(sizes, str | bytes) or not isinstance(sizes, Sequence):
        raise EntropyLabError(f"sizes must be a list of ints and (height, width) pairs [pixels]. Got {sizes!r}.")
    if not sizes:
        raise EntropyLabError("sizes must name at least one size. Got an empty list.")
    pairs = [as_pair(size) for size in sizes]
    multiple = size_multiple(pipe)
    for pair in pairs:
        if any(side % multiple for side in pair):
            near = {tuple(multiple * max(1, (side + more) // multiple) for side in pair) for more in (0, multiple - 1)}
            raise EntropyLabError(
                f"sizes must be multiples of {multiple} pixels for this pipeline. Got {size_label(pair)}; "
                f"near it: {', '.join(f'{height}x{width}' for height, width in sorted(near))}."
            )
    twice = [pair for pair in pairs if pairs.count(pair) > 1]
    if twice:
        raise EntropyLabError(f"sizes must differ from each other. Got {size_label(twice[0])} more than once.")
    return pairs


def default_size(pipe: Any) -> Size | None:
    """Height and width that the pipeline samples if it is not told [pixels], as far as it says."""
    return in_pixels(pipe, getattr(pipe, "default_sample_size", None))


def train_size(pipe: Any) -> Size | None:
    """Height and width that the pipeline was trained at [pixels], as far as its config says; else None."""
    sides = {part: getattr(config_of(part), "sample_size", None) for part in denoisers(pipe).values()}
    found = (in_pixels(pipe, side, part) for part, side in sides.items())
    return next((size for size in found if size is not None), default_size(pipe))


def config_of(part: nn.Module | None) -> Any:
    """What a denoiser says of itself, or the one in its wrapper; None if it says nothing."""
    return None if part is None else getattr(unwrapped(part), "config", None)


def in_pixels(pipe: Any, latent: Any, root: nn.Module | None = None) -> Size | None:
    """The size [pixels] of what is one side or a pair of sides [latent pixels]; None of anything else."""
    if isinstance(latent, int):
        latent = latent, latent
    elif not isinstance(latent, Sequence) or len(latent) != 2:
        return None
    factor = vae_factor(pipe, root)
    return round(latent[0] * factor), round(latent[1] * factor)
