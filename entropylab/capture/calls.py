"""One attention call, as the model makes it and as it is once it is rescaled; and what its forward was handed."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import EntropyLabError
from .roles import Roles
from .tracing import Source


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward of a denoiser."""

    image: list[Tensor]  # what is being denoised: one tensor, or one per image
    listed: bool  # whether it is one per image
    timestep: Any  # the time, as it came: a tensor, a number or None
    sources: dict[str, list[Source]]  # colour -> the inputs that have it, for a Trace
    names: Hashable  # which inputs there are
    shapes: Hashable  # their shapes, and the numbers among them
    deciding: list[Tensor]  # inputs whose values decide where tokens stand
    prompt: Tensor | None = None  # what the pipeline made of its prompt, (samples, tokens, channels), if that is known
    fills: bool = False  # whether the forward fills a cache of keys
    takes: bool = False  # whether it attends to keys in a cache that an earlier one has filled
    images: slice | None = None  # which images of the denoiser's batch these are; None if all, or if nobody can tell

    @property
    def batch(self) -> int:
        """How many images, of all guidance branches."""
        return len(self.image) if self.listed else int(self.image[0].shape[0]) if self.image else 1

    def narrowed(self, part: "Inputs") -> "Inputs":
        """These inputs cut down to ``part``, what of them is computed."""
        if part.batch == self.batch:
            return self
        return replace(self, image=part.image, images=place_of(part.image, self.image))

    @property
    def latent_size(self) -> tuple[int, int] | None:
        """Height and width [latent pixels] of an image that comes as a grid: (batch, channels, ..., height, width)."""
        if not self.image or self.image[0].ndim + self.listed < 4:
            return None
        return int(self.image[0].shape[-2]), int(self.image[0].shape[-1])

    @property
    def frames(self) -> tuple[int, ...]:
        """How many frames a video may have, if it is one: (batch, channels, frames, height, width), or frames first."""
        shape = (1, *self.image[0].shape) if self.listed else tuple(self.image[0].shape) if self.image else ()
        return shape[1:3][::-1] if len(shape) == 5 else ()

    @property
    def is_reference(self) -> bool:
        """Whether nothing of it is denoised: a model is shown a reference, whose keys it keeps."""
        return self.fills and "reference" in self.sources and "image" not in self.sources

    @property
    def texts(self) -> list[Tensor]:
        """The inputs that stand for text."""
        return [tensor for tensor, _ in self.sources.get("text", [])]

    @property
    def references(self) -> list[Tensor]:
        """The inputs that stand for pictures which the model is shown beside what it denoises."""
        if "reference" not in self.sources:
            return []
        return [tensor for tensor, _ in self.sources["reference"] if all(tensor is not part for part in self.image)]


def place_of(part: list[Tensor], whole: list[Tensor]) -> slice | None:
    """Where in a batch a stretch of it stands; None if ``part`` is no view of a stretch of ``whole``."""
    if len(part) != 1 or len(whole) != 1 or part[0].shape[1:] != whole[0].shape[1:]:
        return None
    firsts = range(len(whole[0]) - len(part[0]) + 1)
    first = next((first for first in firsts if whole[0][first:].data_ptr() == part[0].data_ptr()), None)
    return None if first is None else slice(first, first + len(part[0]))


@dataclass(eq=False, slots=True)
class KnownCall:
    """What is known of a layer's calls that look alike: of the same shapes, in forwards whose inputs have the same."""

    roles: Roles | None = None  # what their tokens stand for, where that can be told
    context: int | None = None  # see ``AttentionCall``; asked where it can't
    own: int | None = None
    by: dict[Any, Any] = field(default_factory=dict)  # what each observer keeps of them
    refused: set[Any] = field(default_factory=set)  # observers that have no use for them
    is_whole: bool = False  # whether they are no slices of a call
    is_idle: bool = False  # whether nobody who looks at them has any use for them


@dataclass(eq=False, slots=True)
class AttentionCall:
    """One attention call as the model makes it."""

    layer: str  # path of the module that makes it, e.g. "unet.mid_block.attentions.0.transformer_blocks.0.attn1"
    module: nn.Module
    query: Tensor  # (batch, heads, queries, d)
    key: Tensor  # (batch, heads, keys, d)
    mask: Tensor | None  # as the model passes it: boolean or additive, broadcastable to (batch, heads, queries, keys)
    scale: float  # the factor on the logits
    is_causal: bool  # whether a causal mask applies as well
    occurrence: int = 0  # how many calls that module made before this one in the same forward of its root
    inputs: Inputs | None = None  # what the root's forward was handed, where that is known
    known: KnownCall = field(default_factory=KnownCall)  # the same object for all calls that look like it
    rescaled: float | Tensor = 1.0  # what of the scale, or of the queries, is a rule's: a number, or (heads,)

    @property
    def roles(self) -> Roles | None:
        """What the query rows and the keys stand for, where that can be told."""
        return self.known.roles

    @property
    def context(self) -> int | None:
        """How many other tokens the module was handed to attend to (``encoder_hidden_states``); None if none."""
        return self.known.context

    @property
    def own(self) -> int | None:
        """How many of the keys are the module's own tokens, where the queries are fewer than the keys.

        They may be a slice of these tokens, or have sinks beside them; None if it can't be told.
        """
        return self.known.own


def check_readable(query: Tensor, key: Tensor) -> None:
    """An EntropyLabError if tensors hold no rows that could be looked at one by one."""
    if query.is_nested or key.is_nested:
        raise EntropyLabError("attends with nested (jagged) tensors, whose rows can't be told apart")
    if torch._C._functorch.peek_interpreter_stack() is not None and (
        torch._C._functorch.is_batchedtensor(query) or torch._C._functorch.is_batchedtensor(key)
    ):
        raise EntropyLabError("runs inside of torch.vmap, where no values can be read")


def additive(mask: Tensor) -> Tensor:
    """A mask as what is added to the logits."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -torch.inf)


def per_head(query: Tensor, factor: Tensor) -> Tensor:
    """Queries (batch, heads, queries, d) times one factor per head."""
    exact = torch.promote_types(query.dtype, torch.float32)
    return (query.to(exact) * factor.to(query.device, exact, non_blocking=True)[:, None, None]).to(query.dtype)


def in_autocast(call: AttentionCall, device: str) -> AttentionCall:
    """``call`` as autocast lets PyTorch compute it where it is on: in half precision, but for float64."""
    dtype = torch.get_autocast_dtype(device)
    mask = call.mask if call.mask is None else cast(call.mask, dtype)
    return replace(call, query=cast(call.query, dtype), key=cast(call.key, dtype), mask=mask)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """What autocast makes of an argument."""
    is_cast = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if is_cast else tensor


def rescaled(call: AttentionCall, factor: float | Tensor) -> AttentionCall:
    """``call`` with its logits multiplied by ``factor``."""
    if isinstance(factor, Tensor):
        return replace(call, query=per_head(call.query, factor), rescaled=factor)
    return replace(call, scale=call.scale * factor, rescaled=factor)
