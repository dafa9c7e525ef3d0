"""The line, the deficit and the phase picture: what the law is about."""

import numpy as np
import pandas as pd

from ...law import Fit
from ...law.validity import THRESHOLDS
from ..blocks import Block, Section, reading
from ..numbers import freezing_ends, median, rank_correlation
from ..pictures import deficit_pictures, fit_pictures, layer_pictures, phase_pictures
from ..readings import deficit as say_deficit
from ..readings import fit as say
from ..readings import places as say_places
from ..tables import NOTHING, Table, few, share, side_by_side, stacked, whole
from ..views import Unknown, View, Views
from ..words import fixed, holm, number, percent, probability, span, untold, with_error


def fit_section(views: Views) -> Section:
    """The line overall and by layer, with the test of slope 1."""
    found: list[Block] = [reading(label, fit_points(view)) for label, view in views.items()]
    lines = {label: line_words(view.line) if isinstance(view.line, Fit) else {} for label, view in views.items()}
    if any(lines.values()):
        found.append(side_by_side("The line H = slope · log N + intercept of the mean over layers.", lines))
        found.append(layer_table(views))
    for place, view in enumerate(views.values(), 1):
        found += fit_pictures(view, f"fit{place}")
    if len(views) == 1:  # several are drawn side by side, at the end
        found += layer_pictures(views, "layers")
    question = (
        "The law H ≈ log N − σ²/2 says that entropy rises with the logarithm of the number of keys N, with slope 1. "
        "Does it, on average and layer by layer?"
    )
    return Section("The fit", question, tuple(found))


def fit_points(view: View) -> list[list[str]]:
    """What the line says."""
    line, lines = view.line, view.lines
    if isinstance(line, Unknown):
        return [[untold("How entropy grows with N", line.reason)]]
    told = [
        say.slope(line.slope, line.slope_interval, line.slope_test[1]),
        say.errors(line.errors, int(line.dataset.attrs["samples"])),
        say.straightness(line.r_squared, line.dataset.sizes["size"]),
        say.uniformity(line.overall("deficit"), float(line["log_tokens"].mean())),
    ]
    if isinstance(lines, Unknown):
        return told
    frame = view.named(lines.to_frame())
    return [*told, say.layer_slopes(frame["layer"].tolist(), frame["slope"].tolist(), frame["slope_p"].tolist())]


def line_words(line: Fit) -> dict[str, str]:
    """The numbers of a line."""
    p = line.slope_test[1]
    found = {
        "slope ± standard error": with_error(line.slope, line.slope_error),
        "95% interval of the slope": span(*line.slope_interval),
        "slope = 1?": probability(p) if np.isfinite(p) else "not known",
        "intercept ± standard error [nats]": with_error(line.intercept, line.intercept_error),
        "R²": f"{line.r_squared:.5f}",
        "deficit, mean over sizes [nats]": fixed(line.overall("deficit")),
    }
    if "half_sigma2" in line.dataset:
        found["σ²/2, mean over sizes [nats]"] = fixed(line.overall("half_sigma2"))
    return found | {"samples": str(line.dataset.attrs["samples"]), "errors": line.errors}


def layer_table(views: Views) -> Table:
    """A line for every layer."""
    frames = {label: layer_lines(view) for label, view in views.items()}
    columns = [
        ("layer", "layer", fixed),
        ("slope", "slope", fixed),
        ("slope_error", "± error", fixed),
        ("p", "slope = 1? p, corrected", lambda p: number(p, 2)),
        ("intercept", "intercept [nats]", few),
        ("intercept_error", "± error", few),
        ("r_squared", "R²", lambda value: fixed(value, 4)),
        ("deficit", "deficit [nats]", few),
        ("half_sigma2", "σ²/2 [nats]", few),
        ("freezing", "σ²/(2 log N)", few),
    ]
    return stacked(
        "A line for every layer; p corrected for the number of layers (Holm), means over sizes.", frames, columns
    )


def layer_lines(view: View) -> pd.DataFrame:
    """The lines of layers, with corrected p."""
    if isinstance(view.lines, Unknown):
        return NOTHING
    frame = view.named(view.lines.to_frame())
    return frame.assign(p=holm(frame["slope_p"]))


