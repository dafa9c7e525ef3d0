"""Grids of the pictures that an evaluation wrote, after the paper's figures, and of every size under every rule.

python figures/grids.py PICTURES [--out DIR], where ``python figures/tables.py --pictures PICTURES`` wrote the pictures,
as SIZE/RULE/0000.png. figure1: the smallest and the largest size, original and rescaled; figure7: the largest, sampled
at the training size and made larger beside generated. (Figures 3 and 4 are figures/samples.py's.)
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

import shared
from entropylab import EntropyLabError
from entropylab.quality.saving import prompt_of

COLUMNS = 8
BESIDE = ("resize", "upscaler", "multidiffusion")
"""Rules of figure 7, which stand above those that generate at the size itself."""

PAIR = ("original", "sqrt_log")
"""Rules of figure 1."""


def folders(pictures: Path) -> dict[str, list[Path]]:
    """Folders of rules by size, smallest size first: baselines, then "original", then the others by name."""
    found: dict[str, list[Path]] = {}
    for size in sorted(pictures.glob("*x*"), key=lambda path: (area(path.name), path.name)):
        rules = [rule for rule in size.glob("*") if rule.is_dir()]
        found[size.name] = sorted(rules, key=lambda rule: (rule.name not in BESIDE, rule.name not in PAIR[:1], rule))
    found = {size: rules for size, rules in found.items() if rules}
    if not found:
        raise EntropyLabError(f"pictures must be a folder with SIZE/RULE/0000.png in it. {pictures} has none.")
    return found


def area(size: str) -> int:
    """Height times width of a size's name; 0 of another name."""
    height, _, width = size.partition("x")
    return int(height) * int(width) if height.isdigit() and width.isdigit() else 0


def of_the_paper(found: dict[str, list[Path]]) -> dict[str, list[Path]]:
    """Rows of the paper's figures by name; only of those whose rules are there."""
    small, large = next(iter(found.values())), list(found.values())[-1]
    drawn = {
        "figure1": [rule for rules in (small, large) for rule in rules if rule.name in PAIR],
        "figure7": [rule for rule in large if rule.name in (*BESIDE, "sqrt_log")],
    }
    return {name: rules for name, rules in drawn.items() if len({rule.name for rule in rules}) > 1}


def draw(rules: Sequence[Path], out: Path, name: str) -> None:
    """Folders SIZE/RULE down, prompts across; the same seed in a column."""
    shared_names = set.intersection(*({path.name for path in rule.glob("*.png")} for rule in rules))
    chosen = sorted(shared_names)[:COLUMNS]
    if not chosen:
        raise EntropyLabError(f"pictures of {', '.join(map(str, rules))} must have names that they share. Got none.")
    grid = [[plt.imread(rule / picture)[..., :3] for picture in chosen] for rule in rules]
    rows = [f"{rule.parent.name}\n{rule.name}" for rule in rules]
    columns = [prompt_of(rules[0] / picture) or picture for picture in chosen]
    shared.write_pictures(grid, rows, columns, out, name)


def draw_all(pictures: Path, out: Path) -> None:
    """Write figure1, figure7 and grid_SIZE of every size, as far as there are pictures."""
    found = folders(pictures)
    for name, rules in (of_the_paper(found) | {f"grid_{size}": rules for size, rules in found.items()}).items():
        draw(rules, out, name)


if __name__ == "__main__":
    parser = shared.new_parser(__doc__)
    parser.add_argument("pictures", type=Path, metavar="PICTURES", help="the folder that --pictures named")
    given = parser.parse_args()
    shared.run(parser, given.out, lambda: draw_all(given.pictures, given.out))
