"""The paper's two defects, counted: incomplete objects and repeated ones.

Two measures of each. One asks an image-text model and works for any kind of picture that it knows; the other looks at
the picture itself:

========================  ===========================================================================================
``disagreement``          1 - cos(picture, prompt): what the whole picture lacks of the prompt. It rises when parts of
                          the object are missing, and when it is another object altogether.
``cut``                   share of the frame's edge that is not background: objects that go on beyond the frame. For
                          pictures on a plain background only; a photograph fills its frame.
``excess_agreement``      agreement with the prompt of the second-best of disjoint parts of the picture, less that of
                          the whole. One object has one place; where two disjoint parts both show what was asked for,
                          and better than the whole does, it is there twice.
``self_similarity``       highest autocorrelation of the picture's edges at shifts of a quarter to a half of its side:
                          1 for what repeats exactly, whatever it is.
========================  ===========================================================================================

None of them is calibrated to what people see; how far each tells broken pictures from whole ones, and its blind spots,
figures/defects_checked.py measures.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy.signal import fftconvolve
from torch import Tensor

from .distances import Array

Scores = Callable[[Tensor], Array]
"""Agreement with its prompt (pictures,) of each of some pictures (pictures, 3, height, width) of uint8."""

DEFECTS = ("disagreement", "cut", "excess_agreement", "self_similarity")

PARTS = ((1, 2), (2, 1), (2, 2), (3, 3))
"""Grids of disjoint parts, (down, across): two beside each other, two above each other, and so on."""

SIDE = 64
"""Side squared of the area that pictures are brought to before their edges are compared [pixels]."""

NEAR, FAR = 0.25, 0.5
"""Shifts that count as repetition, in sides of the picture: nearer ones are the object's own smoothness, and of
farther ones less than a quarter of the picture is left to compare.
"""

BACKGROUND = 24
"""A pixel is background if no channel differs more than this from the edge's commonest colour, of 255."""


def defects(images: Tensor, scores: Scores) -> dict[str, Array]:
    """The four measures of pictures (pictures, 3, height, width) of uint8, each (pictures,), by name."""
    whole = scores(images)
    return {
        "disagreement": 1 - whole,
        "cut": np.array([cut(image) for image in images]),
        "excess_agreement": repeated_agreement(images, scores) - whole,
        "self_similarity": np.array([self_similarity(image) for image in images]),
    }


def cut(image: Tensor) -> float:
    """Share of the frame's edge that is not background, in [0, 1], of a picture (3, height, width) of uint8."""
    edge = edge_of(image)
    background = edge.median(1, keepdim=True).values
    return float(((edge - background).abs().amax(0) > BACKGROUND).float().mean())


def edge_of(image: Tensor) -> Tensor:
    """The outermost pixels (3, pixels) of a picture (3, height, width), as whole numbers."""
    return torch.cat([image[:, 0], image[:, -1], image[:, 1:-1, 0], image[:, 1:-1, -1]], 1).int()


def repeated_agreement(images: Tensor, scores: Scores) -> Array:
    """Agreement with the prompt of the second-best disjoint part (pictures,), of the grid in which that is highest."""
    seconds = []
    for grid in PARTS:
        found = np.stack([scores(part) for part in parts(images, *grid)])
        seconds.append(np.sort(found, axis=0)[-2])
    return np.max(seconds, axis=0)


def parts(images: Tensor, down: int, across: int) -> list[Tensor]:
    """Pictures (pictures, 3, height, width) in ``down`` x ``across`` disjoint parts, row by row."""
    height, width = images.shape[-2:]
    rows = [(height * i // down, height * (i + 1) // down) for i in range(down)]
    columns = [(width * i // across, width * (i + 1) // across) for i in range(across)]
    return [images[..., top:bottom, left:right] for top, bottom in rows for left, right in columns]


def edges(image: Tensor) -> Array:
    """Laplacian of a picture (3, height, width) of uint8 at about 64 x 64 pixels: (3, height, width), in [-4, 4].

    Without it every plain area resembles itself at any shift.
    """
    height, width = image.shape[-2:]
    shrink = SIDE / (height * width) ** 0.5
    size = [max(8, round(side * shrink)) for side in (height, width)]
    small = F.interpolate(image[None].double() / 255, size, mode="bilinear", antialias=True, align_corners=False)
    small = F.avg_pool2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).double().expand(3, 1, 3, 3)
    return F.conv2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)[0].numpy()


def self_similarity(image: Tensor) -> float:
    """Highest correlation of a picture's edges with themselves, shifted by NEAR to FAR of its sides; in [-1, 1].

    Every shift is normalised by the energy of what overlaps, so that it is 1 for what repeats exactly even if the
    picture holds only part of a period more. Shifts that leave less than a quarter of the energy do not count. A
    picture without edges has 0.
    """
    found = edges(image)
    energy = (found**2).sum(0)
    total = energy.sum()
    if total < 1e-9:
        return 0.0
    flipped = found[:, ::-1, ::-1]
    product = sum(fftconvolve(plane, mirror) for plane, mirror in zip(found, flipped, strict=True))
    first = fftconvolve(energy, np.ones_like(energy))
    kept = np.sqrt(first.clip(0) * first[::-1, ::-1].clip(0))
    height, width = energy.shape
    down, across = np.abs(np.arange(1 - height, height))[:, None], np.abs(np.arange(1 - width, width))[None]
    far = (down <= FAR * height) & (across <= FAR * width) & ((down >= NEAR * height) | (across >= NEAR * width))
    counted = far & (kept > total / 4)
    return float((product[counted] / kept[counted]).max()) if counted.any() else 0.0
