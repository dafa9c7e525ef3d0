"""What the query rows and the keys of an attention call stand for: the image, text, a reference, or something else."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from .memory import makes_wait, stamp_of
from .tracing import BITS, NONE, Trace, any_of

PARTS = ("image", "text", "reference", "other")
"""What tokens can stand for. A reference is a picture that the model is shown; others depend on no input: registers."""


@dataclass(frozen=True)
class Tokens:
    """What the tokens on one side of an attention call stand for.

    ``spans`` say where each part stands, if that is one stretch and the same for every image. ``codes``, (batch,
    tokens) on the host, are indices into ``PARTS``, where there is more than one part.
    """

    parts: tuple[str, ...]
    spans: dict[str, slice] | None = None
    codes: Tensor | None = None
    kept: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)  # what was made of them before

    def codes_on(self, device: torch.device) -> Tensor | None:
        """The codes, on a device; sent there once, and not waited for."""
        if self.codes is not None and device not in self.kept:
            self.kept[device] = self.codes.to(device, non_blocking=True)
        return self.kept.get(device)

    def standing_for(self, part: str, device: torch.device) -> Tensor | slice:
        """Which tokens stand for ``part``: a slice, or boolean (batch, tokens) on a device."""
        codes = self.codes_on(device)
        if codes is None:
            return slice(None)
        return self.spans[part] if self.spans is not None else codes == PARTS.index(part)

    def count(self, part: str, tokens: int) -> int:
        """How many of so many tokens stand for ``part``, mean over images."""
        if self.codes is None:
            return tokens * (part in self.parts)
        return round(float((self.codes == PARTS.index(part)).sum() / len(self.codes)))

    def fitted(self, tokens: Tensor, images: slice | None) -> "Tokens | None":
        """The same of ``tokens`` (batch, heads, tokens, d), which may be other images, or ``images`` of these only.

        None if it can't be told.
        """
        shape = (tokens.shape[0], tokens.shape[-2])
        if self.codes is None or self.codes.shape == shape:
            return self
        if self.codes.shape[1] != shape[1]:
            return None
        name = (shape[0], str(images))
        if name not in self.kept:
            part = self.codes[:1].expand(shape) if self.spans is not None else self.codes[images or slice(None)]
            self.kept[name] = tokens_of(part) if part.shape == shape else None
        return self.kept[name]


@dataclass(frozen=True)
class Roles:
    """What the two sides of an attention call stand for."""

    queries: Tokens
    keys: Tokens

    @property
    def kind(self) -> str:
        """Kind of the attention: "self", "cross", or "joint" (text and image mixed among the keys)."""
        asking, asked = set(self.queries.parts), set(self.keys.parts)
        if not asking & asked or "image" in asking - asked:
            return "cross"
        return "joint" if {"image", "text"} <= asked else "self"

    def fitted(self, query: Tensor, key: Tensor, images: slice | None) -> "Roles | None":
        """The same of q and k (batch, heads, tokens, d) of other images; None if it can't be told."""
        queries, keys = self.queries.fitted(query, images), self.keys.fitted(key, images)
        if queries is self.queries and keys is self.keys:
            return self
        return None if queries is None or keys is None else Roles(queries, keys)

    @property
    def are_simple(self) -> bool:
        """Whether each side stands for one thing."""
        return self.queries.codes is None and self.keys.codes is None


def tokens_of(codes: Tensor) -> Tokens:
    """Read (batch, tokens) indices into ``PARTS``, on the host."""
    parts = tuple(part for index, part in enumerate(PARTS) if bool((codes == index).any()))
    if len(parts) == 1:
        return Tokens(parts)
    places = {part: (codes[0] == PARTS.index(part)).nonzero().flatten().tolist() for part in parts}
    spans = {part: slice(found[0], found[-1] + 1) for part, found in places.items() if found}
    alike = bool((codes == codes[:1]).all())
    in_one = len(spans) == len(parts) and sum(span.stop - span.start for span in spans.values()) == codes.shape[1]
    return Tokens(parts, spans if alike and in_one else None, codes)


def roles_of(trace: Trace, query: Tensor, key: Tensor, otherwise: str) -> Roles | None:
    """The roles in a call with q and k (batch, heads, tokens, d), while ``trace`` follows the model.

    Tokens without a colour stand for ``otherwise``. None if nothing can be told.
    """
    if trace.depth or trace.failure is not None:
        return None
    found: list[Tokens] = []
    with torch._C.DisableTorchFunction():
        for side in (query, key):
            if (codes := codes_of(trace, side, otherwise)) is None:
                return None
            name = (codes.shape, codes.numpy().tobytes())
            if name not in trace.tokens:  # layers share what is kept of the same tokens on their device
                trace.tokens[name] = tokens_of(codes)
            found.append(trace.tokens[name])
    roles = Roles(*found)
    more = roles.keys.count("image", key.shape[-2]) > roles.queries.count("image", query.shape[-2])
    if otherwise == "image" and roles.kind == "joint" and roles.queries.parts == ("image",) and more:
        return None  # not all keys without a colour are the image's
    return roles


def codes_of(trace: Trace, tokens: Tensor, otherwise: str) -> Tensor | None:
    """(batch, tokens) indices into ``PARTS`` for tokens (batch, heads, tokens, d); None if they can't be told apart."""
    bits = any_of(any_of(trace.codes.get(tokens, NONE.reshape(1, 1, 1, 1)), -1, False), 1, False)
    bits = bits.expand(tokens.shape[0], tokens.shape[-2])
    rows = {part: (bits & BITS[part]).bool() for part in PARTS[:-1]}
    if any(are_blended(rows["image"], rows[part]) for part in ("text", "reference")):
        return None
    codes = torch.full(rows["image"].shape, PARTS.index(otherwise), device="cpu")
    for part in reversed(rows):
        codes = codes.masked_fill(rows[part], PARTS.index(part))
    return codes


