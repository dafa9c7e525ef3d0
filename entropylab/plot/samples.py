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
    top, middles = 0.0, []
    for row in grid:
        heights = [image.shape[0] / image.shape[1] for image in row]
        for left, (image, height) in enumerate(zip(row, heights, strict=True)):
            start = left * (1 + GAP)
            look: dict[str, Any] = {"interpolation": "nearest", "cmap": "gray", "vmin": 0}
            white = 255 if image.dtype == np.uint8 else 1
            ax.imshow(image, extent=(start, start + 1, top + height, top), vmax=white, **look)
        middles.append(top + heights[0] / 2)
        top += max(heights) + GAP
    ax.set(xlim=(0, len(grid[0]) * (1 + GAP) - GAP), ylim=(top - GAP, 0), aspect="equal")
    ax.set_yticks(middles, names[0])
    across = [0.5 + left * (1 + GAP) for left in range(len(grid[0]))]
    ax.set_xticks(across, [textwrap.fill(text, LETTERS) for text in names[1]])
    ax.tick_params(length=0, labeltop=True, labelbottom=False)
    ax.spines[:].set_visible(False)
    return ax


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
