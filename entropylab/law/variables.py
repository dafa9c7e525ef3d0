"""The names and units of what fits and checks hold."""

import xarray as xr

RESIDUALS = {
    "law": "the law's prediction",
    "third_order": "the series to third order",
    "series": "the series to fourth order",
    "finite": "the law for N independent Gaussian keys",
}
"""Predictions of entropy, and their words."""

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
    **{f"{name}_residual": f"entropy less {words} [nats]" for name, words in RESIDUALS.items()},
    **{
        f"{name}_residual_error": f"standard error over samples of the entropy less {words} [nats]"
        for name, words in RESIDUALS.items()
    },
}
"""Every variable that a `Fit` or a `Check` can hold, with its unit if it has one."""


def described(data: xr.Dataset) -> xr.Dataset:
    """The same, every variable with its name and unit."""
    for name, variable in data.data_vars.items():
        long_name, _, unit = LONG_NAMES[str(name)].rstrip("]").partition(" [")
        variable.attrs = {"long_name": long_name, "units": unit or "1"}
    return data


FLAGS = {"skewed": "skewed", "small_n": "small N", "near_freezing": "near freezing"}
"""What is flagged, and its words."""
