"""How far the measures of the two defects tell pictures that were broken on purpose from whole ones.

python figures/defects_checked.py [PICTURES]: a folder with 0000.png, 0001.png, ..., which carry their prompts, such as
DIR/64x64/original of ``python figures/tables.py --pictures DIR``; the embedded pipeline samples some if it is left out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

from ..errors import EntropyLabError
from ..files import make_folder
from ..models import load
from ..plot.style import write_table
from ..quality.broken import separation
from ..quality.clip import Clip, clip_of
from ..quality.evaluation import evaluate
from ..quality.saving import prompt_of, read_picture
from ..scaling import check_train_size
from ..sizes import size_label
from .command import add_out, run
from .measuring import STEPS
from .table_text import as_markdown

NAME = "defects_checked"
SAMPLES, BATCH = 64, 8


def measured(pictures: Path | None, clip: Clip) -> tuple[int, pd.DataFrame]:
    """How many pictures were broken, and the table of `entropylab.quality.broken.separation`."""
    if pictures is not None:
        files = sorted(pictures.glob("*.png"))
        prompts = [prompt_of(path) for path in files]
        if not files or None in prompts:
            raise EntropyLabError(f"pictures must be a folder of PNGs that carry their prompts. {pictures} is none.")
        images = torch.stack([read_picture(path) for path in files])
        return len(files), separation(images, [str(prompt) for prompt in prompts], clip)
    pipe = load()
    size = check_train_size(pipe, None)
    with TemporaryDirectory() as folder:
        evaluate(
            pipe, [size], "original", samples=SAMPLES, steps=STEPS, batch_size=BATCH, metrics="time", pictures=folder
        )  # fmt: skip
        return measured(Path(folder) / size_label(size) / "original", clip)


def files(count: int, found: pd.DataFrame, clip: str, out: Path) -> list[Path]:
    """Write defects_checked.md and .csv."""
    path = out / f"{NAME}.md"
    said = (
        f"{count} pictures, and the same broken on purpose; agreement of picture and prompt by: {clip}. rose: share of "
        "pictures whose measure rose. separation: chance that a broken picture has more than a whole one, of whatever "
        "prompts; 0.5 is chance. A measure should rise with the defect that it is meant for, and not with others."
    )
    path.write_text(f"## Measures of the defects, checked\n\n{said}\n\n{as_markdown(found)}\n", encoding="utf-8")
    return [path, write_table(found, out, NAME)]


def command(arguments: Sequence[str] | None = None) -> None:
    """The command line of figures/defects_checked.py."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="?", type=Path, metavar="PICTURES", help="folder of PNGs with prompts")
    parser.add_argument("--clip", metavar="MODEL", help="hub id or folder; the embedded model if left out")
    add_out(parser)
    given = parser.parse_args(arguments)

    def write() -> list[Path]:
        out, clip = make_folder(given.out), clip_of(given.clip, embedded=given.clip is None)
        count, found = measured(given.pictures, clip)
        return files(count, found, clip.name, out)

    run(parser, write, shows_text=True)
