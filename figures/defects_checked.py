"""How far the measures of the two defects tell pictures that were broken on purpose from whole ones.

python figures/defects_checked.py [PICTURES]: a folder with 0000.png, 0001.png, ..., which carry their prompts, such as
DIR/64x64/original of ``python figures/tables.py --pictures DIR``; the embedded pipeline samples some if it is left out.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import entropylab
import shared
from entropylab import EntropyLabError
from entropylab.quality.broken import separation
from entropylab.quality.clip import Clip, clip_of
from entropylab.quality.saving import prompt_of, read_picture

SAMPLES, BATCH = 64, 8
SAID = (
    "rose: share of pictures whose measure rose. separation: chance that a broken picture has more than a whole one, "
    "of whatever prompts; 0.5 is chance. A measure should rise with the defect that it is meant for, and not with "
    "others."
)


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
