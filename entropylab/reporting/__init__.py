"""A report of measured runs: what was measured, what the law makes of it, and what that means, in one file.

Knows Datasets, and nothing of tensors or models.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from ..errors import EntropyLabError, check_positive
from ..law.validity import TOLERANCE
from .blocks import Block, Picture, Reading, Section
from .files import targets, write
from .glossary import GLOSSARY
from .markdown import markdown
from .page import page
from .sections import sections_of, summary
from .views import Run, runs_of

__all__ = ["report"]

SHORT = ("The fit", "The deficit against N and against σ²/2", "The checks", "Drift, and what the rules remove")
JOINT = "Joint attention: the image's part"
"""Sections whose first sentences make the summary."""


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
    runs = runs_of([ds] if isinstance(ds, xr.Dataset) else list_of(ds), names)
    check_positive("tolerance", tolerance, "nats")
    paths = targets(path, overwrite)
    sections = sections_of(runs, float(tolerance))
    title, lead = heading(runs), introduction(runs, sections)
    figures = {block.name: block.png for section in sections for block in section.blocks if isinstance(block, Picture)}
    html = page(title, lead, sections, GLOSSARY)
    return write(paths, html, markdown(title, lead, sections, GLOSSARY, paths[2].name), figures)


def list_of(ds: Sequence[xr.Dataset]) -> list[xr.Dataset]:
    """Datasets as a list."""
    if not isinstance(ds, list | tuple):
        raise EntropyLabError(
            f"ds must be an xarray.Dataset that measure returned, or a list. Got {type(ds).__name__}."
        )
    return list(ds)


def heading(runs: Sequence[Run]) -> str:
    """The title."""
    return f"Attention entropy: {', '.join(run.label for run in runs)}"


def introduction(runs: Sequence[Run], sections: Sequence[Section]) -> list[Block]:
    """The first point of the sections that matter most, for every run, and the numbers that matter most."""
    own = {run.label: run.own for run in runs if run.own is not None}
    chosen = SHORT if own else (JOINT,)
    lead = [found for section in sections if section.title in chosen for found in section.headlines if found.label]
    points = {run.label: [found.points[0] for found in lead if found.label == run.label] for run in runs}
    joined = [Reading(label, tuple(found)) for label, found in points.items() if found]
    return [*joined, summary(own)] if own else [*joined]
