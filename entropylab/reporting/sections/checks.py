"""The checks: what the law is off by with nothing fitted, what explains it, and from which N on it holds."""

import numpy as np
import pandas as pd

from ...law.checked import Check
from ...law.variables import RESIDUALS
from ..blocks import Block, Section, reading
from ..numbers import explained, finite_off, flag_counts, median
from ..pictures import check_pictures
from ..readings import checks as say
from ..tables import NOTHING, Table, few, share, side_by_side, stacked, whole
from ..views import Unknown, View, Views
from ..words import fixed, number, percent, untold


def checks_section(views: Views, tolerance: float) -> Section:
    """Law, series, finite N, flags and smallest N."""
    found: list[Block] = [reading(label, points(view, tolerance)) for label, view in views.items()]
    if any(isinstance(view.check, Check) for view in views.values()):
        overall = {label: words(view) if isinstance(view.check, Check) else {} for label, view in views.items()}
        found.append(side_by_side("Mean absolute difference of measured entropy from each prediction.", overall))
        found += [layer_table(views), smallest_table(views, tolerance)]
    for place, view in enumerate(views.values(), 1):
        found += check_pictures(view, f"check{place}")
    question = (
        "Here nothing is fitted: σ² was measured, and the law predicts the entropy from it. By how much is it off, and "
        "is that for skewness and kurtosis of the logits, for too few keys, or for freezing?"
    )
    return Section("The checks", question, tuple(found))


def points(view: View, tolerance: float) -> list[list[str]]:
    """What the checks say of a run."""
    found = view.check
    if isinstance(found, Unknown):
        return [[untold("Whether the law predicts the entropy", found.reason)]]
    layers, rows = view.layers, view.rows
    return [
        say.law(layers["layer"].tolist(), layers["law_off"].tolist(), tolerance),
        say.flags(flag_counts(found), len(rows["free"]), int(rows["free"].sum())),
        say.free_rows(rows["off"][rows["free"]], tolerance, found.has_series),
        say.series(*explained(found)) if found.has_series else [say.no_series()],
        say.finite(*finite_off(found)),
        smallest(view, tolerance),
    ]


def smallest(view: View, tolerance: float) -> list[str]:
    """What is said of the smallest N."""
    rows = view.named(view.check.smallest(tolerance))
    law, level, largest = (rows[name].to_numpy() for name in ("tokens_law", "tokens_level", "tokens_max"))
    return say.smallest(rows["layer"].tolist(), law, level, largest, tolerance, len(view.sizes))


def words(view: View) -> dict[str, str]:
    """Overall numbers of a check."""
    found, layers, rows = view.check, view.layers, view.rows
    told = {}
    for name, what in RESIDUALS.items():
        if f"{name}_off" in layers:
            off = layers[f"{name}_off"]
            told[f"{what}, median layer [nats]"] = fixed(off.median())
            told[f"{what}, worst layer [nats]"] = fixed(off.max())
    total, free = len(rows["free"]), rows["free"]
    told |= {f"rows flagged {name}": percent(count / total) for name, count in flag_counts(found).items()}
    told["rows without a flag"] = f"{int(free.sum())} of {total}"
    if free.any():
        told["the law in rows without a flag, median [nats]"] = fixed(median(rows["off"][free]))
        told["the law in rows without a flag, worst [nats]"] = fixed(float(rows["off"][free].max()))
    told["slope of deficit against σ²/2, all rows"] = fixed(found.slope())
    told["slope of deficit against σ²/2, rows without a flag"] = fixed(found.slope(unflagged=True))
    return told


def layer_table(views: Views) -> Table:
    """A row for every layer."""
    columns = [
        ("layer", "layer", fixed),
        ("tokens", "N", fixed),
        ("deficit", "deficit [nats]", few),
        ("half_sigma2", "σ²/2 [nats]", few),
        ("law_off", "law off by [nats]", few),
        ("third_order_off", "with k3", few),
        ("series_off", "with k3, k4", few),
        ("finite_off", "with finite N", few),
        ("law_worst", "law, worst row", few),
        ("skewed", "skewed", share),
        ("small_n", "small N", share),
        ("near_freezing", "near freezing", share),
    ]
    title = "The checks by layer: means over heads and sizes of absolute differences, and the share of rows flagged."
    return stacked(
        title,
        {label: view.layers if isinstance(view.check, Check) else NOTHING for label, view in views.items()},
        columns,
    )


def smallest_table(views: Views, tolerance: float) -> Table:
    """From which N on the law holds."""
    columns = [
        ("layer", "layer", fixed),
        ("tokens_min", "smallest N measured", whole),
        ("tokens_max", "largest", whole),
        ("tokens_law", "law holds from N", whole),
        ("tokens_level", "deficit level from N", whole),
        ("tokens_gaussian", "independent Gaussian keys would need", whole_or_many),
        ("off_at_largest", "law off at the largest N [nats]", few),
    ]
    frames: dict[str, pd.DataFrame] = {
        label: view.named(view.check.smallest(tolerance)) if isinstance(view.check, Check) else NOTHING
        for label, view in views.items()
    }
    title = f"Smallest N: from where on the law is within {number(tolerance)} nats. A dash: nowhere in this run."
    return stacked(title, frames, columns)


def whole_or_many(value: float) -> str:
    """A count; past a million a rough one."""
    return whole(value) if not 10**6 < value < np.inf else f"{value:.0e}".replace("e+", "e")
