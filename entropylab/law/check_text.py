"""What a `Check` says in words.

Knows the Datasets of checks, and nothing of how they were found.
"""

from typing import TYPE_CHECKING

import pandas as pd

from ..wording import counted
from .variables import FLAGS

if TYPE_CHECKING:
    from .checked import Check

WORDS = {"law": "law off by:", "third_order": "with k3:", "series": "with k3 and k4:"}


def off_over_layers(layers: pd.DataFrame, name: str) -> str:
    """Median and worst layer of a mean absolute residual, in words."""
    off = layers[f"{name}_off"]
    worst = layers["layer"][off.idxmax()]
    return f"{off.median():.3f} nats in the median layer, {off.max():.3f} in the worst ({worst})"


def summary(found: "Check") -> str:
    """The check as text to read."""
    layers = found.layers()
    rows = layers.rename(columns=FLAGS).to_string(index=False, float_format="{:.3g}".format)
    return f"{about(found)}\n\n{lines(found, layers)}\n\n{rows}"


def about(found: "Check") -> str:
    """What was checked."""
    a = found.dataset.attrs
    heads = f" and {counted(a['heads'], 'head')}" if a["heads"] else ""
    return (
        f"H beside log N - sigma^2/2 from measured sigma^2; nothing is fitted\n{a['model'] or 'model'}: "
        f"{counted(a['layers'], a['kind'] + ' layer')}{heads}, {counted(found.dataset.sizes['size'], 'size')}, "
        f"{counted(a['samples'], 'sample')}, scaling {a['scaling']}"
    )


def lines(found: "Check", layers: pd.DataFrame) -> str:
    """How far off everything is over layers, and what explains it."""
    known = found["entropy"].notnull()
    free = known & (found.flags == "")
    lines = [f"{words:<24}{off_over_layers(layers, name)}" for name, words in WORDS.items() if name in found.dataset]
    lines.append(f"{'with finite N:':<24}{finite_words(found)}")
    if found.has_series:
        lines.append(explained_words(found))
    else:
        lines.append(
            "third and fourth cumulant were not measured; statistics=(..., 'third', 'fourth') gives the series"
        )
    number, total = int(free.sum()), int(known.sum())
    counts = [f"{words} {int(found[name].sum())}" for name, words in FLAGS.items() if name in found.dataset]
    lines.append(f"flagged, of {total} rows:   {', '.join(counts)}; none of them {number}")
    if number:
        off = abs(found["law_residual"].where(free))
        middle, worst = off.median().item(), off.max().item()
        lines.append(f"rows without a flag:    law off by {middle:.3f} nats (median), {worst:.3f} (worst)")
    slopes = f"{found.slope():.3f} over all rows, {found.slope(True):.3f} without a flag"
    lines.append(f"deficit = a sigma^2/2:  a = {slopes}; 1 under the law")
    return "\n".join(lines)


def finite_words(found: "Check") -> str:
    """What the finite-N value is off by, where there is one, and the law in the same rows."""
    defined = found["finite"].notnull()
    if not defined.any():
        return "nowhere defined, e^sigma^2 > N"
    finite, law = (abs(found[f"{name}_residual"].where(defined)).mean().item() for name in ("finite", "law"))
    rows = f"{int(defined.sum())} of {int(found['entropy'].notnull().sum())} rows"
    return f"{finite:.3f} nats, mean over the {rows} with e^sigma^2 < N; law there {law:.3f}"


def explained_words(found: "Check") -> str:
    """How much of the law's residual k3 and k4 explain: of all rows, and of those that are not near freezing."""
    warm = ~found["near_freezing"]
    parts = []
    for chosen, words in ((found["entropy"].notnull(), "all rows"), (warm, "rows not near freezing")):
        law, series = (abs(found[f"{name}_residual"].where(chosen)).sum().item() for name in ("law", "series"))
        parts.append(f"{1 - series / law:.0%} of {words}" if law else f"nothing of {words}")
    return f"k3 and k4 explain:      {', '.join(parts)} (100% all of the residual; below 0 they make it worse)"
