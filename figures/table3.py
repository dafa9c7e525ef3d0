"""Table 3: what people rated, from the files that raters saved, with the published means alongside.

python figures/table3.py [FILES that the ratings page saved] [--out DIR]
"""

from collections.abc import Sequence
from pathlib import Path

import shared
from entropylab.quality.ratings import analyse
from tables import published

NONE = "No ratings were given: `entropylab ratings make` writes a page that asks for them."


def draw(files: Sequence[Path], out: Path) -> None:
    """Write table3.md, table3_published.csv and, if there are ratings, table3.csv."""
    found = analyse(files) if files else None
    paper = published("table3")
    parts = ["## Table 3: ratings from 1 to 10", found.summary() if found else NONE]
    parts += ["Published by the paper, of 45 people and 50 pairs:", shared.as_markdown(paper)]
    shared.write_text(parts, out, "table3")
    shared.write_table(paper, out, "table3_published")
    if found:
        shared.write_table(found.methods, out, "table3")


if __name__ == "__main__":
    parser = shared.new_parser(__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILES", help="what the ratings page saved")
    given = parser.parse_args()
    shared.run(parser, given.out, lambda: draw(given.files, given.out))
