"""The only file that knows diffusers: which parts of a pipeline denoise, what its layers are, which sizes it takes."""

import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..capture import AttentionCall, looks_like_attention
from ..capture.byhand import heads_of
from ..errors import EntropyLabError
from ..sizes import Size, as_pair, size_label
from .arguments import TIMES, forward_of

KINDS = ("self", "cross", "joint", "temporal")
"""Kinds of attention; see ``kind_of``."""

CONDITIONERS = ("ControlNet", "Adapter", "Autoencoder")
"""Parts of class names of models that run beside a denoiser."""

VAE_FACTORS = (
    "vae_scale_factor",
    "vae_scale_factor_spatial",
    "vae_spatial_scale_factor",
    "vae_spatial_compression_ratio",
)
"""What pipelines call the factor between pixels and latent pixels along one side."""

DENOISERS = ("unet", "transformer", "prior", "decoder", "denoiser")
"""What a pipeline calls its denoiser; asked where nothing takes a timestep."""


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
    beside = [name for name, part in timed.items() if any(word in class_name(part) for word in CONDITIONERS)]
    found = {name: part for name, part in timed.items() if name not in beside} or timed
    found = found or {name: part for name, part in modules.items() if name in DENOISERS}
    if not found:
        raise EntropyLabError(
            f"{type(pipe).__name__} has no denoiser: none of its components {sorted(components)} is a module that "
            "takes a timestep. Record the module itself: entropylab.record(pipe.<component>)."
        )
    return found


def takes_time(part: nn.Module) -> bool:
    """Whether the forward of a component takes the time it is at."""
    return any(name in TIMES or name.startswith("timestep") for name in inspect.signature(forward_of(part)).parameters)


def class_name(part: nn.Module) -> str:
    """Name of a module's class, of what was compiled if it is compiled."""
    return type(getattr(part, "_orig_mod", part)).__name__


def layers(pipe: Any) -> list[Layer]:
    """The attention layers of ``pipe``'s denoisers, in the order of their modules, before any sampling.

    Raises:
        EntropyLabError: ``pipe`` is no pipeline or module, or has no attention layer at all.

    Examples:
        >>> layer = entropylab.layers(pipe)[0]
        >>> layer.path
        'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1'
        >>> layer.kind, layer.heads
        ('self', 4)
    """
    found = [
        Layer(
            path.replace("._orig_mod", ""),
            declared_kind(path, module),
            heads_of(module),
            processor(module),
        )
        for name, root in denoisers(pipe).items()
        for path, module in root.named_modules(prefix=name)
        if looks_like_attention(module)
    ]
    if not found:
        raise EntropyLabError(f"{type(pipe).__name__} has no attention layer to measure.")
    return found


def check_attends(pipe: Any) -> None:
    """Raise an EntropyLabError if ``pipe`` has no denoiser, or one that is made of PyTorch's plain layers alone."""
    for root in denoisers(pipe).values():
        for module in root.modules():
            if looks_like_attention(module) or not type(module).__module__.startswith("torch.nn"):
                return
    raise EntropyLabError(f"{type(pipe).__name__} has no attention layer to measure.")


def processor(module: nn.Module) -> str:
    """Class name of the processor that computes a layer's attention."""
    return type(getattr(module, "processor", module)).__name__


def declared_kind(path: str, module: nn.Module) -> str:
    """Kind of an attention layer by its construction, or by what it is called."""
    called = "cross" in path.rpartition(".")[2].lower()
    return "cross" if called or getattr(module, "is_cross_attention", False) else "self"


def kind_of(call: AttentionCall) -> str:
    """Kind of an attention call.

    "self" among tokens of one sort, "cross" to tokens of other sorts only, "joint" among image and text together, or
    "temporal": among the frames of a video, place by place. Where it is not known what the tokens stand for, a layer
    that is handed a context attends to it.
    """
    queries, keys = call.query.shape[-2], call.key.shape[-2]
    if call.roles is not None:
        kind = call.roles.kind
    elif call.context is not None:
        kind = "joint" if keys > call.context else "cross"
    else:
        kind = "self" if queries == keys else "cross"
    return "temporal" if kind == "self" and is_temporal(call) else kind


def is_temporal(call: AttentionCall) -> bool:
    """Whether a call mixes the frames of a video: its batch holds every place apart, its tokens are the frames."""
    if call.inputs is None or not call.inputs.frames:
        return False
    places, frames = call.query.shape[0] // call.inputs.batch, call.inputs.frames
    hinted = re.search("temp|motion", call.layer) is not None
    fits, apart = call.query.shape[-2] in frames, places not in frames
    return places > 1 and ((fits or apart) if hinted else (fits and apart))


def part_of(call: AttentionCall, part: str) -> str:
    """What the query rows of a call, or ``part`` of them, stand for: "image", "text", ..., "all", or "unknown"."""
    if part:
        return part
    if call.roles is not None:
        return call.roles.queries.parts[0]
    told = call.inputs is None or not call.inputs.sources
    return "all" if told and kind_of(call) != "joint" else "unknown"


def block_of(path: str) -> str:
    """The block a layer belongs to: its path up to the first index, without the denoiser's name."""
    parts = path.split(".")[1:]
    for place, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: place + 1]) if not parts[0].startswith("mid") else parts[0]
    return parts[0] if parts else path


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


def tokens_at(tokens: int, here: Size, there: Size) -> int | None:
    """How many tokens a self-attention layer has at latent size ``there`` if it has ``tokens`` at ``here``.

    A level of a U-Net, or a patch embedding, divides both sides by some factor r; U-Nets round up, patches down. If no
    factor gives ``tokens``, they grow with the area (a video has several frames); None if that gives no whole number.
    """
    for divide in (lambda side, r: -(-side // r), lambda side, r: side // r):
        for factor in (2**power for power in range(12)):
            if divide(here[0], factor) * divide(here[1], factor) == tokens:
                return divide(there[0], factor) * divide(there[1], factor)
    then, left = divmod(tokens * there[0] * there[1], here[0] * here[1])
    return then if left == 0 else None


def is_without_image(call: AttentionCall) -> bool:
    """Whether a call is known to be among tokens that are not the image's."""
    return call.roles is not None and "image" not in call.roles.queries.parts


def image_keys(call: AttentionCall) -> int:
    """How many of a call's keys grow with the image: none in cross and temporal attention, nor of text alone."""
    kind, keys = kind_of(call), call.key.shape[-2]
    if kind in ("cross", "temporal"):
        return 0
    if call.roles is not None:
        return call.roles.keys.count("image", keys)
    return keys - (call.context or 0 if kind == "joint" else 0)


def grown_keys(call: AttentionCall, here: Size | None, there: Size | None) -> int | None:
    """How many more keys than now the layer that makes ``call`` has at the training size; None if it can't be told.

    Args:
        call: an attention call at latent size ``here``.
        here: latent size (height, width) now, if known.
        there: latent size at the training size, if known.
    """
    now = image_keys(call)
    if now == 0:
        return 0
    then = None if here is None or there is None else tokens_at(now, here, there)
    return None if then is None else then - now


def accepts(pipe: Any) -> set[str]:
    """Names of the arguments that ``pipe(...)`` takes."""
    return set(inspect.signature(type(pipe).__call__).parameters)
