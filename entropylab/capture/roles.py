"""What the query rows and the keys of an attention call stand for: the image, text, a reference, or something else."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .alike import Values
from .tracing import Trace

PARTS = ("image", "text", "reference", "other")
"""What tokens can stand for. A reference is a picture that the model is shown; others depend on no input: registers."""


@dataclass(frozen=True)
class Tokens:
    """What the tokens on one side of an attention call stand for.

    Attributes:
        parts: which of ``PARTS`` are among them.
        spans: part -> where its tokens stand, if that is one stretch and the same for every image; else None.
        counts: part -> how many tokens, mean over images, where there is more than one part; else None.
        codes: (batch, tokens) index into ``PARTS``, where there is more than one part; else None.
    """

    parts: tuple[str, ...]
    spans: dict[str, slice] | None = None
    counts: dict[str, int] | None = None
    codes: Tensor | None = None

    def standing_for(self, part: str) -> Tensor | slice:
        """Which tokens stand for ``part``: a slice, or boolean (batch, tokens)."""
        if self.codes is None:
            return slice(None)
        return self.spans[part] if self.spans is not None else self.codes == PARTS.index(part)

    def count(self, part: str, tokens: int) -> int:
        """How many of so many tokens stand for ``part``, mean over images."""
        return self.counts.get(part, 0) if self.counts is not None else tokens * (part in self.parts)

    def fitted(self, tokens: Tensor, images: slice | None) -> "Tokens | None":
        """The same of ``tokens`` (batch, heads, tokens, d), which may be other images, or ``images`` of these only.

        None if it can't be told.
        """
        shape = (tokens.shape[0], tokens.shape[-2])
        if self.codes is None or self.codes.shape == shape:
            return self
        if self.codes.shape[1] != shape[1]:
            return None
        if self.spans is not None:
            return replace(self, codes=self.codes[:1].expand(shape))
        part = self.codes[images] if images is not None else self.codes
        return tokens_of(part) if part.shape == shape else None


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
        return None if queries is None or keys is None else Roles(queries, keys)

    @property
    def are_simple(self) -> bool:
        """Whether either side stands for one thing."""
        return self.queries.codes is None and self.keys.codes is None


def tokens_of(codes: Tensor) -> Tokens:
    """Read (batch, tokens) indices into ``PARTS``."""
    there = codes.cpu()
    parts = tuple(part for index, part in enumerate(PARTS) if bool((there == index).any()))
    if len(parts) == 1:
        return Tokens(parts)
    spans = {part: stretch(there[0] == PARTS.index(part)) for part in parts}
    alike = bool((there == there[:1]).all())
    known = {part: span for part, span in spans.items() if span is not None}
    counts = {part: round(float((there == PARTS.index(part)).sum() / len(there))) for part in parts}
    return Tokens(parts, known if alike and len(known) == len(parts) else None, counts, codes)


def stretch(chosen: Tensor) -> slice | None:
    """The one stretch of tokens that is chosen, or None if there are several."""
    places = chosen.nonzero().flatten()
    if not len(places):
        return None
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else None


def roles_of(trace: Trace, query: Tensor, key: Tensor, otherwise: str) -> Roles | None:
    """The roles in a call with q and k (batch, heads, tokens, d), while ``trace`` follows the model.

    Tokens without a colour stand for ``otherwise``. None if nothing can be told.
    """
    if trace.depth or trace.failure is not None:
        return None
    with torch._C.DisableTorchFunction():
        queries, keys = (codes_of(trace, side, otherwise) for side in (query, key))
        return None if queries is None or keys is None else Roles(tokens_of(queries), tokens_of(keys))


def codes_of(trace: Trace, tokens: Tensor, otherwise: str) -> Tensor | None:
    """(batch, tokens) indices into ``PARTS`` for tokens (batch, heads, tokens, d); None if they can't be told apart."""
    codes = torch.full((tokens.shape[0], tokens.shape[-2]), PARTS.index(otherwise), device=tokens.device)
    found = {part: trace.depends(part, tokens) for part in PARTS if part in trace.shadows}
    coloured = {part: rows.any(1) for part, rows in found.items() if rows is not None}
    others = [rows for part, rows in coloured.items() if part != "image"]
    if "image" in coloured and any(are_blended(coloured["image"], other) for other in others):
        return None
    for part in reversed(coloured):
        codes = codes.masked_fill(coloured[part], PARTS.index(part))
    return codes


