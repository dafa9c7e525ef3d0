"""Drift away from the training size, and what the scaling rules take away of it."""

import pandas as pd

from ...law.drift import MEAN
from ..blocks import Block, Section, reading
from ..numbers import expected_removal
from ..pictures import drift_pictures
from ..readings import rules as say
from ..tables import NOTHING, Table, share, stacked
from ..views import Unknown, View, Views
from ..words import fixed, untold

SMALL = 0.01
"""A drift [nats] that counts for neither direction."""


def drift_section(views: Views) -> Section:
    """Drift, and the rules where several scalings are in a run."""
    found: list[Block] = [reading(label, points(view)) for label, view in views.items()]
    known = {label: view for label, view in views.items() if not isinstance(view.drift, Unknown)}
    if known:
        found.append(table(views))
    for place, view in enumerate(views.values(), 1):
        found += drift_pictures(view, f"drift{place}") if view.label in known else []
    question = (
        "A model has learned with the entropy of its training size, and at another size entropy is another. By how "
        "much, and how much of that does a rule for the softmax scale take away?"
    )
    return Section("Drift, and what the rules remove", question, tuple(found))


def points(view: View) -> list[list[str]]:
    """What drift and rules say of a run."""
    rows = view.drift
    if isinstance(rows, Unknown):
        return [[untold("How far entropy drifts from the training size", rows.reason)]]
    away = rows[rows["size"] != view.trained]
    mean = away[away["layer"] == MEAN]
    own = mean[mean["scaling"] == "original"]
    told = say.drift(own["size"].tolist(), own["drift"].tolist(), str(view.trained))
    if own["absolute_drift"].notna().any():
        told += opposite(away, own.loc[own["absolute_drift"].idxmax(), "size"])
    return [told, *rule_points(view, mean)]


def rule_points(view: View, mean: pd.DataFrame) -> list[list[str]]:
    """What the rules remove; ``mean``: the drift of the mean over layers, away from the training size."""
    rules = [rule for rule in view.scalings if rule != "original"]
    if not rules:
        why = "only the model as it is was measured (--scaling original,sqrt_log)"
        return [[untold("What a scaling rule would remove of that", why)]]
    told = []
    for rule in rules:
        part = mean[mean["scaling"] == rule]
        mean_drift, own_drift = (part[f"{name}fraction_removed"].tolist() for name in ("", "absolute_"))
        told.append(say.removed(rule, mean_drift, own_drift, expected_removal(view)))
    means = mean.groupby("scaling", sort=False)["absolute_fraction_removed"].mean()
    return [*told, say.best({rule: float(means[rule]) for rule in rules})]


def opposite(away: pd.DataFrame, size: str) -> list[str]:
    """Whether layers drift both ways at a size."""
    layers = away[(away["layer"] != MEAN) & (away["scaling"] == "original") & (away["size"] == size)]
    return say.opposite(int((layers["drift"] < -SMALL).sum()), int((layers["drift"] > SMALL).sum()), size)


def table(views: Views) -> Table:
    """Drift of the mean over layers, by rule and size."""
    columns = [
        ("scaling", "rule", fixed),
        ("size", "size", fixed),
        ("drift", "drift [nats]", fixed),
        ("drift_error", "± error", fixed),
        ("fraction_removed", "removed", share),
        ("fraction_removed_error", "± error", share),
        ("absolute_drift", "layers' own drift [nats]", fixed),
        ("absolute_fraction_removed", "removed of it", share),
    ]
    frames = {label: shown(view) for label, view in views.items()}
    title = (
        "Drift of the mean over layers from the training size, and the mean size of the layers' own drifts, which "
        "layers that drift opposite ways can't hide."
    )
    return stacked(title, frames, columns)


def shown(view: View) -> pd.DataFrame:
    """The rows of the mean over layers away from the training size; nothing is removed by the model as it is."""
    if isinstance(view.drift, Unknown):
        return NOTHING
    rows = view.drift[(view.drift["layer"] == MEAN) & (view.drift["size"] != view.trained)].copy()
    removed = [name for name in rows if "fraction_removed" in name]
    rows.loc[rows["scaling"] == "original", removed] = float("nan")
    return rows
