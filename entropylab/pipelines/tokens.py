"""What the tokens of an attention call are: its kind, where they stand in the picture, and how many grow with it.

Tokens of a picture stand line by line, those of a video frame by frame. How many a line has is told by what the
denoiser was handed: what fits that in two ways, or in none, is not placed.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..capture import AttentionCall, Inputs
from ..sizes import Size
from .arguments import PAST

KINDS = ("self", "cross", "joint", "temporal")
"""Kinds of attention; see ``kind_of``."""


def kind_of(call: AttentionCall) -> str:
    """Kind of an attention call.

    "self" among tokens of one sort, "cross" to tokens of other sorts only, "joint" among image and text together, or
    "temporal": among the frames of a video, place by place. Where it is not known what the tokens stand for, a layer
    that is handed a context attends to it, and one that has as many keys as queries, or sinks beside its own tokens,
    attends to these.
    """
    queries, keys = call.query.shape[-2], call.key.shape[-2]
    if call.roles is not None:
        kind = call.roles.kind
    elif call.context is not None:
        kind = "joint" if keys > call.context else "cross"
    else:
        kind = "self" if queries == keys or call.own is not None else "cross"
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


def is_without_image(call: AttentionCall) -> bool:
    """Whether a call is known to be among tokens that are not the image's."""
    return call.roles is not None and "image" not in call.roles.queries.parts


def images_in(call: AttentionCall, count: int, batch: int) -> slice | None:
    """Which of the ``batch`` images of a denoiser the ``count`` images of a call are; None if that can't be told.

    Perturbed-attention guidance leaves out the last branch of the batch, which attends by itself in joint attention.
    """
    if count == batch:
        return slice(0, batch)
    if call.inputs is not None and call.inputs.images is not None and call.inputs.batch == count:
        return call.inputs.images
    is_perturbed = type(getattr(call.module, "processor", None)).__name__.startswith("PAG")
    left = batch - count if call.occurrence == 0 else count
    if not is_perturbed or all(left * branches != batch for branches in (2, 3)):
        return None
    return slice(0, count) if call.occurrence == 0 else slice(batch - count, batch)


