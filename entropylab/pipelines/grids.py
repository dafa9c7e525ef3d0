"""Where in the picture the query rows of an attention call stand: a grid of its tokens, or why that can't be told.

Tokens of a picture stand line by line, those of a video frame by frame. How many a line has is told by what the
denoiser was handed: what fits that in two ways, or in none, is not placed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..capture import AttentionCall
from ..capture.inputs import Inputs
from ..sizes import Size
from .kinds import kind_of, rounded_up, tokens_apart

LEVELS = [2**power for power in range(12)]
"""Latent pixels along one side of a token: the levels of a U-Net, or patches."""


@dataclass(frozen=True)
class Grid:
    """The tokens of one layer as a grid over the picture.

    Attributes:
        frames: how many frames, each a grid; None for one.
        height: how many lines of tokens.
        width: how many tokens in a line.
        pitch: latent pixels from one token to the next, down and across.
        order: what the places in a call's batch and its rows are, see ``arranged``.
    """

    frames: int | None
    height: int
    width: int
    pitch: tuple[float, float]
    order: str = "whole"

    @property
    def name(self) -> str:
        """Its size in tokens: "16x16", or "5x16x16" of 5 frames."""
        sides = (self.height, self.width) if self.frames is None else (self.frames, self.height, self.width)
        return "x".join(map(str, sides))

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
    """The grid of the image's query rows in a call, or why they have none.

    Args:
        call: an attention call.
        config: the configuration of its denoiser.
        latent: latent size (height, width) of the picture, if known.
        is_video: whether the pipeline was asked for a number of frames.
        rows: how many of its query rows, at each place of its batch, stand for the image.
        places: how many such places an image has.
    """
    if latent is None or call.inputs is None:
        return "the latent size of the picture is not known"
    said = sides_said(call.inputs)
    config = config if isinstance(config, Mapping) else {}
    frames = frames_of(call.inputs, config, latent) if said is None else said[:1]
    if any(path.endswith("to_fractal") and value for path, value in call.inputs.shapes):  # type: ignore[attr-defined]
        return "its tokens stand in blocks, not line by line"
    if frames is None and is_video and call.inputs.latent_size is None:
        return "how many frames its tokens are of is not known"
    fitting = [
        Grid(None if many == 1 else many, *level, pitch, order)
        for many in frames or (1,)
        for level, pitch in (levels(latent) if said is None else {said[1:]: pitch_of(said[1:], latent)}).items()
        if (order := order_of(call, rows, places, many, level)) is not None
    ]
    at = f"{rows} rows at {places} places of each image" if places > 1 else f"{rows} rows"
    tokens, many = call.query.shape[-2], (1, *call.inputs.frames)  # windows may be filled up
    if not fitting and places > 1 and tokens_apart(tokens, places, latent, latent, many) is not None:
        return (
            f"{at} are windows, lines or columns of it, whose latent size is {latent[0]}x{latent[1]}: which of these, "
            "and whether windows are shifted, can't be told by their numbers"
        )
    if len(fitting) != 1:
        what = "fit several grids" if fitting else "fit no grid of it"
        return f"{at} {what}, whose latent size is {latent[0]}x{latent[1]}"
    return fitting[0]


def sides_said(inputs: Inputs) -> tuple[int, int, int] | None:
    """Frames, height and width in tokens, where the denoiser is handed tokens and these three numbers with them."""
    given = {path: value for path, value in inputs.shapes if isinstance(value, int)}  # type: ignore[attr-defined]
    sides = tuple(given[name] for name in ("num_frames", "height", "width") if name in given)
    return sides if len(sides) == 3 and inputs.latent_size is None else None


def pitch_of(size: Size, latent: Size) -> tuple[float, float]:
    """Latent pixels from one token to the next, of a grid that covers the picture."""
    return latent[0] / size[0], latent[1] / size[1]


def levels(latent: Size) -> dict[Size, tuple[float, float]]:
    """Sizes in tokens that a layer may have at a latent size -> latent pixels from one token to the next."""
    found: dict[Size, tuple[float, float]] = {}
    for divide in (rounded_up, int.__floordiv__):
        for level in LEVELS:
            size = divide(latent[0], level), divide(latent[1], level)
            if min(size) > 0:
                found.setdefault(size, (level, level))
    return found


def order_of(call: AttentionCall, rows: int, places: int, frames: int, level: Size) -> str | None:
    """What the places in a call's batch and its rows are in a grid, if they fit it; None if not."""
    height, width = level
    if places == 1:
        return "whole" if rows == frames * height * width else None
    orders = {"frames": (frames, height * width), "places": (height * width, frames)}
    fitting = [order for order, each in orders.items() if each == (places, rows)]
    if fitting:
        return fitting[0] if len(fitting) == 1 else "places" if kind_of(call) == "temporal" else None
    if height != width and min(level) > 1:  # else lines can't be told from columns
        return {(frames * height, width): "lines", (frames * width, height): "columns"}.get((places, rows))
    return None


def frames_of(inputs: Inputs, config: Mapping[str, Any], latent: Size) -> Sequence[int] | None:
    """How many frames of tokens a video may have; None of a picture, or of tokens."""
    if not inputs.frames:
        return None
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