def are_blended(image: Tensor, other: Tensor) -> bool:
    """Whether the image has entered tokens of another sort, so that none is left without it, while some are image only.

    Text that has entered the tokens of the image, as a condition, leaves them what they are.
    """
    return bool((image & other).any()) and bool((image & ~other).any()) and not bool((other & ~image).any())


class Values:
    """The values of a tensor, kept, and which tensors are known to hold the same ones, or others, by their stamps."""

    def __init__(self, tensor: Tensor) -> None:
        self.kept = tensor.detach().clone()
        self.known: dict[Any, bool] = {stamp_of(tensor): True}

    def are_in(self, tensor: Tensor) -> bool:
        """Whether a tensor holds the same values: it is read only if it was never met as it is now."""
        if tensor.shape != self.kept.shape:
            return False
        if not makes_wait(tensor):
            return torch.equal(self.kept.to(tensor.device), tensor)
        stamp = stamp_of(tensor)
        if stamp is None or stamp not in self.known:
            found = torch.equal(self.kept, tensor.to(self.kept.device))
            self.known = {other: alike for other, alike in self.known.items() if other and not other[0].expired()}
            self.known[stamp] = found
        return self.known[stamp]


@dataclass(eq=False)
class Layout:
    """The roles in every call of one forward, found once and used again while the inputs are laid out alike."""

    deciding: list[Values]  # of the inputs that may decide where tokens stand: masks, token numbers
    # The roles by call: the id of the module that makes it, and how many it made before.
    calls: dict[tuple[int, int], Roles | None] = field(default_factory=dict)
    whole: bool = False  # whether every call of that forward is in it
    reads: bool = False  # whether the values of ``deciding`` may have been read; if not, it holds for any others
    apart: set[int] = field(default_factory=set)  # ids of modules whose calls with the same keys are no slices
    failure: str | None = None  # why the forward could not be followed to its end, or at all
    unheard: "list[ref[nn.Module]]" = field(default_factory=list)  # modules with a name for SDPA that is out of reach
    is_simple: bool = False  # whether it holds at any size: no call has more than one thing on a side

    def fits(self, deciding: list[Tensor]) -> bool:
        """Whether inputs with these deciding tensors are laid out like that."""
        if self.is_simple or not self.reads:
            return True
        same = len(deciding) == len(self.deciding)
        return same and all(values.are_in(tensor) for values, tensor in zip(self.deciding, deciding, strict=True))


MOST = 256
"""So many layouts are remembered for a model; the oldest goes."""

known: "WeakKeyDictionary[nn.Module, list[tuple[Hashable, Layout]]]" = WeakKeyDictionary()
"""What is known of models, by the names of their inputs, or by names and shapes."""


def layout_for(root: nn.Module, names: Hashable, shapes: Hashable, deciding: list[Tensor]) -> Layout:
    """The layout of a forward of ``root`` with inputs of these names and shapes: one that is known, or a new one."""
    for key, layout in reversed(known.get(root, [])):
        if key in (names, (names, shapes)) and layout.fits(deciding):
            return layout
    return Layout([Values(tensor) for tensor in deciding])


def remember(root: nn.Module, names: Hashable, shapes: Hashable, layout: Layout) -> None:
    """Keep a layout that has been filled."""
    layout.whole = True
    is_told = all(roles is not None and roles.are_simple for roles in layout.calls.values())
    layout.is_simple = is_told and layout.failure is None
    kept = known.setdefault(root, [])
    kept.append((names if layout.is_simple else (names, shapes), layout))
    del kept[:-MOST]


def forget(root: nn.Module) -> None:
    """Drop what is known of a model: it was found to be wrong."""
    known.pop(root, None)


anatomies: "WeakKeyDictionary[nn.Module, Hashable]" = WeakKeyDictionary()
"""What a model was made of when somebody began to look at it."""


def forget_if_changed(root: nn.Module) -> None:
    """Drop what is known of a model that is made of other parts, or set otherwise, than when it was last looked at.

    What could not be followed then is tried again, and so is what had names for attention that are out of reach.
    """
    anatomy = tuple(
        ref(part) if is_plain(part) else (ref(part), traits(part), traits(getattr(part, "processor", None)))
        for part in root.modules()
    )
    kept = known.get(root, []) if anatomies.get(root) == anatomy else []
    known[root] = [(key, layout) for key, layout in kept if layout.failure is None and not layout.unheard]
    anatomies[root] = anatomy


@lru_cache(maxsize=4096)
def is_of_plain(kind: type) -> bool:
    """Whether a class is one of PyTorch's own that computes no attention: a product, a norm, a list of modules."""
    home, _, file = kind.__module__.rpartition(".")
    return home == "torch.nn.modules" and file != "transformer" and kind is not nn.MultiheadAttention


def is_plain(module: nn.Module) -> bool:
    """Whether a module computes no attention itself, by its class, and nothing stands in for its forward."""
    kind: Any = type(module)
    return is_of_plain(kind) and vars(module).keys().isdisjoint(("forward", "_compiled_call_impl"))


SETTINGS = frozenset((bool, int, float, str))
"""Types of what a module is set to."""


def traits(thing: Any) -> Hashable:
    """What a module or a processor is, how it is set, and whether another forward was put in its place."""
    own = getattr(thing, "__dict__", {})
    found: list[Any] = [type(thing), id(own.get("forward"))]
    for name, value in own.items():
        if type(value) in SETTINGS:
            found += (name, value)
        elif type(value) in (list, tuple) and SETTINGS.issuperset(map(type, value)):
            found += (name, tuple(value))
    return tuple(found)
