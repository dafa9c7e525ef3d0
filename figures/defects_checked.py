"""How far the measures of the two defects tell pictures that were broken on purpose from whole ones.

python figures/defects_checked.py [PICTURES]: a folder with 0000.png, 0001.png, ..., which carry their prompts, such as
DIR/64x64/original of ``python figures/tables.py --pictures DIR``; the embedded pipeline samples some if it is left out.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

import entropylab
import shared
from entropylab import EntropyLabError
from entropylab.quality.clip import Clip, clip_of
from entropylab.quality.defects import BACKGROUND, DEFECTS, defects, edge_of
from entropylab.quality.methods import resized
from entropylab.quality.saving import prompt_of, read_picture

SAMPLES, BATCH = 64, 8
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


def draw(pictures: Path, clip: Clip, out: Path) -> None:
    """Break the pictures of a folder, and write defects_checked.md and .csv."""
    files = sorted(pictures.glob("*.png"))
    prompts = [prompt_of(path) for path in files]
    if not files or None in prompts:
        raise EntropyLabError(f"pictures must be a folder of PNGs that carry their prompts. {pictures} is none.")
    images = torch.stack([read_picture(path) for path in files])
    found = separation(images, [str(prompt) for prompt in prompts], clip)
    about = f"{len(files)} pictures, and the same broken on purpose; agreement of picture and prompt by: {clip.name}."
    parts = ["## Measures of the defects, checked", f"{about} {SAID}", shared.as_markdown(found)]
    shared.write_text("\n\n".join(parts) + "\n", out, "defects_checked")
    shared.write_table(found, out, "defects_checked")


def draw_sampled(clip: Clip, out: Path) -> None:
    """The same of pictures that the embedded pipeline samples."""
    source = shared.Source()
    options = {"samples": SAMPLES, "steps": shared.STEPS, "batch_size": BATCH, "metrics": "time"}
    with TemporaryDirectory() as folder:
        entropylab.evaluate(source.pipe, [source.trained], "original", pictures=folder, **options)
        (pictures,) = Path(folder).glob("*/original")
        draw(pictures, clip, out)


if __name__ == "__main__":
    parser = shared.new_parser(__doc__)
    parser.add_argument("pictures", nargs="?", type=Path, metavar="PICTURES", help="folder of PNGs with prompts")
    parser.add_argument("--clip", metavar="MODEL", help="hub id or folder; the embedded model if left out")
    given = parser.parse_args()

    def work() -> None:
        """Check pictures that were given, or sampled ones."""
        clip = clip_of(given.clip, embedded=given.clip is None)
        draw(given.pictures, clip, given.out) if given.pictures else draw_sampled(clip, given.out)

    shared.run(parser, given.out, work)
