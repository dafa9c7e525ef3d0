"""What a `Fit` says in words, and its summary; the names and units of what fits and checks hold.

Knows the Datasets of fits, and nothing of how they were found.
"""

from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

if TYPE_CHECKING:
    from .fitted import Fit

LONG_NAMES = {
    "slope": "slope of entropy against log N",
    "slope_error": "standard error of the slope",
    "slope_low": "slope, lower end of the 95% interval",
    "slope_high": "slope, upper end of the 95% interval",
    "slope_t": "t of the hypothesis that the slope is 1",
    "slope_p": "two-sided p of the hypothesis that the slope is 1",
    "intercept": "intercept of entropy against log N [nats]",
    "intercept_error": "standard error of the intercept [nats]",
    "intercept_low": "intercept, lower end of the 95% interval [nats]",
    "intercept_high": "intercept, upper end of the 95% interval [nats]",
    "r_squared": "R^2 of the line through the averages over samples",
    "degrees_of_freedom": "degrees of freedom of the errors",
    "center": "mean log N of the points",
    "center_error": "standard error of the line at the mean log N [nats]",
    "center_covariance": "covariance of the slope with the line at the mean log N [nats]",
    "log_tokens": "log N, mean over layers [nats]",
    "tokens": "number of keys N, geometric mean over layers [tokens]",
    "entropy": "attention entropy [nats]",
    "entropy_error": "standard error of the entropy over samples [nats]",
    "fitted": "entropy on the fitted line [nats]",
    "residual": "entropy less the fitted line [nats]",
    "deficit": "deficit D = log N - H [nats]",
    "half_sigma2": "measured sigma^2/2 [nats]",
    "law": "the law's prediction log N - sigma^2/2 [nats]",
    "series": "the series to fourth order, log N - k2/2 - k3/3 - k4/8 [nats]",
    "freezing": "sigma^2 / (2 log N): the law fails well before 1",
    "sigma2": "measured sigma^2 [nats^2]",
    "third": "measured third cumulant k3 [nats^3]",
    "fourth": "measured fourth cumulant k4 [nats^4]",
    "third_order": "the series to third order, log N - k2/2 - k3/3 [nats]",
    "finite": "the law for N independent Gaussian keys [nats]",
    "finite_term": "what finite N adds to the law, keys independent and Gaussian [nats]",
    "correction": "what third and fourth cumulant add to the law, - k3/3 - k4/8 [nats]",
    "skewed": "past the threshold on |k3|/3 + |k4|/8",
    "small_n": "past the threshold on the finite-N term",
    "near_freezing": "past the threshold on sigma^2 / (2 log N)",
}
"""Every variable that a `Fit` or a `Check` can hold, with its unit if it has one."""

RESIDUALS = {
    "law": "the law's prediction",
    "third_order": "the series to third order",
    "series": "the series to fourth order",
    "finite": "the law for N independent Gaussian keys",
}
LONG_NAMES |= {f"{name}_residual": f"entropy less {words} [nats]" for name, words in RESIDUALS.items()}
LONG_NAMES |= {
    f"{name}_residual_error": f"standard error over samples of the entropy less {words} [nats]"
    for name, words in RESIDUALS.items()
}

SHORT = ("slope", "slope_error", "slope_p", "intercept", "intercept_error", "r_squared", "deficit", "half_sigma2")
"""What a table of lines shows of each."""


def described(data: xr.Dataset) -> xr.Dataset:
    """The same, every variable with its name and unit."""
    for name, variable in data.data_vars.items():
        long_name, _, unit = LONG_NAMES[str(name)].rstrip("]").partition(" [")
        variable.attrs = {"long_name": long_name, "units": unit or "1"}
    return data


def summary(fit: "Fit") -> str:
    """A fit as text to read."""
    head = f"H = slope * log N + intercept; the law: slope 1, intercept -sigma^2/2\n{about(fit)}\n\n"
    if fit.by:
        return head + short(fit).to_string(index=False, float_format="{:.4g}".format)
    sizes = fit.points().drop(columns=["height", "width"], errors="ignore")
    return head + lines(fit) + "\n\n" + sizes.to_string(index=False, float_format="{:.4f}".format)


def about(fit: "Fit") -> str:
    """What was fitted, and how the errors were found."""
    a = fit.dataset.attrs
    heads = f" and {a['heads']} heads" if a["heads"] else ""
    places = "heads" if a["heads"] else "layers"
    left = f"; {a['left_out']} {places} left out, not finite at every size" if a["left_out"] else ""
    return (
        f"{a['model'] or 'model'}: {a['layers']} {a['kind']} layers{heads}, {fit.dataset.sizes['size']} sizes, "
        f"{a['samples']} samples, scaling {a['scaling']}, {a['method'].replace('_', ' ')}; errors: {a['errors']}{left}"
    )


def lines(fit: "Fit") -> str:
    """The numbers of a fit that has one line."""
    rows = [
        f"{name:<10}{fit[name]: .4f} ± {fit[f'{name}_error']:.4f}"
        f"   95% [{fit[f'{name}_low']:.4f}, {fit[f'{name}_high']:.4f}]"
        for name in ("slope", "intercept")
    ]
    t, p = fit.slope_test
    rows[0] += f"   slope 1? t = {t:.2f}, p = {p:.2g} ({fit['degrees_of_freedom']:.0f} degrees of freedom)"
    rows.append(f"R^2       {fit.r_squared: .6f}   largest residual {abs(fit.residuals).max().item():.4f} nats")
    rows.append(f"deficit   {fit.overall('deficit'): .4f} nats, mean over sizes; its slope {1 - fit.slope:.4f}")
    if "half_sigma2" in fit.dataset:
        half, cold = fit.overall("half_sigma2"), fit.dataset["freezing"].max().item()
        rows.append(f"sigma^2/2 {half: .4f} nats, mean over sizes; sigma^2/(2 log N) at most {cold:.3f}")
    return "\n".join(rows)


def short(fit: "Fit") -> pd.DataFrame:
    """The lines of a fit, with what matters most of each."""
    frame = fit.to_frame()
    return frame[[*fit.by, *(name for name in SHORT if name in frame)]]
