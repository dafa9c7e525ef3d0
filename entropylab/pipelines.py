"""The only file that knows diffusers: which parts of a pipeline denoise, what its layers are, which sizes it takes."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .capture import AttentionCall, looks_like_attention
from .errors import EntropyLabError

Size = tuple[int, int]

TIMES = ("timestep", "timesteps", "timestep_ratio", "t", "r")
"""What the forward of a denoiser calls the time it is at; no text encoder or autoencoder takes one."""

CONDITIONERS = ("ControlNet", "Adapter", "Autoencoder")
"""Parts of class names of models that run beside a denoiser."""


@dataclass(frozen=True)
class Layer:
    """One attention layer of a denoiser, as it can be known before any sampling.

    Attributes:
        path: module path from the pipeline, e.g. "unet.mid_block.attentions.0.transformer_blocks.0.attn1".
        kind: "self" or "cross".
        heads: number of attention heads (0 if the module does not say).
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
    found = {name: part for name, part in components.items() if is_denoiser(part)}
    if not found:
        raise EntropyLabError(
            f"{type(pipe).__name__} has no denoiser: none of its components {sorted(components)} is a module that "
            "takes a timestep. Record the module itself: entropylab.record(pipe.<component>)."
        )
    return found


def is_denoiser(part: Any) -> bool:
    """Whether a component of a pipeline denoises: a module whose forward takes a timestep."""
    if not isinstance(part, nn.Module):
        return False
    taken = inspect.signature(forward_of(part)).parameters
    name = type(getattr(part, "_orig_mod", part)).__name__
    return any(time in taken for time in TIMES) and not any(word in name for word in CONDITIONERS)


def forward_of(module: nn.Module) -> Any:
    """The forward of a module's class, of what was compiled if it is compiled."""
    own: Any = type(getattr(module, "_orig_mod", module))
    return own.forward


def schedulers(pipe: Any) -> list[Any]:
    """The schedulers of ``pipe``; none for a bare module."""
    components = {} if isinstance(pipe, nn.Module) else pipe.components
    return [part for part in components.values() if hasattr(part, "step") and hasattr(part, "set_timesteps")]


def layers(pipe: Any) -> list[Layer]:
    """The attention layers of ``pipe``'s denoisers, in the order of their modules, before any sampling.

    Raises:
        EntropyLabError: ``pipe`` is no pipeline or module, or has no attention layer at all.
    """
    found = [
        Layer(
            path.replace("._orig_mod", ""),
            declared_kind(module),
            int(getattr(module, "heads", getattr(module, "num_heads", 0))),
            processor(module),
        )
        for name, root in denoisers(pipe).items()
        for path, module in root.named_modules(prefix=name)
        if looks_like_attention(module)
    ]
    if not found:
        raise EntropyLabError(f"{type(pipe).__name__} has no attention layer to measure.")
    return found


def processor(module: nn.Module) -> str:
    """Class name of the processor that computes a layer's attention."""
    return type(getattr(module, "processor", module)).__name__


def declared_kind(module: nn.Module) -> str:
    """Kind of an attention layer by its construction."""
    return "cross" if getattr(module, "is_cross_attention", False) else "self"


def kind_of(call: AttentionCall) -> str:
    """Kind of an attention call: "cross" to other tokens, "joint" among its own and the others, or "self"."""
    queries, keys = call.query.shape[-2], call.key.shape[-2]
    if call.context is not None:
        return "joint" if keys > call.context else "cross"
    return "self" if queries == keys else "cross"


def block_of(path: str) -> str:
    """The block a layer belongs to: its path up to the first index, without the denoiser's name."""
    parts = path.split(".")[1:]
    for place, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: place + 1]) if not parts[0].startswith("mid") else parts[0]
    return parts[0] if parts else path


def vae_factor(pipe: Any) -> int:
    """Pixels per latent pixel along one side."""
    return int(getattr(pipe, "vae_scale_factor", 1) or 1)


