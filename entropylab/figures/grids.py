"""Grids of the pictures that an evaluation wrote, after the paper's figures, and of every size under every rule.

figure1: the smallest and the largest size, original and rescaled; figure7: the largest, sampled at the training size
and made larger beside generated. (Figures 3 and 4 are figures/samples.py's.)
``python figures/tables.py --pictures DIR`` writes the pictures, as SIZE/RULE/0000.png.
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
from ..files import make_folder
from ..plot.style import write_figure
from ..quality.saving import prompt_of
from .command import add_out, run
from .samples import WIDTH

COLUMNS = 8
BESIDE = ("resize", "upscaler", "multidiffusion")
"""Rules of figure 7, which stand above those that generate at the size itself."""

PAIR = ("original", "sqrt_log")
"""Rules of figure 1."""


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


def draw(rules: Sequence[Path], columns: int = COLUMNS) -> Figure:
    """Folders SIZE/RULE down, prompts across; the same seed in a column."""
    names = sorted(path.name for path in rules[0].glob("*.png") if all((rule / path.name).is_file() for rule in rules))
    chosen = names[:columns]
    if not chosen:
        raise EntropyLabError(f"pictures of {', '.join(map(str, rules))} must have names that they share. Got none.")
    grid = [[read(rule / name) for name in chosen] for rule in rules]
    labels = [prompt_of(rules[0] / name) or name for name in chosen]
    tall = sum(row[0].shape[0] / row[0].shape[1] for row in grid)
    figure = Figure(figsize=(0.9 + WIDTH * len(chosen), 0.5 + WIDTH * tall), layout="constrained")
    plot.samples(grid, figure.subplots(), rows=[f"{rule.parent.name}\n{rule.name}" for rule in rules], columns=labels)
    return figure


def of_the_paper(found: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Rows of the paper's figures by name; only of those whose rules are there."""
    small, *_, large = sorted(found, key=pixels) if len(found) > 1 else [*found, *found]
    smaller, larger, seven = (
        [path for path in found[size] if path.name in names]
        for size, names in ((small, PAIR), (large, PAIR), (large, (*BESIDE, "sqrt_log")))
    )
    drawn = {"figure1": [*smaller, *larger], "figure7": seven}
    return {name: rules for name, rules in drawn.items() if len({rule.name for rule in rules}) > 1}


def pixels(size: str) -> int:
    """Height times width of a size's name; 0 for a folder of another name."""
    sides = size.split("x")
    return int(sides[0]) * int(sides[1]) if len(sides) == 2 and all(side.isdigit() for side in sides) else 0


def read(path: Path) -> Any:
    """A picture (height, width, 3) of uint8."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def files(pictures: Path, out: Path) -> list[Path]:
    """Write figure1, figure7 and grid_SIZE of every size, each as .pdf and .png."""
    found = folders(pictures)
    grids = of_the_paper(found) | {f"grid_{size}": rules for size, rules in found.items()}
    with rc_context(plot.PAPER):
        drawn = [write_figure(draw(rules), out, name) for name, rules in grids.items()]
    return [path for paths in drawn for path in paths]


def command(arguments: Sequence[str] | None = None) -> None:
    """The command line of figures/grids.py."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, metavar="PICTURES", help="the folder that --pictures named")
    add_out(parser)
    given = parser.parse_args(arguments)
    run(parser, lambda: files(given.pictures, make_folder(given.out)))
