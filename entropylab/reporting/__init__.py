"""A report of measured runs: what was measured, what the law makes of it, and what that means, in one file.

`views` asks the law, `tables` and `pictures` show its answers, and the words are in templates/report.jinja, which is
rendered twice: as HTML and as Markdown. Knows Datasets, and nothing of tensors or models.
"""

import os
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from scipy.stats import ttest_ind_from_stats

from ..errors import EntropyLabError, check_positive, counted
from ..law import samples_of
from ..law.theory import SKEWED, TOLERANCE
from . import tables, words
from .files import targets, write
from .pictures import pictures_of
from .views import View, runs_of

__all__ = ["report"]

SPECIAL = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]<>|#&~"})
"""Marks that Markdown would take for its own."""

LONG = 24
"""Where words have more letters than this, tables of runs side by side break their lines."""


def report(
    ds: xr.Dataset | Sequence[xr.Dataset],
    path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> list[Path]:
    """Write a report of one or several runs, side by side: an HTML file that needs no other, and Markdown beside it.

    Its sections (provenance, the fit, the deficit, the checks, drift and rules, heads, steps, the phase picture, joint
    attention, the runs side by side) have tables, figures, and sentences that say what the numbers mean, and what can't
    be told from these runs. The same runs make the same files.

    Args:
        ds: a Dataset from `entropylab.measure` or `record`, or several; what is missing in it is said in the report.
        path: the HTML file, "report.html"; the Markdown is report.md, its figures are in report_figures.
        names: what to call the runs; by default the names of their models.
        tolerance: what the law may be off by where it is said to hold [nats].
        overwrite: whether files of these names, and the folder, may be replaced.

    Returns:
        The files written.

    Raises:
        EntropyLabError: not measured Datasets with layers, or none that are of self or joint attention; names that are
            not one a run; a tolerance that is no positive number; files that are there already or can't be written.
            Nothing is written then.

    Examples:
        >>> simulated = entropylab.simulate_dataset(tokens=(64, 256), sigma=(1.0,), samples=2)
        >>> files = entropylab.report(simulated, "report.html")
        >>> [path.name for path in files[:2]]
        ['report.html', 'report.md']
    """
    check_positive("tolerance", tolerance, "nats")
    if not isinstance(ds, xr.Dataset | list | tuple):
        raise EntropyLabError(
            f"ds must be an xarray.Dataset that measure returned, or a list. Got {type(ds).__name__}."
        )
    paths = targets(path, overwrite)
    runs = runs_of([ds] if isinstance(ds, xr.Dataset) else ds, names, float(tolerance))
    own = [run.own for run in runs]
    figures = pictures_of(runs)
    about = {
        "title": f"Attention entropy: {', '.join(run.label for run in runs)}",
        "runs": runs,
        "own": own,
        "images": [run for run in runs if run.image is not None],
        "tolerance": words.number(tolerance),
        "differing": tables.differing(runs),
        "slope_tests": slope_tests(own),
        "pictures": figures,
        "folder": paths[2].name,
    }
    html = environment(as_text).get_template("report.jinja").render(about, writer="html.jinja")
    text = environment(as_markdown).get_template("report.jinja").render(about, writer="markdown.jinja")
    content = {picture.name: picture.png for section in figures.values() for picture in section}
    return write(paths, html.lstrip(), re.sub(r"\n{3,}", "\n\n", text.strip()) + "\n", content)


@cache
def environment(finalize: Callable[[object], object]) -> Environment:
    """What templates are rendered in.

    Args:
        finalize: makes text of a value that a template puts in; what is no `Markup` after it is escaped for HTML.
    """
    made = Environment(
        loader=PackageLoader("entropylab.reporting"),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    made.filters |= {name: getattr(words, name) for name in ("number", "percent", "probability", "span", "listed")}
    made.filters |= {"points": points, "counted": counted, "samples_of": samples_of, "html_table": html_table}
    made.filters["base64"] = lambda content: Markup(b64encode(content).decode("ascii"))
    made.tests["nan"] = lambda value: bool(np.isnan(value))
    named = ("stacked", "beside", "in_short", "line_numbers", "check_numbers", "provenance", "is_subset", "loaded")
    made.globals |= {name: getattr(tables, name) for name in named}
    made.globals |= {"exp": np.exp, "skewed": SKEWED}
    return made


def as_text(value: object) -> object:
    """A value on one line; what is markup already stays."""
    return value if isinstance(value, Markup) else " ".join(str(value).split())


def as_markdown(value: object) -> object:
    """A value that Markdown shows as it is, on one line; what is markup already stays."""
    return value if isinstance(value, Markup) else Markup(str(as_text(value)).translate(SPECIAL))


def points(text: Markup) -> list[Markup]:
    """The points of a text, each of which begins with a dash at the beginning of a line."""
    return [Markup(" ".join(point.split())) for point in re.split(r"^\s*- ", text, flags=re.M) if point.strip()]


def html_table(frame: pd.DataFrame) -> Markup:
    """A table, whose index is set to the left; long words beside each other are broken into lines."""
    beside = frame.index.names == [""]
    classes = f"labels{frame.index.nlevels}{' words' if beside and frame.map(len).max(axis=None) > LONG else ''}"
    cells = frame.reset_index().map(as_text).rename(columns=as_text)
    with pd.option_context("display.max_colwidth", None):
        return Markup(cells.to_html(index=False, border=0, classes=classes))


def slope_tests(views: Sequence[View]) -> list[tuple[str, str, float]]:
    """Of every two runs, p of the hypothesis that their slopes are the same (Welch); NaN without errors."""
    lines = [(view.label, view.line) for view in views if view.line is not None]
    found = []
    for (one, first), (other, second) in combinations(lines, 2):
        moments = []
        for line in (first, second):  # as if the slope were the mean of so many samples
            number = line["degrees_of_freedom"] + 1
            moments += [line.slope, line.slope_error * np.sqrt(number), number]
        known = np.isfinite(moments).all() and first.slope_error + second.slope_error > 0
        p = ttest_ind_from_stats(*moments, equal_var=False).pvalue if known else np.nan
        found.append((one, other, float(p)))
    return found