def size_multiple(pipe: Any) -> int:
    """Both sides of an image must be a multiple of this [pixels]."""
    patch = getattr(getattr(getattr(pipe, "transformer", None), "config", None), "patch_size", 1)
    patch = patch if isinstance(patch, int) else 1
    return math.lcm(8, vae_factor(pipe) * patch)


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
            near = sorted({tuple(max(multiple, round_to(side, multiple, up)) for side in pair) for up in (False, True)})
            raise EntropyLabError(
                f"sizes must be multiples of {multiple} pixels for this pipeline. Got {pair[0]}x{pair[1]}; "
                f"near it: {', '.join(f'{h}x{w}' for h, w in near)}."
            )
    twice = [pair for pair in pairs if pairs.count(pair) > 1]
    if twice:
        raise EntropyLabError(f"sizes must differ from each other. Got {twice[0][0]}x{twice[0][1]} more than once.")
    return pairs


def as_pair(size: Any) -> Size:
    """One entry of ``sizes`` as (height, width)."""
    pair = (size, size) if isinstance(size, int) else size
    whole = (
        isinstance(pair, Sequence)
        and len(pair) == 2
        and all(isinstance(side, int) and not isinstance(side, bool) for side in pair)
    )
    if not whole:
        raise EntropyLabError(f"each of sizes must be an int or a (height, width) pair of ints [pixels]. Got {size!r}.")
    if min(pair) < 1:
        raise EntropyLabError(f"sizes must be positive [pixels]. Got {size!r}.")
    return pair[0], pair[1]


def round_to(side: int, multiple: int, up: bool) -> int:
    """``side`` rounded down or up to a multiple."""
    return (-(-side // multiple) if up else side // multiple) * multiple


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

    A level of a U-Net, or a patch embedding, divides both sides by some factor r; U-Nets round up, patches down.
    None if no factor gives ``tokens``.
    """
    for divide in (lambda side, r: -(-side // r), lambda side, r: side // r):
        for factor in (2**power for power in range(12)):
            if divide(here[0], factor) * divide(here[1], factor) == tokens:
                return divide(there[0], factor) * divide(there[1], factor)
    return None


def train_tokens(call: AttentionCall, here: Size | None, there: Size | None) -> int | None:
    """How many keys the layer that makes ``call`` has at the training size.

    Args:
        call: an attention call at latent size ``here``.
        here: latent size (height, width) now, if known.
        there: latent size at the training size, if known.
    """
    keys, kind = call.key.shape[-2], kind_of(call)
    if kind == "cross":
        return keys
    text = call.context or 0
    image = None if here is None or there is None else tokens_at(keys - text, here, there)
    return None if image is None else image + text


def latent_size(args: tuple, kwargs: dict) -> Size | None:
    """Height and width of a denoiser's input (batch, channels, ..., height, width), from its forward's arguments."""
    sample = next(
        (v for v in (kwargs.get("sample"), kwargs.get("hidden_states"), *args[:1]) if isinstance(v, Tensor)), None
    )
    return (int(sample.shape[-2]), int(sample.shape[-1])) if sample is not None and sample.ndim >= 4 else None


def timestep_of(root: nn.Module, args: tuple, kwargs: dict) -> Any:
    """The timestep that a denoiser's forward was called with, as it came: a tensor, a number or None."""
    names = list(inspect.signature(forward_of(root)).parameters)[1:]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return next((given[name] for name in TIMES if given.get(name) is not None), None)


def batch_of(args: tuple, kwargs: dict) -> int:
    """Batch size of a denoiser's input."""
    tensors = [v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.ndim > 1]
    return int(tensors[0].shape[0]) if tensors else 1


def branch_names(count: int) -> list[str]:
    """Names of the guidance branches in the order in which diffusers batches them."""
    if count == 2:
        return ["uncond", "cond"]
    return ["cond"] if count == 1 else [f"branch {index}" for index in range(count)]


def accepts(pipe: Any) -> set[str]:
    """Names of the arguments that ``pipe(...)`` takes."""
    return set(inspect.signature(type(pipe).__call__).parameters)
