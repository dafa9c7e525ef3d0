"""Pictures made incomplete or repeated on purpose, and how far the measures of the defects tell them apart."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from .clip import Clip
from .defects import BACKGROUND, DEFECTS, defects, edge_of
from .methods import resized


def blank(images: Tensor) -> Tensor:
    """Pictures (pictures, 3, height, width) of each one's background alone: its edge's commonest colour."""
    colours = torch.stack([edge_of(image).median(1).values for image in images]).to(images.dtype)
    return colours[..., None, None].repeat(1, 1, *images.shape[-2:])


def cropped(images: Tensor) -> Tensor:
    """The upper left five eighths, as large as the whole: the object goes on beyond the frame."""
    height, width = images.shape[-2:]
    return resized(images[..., : height * 5 // 8, : width * 5 // 8].contiguous(), (height, width))


def shifted(images: Tensor) -> Tensor:
    """Moved to the right by two fifths, background where nothing is: the right part is lost."""
    moved = blank(images)
    by = images.shape[-1] * 2 // 5
    moved[..., by:] = images[..., :-by]
    return moved


def halved(images: Tensor) -> Tensor:
    """Without its right half, which is background: part of the object is missing within the frame."""
    half = images.shape[-1] // 2
    return torch.cat([images[..., :half], blank(images)[..., half:]], -1)


def tiled(images: Tensor) -> Tensor:
    """Four times, half as large, in two rows and columns."""
    height, width = images.shape[-2:]
    return resized(images, (height // 2, width // 2)).repeat(1, 1, 2, 2)


def twice(images: Tensor) -> Tensor:
    """Twice, five eighths as large, in opposite corners, one partly over the other."""
    height, width = images.shape[-2:]
    tall, wide = height * 5 // 8, width * 5 // 8
    small, both = resized(images, (tall, wide)), blank(images)
    object_ = (small.int() - both[..., :tall, :wide]).abs().amax(1, keepdim=True) > BACKGROUND
    both[..., :tall, :wide] = small
    second = both[..., height - tall :, width - wide :]
    both[..., height - tall :, width - wide :] = torch.where(object_, small, second)
    return both


def noisy(images: Tensor) -> Tensor:
    """With noise of a standard deviation of 40 of 255: neither incomplete nor repeated."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images.float() + 40 * noise).clamp(0, 255).byte()


DAMAGES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "cropped": ("incomplete", cropped),
    "shifted": ("incomplete", shifted),
    "halved": ("incomplete", halved),
    "tiled": ("repeated", tiled),
    "twice": ("repeated", twice),
    "noisy": ("neither", noisy),
}
"""Ways to break a picture, and the defect that each is."""

MEANT = {
    "disagreement": "incomplete",
    "cut": "incomplete",
    "excess_agreement": "repeated",
    "self_similarity": "repeated",
}
"""The defect that every measure is for."""


def separation(images: Tensor, prompts: Sequence[str], clip: Clip) -> pd.DataFrame:
    """How every measure takes every damage to pictures (pictures, 3, height, width) of uint8, one row each.

    Columns: measure, meant_for, damage, defect, whole and broken (means), rose (share of pictures whose measure rose),
    separation (chance that a broken picture has more than a whole one of another prompt, or as much and half of the
    time: the area under the ROC curve, 0.5 for chance).
    """

    def judged(found: Tensor) -> dict[str, np.ndarray]:
        return defects(found, lambda part: clip.scores(part, prompts))

    whole = judged(images)
    rows = []
    for damage, (defect, damaged) in DAMAGES.items():
        broken = judged(damaged(images))
        for name in DEFECTS:
            before, after = whole[name], broken[name]
            area = mannwhitneyu(after, before).statistic / len(after) / len(before)
            rose = float(np.mean(after > before))
            rows.append((name, MEANT[name], damage, defect, before.mean(), after.mean(), rose, area))
    columns = ["measure", "meant_for", "damage", "defect", "whole", "broken", "rose", "separation"]
    return pd.DataFrame(rows, columns=columns).sort_values(["meant_for", "measure"], kind="stable", ignore_index=True)
