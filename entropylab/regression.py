"""A straight line through points that were measured in clusters, with errors that know of the clusters."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[Any]


def straight_line(x: Array, y: Array) -> dict[str, Array]:
    """Least squares of y on x, both (..., points, clusters); NaN in y is left out. Results have shape (...).

    With two or more clusters errors are cluster-robust with the factor G/(G-1) and G-1 degrees of freedom: for
    clusters that share their x, as samples do, exactly the standard error of the mean of the clusters' own slopes. They
    hold what another draw of clusters would change, not a curvature that all share. With one they are ordinary errors.
    """
    use = np.isfinite(y) & np.isfinite(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        n = use.sum((-2, -1)).astype(float)
        center, level = (np.where(use, v, 0).sum((-2, -1)) / n for v in (x, y))
        dx, dy = (np.where(use, v - m[..., None, None], 0) for v, m in ((x, center), (y, level)))
        sxx = (dx**2).sum((-2, -1))
        sxx = np.where(sxx > 1e-12 * n, sxx, np.nan)
        slope = (dx * dy).sum((-2, -1)) / sxx
        left = dy - slope[..., None, None] * dx
        spread = clustered(use, dx, left, sxx, n) if y.shape[-1] > 1 else ordinary(left, sxx, n)
        return line(slope, center, level, *spread)


def clustered(use: Array, dx: Array, left: Array, sxx: Array, n: Array) -> tuple[Array, ...]:
    """Variance of the slope, of the level at the mean x, their covariance, and degrees of freedom; cluster-robust."""
    number = use.any(-2).sum(-1).astype(float)
    dof = np.where(number > 1, number - 1, np.nan)
    factor = number / dof
    along, level = (dx * left).sum(-2) / sxx[..., None], left.sum(-2) / n[..., None]
    slope_variance, level_variance = (along**2).sum(-1) * factor, (level**2).sum(-1) * factor
    return slope_variance, level_variance, (along * level).sum(-1) * factor, dof


def ordinary(left: Array, sxx: Array, n: Array) -> tuple[Array, ...]:
    """The same as of `clustered` for independent points with one variance."""
    dof = np.where(n > 2, n - 2, np.nan)
    variance = (left**2).sum((-2, -1)) / dof
    return variance / sxx, variance / n, 0 * variance, dof


def line(
    slope: Array,
    center: Array,
    level: Array,
    slope_variance: Array,
    level_variance: Array,
    covariance: Array,
    dof: Array,
) -> dict[str, Array]:
    """Slope and intercept with errors, 95% intervals and the test of slope 1."""
    intercept_variance = level_variance + center**2 * slope_variance - 2 * center * covariance
    result = {
        "slope": slope,
        "slope_error": np.sqrt(slope_variance),
        "intercept": level - slope * center,
        "intercept_error": np.sqrt(intercept_variance),
        "slope_t": (slope - 1) / np.sqrt(slope_variance),
    }
    result["slope_p"] = 2 * stdtr(dof, -np.abs(result["slope_t"]))
    for name in ("slope", "intercept"):
        reach = stdtrit(dof, 0.975) * result[f"{name}_error"]
        result |= {f"{name}_low": result[name] - reach, f"{name}_high": result[name] + reach}
    return result | {
        "degrees_of_freedom": dof,
        "center": center,
        "center_error": np.sqrt(level_variance),
        "center_covariance": covariance,
    }
