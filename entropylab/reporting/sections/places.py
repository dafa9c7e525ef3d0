"""Heads and denoising steps."""

import numpy as np
import pandas as pd

from ..blocks import Block, Section, reading
from ..numbers import by_step, normalised, size_of
from ..pictures import head_pictures, step_pictures
from ..readings import places as say
from ..tables import NOTHING, Table, few, stacked, whole
from ..views import Unknown, View, Views, tried
from ..words import fixed, untold


def heads_section(views: Views) -> Section:
    """How heads differ."""
    found: list[Block] = [reading(label, head_points(view)) for label, view in views.items()]
    known = {label: view for label, view in views.items() if has(view, "head")}
    if known:
        found.append(head_table(views))
    for place, view in enumerate(views.values(), 1):
        found += head_pictures(view, f"heads{place}", size_of(view)) if view.label in known else []
    question = "Is the entropy of a layer that of all its heads, or do some look everywhere and others at few keys?"
    return Section("Heads", question, tuple(found))


def has(view: View, dim: str) -> bool:
    """Whether a dim was kept, with more than one entry, and something is known of it at the size that is shown."""
    if view.data["entropy"].sizes.get(dim, 1) < 2:
        return False
    values = tried(lambda: normalised(view, ("layer", dim)))
    return not isinstance(values, Unknown) and bool(np.isfinite(values).any())


def head_points(view: View) -> list[list[str]]:
    """What heads say."""
    if not has(view, "head"):
        return [[untold("How heads differ", "heads were averaged, or there is one, or none has more than one key")]]
    values = normalised(view, ("layer", "head"))
    return [[sentence] for sentence in say.heads(list(view.names.values()), values, size_of(view))]


def head_table(views: Views) -> Table:
    """The range of heads by layer."""
    columns = [
        ("layer", "layer", fixed),
        ("heads", "heads", whole),
        ("low", "lowest H / log N", few),
        ("mean", "mean", few),
        ("high", "highest", few),
    ]
    return stacked(
        "Entropy / log N of heads, at the size that is shown.", {k: head_frame(v) for k, v in views.items()}, columns
    )


def head_frame(view: View) -> pd.DataFrame:
    """The range of heads by layer."""
    if not has(view, "head"):
        return NOTHING
    rows = []
    for name, values in zip(view.names.values(), normalised(view, ("layer", "head")), strict=True):
        known = values[np.isfinite(values)]
        if len(known):
            low, mean, high = known.min(), known.mean(), known.max()
            rows.append({"layer": name, "heads": len(known), "low": low, "mean": mean, "high": high})
    return pd.DataFrame(rows, columns=["layer", "heads", "low", "mean", "high"])


def steps_section(views: Views) -> Section:
    """How entropy changes through the denoising steps."""
    found: list[Block] = [reading(label, step_points(view)) for label, view in views.items()]
    known = {label: view for label, view in views.items() if has(view, "step")}
    if known:
        found.append(step_table(views))
    for place, view in enumerate(views.values(), 1):
        found += step_pictures(view, f"steps{place}", size_of(view)) if view.label in known else []
    question = "Does attention look as widely while there is noise as when the image is nearly there?"
    return Section("Denoising steps", question, tuple(found))


def step_points(view: View) -> list[list[str]]:
    """What steps say."""
    if not has(view, "step"):
        return [[untold("How entropy changes through the denoising steps", "steps were averaged, or there is one")]]
    values, names = by_step(view), list(view.names.values())
    return [[text] for text in say.steps(names, values[:, 0], values[:, -1], values.shape[1], size_of(view))]


def step_table(views: Views) -> Table:
    """First, middle and last step by layer."""
    columns = [
        ("layer", "layer", fixed),
        ("first", "first step", fixed),
        ("middle", "middle", fixed),
        ("last", "last", fixed),
        ("change", "last less first", fixed),
    ]
    return stacked(
        "Entropy [nats] through the steps, at the size that is shown.",
        {k: step_frame(v) for k, v in views.items()},
        columns,
    )


def step_frame(view: View) -> pd.DataFrame:
    """First, middle and last step by layer."""
    if not has(view, "step"):
        return NOTHING
    values = by_step(view)
    first, middle, last = values[:, 0], values[:, values.shape[1] // 2], values[:, -1]
    frame = {"layer": list(view.names.values()), "first": first, "middle": middle, "last": last}
    return pd.DataFrame(frame | {"change": last - first})
