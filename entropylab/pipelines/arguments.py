"""What the arguments of a denoiser's forward are: the image, text, references, the time. Knows diffusers' names."""

import inspect
import re
from collections.abc import Collection, Hashable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..capture import Inputs
from ..capture.tracing import Marked, Source

TIMES = ("timestep", "timesteps", "timestep_ratio", "t", "r")
"""What the forward of a denoiser calls the time it is at."""

NO_TOKENS = (
    "mask", "ids", "rotary", "rope", "freq", "residual", "control", "pool", "size", "shape", "time", "guidance",
)  # fmt: skip
"""Beginnings of words in names of inputs that are no tokens, or none of their own."""

PICTURES = ("image", "img", "ref", "pixel", "vae", "video", "siglip")
"""Beginnings of words in names of inputs, other than the image itself, that come from pictures."""

PAST = ("latents_history", "latents_clean")
"""Beginnings of names of inputs that hold what was made of a video before, a chunk of frames at a time."""

SINGLE = frozenset((bool, int, float, str))
"""Types of arguments that hold no others."""

INDICATED = {"image": 2, "text": 3}
"""What ``indicator`` says of a token where text and image are handed in one sequence, as Ideogram 4's is."""

Look = tuple[Any, ...]
"""What is seen of an argument: where it stands, shape and dtype if it is a tensor, else its value or its type."""


class Reading(NamedTuple):
    """How arguments of a forward are read, as long as they look alike; see ``Inputs``."""

    image: list[Look]
    time: str | None
    sources: Mapping[str, list[tuple[Look, slice]]]
    deciding: list[Look]
    names: Hashable
    shapes: Hashable


def parameters_of(module: nn.Module) -> tuple[str, ...]:
    """Names of what a module's forward takes, of what is wrapped if it is a wrapper."""
    if isinstance(module, torch.jit.ScriptModule):
        compiled: Any = module.forward
        return tuple(argument.name for argument in compiled.schema.arguments[1:])
    own: Any = unwrapped(module)
    return taken_by(type(own).forward)[0]


def unwrapped(module: nn.Module) -> nn.Module:
    """What computes in a module: what was compiled, or the only part of one that hands on whatever it is handed.

    Such wrappers are those of DistributedDataParallel and of PEFT.
    """
    own: Any = module
    while len(own._modules) == 1 and ("_orig_mod" in own._modules or hands_on(own)):
        [own] = own._modules.values()
    return own


def hands_on(module: nn.Module) -> bool:
    """Whether a module's forward takes anything, by place and by name."""
    return not isinstance(module, torch.jit.ScriptModule) and taken_by(type(module).forward)[1]


