"""Tables of a report: rows of words, several runs side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .words import UNKNOWN, fixed, percent

Format = Callable[[float], str]
NOTHING = pd.DataFrame()
"""The table of a run that has none."""

Columns = Sequence[tuple[str, str, Format]]
"""Of a column: its name in the data, its heading, and how its numbers are written."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows, with units.
        columns: headings.
        rows: as many words as headings, each.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def side_by_side(title: str, runs: Mapping[str, Mapping[str, str]]) -> Table:
    """A row for every quantity, a column for every run; ``runs``: run -> quantity -> its value in words."""
    quantities = dict.fromkeys(name for values in runs.values() for name in values)
    rows = tuple((name, *(values.get(name, UNKNOWN) for values in runs.values())) for name in quantities)
    return Table(title, ("", *runs), rows)


def stacked(title: str, frames: Mapping[str, pd.DataFrame], columns: Columns) -> Table:
    """The rows of every run's table below each other, the run in a first column if there are several.

    Columns that no run has are left out. A run without such a table has an empty one, `NOTHING`.
    """
    shown = [column for column in columns if any(column[0] in frame for frame in frames.values())]
    rows = []
    for label, frame in frames.items():
        lead = (label,) if len(frames) > 1 else ()
        rows += [(*lead, *(cell(row, *column) for column in shown)) for row in frame.to_dict("records")]
    lead = ("run",) if len(frames) > 1 else ()
    return Table(title, (*lead, *(heading for _, heading, _ in shown)), tuple(rows))


def cell(row: Mapping[str, object], name: str, heading: str, form: Format) -> str:
    """One number of a row in words."""
    value = row.get(name, np.nan)
    if isinstance(value, str):
        return value or UNKNOWN
    return form(float(value))  # type: ignore[arg-type]


def whole(value: float) -> str:
    """A count; a dash if it is not known."""
    return f"{value:,.0f}".replace(",", " ") if np.isfinite(value) else UNKNOWN if np.isnan(value) else "∞"


def few(value: float) -> str:
    """A number with two decimals."""
    return fixed(value, 2)


def share(value: float) -> str:
    """A fraction in per cent."""
    return percent(value)