def are_blended(image: Tensor, other: Tensor) -> bool:
    """Whether the image has entered tokens of another sort, so that none is left without it, while some are image only.

    Text that has entered the tokens of the image, as a condition, leaves them what they are.
    """
    return bool((image & other).any()) and bool((image & ~other).any()) and not bool((other & ~image).any())


Place = tuple[int, int]
"""A call within a forward: the id of the module that makes it, and how many it made before."""


@dataclass
class Layout:
    """The roles in every call of one forward, found once and used again while the inputs are laid out alike.

    Attributes:
        deciding: values of the inputs that decide where tokens stand: masks, token numbers.
        calls: the roles, by place.
        whole: whether every call of that forward is in it.
        apart: ids of modules whose calls with the same keys are no slices: their queries stand for other things.
        failure: why the forward could not be followed to its end, or at all; None if it could.
    """

    deciding: list[Values]
    calls: dict[Place, Roles | None] = field(default_factory=dict)
    whole: bool = False
    apart: set[int] = field(default_factory=set)
    failure: str | None = None

    @property
    def is_simple(self) -> bool:
        """Whether the roles hold at any size: no call has more than one thing on a side."""
        followed = self.whole and self.failure is None
        return followed and all(roles is not None and roles.are_simple for roles in self.calls.values())

    def fits(self, deciding: list[Tensor]) -> bool:
        """Whether inputs with these deciding tensors are laid out like that."""
        return self.is_simple or (
            len(deciding) == len(self.deciding)
            and all(values.are_in(tensor) for values, tensor in zip(self.deciding, deciding, strict=True))
        )


MOST = 32
"""So many layouts are remembered for a model and kind of input; the oldest goes."""

known: "WeakKeyDictionary[nn.Module, dict[Hashable, list[Layout]]]" = WeakKeyDictionary()


def layout_for(root: nn.Module, names: Hashable, shapes: Hashable, deciding: list[Tensor]) -> Layout:
    """The layout of a forward of ``root``: one that is known, or a new one to be filled.

    Args:
        root: the model.
        names: which inputs there are; a layout that is simple holds for all inputs of these names.
        shapes: the inputs' shapes.
        deciding: the inputs whose values decide where tokens stand.
    """
    layouts = known.setdefault(root, {})
    for layout in [*layouts.get(names, []), *layouts.get((names, shapes), [])]:
        if layout.whole and layout.fits(deciding):
            return layout
    return Layout([Values(tensor) for tensor in deciding])


def remember(root: nn.Module, names: Hashable, shapes: Hashable, layout: Layout) -> None:
    """Keep a layout that has been filled."""
    layout.whole = True
    key = names if layout.is_simple else (names, shapes)
    kept = known.setdefault(root, {}).setdefault(key, [])
    kept.append(layout)
    del kept[:-MOST]


def forget(root: nn.Module) -> None:
    """Drop what is known of a model: it was found to be wrong."""
    known.pop(root, None)


anatomies: "WeakKeyDictionary[nn.Module, Hashable]" = WeakKeyDictionary()
"""What a model was made of when somebody began to look at it."""


def forget_what_may_change(root: nn.Module) -> None:
    """Drop what is known of a model, now that somebody begins to look at it; it may have been changed since.

    Where every call has one thing on a side, as in U-Nets, that stays so while the model is made of the same parts.
    """
    anatomy = tuple(
        (id(part), type(getattr(part, "processor", None)), vars(part).get("forward")) for part in root.modules()
    )
    simple = {names: [each for each in layouts if each.is_simple] for names, layouts in known.get(root, {}).items()}
    forget(root)
    if anatomies.get(root) == anatomy:
        known[root] = simple
    anatomies[root] = anatomy
