"""Table 3: what people rated, from the files that raters saved, with the published means alongside."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..files import make_folder
from ..plot.style import write_table
from ..quality import published
from ..quality.ratings import Analysis, analyse
from ..sizes import size_label
from .command import add_out, run
from .table_text import as_markdown


def paper() -> pd.DataFrame:
    """The published means."""
    rows = [(published.SD, size_label(size), *pair) for size, pair in published.RATINGS.items()]
    return pd.DataFrame(rows, columns=["model", "size", "original (published)", "sqrt_log (published)"])


def files(found: Analysis | None, out: Path) -> list[Path]:
    """Write table3.md, table3_published.csv and, if there are ratings, table3.csv."""
    path = out / "table3.md"
    said = (
        found.summary()
        if found
        else "No ratings were given: `entropylab ratings make` writes a page that asks for them."
    )
    parts = ["## Table 3: ratings from 1 to 10", said, "Published by the paper, of 45 people and 50 pairs:"]
    path.write_text("\n\n".join([*parts, as_markdown(paper())]) + "\n", encoding="utf-8")
    tables = [write_table(paper(), out, "table3_published")]
    return [path, *tables, *([write_table(found.methods, out, "table3")] if found else [])]


def command(arguments: Sequence[str] | None = None) -> None:
    """The command line of figures/table3.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILES", help="what the ratings page saved")
    add_out(parser)
    given = parser.parse_args(arguments)
    run(
        parser,
        lambda: files(analyse(given.files) if given.files else None, make_folder(given.out)),
        shows_text=True,
    )
