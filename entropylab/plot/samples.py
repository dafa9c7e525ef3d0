"""Pictures side by side: same-seed samples in a grid, rules and sizes down, prompts across."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..errors import EntropyLabError
from .style import axes_of

GAP = 0.05
"""Between pictures, in widths of a picture."""

LETTERS = 14
"""In a line of a column's label."""


def samples(
    images: Sequence[Sequence[Any]],
    ax: Axes | None = None,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Axes:
    """A grid of pictures, all equally wide whatever their size, each pixel a square of one colour.

    Args:
        images: a list of rows, each a list of as many pictures (height, width), (height, width, 3) or (..., 4): PIL
            images, or arrays, of floats in [0, 1] or of uint8.
        ax: Axes to draw on; the current ones by default.
        rows: label of each row, at the left.
        columns: label of each column, above, broken into lines.

    Raises:
        EntropyLabError: rows of different lengths, no picture, labels that are not as many, not a picture.

    Examples:
        >>> images = pipe(["a red heart", "a dog"], num_inference_steps=1).images
        >>> ax = entropylab.plot.samples([images], columns=["a red heart", "a dog"])
        >>> ax.figure.savefig("samples.pdf")
    """
    grid = check_images(images)
    names = check_labels("rows", rows, len(grid)), check_labels("columns", columns, len(grid[0]))
    ax = axes_of(ax)
    tops, bottom = heights(grid)
    for top, row in zip(tops, grid, strict=True):
        for left, image in enumerate(row):
            start = left * (1 + GAP)
            extent = (start, start + 1, top + image.shape[0] / image.shape[1], top)
            ax.imshow(image, extent=extent, interpolation="nearest", cmap="gray", vmin=0, vmax=full(image))
    ax.set_xlim(0, len(grid[0]) * (1 + GAP) - GAP)
    ax.set_ylim(bottom, 0)
    ax.set_aspect("equal")
    return with_labels(ax, grid, tops, *names)


def heights(grid: list[list[np.ndarray]]) -> tuple[list[float], float]:
    """Where every row begins, from the top, and where the last one ends; in widths of a picture."""
    tops, end = [], 0.0
    for row in grid:
        tops.append(end)
        end += max(image.shape[0] / image.shape[1] for image in row) + GAP
    return tops, end - GAP


def full(image: np.ndarray) -> float:
    """The value of white."""
    return 255 if image.dtype == np.uint8 else 1


def with_labels(
    ax: Axes, grid: list[list[np.ndarray]], tops: list[float], rows: Sequence[str], columns: Sequence[str]
) -> Axes:
    """The labels as ticks at the middle of rows and columns, without frame or marks."""
    middles = [top + row[0].shape[0] / row[0].shape[1] / 2 for top, row in zip(tops, grid, strict=True)]
    ax.set_yticks(middles, rows)
    ax.set_xticks([0.5 + left * (1 + GAP) for left in range(len(columns))], [wrapped(text) for text in columns])
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return ax


def wrapped(text: str) -> str:
    """A label in lines of a picture's width."""
    return "\n".join(textwrap.wrap(text, LETTERS))


def check_images(images: Any) -> list[list[np.ndarray]]:
    """Rows of pictures as arrays."""
    grid = [[np.asarray(image) for image in row] for row in images]
    counts = {len(row) for row in grid}
    if len(counts) != 1 or 0 in counts:
        raise EntropyLabError(
            f"images must be rows of equally many pictures. Got {[len(row) for row in grid]} in them."
        )
    bad = [image for row in grid for image in row if not is_picture(image)]
    if bad:
        raise EntropyLabError(
            "images must be pictures (height, width), (height, width, 3) or (height, width, 4) of floats in [0, 1] or "
            f"of uint8. Got shape {bad[0].shape} of {bad[0].dtype}."
        )
    return grid


def is_picture(image: np.ndarray) -> bool:
    """Whether an array can be shown."""
    shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
    return shaped and image.size > 0 and (image.dtype == np.uint8 or image.dtype.kind == "f")


def check_labels(name: str, labels: Sequence[str] | None, number: int) -> Sequence[str]:
    """As many labels as there are rows or columns; empty ones for None."""
    found = [""] * number if labels is None else list(labels)
    if len(found) != number:
        raise EntropyLabError(f"{name} must be a label for each of {number}. Got {len(found)}.")
    return found