class Level(NamedTuple):
    """A level of a U-Net, or a patch embedding: it divides both sides; U-Nets round up, patches down."""

    factor: int
    rounds_up: bool

    def of(self, latent: Size) -> Size:
        """Lines, and tokens in a line, at a latent size."""
        height, width = (rounded_up(side, self.factor) if self.rounds_up else side // self.factor for side in latent)
        return height, width


LEVELS = [Level(2**power, rounds_up) for rounds_up in (True, False) for power in range(12)]


def levels(latent: Size) -> dict[Size, Level]:
    """Sizes in tokens that a layer may have at a latent size -> the first level that has it."""
    found: dict[Size, Level] = {}
    for level in LEVELS:
        if min(size := level.of(latent)) > 0:
            found.setdefault(size, level)
    return found


def rounded_up(side: int, factor: int) -> int:
    """A side divided by a factor."""
    return -(-side // factor)


# How many tokens grow with the picture


def image_keys(call: AttentionCall) -> int:
    """How many of a call's keys grow with the image: none in cross and temporal attention, nor of text alone.

    What was made of a video before grows with it, other references do not.
    """
    kind, keys = kind_of(call), call.key.shape[-2]
    if kind in ("cross", "temporal"):
        return 0
    if call.roles is not None:
        names: Any = call.inputs.names if call.inputs is not None else ()
        is_past = any(path.startswith(PAST) for path, *_ in names)
        return sum(call.roles.keys.count(part, keys) for part in ("image", "reference")[: 1 + is_past])
    if call.own is not None:
        return call.own
    return keys - (call.context or 0 if kind == "joint" else 0)


def grown_keys(call: AttentionCall, here: Size | None, there: Size | None) -> int | None:
    """How many more keys than now, at latent size ``here``, a layer has at ``there``; None if that can't be told."""
    now = image_keys(call)
    if now == 0:
        return 0
    if here is None or there is None:
        return None
    images, frames = (1, ()) if call.inputs is None else (call.inputs.batch, call.inputs.frames)
    places, left = divmod(call.query.shape[0], images)
    if places > 1 and not left and places not in frames:
        within = call.key.shape[-2] if kind_of(call) == "self" else now  # what pads a window is no image
        then = tokens_apart(within, places, here, there, (1, *frames))
        if then is not None:
            return then - within
    then = tokens_at(now, here, there)
    return None if then is None else then - now


@lru_cache(maxsize=1024)
def tokens_at(tokens: int, here: Size, there: Size) -> int | None:
    """How many tokens a self-attention layer has at latent size ``there`` if it has ``tokens`` at ``here``.

    If no level has so many, they grow with the area (a video has several frames); None if that gives no whole number.
    """
    for size, level in levels(here).items():
        if prod(size) == tokens:
            return prod(level.of(there))
    then, left = divmod(tokens * prod(there), prod(here))
    return then if left == 0 else None


def tokens_apart(tokens: int, places: int, here: Size, there: Size, frames: Sequence[int]) -> int | None:
    """How many tokens layers have at ``there`` that attend within as many ``places`` of each image; None if not parts.

    Windows have a fixed size (a x b = ``tokens``), and cover a level of the picture, or of each of its ``frames``; the
    last ones may stand out. Lines and columns of a level are as long as the picture is wide and high. What may be
    either is taken for windows if these are squares.
    """
    sides = [(side, tokens // side) for side in range(2, tokens // 2 + 1) if tokens % side == 0]
    are_square, lines = [], []
    for ((height, width), level), many in product(levels(here).items(), frames):
        counts = [many * rounded_up(height, a) * rounded_up(width, b) for a, b in sides]
        are_square += [a == b for (a, b), count in zip(sides, counts, strict=True) if count == places]
        if (tokens, places) == (width, height * many):
            lines.append(level.of(there)[1])
        if (tokens, places) == (height, width * many):
            lines.append(level.of(there)[0])
    if any(are_square) or (are_square and not lines):
        return tokens
    return lines[0] if lines else None


# Where they stand in the picture


class Grid(NamedTuple):
    """The tokens of one layer as a grid over the picture, in each of its frames (None: it is one picture).

    ``pitch`` is latent pixels from one token to the next, down and across; ``order`` says what the places in a call's
    batch and its rows are, see ``arranged``.
    """

    frames: int | None
    height: int
    width: int
    pitch: tuple[float, float]
    order: str = "whole"

    @property
    def name(self) -> str:
        """Its size in tokens: "16x16", or "5x16x16" of 5 frames."""
        return "x".join(str(side) for side in (self.frames, self.height, self.width) if side is not None)

    def arranged(self, values: np.ndarray) -> np.ndarray:
        """Values (images, places, heads, rows) as (images, heads, height, width), of a video (..., frames, h, w)."""
        images, _, heads, _ = values.shape
        frames, height, width = self.frames or 1, self.height, self.width
        shape, axes = {
            "whole": ((1, heads, frames, height, width), (0, 2, 1, 3, 4, 5)),
            "frames": ((frames, heads, 1, height, width), (0, 2, 1, 3, 4, 5)),
            "places": ((height, width, heads, frames), (0, 3, 4, 1, 2)),
            "lines": ((frames, height, heads, width), (0, 3, 1, 2, 4)),
            "columns": ((frames, width, heads, height), (0, 3, 1, 4, 2)),
        }[self.order]
        found = values.reshape(images, *shape).transpose(axes)
        return found.reshape(images, heads, *(() if self.frames is None else (frames,)), height, width)


def grid_of(
    call: AttentionCall, config: Any, latent: Size | None, is_video: bool, rows: int, places: int
) -> Grid | str:
    """The grid of the image's query rows in a call, so many at each of its places in the batch; or why they have none.

    ``config`` is the denoiser's; ``is_video`` is whether the pipeline was asked for a number of frames.
    """
    if latent is None or call.inputs is None:
        return "the latent size of the picture is not known"
    given: dict[str, Any] = {path: value for path, value in call.inputs.shapes if isinstance(value, int)}  # type: ignore[attr-defined]
    if any(path.endswith("to_fractal") and value for path, value in given.items()):
        return "its tokens stand in blocks, not line by line"
    frames = frames_of(call.inputs, config, latent)
    pitches: dict[Size, tuple[float, float]] = {
        size: (level.factor, level.factor) for size, level in levels(latent).items()
    }
    if call.inputs.latent_size is None and {"num_frames", "height", "width"} <= given.keys():
        frames, height, width = [given["num_frames"]], given["height"], given["width"]
        pitches = {(height, width): (latent[0] / height, latent[1] / width)}
    elif call.inputs.latent_size is None and is_video:
        return "how many frames its tokens are of is not known"
    fitting = [
        Grid(None if many == 1 else many, *size, pitch, order)
        for many in frames or (1,)
        for size, pitch in pitches.items()
        if (order := order_of(call, rows, places, many, size)) is not None
    ]
    if len(fitting) == 1:
        return fitting[0]
    at = f"{rows} rows at {places} places of each image" if places > 1 else f"{rows} rows"
    tokens, many = call.query.shape[-2], (1, *call.inputs.frames)  # windows may be filled up
    if not fitting and places > 1 and tokens_apart(tokens, places, latent, latent, many) is not None:
        return (
            f"{at} are windows, lines or columns of it, whose latent size is {latent[0]}x{latent[1]}: which of these, "
            "and whether windows are shifted, can't be told by their numbers"
        )
    what = "fit several grids" if fitting else "fit no grid of it"
    return f"{at} {what}, whose latent size is {latent[0]}x{latent[1]}"


def order_of(call: AttentionCall, rows: int, places: int, frames: int, size: Size) -> str | None:
    """What the places in a call's batch and its rows are in a grid, if they fit it; None if not."""
    height, width = size
    if places == 1:
        return "whole" if rows == frames * height * width else None
    orders = {"frames": (frames, height * width), "places": (height * width, frames)}
    fitting = [order for order, each in orders.items() if each == (places, rows)]
    if fitting:
        return fitting[0] if len(fitting) == 1 else "places" if kind_of(call) == "temporal" else None
    if height != width and min(size) > 1:  # else lines can't be told from columns
        return {(frames * height, width): "lines", (frames * width, height): "columns"}.get((places, rows))
    return None


def frames_of(inputs: Inputs, config: Any, latent: Size) -> list[int]:
    """How many frames of tokens a video may have; none of a picture, or of tokens."""
    if not inputs.frames:
        return []
    config = config if isinstance(config, Mapping) else {}
    first, second = inputs.frames[::-1]
    channels = config.get("in_channels")
    if tuple(inputs.image[0].shape[-3:-1]) == latent:  # channels last
        many = {first}
    elif (channels == first) != (channels == second):
        many = {second if channels == first else first}
    else:
        many = {first, second}
    patch = config.get("patch_size")
    by = patch[0] if isinstance(patch, list | tuple) and len(patch) == 3 else config.get("patch_size_t")
    by = by if isinstance(by, int) else 1
    return sorted({count for each in many for count in (each // by, rounded_up(each, by)) if count})
