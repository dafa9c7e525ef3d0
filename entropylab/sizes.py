"""Image sizes, (height, width) in pixels: from what a caller writes, and as labels."""

import re
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

from .errors import EntropyLabError, is_int

Size = tuple[int, int]
"""Height and width [pixels]."""


class Clip(NamedTuple):
    """The size of a video, height and width [pixels], and what is known of its length: "9 frames"."""

    height: int
    width: int
    length: str


class Packed(NamedTuple):
    """The size of an image that comes as (batch, tokens, width), or (batch, channels, length): what is known of it."""

    tokens: int
    width: int


KnownSize = Size | Clip | Packed | None
"""What is known of the size of an image that was met; None if nothing is."""

AnySize = str | int | Size
"""A label ("64x64"), a side, or a pair."""

WRITTEN = re.compile(r"([0-9]+)(?:[xX]([0-9]+))?")
"""A size as it is typed: "64", a square, or "96x128"."""


def size_label(size: AnySize) -> str:
    """The label of a size, "64x64" of 64, (64, 64) and "64x64"; height x width in pixels."""
    if isinstance(size, str):
        return size
    pair = (size, size) if isinstance(size, Integral) else size
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise EntropyLabError(f"a size must be a label, a side or a pair (height, width) in pixels. Got {size!r}.")
    return f"{pair[0]}x{pair[1]}"


def as_pair(size: Any) -> Size:
    """One entry of ``sizes`` as (height, width)."""
    pair = (size, size) if is_int(size) else size
    if not isinstance(pair, Sequence) or len(pair) != 2 or not all(map(is_int, pair)):
        raise EntropyLabError(f"each of sizes must be an int or a (height, width) pair of ints [pixels]. Got {size!r}.")
    if min(pair) < 1:
        raise EntropyLabError(f"sizes must be positive [pixels]. Got {size!r}.")
    return int(pair[0]), int(pair[1])


def parse_sizes(texts: Sequence[str]) -> list[int | Size]:
    """Sizes from words such as "64", "96x128" and "32,64": an int is a square, a pair is (height, width) in pixels."""
    sizes: list[int | Size] = []
    for text in split(texts):
        match = WRITTEN.fullmatch(text)
        sides = [int(side) for side in match.groups() if side is not None] if match else []
        if not sides or min(sides) < 1:
            raise EntropyLabError(
                f"sizes must be whole numbers of pixels, 64 for a square or 96x128 for HEIGHTxWIDTH. Got {text!r}."
            )
        sizes.append(sides[0] if len(set(sides)) == 1 else (sides[0], sides[1]))
    for size in sizes:
        if sizes.count(size) > 1:
            raise EntropyLabError(f"sizes must differ from each other. Got {size!r} more than once.")
    return sizes


def split(texts: Sequence[str]) -> list[str]:
    """The words of ``texts``, which may hold several with commas between them."""
    words = [word.strip() for text in texts for word in text.split(",")]
    if not all(words):
        raise EntropyLabError(f"names and sizes stand between commas, with nothing left out. Got {','.join(texts)!r}.")
    return words
