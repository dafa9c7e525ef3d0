"""What an attention call is: its kind, what its rows stand for, and how many of its keys grow with the image."""

import re
from collections.abc import Sequence

from ..capture import AttentionCall
from ..sizes import Size

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


def tokens_at(tokens: int, here: Size, there: Size) -> int | None:
    """How many tokens a self-attention layer has at latent size ``there`` if it has ``tokens`` at ``here``.

    A level of a U-Net, or a patch embedding, divides both sides by some factor r; U-Nets round up, patches down. If no
    factor gives ``tokens``, they grow with the area (a video has several frames); None if that gives no whole number.
    """
    for divide in (rounded_up, int.__floordiv__):
        for factor in (2**power for power in range(12)):
            if divide(here[0], factor) * divide(here[1], factor) == tokens:
                return divide(there[0], factor) * divide(there[1], factor)
    then, left = divmod(tokens * there[0] * there[1], here[0] * here[1])
    return then if left == 0 else None


def is_without_image(call: AttentionCall) -> bool:
    """Whether a call is known to be among tokens that are not the image's."""
    return call.roles is not None and "image" not in call.roles.queries.parts


def image_keys(call: AttentionCall) -> int:
    """How many of a call's keys grow with the image: none in cross and temporal attention, nor of text alone."""
    kind, keys = kind_of(call), call.key.shape[-2]
    if kind in ("cross", "temporal"):
        return 0
    if call.roles is not None:
        return call.roles.keys.count("image", keys)
    if call.own is not None:
        return call.own
    return keys - (call.context or 0 if kind == "joint" else 0)


def grown_keys(call: AttentionCall, here: Size | None, there: Size | None) -> int | None:
    """How many more keys than now the layer that makes ``call`` has at the training size; None if it can't be told.

    Args:
        call: an attention call at latent size ``here``.
        here: latent size (height, width) now, if known.
        there: latent size at the training size, if known.
    """
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


def tokens_apart(tokens: int, places: int, here: Size, there: Size, frames: Sequence[int] = (1,)) -> int | None:
    """How many tokens attention within parts of the picture has at latent size ``there``; None if these are no parts.

    Windows have a fixed size (a x b = ``tokens``), and cover a level of the picture; the last ones may stand out. Rows
    and columns of a level are as long as the picture is wide and high. What may be either is taken for windows if these
    are squares.

    Args:
        tokens: how many tokens attend to each other at latent size ``here``.
        places: how many such parts an image has.
        here: latent size (height, width) now.
        there: latent size at the training size.
        frames: how many frames an image may have, each of which is cut into parts.
    """
    levels = [(divide, 2**power) for power in range(12) for divide in (rounded_up, int.__floordiv__)]
    sizes = {
        (divide(here[0], r), divide(here[1], r)): (divide(there[0], r), divide(there[1], r)) for divide, r in levels
    }
    windows = [(side, tokens // side) for side in range(2, tokens // 2 + 1) if tokens % side == 0]

    def cover(windows: Sequence[Size]) -> bool:
        counts = {-(-height // a) * -(-width // b) for height, width in sizes for a, b in windows}
        return any(places == count * each for count in counts for each in frames)

    if cover([(a, b) for a, b in windows if a == b]):
        return tokens
    for (height, width), (then_height, then_width) in sizes.items():
        for many in frames:
            if (tokens, places) == (width, height * many):
                return then_width
            if (tokens, places) == (height, width * many):
                return then_height
    return tokens if cover(windows) else None


def rounded_up(side: int, factor: int) -> int:
    """A side divided by a factor."""
    return -(-side // factor)
