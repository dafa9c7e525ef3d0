"""Joint attention: the law where it can be meant, among the image's own keys."""

from collections.abc import Sequence

import pandas as pd
import xarray as xr

from ...law import Fit
from ..blocks import Block, Section, reading
from ..joint import pieces
from ..pictures import deficit_pictures, fit_pictures, phase_pictures
from ..readings import joint as say
from ..readings.checks import no_series
from ..tables import Table, few, share, side_by_side, stacked, whole
from ..views import Run, Unknown, View
from ..words import fixed
from .checks import layer_table as check_table
from .checks import points as check_points
from .law import deficit_points, fit_points, line_words


def joint_section(runs: Sequence[Run], tolerance: float) -> Section | None:
    """Image rows among image keys, in runs whose joint layers tell them apart; None if there is no such run."""
    known = {run.label: run for run in runs if run.image is not None}
    if not known:
        return None
    found: list[Block] = [reading(label, points(run, tolerance)) for label, run in known.items()]
    found.append(chain_table(known))
    views = {label: run.image for label, run in known.items() if run.image is not None}
    lines = {label: line_words(view.line) if isinstance(view.line, Fit) else {} for label, view in views.items()}
    if any(lines.values()):
        title = "The line of the image part: entropy_image against log keys_image, mean over layers."
        found.append(side_by_side(title, lines))
    if not all(isinstance(view.check, Unknown) for view in views.values()):
        found.append(check_table(views))
    for place, view in enumerate(views.values(), 1):
        for draw in (fit_pictures, deficit_pictures, phase_pictures):
            found += draw(view, f"joint{place}")
    question = (
        "In joint attention image and text stand among the same keys, and only the image's grow with its size. So "
        "the law is asked of image rows among keys of the image alone: is entropy_image = log keys_image − "
        "sigma2_image/2?"
    )
    return Section("Joint attention: the image's part", question, tuple(found))


def points(run: Run, tolerance: float) -> list[list[str]]:
    """What joint attention says."""
    view = run.image
    assert view is not None
    told = [*both_ways(run, view, tolerance), *chain_points(pieces(run.ds)), *fit_points(view), *deficit_points(view)]
    # Third and fourth cumulant are of all keys, so that nothing can be said of the series among the image's.
    return told + [part for part in check_points(view, tolerance) if part != [no_series()]]


def both_ways(run: Run, view: View, tolerance: float) -> list[list[str]]:
    """What the law is off by among the image's keys, and among all."""
    whole = run.whole
    if whole is None or isinstance(whole.check, Unknown) or isinstance(view.check, Unknown):
        return []
    off = [float(part.layers["law_off"].median()) for part in (view, whole)]
    return [say.law(off[0], off[1], tolerance)]


def chain_points(parts: xr.Dataset) -> list[list[str]]:
    """What the entropy of image rows is made of."""
    means = {str(name): float(value.mean()) for name, value in parts.data_vars.items()}
    told = [say.mass(parts["mass_image"].mean("size").values)] if "mass_image" in parts else []
    if {"entropy_between", "entropy_from_image"} <= set(means):
        told.append(say.chain(means["entropy"], means["entropy_between"], means["entropy_from_image"]))
    return [*told, say.fixed_text(parts["share"].values.ravel())]


def chain_table(runs: dict[str, Run]) -> Table:
    """What the entropy of image rows is made of, by size."""
    columns = [
        ("size", "size", fixed),
        ("keys_image", "keys of the image", whole),
        ("share", "of all keys", share),
        ("mass_image", "weight on them", share),
        ("entropy", "entropy [nats]", few),
        ("entropy_between", "between sorts", few),
        ("entropy_from_image", "from the image", few),
        ("entropy_from_text", "from text", few),
        ("entropy_from_other", "from others", few),
    ]
    title = (
        "Image rows: entropy = between the sorts of keys + what comes from within each; means over layers and heads."
    )
    return stacked(title, {label: chain_frame(run) for label, run in runs.items()}, columns)


def chain_frame(run: Run) -> pd.DataFrame:
    """The pieces by size."""
    mean = pieces(run.ds).mean("layer")
    frame = mean.to_dataframe().reset_index()
    return frame.sort_values("keys_image", kind="stable")
