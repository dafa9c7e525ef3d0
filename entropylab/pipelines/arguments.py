"""What the arguments of a denoiser's forward are: the image, text, references, the time. Knows diffusers' names."""

import inspect
import re
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..capture.inputs import Inputs
from ..capture.tracing import Marked, Source

TIMES = ("timestep", "timesteps", "timestep_ratio", "t", "r")
"""What the forward of a denoiser calls the time it is at; no text encoder or autoencoder takes one."""

NO_TOKENS = (
    "mask",
    "ids",
    "rotary",
    "rope",
    "freq",
    "residual",
    "control",
    "pool",
    "size",
    "shape",
    "time",
    "guidance",
)
"""Beginnings of words in names of inputs that are no tokens, or none of their own."""

PICTURES = ("image", "img", "ref", "pixel", "vae", "video", "siglip")
"""Beginnings of words in names of inputs, other than the image itself, that come from pictures."""

PAST = ("latents_history", "latents_clean")
"""Beginnings of names of inputs that hold what was made of a video before, a chunk of frames at a time."""

INDICATED = {"image": 2, "text": 3}
"""What ``indicator`` says of a token where text and image are handed in one sequence, as Ideogram 4's is."""


def parameters_of(module: nn.Module) -> list[str]:
    """Names of what a module's forward takes, of what was compiled if it is compiled."""
    own: Any = getattr(module, "_orig_mod", module)
    if isinstance(own, torch.jit.ScriptModule):
        compiled: Any = own.forward
        return [argument.name for argument in compiled.schema.arguments[1:]]
    return names_of_parameters(type(own).forward)


@lru_cache(maxsize=64)
def names_of_parameters(forward: Any) -> list[str]:
    """Names of what a method takes, but for its object; read once, for it takes long."""
    return list(inspect.signature(forward).parameters)[1:]


def arguments(root: nn.Module, args: tuple, kwargs: dict) -> dict[str, Any]:
    """The arguments of a forward by name."""
    return {**dict(zip(parameters_of(root), args, strict=False)), **kwargs}


def inputs_of(root: nn.Module, args: tuple, kwargs: dict, latents: int | None = None) -> Inputs:
    """What a denoiser's forward was handed.

    Args:
        root: the denoiser.
        args: its positional arguments.
        kwargs: its arguments by name.
        latents: how many tokens the image has, where it comes as tokens: further ones belong to reference images.
    """
    given = arguments(root, args, kwargs)
    image_name = next(iter(parameters_of(root)), "")
    if given.get(image_name) is None:
        tensors = [name for name, value in given.items() if isinstance(value, Tensor)]
        image_name = [*(name for name in tensors if given[name].is_floating_point()), *tensors, image_name][0]
    sources: dict[str, list[Source]] = {}
    image: list[Tensor] = []
    deciding: list[Tensor] = []
    names: list[Hashable] = []
    shapes: list[Hashable] = []
    for path, leaf in leaves(given):
        if not isinstance(leaf, Tensor):
            if isinstance(leaf, int | str) and not path.startswith(TIMES):
                shapes.append((path, leaf))
            continue
        names.append((path, leaf.ndim))
        shapes.append((path, tuple(leaf.shape)))
        if path.split(".")[0] == image_name:
            image.append(leaf)
            for part, tokens in tokens_of_image(leaf, given, latents).items():
                sources.setdefault(part, []).append((leaf, tokens))
        elif (colour := colour_of(path, leaf)) is not None:
            sources.setdefault(colour, []).append((leaf, slice(None)))
        if leaf.ndim and ("mask" in path or not leaf.is_floating_point()) and path not in TIMES:
            deciding.append(leaf)
    sources = indicated(sources, given.get("indicator"))
    if convolves(root):
        sources.pop("image", None)
    listed = isinstance(given.get(image_name), list | tuple)
    times = [*TIMES, *(name for name in given if name.startswith("timestep"))]
    timestep = next((given[name] for name in times if given.get(name) is not None), None)
    if timestep is None:
        sources = {}
    fills, takes = (given.get("kv_cache_mode") == mode for mode in ("extract", "cached"))
    return Inputs(image, listed, timestep, sources, tuple(names), tuple(shapes), deciding, fills=fills, takes=takes)


def tokens_of_image(image: Tensor, given: Mapping[str, Any], latents: int | None) -> dict[str, slice]:
    """Which tokens of what is denoised are the image's, and which a reference's: these stand behind it unless said."""
    ahead = given.get("num_ref_tokens") if given.get("kv_cache_mode") == "extract" else None
    if image.ndim == 3 and ahead:
        return {"image": slice(ahead, None), "reference": slice(0, ahead)}
    if image.ndim == 3 and latents is not None and image.shape[1] > latents:
        return {"image": slice(0, latents), "reference": slice(latents, None)}
    return {"image": slice(None)}


def indicated(sources: dict[str, list[Source]], indicator: Any) -> dict[str, list[Source]]:
    """Where the image and the text stand by an ``indicator`` (batch, tokens); unknown if it has another shape."""
    if not isinstance(indicator, Tensor):
        return sources
    return {
        colour: [(tensor, Marked(indicator, value)) for tensor, _ in sources[colour]]
        for colour, value in INDICATED.items()
        if colour in sources
    }


def convolves(root: nn.Module) -> bool:
    """Whether neighbours on a grid are mixed; then all tokens but text and references are the image's, no registers.

    Following the image through every convolution would need as much memory as the model itself.
    """
    if root not in convolving:
        convolving[root] = any(
            isinstance(module, nn.Conv2d | nn.Conv3d)
            and any(kernel > stride for kernel, stride in zip(module.kernel_size, module.stride, strict=True))
            for module in root.modules()
        )
    return convolving[root]


convolving: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Everything inside nested arguments, with its path."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from leaves(part, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}.{index}")
    else:
        yield path, value


def colour_of(path: str, tensor: Tensor) -> str | None:
    """What an input beside the image stands for: "text", "reference", or None if it is no tokens."""
    if not tensor.is_floating_point():
        return "text" if path.split(".")[0] == "input_ids" else None
    if path.startswith(PAST):
        return "reference"
    if path == "clip_text_pooled":  # of Stable Cascade, which makes tokens of it
        return "text"
    listed = path[-1:].isdigit()
    words = re.split(r"[._]", path)
    is_picture = any(word.startswith(PICTURES) for word in words)
    cut = (4,) if is_picture else ()  # pictures yet to be cut into tokens come listed
    dims = (2, 3, *cut) if listed else (3,)
    are_tokens = tensor.ndim in dims or path.startswith("encoder_hidden_states")
    is_denoised = path.endswith("hidden_states") and "encoder" not in words and not is_picture
    if not are_tokens or is_denoised or any(word.startswith(NO_TOKENS) for word in words):
        return None
    return "reference" if is_picture else "text"
