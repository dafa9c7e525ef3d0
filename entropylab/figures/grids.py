"""Grids of the pictures that an evaluation wrote: figures 1, 3, 4 (all rules at a size), 7 (resized or generated).

``python figures/tables.py --pictures DIR`` writes them, as SIZE/RULE/0000.png.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import plot
from ..errors import EntropyLabError
from ..plot.style import write_figure
from ..quality.saving import prompt_of
from .regenerate import make_folder
from .samples import WIDTH

COLUMNS = 8
BESIDE = ("resize", "multidiffusion")
"""Rules of figure 7, which stand above those that generate at the size itself."""


def folders(pictures: Path) -> dict[str, list[Path]]:
    """Folders of rules by size, baselines first, then in the order of their names.

    Raises:
        EntropyLabError: no such folders.
    """
    found = {
        size.name: sorted((rule for rule in size.iterdir() if rule.is_dir()), key=lambda rule: order(rule.name))
        for size in (sorted(pictures.iterdir()) if pictures.is_dir() else ())
        if size.is_dir()
    }
    kept = {size: rules for size, rules in found.items() if rules}
    if not kept:
        raise EntropyLabError(f"pictures must be a folder with SIZE/RULE/0000.png in it. {pictures} has none.")
    return kept


def order(rule: str) -> tuple[int, str]:
    """Baselines, then the original factor, then other rules."""
    return (0 if rule in BESIDE else 1 if rule == "original" else 2), rule


def draw(size: str, rules: Sequence[Path], columns: int = COLUMNS) -> Figure:
    """Rules down, prompts across; the same seed in a column."""
    names = sorted(path.name for path in rules[0].glob("*.png") if all((rule / path.name).is_file() for rule in rules))
    chosen = names[:columns]
    if not chosen:
        raise EntropyLabError(f"pictures of {size} must have names that all rules share. Got none.")
    grid = [[read(rule / name) for name in chosen] for rule in rules]
    labels = [prompt_of(rules[0] / name) or name for name in chosen]
    tall = sum(row[0].shape[0] / row[0].shape[1] for row in grid)
    figure = Figure(figsize=(0.9 + WIDTH * len(chosen), 0.5 + WIDTH * tall), layout="constrained")
    plot.samples(grid, figure.subplots(), rows=[f"{size}\n{rule.name}" for rule in rules], columns=labels)
    return figure


def read(path: Path) -> Any:
    """A picture (height, width, 3) of uint8."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def files(pictures: Path, out: Path) -> list[Path]:
    """Write grid_SIZE.pdf and .png for every size."""
    with rc_context(plot.PAPER):
        drawn = [write_figure(draw(size, rules), out, f"grid_{size}") for size, rules in folders(pictures).items()]
    return [path for paths in drawn for path in paths]


def command(arguments: Sequence[str] | None = None) -> None:
    """The command line of figures/grids.py."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, metavar="PICTURES", help="the folder that --pictures named")
    parser.add_argument("--out", type=Path, default=Path("figures/output"), metavar="DIR", help="(%(default)s)")
    given = parser.parse_args(arguments)
    try:
        for path in files(given.pictures, make_folder(given.out)):
            print(path)
    except EntropyLabError as error:
        parser.error(" ".join(str(error).split()))
