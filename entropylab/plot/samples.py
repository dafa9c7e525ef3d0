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
    tall = [[image.shape[0] / image.shape[1] for image in row] for row in grid]
    for corners, row, heights in zip(corners_of(tall), grid, tall, strict=True):
        for (top, left), image, height in zip(corners, row, heights, strict=True):
            look: dict[str, Any] = {"interpolation": "nearest", "cmap": "gray", "vmin": 0}
            white = 255 if image.dtype == np.uint8 else 1
            ax.imshow(image, extent=(left, left + 1, top + height, top), vmax=white, **look)
    label_grid(ax, tall, names[0], [textwrap.fill(text, LETTERS) for text in names[1]])
    return ax


def corners_of(tall: Sequence[Sequence[float]]) -> list[list[tuple[float, float]]]:
    """Upper left corners (down, across) of rows of pictures of width 1 and these heights."""
    tops = np.cumsum([0, *(max(row) + GAP for row in tall)])
    return [[(top, left * (1 + GAP)) for left in range(len(row))] for top, row in zip(tops, tall, strict=False)]


def label_grid(ax: Axes, tall: Sequence[Sequence[float]], rows: Sequence[str], columns: Sequence[str]) -> None:
    """The frame of a grid of pictures, with labels at the left and above."""
    corners = corners_of(tall)
    last, across = corners[-1][0][0] + max(tall[-1]), [left for _, left in corners[0]]
    ax.set(xlim=(0, across[-1] + 1), ylim=(last, 0), aspect="equal")
    ax.set_yticks([row[0][0] + heights[0] / 2 for row, heights in zip(corners, tall, strict=True)], rows)
    ax.set_xticks([left + 0.5 for left in across], columns)
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)


def check_images(images: Any) -> list[list[np.ndarray]]:
    """Rows of pictures as arrays."""
    grid = [[np.asarray(image) for image in row] for row in images]
    counts = {len(row) for row in grid}
    if len(counts) != 1 or 0 in counts:
        raise EntropyLabError(
            f"images must be rows of equally many pictures. Got {[len(row) for row in grid]} in them."
        )
    for image in (image for row in grid for image in row):
        shaped = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))
        if not (shaped and image.size and (image.dtype == np.uint8 or image.dtype.kind == "f")):
            raise EntropyLabError(
                "images must be pictures (height, width), (height, width, 3) or (height, width, 4) of floats in [0, 1] "
                f"or of uint8. Got shape {image.shape} of {image.dtype}."
            )
    return grid


def check_labels(name: str, labels: Sequence[str] | None, number: int) -> Sequence[str]:
    """As many labels as there are rows or columns; empty ones for None."""
    found = [""] * number if labels is None else list(labels)
    if len(found) != number:
        raise EntropyLabError(f"{name} must be a label for each of {number}. Got {len(found)}.")
    return found
