"""What the law is off by with nothing fitted, what explains it, and from which N on it holds."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from ...wording import counted
from ..words import listed, number, percent, untold, whole_span


def law(names: Sequence[str], off: ArrayLike, tolerance: float) -> list[str]:
    """In how many layers the law log N - sigma^2/2 holds; ``off`` is the mean absolute residual [nats] of each."""
    values = np.asarray(off, float)
    if not np.isfinite(values).any():
        return [untold("Whether the law predicts the entropy", "no layer has both entropy and σ²")]
    within = [name for name, value in zip(names, values, strict=True) if value <= tolerance]
    worst = int(np.nanargmax(values))
    told = f"log N − σ²/2 is within {number(tolerance)} nats of the measured entropy"
    where = f"in {len(within)} of {counted(len(names), 'layer')}"
    named = f" ({listed(within)})" if 0 < len(within) < len(names) else ""
    middle = f"off by {number(float(np.nanmedian(values)), 2)} nats in the median layer"
    return [f"{told} {where}{named}; it is {middle} and by {number(values[worst], 2)} in the worst, {names[worst]}."]


def flags(counts: Mapping[str, int], total: int, free: int) -> list[str]:
    """How many rows are where the law is not to be expected."""
    if free == total:
        return [f"None of {total} rows (layer, head and size) is flagged: the law is to be expected in all of them."]
    words = listed(f"{name} in {percent(count / total)}" for name, count in counts.items() if count)
    told = f"Of {total} rows {percent(1 - free / total)} are flagged ({words})"
    if not free:
        return [
            f"{told}: nowhere are the law's assumptions met, so that it is off does not refute it, but it does not "
            "describe this model."
        ]
    return [f"{told}: there the law can be off by 0.1 nats even if keys are independent."]


def free_rows(off: ArrayLike, tolerance: float, skewness: bool) -> list[str]:
    """Whether the law holds where simulation gives no reason to doubt it.

    Args:
        off: its absolute residuals [nats] in rows without a flag.
        tolerance: [nats].
        skewness: whether third and fourth cumulant were measured, without which skewed rows have no flag.
    """
    values = np.asarray(off, float)
    if not len(values):
        return []
    median, worst = float(np.median(values)), float(values.max())
    told = f"Where there is no flag the law is off by {number(median, 2)} nats (median; worst {number(worst, 2)})"
    if worst <= tolerance:
        return [f"{told}: where it should hold, it does."]
    if median <= tolerance and not skewness:
        return [f"{told}: mostly as it should be; the exceptions may be skewed, which was not measured."]
    if not skewness:
        return [f"{told}: more than it should, but rows may be skewed, which was not measured and is not flagged."]
    if median <= tolerance:
        return [f"{told}: mostly as it should be, with exceptions that no flag foresees."]
    return [
        f"{told}: more than simulation allows, so a model's keys depend on each other, or rows differ, in a way that "
        "matters."
    ]


def series(warm: float, everywhere: float, nearer: float) -> list[str]:
    """How much of the law's residual third and fourth cumulant explain.

    Args:
        warm: fraction explained in rows that are not near freezing; NaN if there is none.
        everywhere: fraction explained in all rows.
        nearer: fraction of the rows not near freezing in which the series is nearer to the entropy than the law.
    """
    if not np.isfinite(warm):
        return ["All rows are near freezing, where the series in skewness and kurtosis is of no use."]
    told = f"Skewness and kurtosis (k3, k4) explain {percent(warm)} of what the law is off by in rows not near freezing"
    if warm >= 0.5:
        sentences = [f"{told}: there the logits are not Gaussian, and that is most of the reason."]
    elif warm > 0:
        sentences = [f"{told}: they are part of the reason, and not most of it."]
    else:
        sentences = [overshooting(nearer)]
    if warm > 0 > everywhere:
        sentences.append("Over all rows they make it worse, because in cold rows the terms of the series grow.")
    return sentences


def overshooting(nearer: float) -> str:
    """What a series says that makes the law worse on the whole."""
    told = "Adding k3 and k4 makes the law worse on the whole, even in rows not near freezing"
    share = f"it comes nearer to the entropy in {percent(nearer)} of these rows"
    if nearer > 0.5:
        return f"{told}: {share}, but where its terms are large it goes far too far."
    return f"{told}: {share} only."


def no_series() -> str:
    """What is missing where only sigma^2 was measured."""
    return untold(
        "Whether skewness and kurtosis explain what the law is off by",
        "third and fourth cumulant were not measured (--statistics entropy,sigma2,third,fourth)",
    )


def finite(off: float, law_there: float, rows: int, total: int) -> list[str]:
    """Whether finite N explains it."""
    if not rows:
        return ["No row has e^σ² < N, so what finite N adds to the law can't be computed anywhere."]
    where = f"in the {rows} of {total} rows where that can be computed"
    told = f"Allowing for finite N changes the law's mean error from {number(law_there, 2)} to {number(off, 2)} nats"
    return [f"{told} {where}{': it helps' if off < 0.9 * law_there else ': it does not help'}."]


def smallest(
    names: Sequence[str],
    law_from: ArrayLike,
    level_from: ArrayLike,
    largest: ArrayLike,
    tolerance: float,
    sizes: int,
) -> list[str]:
    """From which N on the law holds, the paper's own doubt (section 4.2).

    Args:
        names: of the layers.
        law_from: smallest N from which on the law is within the tolerance; NaN if there is none.
        level_from: the same for the deficit against its value at the largest N.
        largest: the largest N measured.
        tolerance: [nats].
        sizes: how many were measured.
    """
    if sizes < 2:
        return [untold("From which N on the law holds", "only one size was measured")]
    starts, levels = np.asarray(law_from, float), np.asarray(level_from, float)
    never = int(np.isnan(starts).sum())
    held = [f"{names[int(i)]} from N = {starts[i]:.0f}" for i in np.flatnonzero(np.isfinite(starts))]
    total = counted(len(names), "layer")
    if not held:
        reach = whole_span(np.min(largest), np.max(largest))
        told = f"In none of {total} is the law within {number(tolerance)} nats at the largest N measured ({reach})"
        sentences = [f"{told}: its failing is no matter of small N, or far larger images would be needed."]
    else:
        sentences = [f"The law holds within {number(tolerance)} nats in {len(held)} of {total}: {listed(held)}."]
        if never:
            sentences.append(f"In the other {never} it is off at the largest N too, so small N is not the reason.")
    steady = int(np.isfinite(levels).sum())
    ends = f" (from N = {whole_span(np.nanmin(levels), np.nanmax(levels))} on, by layer)" if steady else ""
    near = f"is within {number(tolerance)} nats of its value at the largest N in {steady} of {total}{ends}"
    sentences.append(f"The deficit, whatever that value, {near}.")
    return sentences
