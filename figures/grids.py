"""Grids of the pictures that an evaluation wrote, after the paper's figures, and of every size under every rule.

python figures/grids.py PICTURES [--out DIR], where ``python figures/tables.py --pictures PICTURES`` wrote the pictures,
as SIZE/RULE/0000.png. figure1: the smallest and the largest size, original and rescaled; figure7: the largest, sampled
at the training size and made larger beside generated. (Figures 3 and 4 are figures/samples.py's.)
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import matplotlib.pyplot as plt

import shared
from entropylab import EntropyLabError
from entropylab.quality.saving import prompt_of

COLUMNS = 8
BESIDE = ("resize", "upscaler", "multidiffusion")
"""Rules of figure 7, which stand above those that generate at the size itself."""


def folders(pictures: Path) -> dict[str, list[Path]]:
    """Folders of rules by size, smallest size first: baselines, then "original", then the others by name."""
    found: dict[str, list[Path]] = {}
    rules = [rule for rule in pictures.glob("[0-9]*x[0-9]*/*") if rule.is_dir()]
    rules.sort(key=lambda rule: (rule.name not in BESIDE, rule.name != "original", rule.name))
    for rule in sorted(rules, key=lambda rule: prod(map(int, rule.parent.name.split("x")))):
        found.setdefault(rule.parent.name, []).append(rule)
    if not found:
        raise EntropyLabError(f"pictures must be a folder with SIZE/RULE/0000.png in it. {pictures} has none.")
    return found


def draw(rules: Sequence[Path], out: Path, name: str) -> None:
    """Folders SIZE/RULE down, prompts across; the same seed in a column."""
    common = set.intersection(*({path.name for path in rule.glob("*.png")} for rule in rules))
    chosen = sorted(common)[:COLUMNS]
    if not chosen:
        raise EntropyLabError(f"pictures of {', '.join(map(str, rules))} must have names that they share. Got none.")
    grid = [[plt.imread(rule / picture)[..., :3] for picture in chosen] for rule in rules]
    rows = [f"{rule.parent.name}\n{rule.name}" for rule in rules]
    columns = [prompt_of(rules[0] / picture) or picture for picture in chosen]
    shared.write_pictures(grid, rows, columns, out, name)


def draw_all(pictures: Path, out: Path) -> None:
    """Write figure1, figure7 and grid_SIZE of every size, as far as there are pictures."""
    found = folders(pictures)
    small, *_, large = [*found.values()] * 2
    grids = {
        "figure1": [rule for rule in (*small, *large) if rule.name in shared.RULES],
        "figure7": [rule for rule in large if rule.name in (*BESIDE, "sqrt_log")],
    }
    grids = {name: rules for name, rules in grids.items() if len({rule.name for rule in rules}) > 1}
    for name, rules in (grids | {f"grid_{size}": rules for size, rules in found.items()}).items():
        draw(rules, out, name)


if __name__ == "__main__":
    parser = shared.new_parser(__doc__)
    parser.add_argument("pictures", type=Path, metavar="PICTURES", help="the folder that --pictures named")
    given = parser.parse_args()
    shared.run(parser, given.out, lambda: draw_all(given.pictures, given.out))