@lru_cache(maxsize=64)
def taken_by(forward: Any) -> tuple[tuple[str, ...], bool]:
    """Names of what a method takes, but for its object, and whether that is anything; read once, for it takes long."""
    taken = list(inspect.signature(forward).parameters.values())[1:]
    anything = [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
    return tuple(each.name for each in taken), [each.kind for each in taken] == anything


def time_in(names: Collection[str]) -> str | None:
    """Which of the arguments is the time, if one is."""
    times = (*TIMES, *(name for name in names if name.startswith("timestep")))
    return next((name for name in times if name in names), None)


def inputs_of(
    root: nn.Module, args: tuple, kwargs: dict, latents: int | None = None, prompt: Tensor | None = None
) -> Inputs:
    """What a denoiser's forward was handed.

    Where the image comes as tokens it has ``latents`` of them: further ones belong to reference images. ``prompt`` is
    what the pipeline made of its prompt.
    """
    parameters = parameters_of(root)
    given = {**dict(zip(parameters, args, strict=False)), **kwargs}
    image_name = parameters[0] if parameters else ""
    if given.get(image_name) is None:
        tensors = [name for name, value in given.items() if isinstance(value, Tensor)]
        image_name = [*(name for name in tensors if given[name].is_floating_point()), *tensors, image_name][0]
    mode = given.get("kv_cache_mode")
    caches: Any = given.get("kv_caches")
    if hasattr(caches, "caches"):  # of GLM-Image
        first = caches[0]
        mode = first.mode
        given["kv_caches"] = {"mode": mode, "tokens": [keys.shape[1] for keys in first.k_caches]}
    found: dict[Look, Any] = {}
    open_up(given, "", found)
    reading = reading_of(tuple(found), image_name, latents, convolves(root))
    sources: dict[str, list[Source]] = {
        colour: [(found[each], tokens) for each, tokens in inputs] for colour, inputs in reading.sources.items()
    }
    if isinstance(indicator := given.get("indicator"), Tensor):
        shown = {colour: value for colour, value in INDICATED.items() if colour in sources}
        sources = {
            colour: [(each, Marked(indicator, shown[colour])) for each, _ in sources[colour]] for colour in shown
        }
    return Inputs(
        [found[each] for each in reading.image],
        isinstance(given.get(image_name), list | tuple),
        None if reading.time is None else given[reading.time],
        sources,
        reading.names,
        reading.shapes,
        [found[each] for each in reading.deciding],
        prompt,
        fills=mode in ("extract", "write"),
        takes=mode in ("cached", "read"),
    )


def open_up(given: Mapping[Any, Any], path: str, found: dict[Look, Any]) -> None:
    """Put everything inside nested arguments into ``found``."""
    for name, value in given.items():
        own, kind = f"{path}.{name}" if path else str(name), type(value)
        if value is None or kind in SINGLE:
            found[own, kind if value is None or kind is float or own.startswith(TIMES) else value] = value
        elif isinstance(value, Tensor):
            found[own, value.shape, value.dtype] = value
        elif isinstance(value, Mapping | list | tuple):
            open_up(value if isinstance(value, Mapping) else dict(enumerate(value)), own, found)
        else:
            found[own, kind] = value


@lru_cache(maxsize=1024)
def reading_of(looks: tuple[Look, ...], image_name: str, latents: int | None, is_convolved: bool) -> Reading:
    """How arguments of these looks are read."""
    said = {look[0]: look[1] for look in looks if len(look) == 2}
    tensors = [look for look in looks if len(look) == 3]
    ahead = said.get("num_ref_tokens") if said.get("kv_cache_mode") == "extract" else None
    is_reference = said.get("kv_caches.mode") == "write"
    image, deciding = [], []
    sources: dict[str, list[tuple[Look, slice]]] = {}
    for look in tensors:
        path, shape, dtype = look
        if path.split(".")[0] == image_name:
            image.append(look)
            for part, tokens in tokens_of_image(shape, ahead, latents).items():
                sources.setdefault("reference" if is_reference else part, []).append((look, tokens))
        elif (colour := colour_of(path, len(shape), dtype.is_floating_point)) is not None:
            sources.setdefault(colour, []).append((look, slice(None)))
        if shape and ("mask" in path or not dtype.is_floating_point) and path not in TIMES:
            deciding.append(look)
    if is_convolved:
        sources.pop("image", None)
    time = time_in(dict.fromkeys(look[0].split(".")[0] for look in looks if look[1] is not type(None)))
    names = tuple((path, len(shape)) for path, shape, _ in tensors)
    shapes = tuple(look[:2] for look in looks if len(look) == 3 or not isinstance(look[1], type))
    return Reading(image, time, {} if time is None else sources, deciding, names, shapes)


def tokens_of_image(shape: torch.Size, ahead: int | None, latents: int | None) -> dict[str, slice]:
    """Which tokens of what is denoised are the image's, and which a reference's: these stand behind it unless said."""
    if len(shape) == 3 and ahead:
        return {"image": slice(ahead, None), "reference": slice(0, ahead)}
    if len(shape) == 3 and latents is not None and shape[1] > latents:
        return {"image": slice(0, latents), "reference": slice(latents, None)}
    return {"image": slice(None)}


convolving: "WeakKeyDictionary[nn.Module, bool]" = WeakKeyDictionary()


def convolves(root: nn.Module) -> bool:
    """Whether neighbours on a grid are mixed; then all tokens but text and references are the image's, no registers.

    Following the image through every convolution would need as much memory as the model itself.
    """
    if root not in convolving:
        convolutions = [module for module in root.modules() if isinstance(module, nn.Conv2d | nn.Conv3d)]
        sides = [side for each in convolutions for side in zip(each.kernel_size, each.stride, strict=True)]
        convolving[root] = any(kernel > stride for kernel, stride in sides)
    return convolving[root]


def colour_of(path: str, dims: int, is_float: bool) -> str | None:
    """What an input beside the image stands for: "text", "reference", or None if it is no tokens."""
    if not is_float:
        return "text" if path.split(".")[0] == "input_ids" else None
    if path.startswith(PAST):
        return "reference"
    if path == "clip_text_pooled":  # of Stable Cascade, which makes tokens of it
        return "text"
    listed = path[-1:].isdigit()
    words = re.split(r"[._]", path)
    is_picture = any(word.startswith(PICTURES) for word in words)
    cut = (4,) if is_picture else ()  # pictures yet to be cut into tokens come listed
    are_tokens = dims in ((2, 3, *cut) if listed else (3,)) or path.startswith("encoder_hidden_states")
    is_denoised = path.endswith("hidden_states") and "encoder" not in words and not is_picture
    if not are_tokens or is_denoised or any(word.startswith(NO_TOKENS) for word in words):
        return None
    return "reference" if is_picture else "text"
