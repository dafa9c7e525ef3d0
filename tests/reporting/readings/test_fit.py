"""What is said of the fit."""

import numpy as np

from entropylab.reporting.readings import fit

from .said import NAN, said


def test_a_slope_that_is_not_one() -> None:
    told = said(fit.slope(0.75, (0.74, 0.76), 1e-6))
    assert "which is not the law's 1 (p < 0.0001)" in told
    assert "deficit log N − H grows by 0.25 nats for every nat of log N (0.17 each time that N doubles)" in told
    assert "shrinks by 0.2 nats" in said(fit.slope(1.2, (1.1, 1.3), 0.01))


def test_a_slope_that_may_be_one() -> None:
    assert said(fit.slope(0.99, (0.97, 1.01), 0.3)).endswith("can't be told from the law's 1 (p = 0.3).")
    assert "so wide an interval decides little" in said(fit.slope(0.8, (0.3, 1.3), 0.3))
    assert "can't be told from this run, because the slope's error is not known" in said(
        fit.slope(0.8, (NAN, NAN), NAN)
    )


def test_errors_are_explained_where_they_are_not_of_samples() -> None:
    assert fit.errors("cluster-robust, samples as clusters", 4) == []
    assert "they do not know how pictures differ" in said(fit.errors("ordinary least squares", 1))
    assert "largest that they can be" in said(fit.errors("at most, from the samples' spreads at each size", 4))


def test_a_straight_line_proves_little() -> None:
    assert "proves little" in said(fit.straightness(0.9994, 6))
    assert "do not lie on a straight line" in said(fit.straightness(0.9, 6))
    assert fit.straightness(1.0, 2) == []
    assert "R² > 0.9999" in said(fit.straightness(0.99999, 6))


def test_how_far_from_uniform() -> None:
    assert "evenly over 50% of its keys" in said(fit.uniformity(np.log(2), 5))
    told = said(fit.uniformity(0.01, 5))
    assert "all but uniform, and slope 1 is no evidence for the law" in told


def test_slopes_of_layers() -> None:
    names = ["a", "b", "c"]
    told = said(fit.layer_slopes(names, [0.3, 1.0, 0.99], [1e-4, 0.9, 0.04]))
    assert "from 0.3 (a) to 1.00 (b)" in told
    assert "differs from 1 in 1 of 3 layers (5% level, corrected for 3 tests): a; in the other 2" in told
    assert "describes no layer" in told
    assert "In no layer can the slope be told from 1" in said(fit.layer_slopes(names, [1.0, 1.01, 0.99], [0.9] * 3))
    assert "can't be told from this run" in said(fit.layer_slopes(names, [0.3, 1, 1], [NAN] * 3))