def deficit_section(views: Views) -> Section:
    """The deficit against N and against sigma^2/2."""
    found: list[Block] = [reading(label, deficit_points(view)) for label, view in views.items()]
    frames = {label: by_size(view) for label, view in views.items()}
    if any(len(frame) for frame in frames.values()):
        columns = [
            ("size", "size", fixed),
            ("tokens", "N", whole),
            ("log_tokens", "log N [nats]", few),
            ("entropy", "entropy [nats]", fixed),
            ("entropy_error", "± error", fixed),
            ("deficit", "deficit [nats]", fixed),
            ("half_sigma2", "σ²/2 [nats]", fixed),
            ("freezing", "σ²/(2 log N)", few),
        ]
        found.append(stacked("Means over heads and layers at every size; N is their geometric mean.", frames, columns))
    for place, view in enumerate(views.values(), 1):
        found += deficit_pictures(view, f"deficit{place}")
    question = (
        "A straight line proves little. What the law really says is that the deficit D = log N − H, how far attention "
        "is from uniform, does not depend on N and equals half the variance σ² of the logits. Does it?"
    )
    return Section("The deficit against N and against σ²/2", question, tuple(found))


def by_size(view: View) -> pd.DataFrame:
    """What was fitted, smallest N first."""
    return view.line.points().sort_values("tokens", kind="stable") if isinstance(view.line, Fit) else NOTHING


def deficit_points(view: View) -> list[list[str]]:
    """What the deficit says."""
    return [*level_points(view), against_sizes(view)]


def level_points(view: View) -> list[list[str]]:
    """Whether it is sigma^2/2."""
    found = view.check
    if isinstance(found, Unknown):
        return [[untold("Whether the deficit is σ²/2", found.reason)]]
    rows = view.rows
    parts = [say_deficit.predicted(rows["ratio"]), say_deficit.unflagged(rows["ratio"], rows["free"], found.has_series)]
    return [*parts, say_deficit.order(rank_correlation(view.layers), len(view.layers))]


def against_sizes(view: View) -> list[str]:
    """Whether it depends on N."""
    line = view.line
    if isinstance(line, Unknown):
        return [untold("Whether the deficit depends on N", line.reason)]
    points = by_size(view)["deficit"].to_numpy()
    return say_deficit.against_sizes(points[0], points[-1], 1 - line.slope, line.slope_test[1])


def phase_section(views: Views) -> Section:
    """How near freezing."""
    found: list[Block] = [reading(label, phase_points(view)) for label, view in views.items()]
    known = {label: phase_words(view) for label, view in views.items()}
    if any(known.values()):
        found.append(side_by_side("How near freezing: σ²/(2 log N) over rows (layer, head and size).", known))
    for place, view in enumerate(views.values(), 1):
        found += phase_pictures(view, f"phase{place}")
    question = (
        "If logits vary much for so few keys, σ² > 2 log N, single keys carry a row: it is frozen, as in the random "
        "energy model, and the law can't hold. How near to that is this model?"
    )
    return Section("The phase picture", question, tuple(found))


def phase_points(view: View) -> list[list[str]]:
    """What the phase picture says."""
    if isinstance(view.check, Unknown):
        return [[untold("How near freezing the layers are", view.check.reason)]]
    told = say_places.phase(view.rows["freezing"], THRESHOLDS.near_freezing)
    return [told, say_places.warming(*freezing_ends(view.check)) if len(view.sizes) > 1 else []]


def phase_words(view: View) -> dict[str, str]:
    """The numbers of the phase picture; none without a check."""
    if isinstance(view.check, Unknown):
        return {}
    ratios = view.rows["freezing"]
    known = ratios[np.isfinite(ratios)]
    if not len(known):
        return {"rows": "0"}
    near = THRESHOLDS.near_freezing
    return {
        "rows": str(len(known)),
        "median": fixed(median(known)),
        "smallest to largest": span(known.min(), known.max()),
        f"past {near} (near freezing)": percent(float((known > near).mean())),
        "past 1 (frozen)": share(float((known >= 1).mean())),
    }
