"""Which parts of a pipeline denoise, and what their attention layers are, before any sampling."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..capture import looks_like_attention
from ..capture.byhand import heads_of
from ..errors import EntropyLabError
from .arguments import TIMES, parameters_of

CONDITIONERS = ("ControlNet", "Adapter")
"""Parts of class names of models that run beside a denoiser, in every step."""

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
    others = (*CONDITIONERS, "Autoencoder")
    beside = [name for name, part in timed.items() if any(word in class_name(part) for word in others)]
    found = {name: part for name, part in timed.items() if name not in beside} or timed
    found = found or {name: part for name, part in modules.items() if name in DENOISERS}
    if not found:
        raise EntropyLabError(
            f"{type(pipe).__name__} has no denoiser: none of its components {sorted(components)} is a module that "
            "takes a timestep. Record the module itself: entropylab.record(pipe.<component>)."
        )
    return found


def conditioners(pipe: Any) -> dict[str, nn.Module]:
    """Name -> module of the parts of ``pipe`` that run beside its denoisers in every step, and may attend: ControlNets.

    They are told by their class, and by taking the time that a step is at. Encoders of text and of pictures take none:
    they run once, before the first step, and what they attend to is no part of denoising.
    """
    if isinstance(pipe, nn.Module):
        return {}
    denoising = denoisers(pipe)
    parts = ((name, part) for name, part in pipe.components.items() if isinstance(part, nn.Module))
    return {
        name: part
        for name, part in parts
        if name not in denoising and takes_time(part) and any(word in class_name(part) for word in CONDITIONERS)
    }


def takes_time(part: nn.Module) -> bool:
    """Whether the forward of a component takes the time it is at."""
    return any(name in TIMES or name.startswith("timestep") for name in parameters_of(part))


def class_name(part: nn.Module) -> str:
    """Name of a module's class, of what was compiled if it is compiled."""
    return type(getattr(part, "_orig_mod", part)).__name__


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
    return [
        Layer(
            path.replace("._orig_mod", ""),
            declared_kind(path, module),
            heads_of(module),
            processor(module),
        )
        for name, root in roots.items()
        for path, module in root.named_modules(prefix=name)
        if looks_like_attention(module)
    ]


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
