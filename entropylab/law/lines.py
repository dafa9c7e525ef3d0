"""Straight lines through points that were measured in clusters, with errors that know of the clusters.

Arrays only, for as many lines at once as there are groups: `entropylab.fit` knows what they mean. Libraries of
statistics fit one line at a time, and there is one for every layer, head and step.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

Array = NDArray[Any]

ALL = (-2, -1)
"""Axes of points and clusters."""


def straight_line(x: Array, y: Array, spread: Array | None = None, number: float = np.nan) -> dict[str, Array]:
    """Least squares of y on x, both (..., points, clusters); NaN in y is left out. Results have shape (...).

    With two or more clusters errors are cluster-robust with the factor G/(G-1) and G-1 degrees of freedom: for
    clusters that share their x, as samples do, exactly the standard error of the mean of the clusters' own slopes. They
    hold what another draw of clusters would change, not a curvature that all share. With one cluster errors are the
    ordinary ones of independent points; or, with ``spread``, the standard errors of points over ``number`` clusters
    that were averaged, the largest that they can be: slope and intercept are sums of points with known coefficients,
    and whatever the correlations between the points, the standard error of such a sum is at most the sum of its terms'.
    """
    known, center, (level, slope), (of_level, of_slope), left = projected(x, y, 1)
    shares = np.stack([of_slope, of_level, of_level - center[..., None, None] * of_slope])
    errors, dof, moved = errors_of(shares, left, known, 2, spread, number)
    found = {"slope": slope, "slope_error": errors[0], "intercept": level - slope * center}
    found["intercept_error"] = errors[2]
    with np.errstate(divide="ignore", invalid="ignore"):
        found["slope_t"] = (slope - 1) / errors[0]
    found["slope_p"] = 2 * stdtr(dof, -abs(found["slope_t"]))
    for name in ("slope", "intercept"):
        reach = stdtrit(dof, 0.975) * found[f"{name}_error"]
        found |= {f"{name}_low": found[name] - reach, f"{name}_high": found[name] + reach}
    covariance = (moved[0] * moved[1]).sum(-1)
    at_center = {"center": center, "center_error": errors[1], "center_covariance": covariance}
    return found | {"degrees_of_freedom": dof} | at_center


def curvature(x: Array, y: Array, spread: Array | None = None, number: float = np.nan) -> dict[str, Array]:
    """Is the line straight? How much its slope changes with x, by a parabola; arguments as of `straight_line`.

    The test of a slope can't see it, nor can R^2: a line whose slope goes from 0.6 to 0.8 has an R^2 of 0.996.
    """
    known, _, values, shares, left = projected(x, y, 2)
    (error,), dof, _ = errors_of(shares[2:], left, known, 3, spread, number)
    value, error = 2 * values[2], 2 * error  # the slope of a x^2 is 2 a x
    with np.errstate(divide="ignore", invalid="ignore"):
        t = value / error
    return {"curvature": value, "curvature_error": error, "curvature_t": t, "curvature_p": 2 * stdtr(dof, -abs(t))}


def projected(x: Array, y: Array, degree: int) -> tuple[Array, Array, list[Array], Array, Array]:
    """Least squares of y on polynomials of x that are orthogonal to each other: 1, x from its mean, ...

    Returns which points are known; the mean of x (...); the coefficient of every polynomial (...), NaN where x can't
    tell it; what each point adds to each (polynomials, ..., points, clusters); residuals.
    """
    known = np.isfinite(y) & np.isfinite(x)
    left = np.where(known, y, 0.0)
    values: list[Array] = []
    polynomials: list[Array] = []
    shares: list[Array] = []
    with np.errstate(divide="ignore", invalid="ignore"):
        number = known.sum(ALL, keepdims=True)
        center = np.where(known, x, 0.0).sum(ALL, keepdims=True) / number
        for power in range(degree + 1):
            polynomial = np.where(known, (x - center) ** power, 0)
            for share, lower in zip(shares, polynomials, strict=True):
                polynomial = polynomial - (share * polynomial).sum(ALL, keepdims=True) * lower
            square = (polynomial**2).sum(ALL, keepdims=True)
            shares.append(polynomial / np.where(square > 1e-12 * number, square, np.nan))
            values.append((shares[-1] * left).sum(ALL))
            left = left - values[-1][..., None, None] * polynomial
            polynomials.append(polynomial)
    return known, center[..., 0, 0], values, np.stack(shares), left


def errors_of(
    shares: Array, left: Array, known: Array, parameters: int, spread: Array | None, number: float
) -> tuple[Array, Array, Array]:
    """Standard errors (sums, ...) of sums of points with coefficients ``shares``, for residuals ``left``.

    Also degrees of freedom (...), and how much each cluster moves the sums (sums, ..., clusters), of which the sum of
    squares over clusters is the error's square; 0 where there is one cluster.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        if left.shape[-1] > 1:
            count = known.any(-2).sum(-1).astype(float)
            dof = np.where(count > 1, count - 1, np.nan)
            moved = (shares * left).sum(-2) * np.sqrt(count / dof)[..., None]
            return np.sqrt((moved**2).sum(-1)), dof, moved
        if spread is not None:
            errors = abs(shares * np.where(known, spread, 0)).sum(ALL)
            dof = np.full(errors.shape[1:], number - 1 if number > 1 else np.nan)
        else:
            free = known.sum(ALL) - parameters
            dof = np.where(free > 0, free, np.nan)
            errors = np.sqrt((left**2).sum(ALL) / dof * (shares**2).sum(ALL))
    return errors, dof, 0 * errors[..., None]


def holm(p: ArrayLike) -> Array:
    """P of several tests, corrected for their number by Holm's method; NaN is no test.

    Source: S. Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statist. 6 (1979).
    """
    p = np.asarray(p, float)
    order, number = np.argsort(p), np.isfinite(p).sum()
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.maximum(number - np.arange(len(p)), 1)).clip(max=1)
    return corrected
