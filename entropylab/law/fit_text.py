"""What a `Fit` says in words.

Knows the Datasets of fits, and nothing of how they were found.
"""

import math
from typing import TYPE_CHECKING

import pandas as pd

from ..wording import counted

if TYPE_CHECKING:
    from .fitted import Fit

SHORT = ("slope", "slope_error", "slope_p", "intercept", "intercept_error", "r_squared", "deficit", "half_sigma2")
"""What a table of lines shows of each."""


def summary(fit: "Fit") -> str:
    """A fit as text to read."""
    head = f"H = slope * log N + intercept; the law: slope 1, intercept -sigma^2/2\n{about(fit)}\n\n"
    if fit.by:
        return head + table(short(fit), "{:.4g}")
    sizes = fit.points().drop(columns=["height", "width"], errors="ignore")
    return f"{head}{lines(fit)}\n\n{table(sizes, '{:.4f}')}"


def table(rows: pd.DataFrame, form: str) -> str:
    """Rows as text, without the columns of which nothing is known."""
    known = rows.dropna(axis="columns", how="all")
    return known.to_string(index=False, float_format=form.format, na_rep="-")


def about(fit: "Fit") -> str:
    """What was fitted, and how the errors were found."""
    a = fit.dataset.attrs
    heads = f" and {counted(a['heads'], 'head')}" if a["heads"] else ""
    places = "heads" if a["heads"] else "layers"
    left = f"; {a['left_out']} {places} left out, not finite at every size" if a["left_out"] else ""
    return (
        f"{a['model'] or 'model'}: {counted(a['layers'], a['kind'] + ' layer')}{heads}, "
        f"{counted(fit.dataset.sizes['size'], 'size')}, {counted(a['samples'], 'sample')}, scaling {a['scaling']}, "
        f"{a['method'].replace('_', ' ')}; errors: {a['errors']}{left}"
    )


def lines(fit: "Fit") -> str:
    """The numbers of a fit that has one line."""
    rows = [f"{name:<10}{with_error(fit, name)}" for name in ("slope", "intercept")]
    t, p = fit.slope_test
    if math.isfinite(p):
        rows[0] += f"   slope 1? t = {t:.2f}, p = {p:.2g} ({fit['degrees_of_freedom']:.0f} degrees of freedom)"
    rows.append(f"R^2       {fit.r_squared: .6f}   largest residual {abs(fit.residuals).max().item():.4f} nats")
    rows.append(f"deficit   {fit.overall('deficit'): .4f} nats, mean over sizes; its slope {1 - fit.slope:.4f}")
    if "half_sigma2" in fit.dataset:
        half, cold = fit.overall("half_sigma2"), fit.dataset["freezing"].max().item()
        rows.append(f"sigma^2/2 {half: .4f} nats, mean over sizes; sigma^2/(2 log N) at most {cold:.3f}")
    return "\n".join(rows)


def with_error(fit: "Fit", name: str) -> str:
    """Slope or intercept with its error and interval; where these are not known, that."""
    value, error = fit[name], fit[f"{name}_error"]
    if not math.isfinite(error):
        return f"{value: .4f}   its error is not known"
    return f"{value: .4f} ± {error:.4f}   95% [{fit[f'{name}_low']:.4f}, {fit[f'{name}_high']:.4f}]"


def short(fit: "Fit") -> pd.DataFrame:
    """The lines of a fit, with what matters most of each."""
    frame = fit.to_frame()
    return frame[[*fit.by, *(name for name in SHORT if name in frame)]]
