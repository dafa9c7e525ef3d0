"""Features of real pictures, which Frechet distance, coverage and recall compare with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from ..errors import EntropyLabError
from ..sizes import Size, size_label
from .image_text import FOLDER

FILE = "reference.safetensors"
SIZES: tuple[Size, ...] = (
    (32, 32), (56, 56), (64, 64), (96, 96), (128, 128),
    (40, 64), (48, 64), (64, 96), (96, 64), (64, 128),
)  # fmt: skip
"""Sizes (height, width) [pixels] at which features of the real pictures are shipped."""

DRAWN = 4
"""Placements of every real picture, at random scales and positions."""


@dataclass(frozen=True)
class Reference:
    """Features of real pictures.

    Attributes:
        features: (pictures, dimension), float64.
        size: at which they were looked at (height, width) [pixels]; None if that is not known.
        copies: how many features of the same picture follow each other.
        measures: of pictures by name: "clip_score" and the defects, as far as they are known.
    """

    features: np.ndarray
    size: Size | None = None
    copies: int = 1
    measures: dict[str, np.ndarray] = field(default_factory=dict)


def embedded_reference(size: Size, file: Path = FOLDER / FILE) -> Reference:
    """The real pictures at a size, or at the one nearest in shape, then in area, that is shipped."""
    with safe_open(file, framework="numpy") as tensors:
        names = list(tensors.keys())
        shipped = {tuple(int(side) for side in name.split(".")[0].split("x")) for name in names}
        nearest = min(shipped, key=lambda other: (apart(shape(other), shape(size)), apart(area(other), area(size))))
        start = f"{size_label((nearest[0], nearest[1]))}."
        found = {name[len(start) :]: tensors.get_tensor(name).astype(float) for name in names if name.startswith(start)}
    return Reference(found.pop("features"), (nearest[0], nearest[1]), DRAWN, found)


def apart(one: float, other: float) -> float:
    """How much larger the larger is, to whole percent, so that equal shapes are equal."""
    return round(abs(float(np.log(one / other))), 2)


def shape(size: Any) -> float:
    """Height over width."""
    return size[0] / size[1]


def area(size: Any) -> float:
    """Height times width [pixels]."""
    return float(size[0] * size[1])


def needed(dimension: int) -> int:
    """How many pictures a Frechet distance in ``dimension`` features needs: two a dimension.

    With no more pictures than dimensions the covariance is singular, and the distance says what the count is rather
    than what the pictures are.
    """
    return 2 * dimension


def check_enough(name: str, count: int, dimension: int) -> None:
    """Raise an EntropyLabError that says how many pictures are needed."""
    if count < needed(dimension):
        raise EntropyLabError(
            f"{name} must be at least {needed(dimension)} pictures for a Frechet distance in {dimension} features, "
            f"two a feature. Got {count}."
        )
