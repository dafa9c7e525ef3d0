"""How far the measures of the two defects tell pictures that were broken on purpose from whole ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

import shared
from entropylab.models.prompts import captions
from entropylab.quality.clip import Clip, clip_of
from entropylab.quality.defects import BACKGROUND, DEFECTS, defects, edge_of
from entropylab.quality.methods import resized

SAMPLES = 64
SAID = (
    "rose: share of pictures whose measure rose. separation: chance that a broken picture has more than a whole one, "
    "of whatever prompts; 0.5 is chance. A measure should rise with the defect that it is meant for, and not with "
    "others."
)


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
    by = images.shape[-1] * 2 // 5
    return torch.cat([blank(images)[..., :by], images[..., :-by]], -1)


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


INCOMPLETE, REPEATED = "incomplete", "repeated"

DAMAGES: dict[Callable[[Tensor], Tensor], str] = {
    cropped: INCOMPLETE, shifted: INCOMPLETE, halved: INCOMPLETE, tiled: REPEATED, twice: REPEATED, noisy: "neither",
}  # fmt: skip
"""Ways to break a picture, and the defect that each is."""

MEANT = {"disagreement": INCOMPLETE, "cut": INCOMPLETE, "excess_agreement": REPEATED, "self_similarity": REPEATED}
"""The defect that every measure is for."""


def separation(images: Tensor, prompts: Sequence[str], clip: Clip) -> pd.DataFrame:
    """How every measure takes every damage to pictures (pictures, 3, height, width) of uint8, a row each, as `SAID`."""

    def judged(found: Tensor) -> dict[str, np.ndarray]:
        return defects(found, lambda part: clip.scores(part, prompts))

    whole, rows = judged(images), []
    for damage, defect in DAMAGES.items():
        broken = judged(damage(images))
        for name in DEFECTS:
            before, after = whole[name], broken[name]
            row = {"measure": name, "meant_for": MEANT[name], "damage": damage.__name__, "defect": defect}
            row |= {"whole": before.mean(), "broken": after.mean(), "rose": np.mean(after > before)}
            rows.append(row | {"separation": mannwhitneyu(after, before).statistic / len(images) ** 2})
    return pd.DataFrame(rows).sort_values(["meant_for", "measure"], kind="stable", ignore_index=True)


def draw(out: Path) -> None:
    """Sample pictures, break them, and write defects_checked.md and .csv."""
    source, clip = shared.Source(), clip_of(None, embedded=True)
    prompts = list(captions().values())[:SAMPLES]
    images = shared.pictures(source, prompts, source.trained, steps=shared.STEPS)
    found = separation(torch.from_numpy(images).permute(0, 3, 1, 2), prompts, clip)
    about = f"{SAMPLES} pictures, and the same broken on purpose; agreement of picture and prompt by: {clip.name}."
    parts = ["## Measures of the defects, checked", f"{about} {SAID}", shared.as_markdown(found)]
    shared.write_text(parts, out, "defects_checked")
    shared.write_table(found, out, "defects_checked")


if __name__ == "__main__":
    parser = shared.new_parser(__doc__)
    given = parser.parse_args()
    shared.run(parser, given.out, lambda: draw(given.out))
