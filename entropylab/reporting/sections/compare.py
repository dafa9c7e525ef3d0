"""Several runs side by side: what is general, and what belongs to one model."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ...law import Fit
from ...law.checked import Check
from ...law.drift import MEAN
from ...law.validity import THRESHOLDS
from ..blocks import Block, Section, reading
from ..numbers import median
from ..pictures import layer_pictures
from ..readings import compare as say
from ..tables import Table, side_by_side
from ..views import Unknown, View, Views
from ..words import fixed, percent, probability, with_error


def compare_section(views: Views, tolerance: float) -> Section:
    """What these runs share, and what they do not."""
    told = [slopes(views)]
    for test, what, otherwise in questions(tolerance):
        answers = {label: test(view) for label, view in views.items()}
        known = {label: bool(answer) for label, answer in answers.items() if answer is not None}
        told.append(say.common(known, what, otherwise) if len(known) > 1 else [])
    cold = {label: near_freezing(view) for label, view in views.items() if isinstance(view.check, Check)}
    told += [say.freezing(cold) if cold else [], [say.caution(len(views))]]
    found: list[Block] = [reading("", told), summary(views)]
    found += layer_pictures(views, "compared")
    question = "What is true of every model here, and so may be general, and what belongs to one?"
    return Section("Side by side", question, tuple(found))


def slopes(views: Views) -> list[str]:
    """Whether the slopes differ."""
    lines = {label: view.line for label, view in views.items() if isinstance(view.line, Fit)}
    if len(lines) < 2:
        return []
    return say.slopes({k: (line.slope, line.slope_error, line["degrees_of_freedom"]) for k, line in lines.items()})


Question = tuple[Callable[[View], Any], str, str]


def questions(tolerance: float) -> list[Question]:
    """What is asked of every run; None where it can't be told."""
    return [
        (
            lambda view: line_is(view, lambda line: line.slope < 1 and line.slope_test[1] < 0.05),
            "entropy rises more slowly than log N (slope below 1 by more than its error)",
            "a slope below 1 is not shown",
        ),
        (
            lambda view: check_is(view, lambda: (view.layers["law_off"] <= tolerance).mean() > 0.5),
            f"the law holds within {tolerance:g} nats in most layers",
            f"the law is off by more than {tolerance:g} nats in most layers",
        ),
        (
            lambda view: check_is(view, lambda: median(view.rows["ratio"]) < 0.9),
            "σ²/2 overstates the deficit in the median row",
            "σ²/2 does not overstate the deficit in the median row",
        ),
        (
            lambda view: check_is(view, lambda: within(off_without_flag(view), tolerance)),
            "the law holds in the median row without a flag",
            "the law does not hold even in the median row without a flag",
        ),
    ]


def line_is(view: View, test: Callable[[Fit], Any]) -> Any:
    """The answer of a line; None without one, or without its error."""
    return test(view.line) if isinstance(view.line, Fit) and np.isfinite(view.line.slope_test[1]) else None


def check_is(view: View, test: Callable[[], Any]) -> Any:
    """The answer of a check; None without one."""
    return test() if isinstance(view.check, Check) else None


def off_without_flag(view: View) -> float:
    """What the law is off by in the median row without a flag [nats]; NaN without such a row."""
    return median(view.rows["off"][view.rows["free"]])


def within(off: float, tolerance: float) -> bool | None:
    """Whether something is within the tolerance; None if it is not known."""
    return None if np.isnan(off) else off <= tolerance


def near_freezing(view: View) -> float:
    """The fraction of rows near freezing or past it."""
    ratios = view.rows["freezing"]
    return float((ratios > THRESHOLDS.near_freezing).mean())


def summary(views: Views) -> Table:
    """The numbers that matter most, a column for every run."""
    return side_by_side("The numbers that matter most.", {label: in_short(view) for label, view in views.items()})


def in_short(view: View) -> dict[str, str]:
    """The numbers that matter most of a run."""
    told = {}
    if isinstance(view.line, Fit):
        p = view.line.slope_test[1]
        told["slope of entropy against log N (law: 1)"] = with_error(view.line.slope, view.line.slope_error)
        told["is it 1?"] = probability(p) if np.isfinite(p) else "not known"
        told["R²"] = f"{view.line.r_squared:.4f}"
    if isinstance(view.check, Check):
        told |= checked_words(view)
    if not isinstance(view.drift, Unknown):
        told |= removed_words(view)
    return told


def checked_words(view: View) -> dict[str, str]:
    """The numbers of a check that matter most."""
    layers, rows = view.layers, view.rows
    return {
        "deficit log N − H, median layer [nats]": fixed(layers["deficit"].median()),
        "σ²/2, median layer [nats] (law: the same)": fixed(layers["half_sigma2"].median()),
        "deficit / (σ²/2), median row (law: 1)": fixed(median(rows["ratio"])),
        "law off by, median layer [nats]": fixed(layers["law_off"].median()),
        "law off by, median row without a flag [nats]": fixed(off_without_flag(view)),
        "rows without a flag": percent(float(rows["free"].mean())),
        "rows past freezing": percent(float((rows["freezing"] >= 1).mean())),
    }


def removed_words(view: View) -> dict[str, str]:
    """What the rules remove of the layers' own drift, mean over sizes."""
    rows = view.drift[(view.drift["layer"] == MEAN) & (view.drift["size"] != view.trained)]
    means = rows[rows["scaling"] != "original"].groupby("scaling", sort=False)["absolute_fraction_removed"].mean()
    return {f"of the layers' drift {rule} removes": percent(float(value)) for rule, value in means.items()}
