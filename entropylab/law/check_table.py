"""What a check found as a table, a row for every group; `Check.layers` is that of layers."""

from collections.abc import Sequence

import pandas as pd

from ..errors import EntropyLabError
from .averages import words_of
from .checked import EXPLANATIONS, Check
from .variables import FLAGS

MEANS = ("tokens", "entropy", "deficit", "half_sigma2")


def grouped(found: Check, by: str | Sequence[str] = "layer") -> pd.DataFrame:
    """A row for every group of rows (layer, head and size) of a check.

    Columns, in nats: means of entropy, deficit and sigma^2/2; the largest ``freezing``; ``..._off``, means of absolute
    residuals; ``law_worst``, the largest; and the fraction of rows that each flag is up in. ``rows`` are in the group.

    Args:
        found: the check.
        by: one or several of "layer", "head" and "size"; all of them give every row.

    Raises:
        EntropyLabError: a name that is none of these, is given twice, or was averaged away.
    """
    names = list(words_of("by", by, "some of layer, head and size"))
    have = [dim for dim in ("layer", "head", "size") if dim in found.dataset.dims]
    if not names or len(set(names)) < len(names) or not set(names) <= set(have):
        raise EntropyLabError(f"by must be some of {', '.join(have)}, each once. Got {by!r}.")
    rows = found.to_frame()
    residuals = {name: f"{name}_residual" for name in EXPLANATIONS if f"{name}_residual" in rows}
    rows = rows.assign(**{column: rows[column].abs() for column in residuals.values()})
    groups = rows.groupby(names, sort=False)
    columns = {"rows": groups.size()} | {name: groups[name].mean() for name in MEANS}
    columns["freezing"] = groups["freezing"].max()
    columns |= {f"{name}_off": groups[column].mean() for name, column in residuals.items()}
    columns["law_worst"] = groups["law_residual"].max()
    columns |= {name: groups[name].mean() for name in FLAGS if name in rows}
    return pd.DataFrame(columns).reset_index()
