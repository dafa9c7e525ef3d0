"""Heads, denoising steps, and how near freezing: where in the model and when."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ...wording import counted
from ..words import listed, number, percent, span, untold

SPREAD, CONCENTRATED = 0.95, 0.3
"""Normalised entropy H / log N above which a head is called nearly uniform, and below which concentrated."""


def heads(names: Sequence[str], values: np.ndarray, size: str) -> list[str]:
    """How heads differ; ``values``: normalised entropy (layers, heads), NaN where a layer has fewer heads."""
    known = np.isfinite(values)
    low, high = (np.unravel_index(f(values), values.shape) for f in (np.nanargmin, np.nanargmax))
    ends = [f"{number(values[at], 2)} ({names[int(at[0])]}, head {at[1]})" for at in (low, high)]
    sentences = [f"At {size} entropy is between {ends[0]} and {ends[1]} of log N over {int(known.sum())} heads."]
    share = within_layers(values)
    if np.isfinite(share):
        kind = (
            "heads of one layer differ more than layers do" if share > 0.5 else "mostly layers differ, not their heads"
        )
        sentences.append(f"{percent(share)} of the variance between heads is within layers: {kind}.")
    extremes = [
        (int((values[known] > SPREAD).sum()), f"nearly uniform (above {SPREAD})"),
        (int((values[known] < CONCENTRATED).sum()), f"concentrated on few keys (below {CONCENTRATED})"),
    ]
    found = [f"{counted(count, 'head')} {'is' if count == 1 else 'are'} {words}" for count, words in extremes if count]
    return [*sentences, f"{listed(found)}."] if found else sentences


def within_layers(values: np.ndarray) -> float:
    """The part of the variance over heads that is within layers; NaN with one layer, or without variance."""
    known = np.isfinite(values)
    counts = known.sum(1)
    if (counts > 0).sum() < 2 or counts.max() < 2:
        return np.nan
    means = np.where(known, values, 0).sum(1) / np.maximum(counts, 1)
    inside = np.where(known, values - means[:, None], 0) ** 2
    total = float(((values[known] - values[known].mean()) ** 2).sum())
    return float(inside.sum() / total) if total > 0 else np.nan


def steps(names: Sequence[str], first: ArrayLike, last: ArrayLike, number_of: int, size: str) -> list[str]:
    """How entropy changes from the first denoising step to the last [nats], layer by layer."""
    change = np.asarray(last, float) - np.asarray(first, float)
    if not np.isfinite(change).any():
        why = "no layer has numbers at both the first and the last"
        return [untold("How entropy changes through the denoising steps", why)]
    most = int(np.nanargmax(abs(change)))
    mean = float(np.nanmean(change))
    moves = "rises" if mean > 0 else "falls"
    through = f"From the first of {number_of} denoising steps at {size} to the last"
    where = f"most in {names[most]} ({'+' if change[most] > 0 else ''}{number(change[most], 2)})"
    sentences = [f"{through}, mean entropy {moves} by {number(abs(mean), 2)} nats; {where}."]
    up, down = int((change > 0).sum()), int((change < 0).sum())
    if up and down:
        sentences.append(f"It rises in {up} of {counted(len(change), 'layer')} and falls in {down}.")
    if np.nanmax(abs(change)) > 0.2:
        sentences.append("Entropy depends on the step, so runs are comparable only with the same steps.")
    return sentences


def phase(ratios: ArrayLike, near: float) -> list[str]:
    """How many rows are frozen; ``ratios``: sigma^2 / (2 log N) of every row."""
    values = np.asarray(ratios, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return ["How near freezing the rows are can't be told from this run, because no row has more than one key."]
    cold, frozen = float((values > near).mean()), float((values >= 1).mean())
    told = f"{percent(frozen)} of {len(values)} rows are past the freezing line σ² = 2 log N"
    between = f"{percent(cold - frozen)} more are near it (past {number(near)} of it)"
    sentences = [f"{told}, where few keys carry a row; {between}, and {percent(1 - cold)} are below."]
    if frozen > 0.5:
        sentences.append("Most of this model is where log N − σ²/2 is not an approximation of anything.")
    elif cold < 0.1:
        sentences.append("Freezing is not what the law would fail by in this model.")
    return sentences


def warming(smallest: ArrayLike, largest: ArrayLike) -> list[str]:
    """Whether layers leave freezing as N grows; the ratio at the smallest and at the largest N, by layer."""
    before, after = np.asarray(smallest, float), np.asarray(largest, float)
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return []
    away = int((after[known] < before[known]).sum())
    ends = f"median ratio {span(float(np.median(before[known])), float(np.median(after[known])), 2)}"
    told = (
        f"From the smallest to the largest size {away} of {counted(int(known.sum()), 'layer')} move away from freezing"
    )
    return [f"{told} ({ends})."]
